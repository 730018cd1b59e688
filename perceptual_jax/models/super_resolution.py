"""Enlarge pictures of any size with a network for super-resolution.

`enlarge` is a pure function of arrays; `enlarge_tiles` computes a large picture part by part.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from perceptual_jax import color
from perceptual_jax.models import networks, tiling
from perceptual_jax.models.networks import SuperResolutionNetwork
from perceptual_jax.models.tiling import Tile

# Side of the largest tile, in pixels of the input.
TILE = 256

# By which the channels of a grey picture may differ.
_GREY = 1e-4


def enlarge(
    variables: Any, images: Any, *, network: SuperResolutionNetwork, size: Any = None
) -> jax.Array:
    """Enlarged images; a pure function, to be jitted, mapped and differentiated.

    Args:
      variables: of the network, `{"params": ...}`, as in `load_network(name).variables`.
      images: `(..., H, W, 3)` in [0, 1], of any height and width.
      network: the network, as in `load_network(name).network`.
      size: `(height, width)` of the pictures, if they are in the top left of `images`; numbers
        that a compiled program may get when it runs.

    Returns:
      `(..., factor H, factor W, 3)`, float32 in [0, 1].

    Raises:
      ValueError: images that the network cannot take.
    """
    return networks.transform(network, variables, images, size=size)


enlarge_batch = jax.jit(enlarge, static_argnames="network")


def enlarge_tiles(
    variables: Any,
    image: np.ndarray,
    *,
    network: SuperResolutionNetwork,
    tile: int = TILE,
    frames: tiling.Frames | None = None,
) -> Iterator[Tile]:
    """One picture of any size, in as much memory as a tile takes; the same pixels as `enlarge`.

    Args:
      variables: as for `enlarge`, and so is `network`.
      image: `(H, W, 3)` in [0, 1].
      tile: largest side that is enlarged at once, in pixels of `image`.
      frames: those of earlier pictures, so that not every size is compiled.

    Yields:
      Every part of the result once, in [0, 1], from the top left, row by row.

    Raises:
      ValueError: as `enlarge` and `tiling.tiles`.
    """
    parts = tiling.tiles(image.shape[:2], network, tile)
    apply = functools.partial(enlarge_batch, jax.device_put(variables), network=network)
    yield from tiling.computed(image, parts, apply, scale=network.factor, frames=frames)


def match_input(
    enlarged: np.ndarray, image: np.ndarray, *, match_histogram: bool = False
) -> np.ndarray:
    """An enlarged picture whose colours are those of its input: grey if that is.

    Args:
      enlarged: `(factor H, factor W, 3)` in [0, 1].
      image: the input, `(H, W, 3)` in [0, 1].
      match_histogram: whether every channel gets the distribution of values that it has in the
        input (Johnson et al. 2016, section 4.2).

    Returns:
      The shape of `enlarged`; it may be a view that cannot be written to.
    """
    if match_histogram:
        enlarged = np.asarray(_match_histogram(enlarged, image))
    if np.max(np.abs(image - image[..., :1])) < _GREY:
        enlarged = np.broadcast_to(enlarged.mean(axis=-1, keepdims=True), enlarged.shape)
    return enlarged


_match_histogram = jax.jit(color.match_histogram)
