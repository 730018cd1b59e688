"""Apply a style network to pictures: as a pure function, and tile by tile to large ones.

A tile of a picture is normalised with the statistics of the whole and computed with a margin that
covers the network's reach, so that tiles fit together without a seam, whatever the picture's size.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax.models import networks, tiling
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.models.tiling import Span, Tile

# Statistics of a large picture are taken from this many windows along each axis, of this side at
# most. In 1.5 megapixels, which they cover, a pixel then differs from the untiled by a level of 8
# bits on average (docs/style.md has the program): what the windows' borders do. With smaller tiles,
# chosen to save memory, windows are no larger than these, down to a side of which the borders, that
# are mirrored, are not the greater part.
_WINDOWS, _WINDOW_SIDE, _LEAST_WINDOW_SIDE = 3, 512, 256

# Positions of the network's middle are 4 pixels apart: tiles start on one of them.
_GRID = 4


def stylize(
    variables: Any,
    images: Any,
    *,
    network: StyleNetwork | None = None,
    style_weights: Any = None,
) -> jax.Array:
    """Stylised images; a pure function, to be jitted, mapped and differentiated.

    Args:
      variables: of the network, `{"params": ...}`, as `perceptual_jax.load_network` gives them.
      images: `(..., H, W, 3)` in [0, 1], of any height and width.
      network: whose variables they are; by default the default network with as many styles,
        channels and residual blocks as the variables have.
      style_weights: how much of each style, `(styles,)`; may be left out where there is one.

    Returns:
      The same shape, in [0, 1].

    Raises:
      ValueError: images or weights that the network cannot take.
    """
    if network is None:
        network = networks.of_variables(variables)
    batch = images.reshape(-1, *images.shape[-3:])
    outputs: Any = network.apply(variables, batch, style_weights)
    return jnp.clip(outputs, 0.0, 1.0).reshape(images.shape)


def tiles_of(
    height_width: tuple[int, int], network: StyleNetwork, tile: int
) -> list[tuple[Span, Span]]:
    """The tiles in which `stylize_tiles` does a picture, `(rows, columns)` of each.

    Raises:
      ValueError: the tile is not a multiple of 4, or not larger than twice the network's reach.
    """
    return tiling.tiles(height_width, tile, networks.reach(network), grid=_GRID)


def stylize_tiles(
    variables: Any,
    image: np.ndarray,
    *,
    network: StyleNetwork,
    style_weights: Any = None,
    tile: int = 1024,
) -> Iterator[Tile]:
    """One picture of any size, in as much memory as a tile takes, or as the nine windows do.

    A picture that fits into one tile gives exactly what `stylize` gives.  A larger one differs in
    the statistics of instance normalisation alone, which are estimated from windows spread over
    it.

    Args:
      variables: of the network.
      image: `(H, W, 3)` in [0, 1].
      network: the network.
      style_weights: as for `stylize`.
      tile: largest side that is computed at once, in pixels, a multiple of 4.

    Yields:
      Every part of the picture once, in [0, 1], from the top left in rows.

    Raises:
      ValueError: as `stylize` and `tiles_of`.
    """
    parts = tiles_of(image.shape[:2], network, tile)
    if len(parts) > 1 and network.normalization == "instance":
        variables = {
            **variables,
            "statistics": _statistics(variables, image, network, style_weights, tile),
        }
    variables = jax.device_put(variables)
    yield from tiling.computed(
        image,
        parts,
        lambda window: stylize_batch(variables, window, style_weights, network=network),
    )


@functools.partial(jax.jit, static_argnames="network")
def stylize_batch(
    variables: Any, images: Any, style_weights: Any, *, network: StyleNetwork
) -> jax.Array:
    """`stylize`, compiled for every size that it meets."""
    return stylize(variables, images, network=network, style_weights=style_weights)


def _statistics(
    variables: Any, image: np.ndarray, network: StyleNetwork, style_weights: Any, tile: int
) -> Any:
    """Means and variances of every normalisation, over windows spread evenly."""
    largest = min(_WINDOW_SIDE, max(_LEAST_WINDOW_SIDE, tile))

    def windows_along(length: int) -> list[slice]:
        count = min(_WINDOWS, math.ceil(length / largest))
        # No longer than its share: where the windows cover all, each pixel counts once.
        side = min(largest, math.ceil(length / count))
        even = np.linspace(0, length - side, count).astype(int) // _GRID * _GRID
        return [slice(start, start + side) for start in even]

    windows = [
        image[row, column]
        for row in windows_along(image.shape[0])
        for column in windows_along(image.shape[1])
    ]
    return _pooled(variables, np.stack(windows), style_weights, network=network)


@functools.partial(jax.jit, static_argnames="network")
def _pooled(
    variables: Any, windows: jax.Array, style_weights: Any, *, network: StyleNetwork
) -> Any:
    _, updated = network.apply(variables, windows, style_weights, mutable=["statistics"])
    return updated["statistics"]
