"""Enlarge pictures with a network: as a pure function, and tile by tile large ones."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax.models import networks, tiling
from perceptual_jax.models.networks import SuperResolutionNetwork
from perceptual_jax.models.tiling import Span, Tile


def enlarge(variables: Any, images: Any, *, network: SuperResolutionNetwork) -> jax.Array:
    """Enlarged images; a pure function, to be jitted, mapped and differentiated.

    Args:
      variables: of the network, as `perceptual_jax.load_network` gives them.
      images: `(..., H, W, 3)` in [0, 1], of any height and width.
      network: the network.

    Returns:
      `(..., factor H, factor W, 3)` in [0, 1].

    Raises:
      ValueError: images that the network cannot take.
    """
    batch = images.reshape(-1, *images.shape[-3:])
    outputs: Any = network.apply(variables, batch)
    return jnp.clip(outputs, 0.0, 1.0).reshape(*images.shape[:-3], *outputs.shape[1:])


@functools.partial(jax.jit, static_argnames="network")
def enlarge_batch(variables: Any, images: Any, *, network: SuperResolutionNetwork) -> jax.Array:
    """`enlarge`, compiled for every size that it meets."""
    return enlarge(variables, images, network=network)


def tiles_of(
    height_width: Sequence[int], network: SuperResolutionNetwork, tile: int
) -> list[tuple[Span, Span]]:
    """The tiles in which `enlarge_tiles` does a picture, `(rows, columns)` of each.

    Raises:
      ValueError: the tile is not larger than twice the network's reach.
    """
    return tiling.tiles(height_width, tile, networks.reach(network))


def enlarge_tiles(
    variables: Any, image: np.ndarray, *, network: SuperResolutionNetwork, tile: int = 256
) -> Iterator[Tile]:
    """One picture of any size, in as much memory as a tile takes; the same pixels as `enlarge`.

    Args:
      variables: of the network.
      image: `(H, W, 3)` in [0, 1].
      network: the network.
      tile: largest side that is enlarged at once, in pixels of `image`.

    Yields:
      Every part of the result once, in [0, 1], from the top left in rows.

    Raises:
      ValueError: as `enlarge` and `tiles_of`.
    """
    variables = jax.device_put(variables)
    yield from tiling.computed(
        image,
        tiles_of(image.shape[:2], network, tile),
        lambda window: enlarge_batch(variables, window, network=network),
        scale=network.factor,
    )
