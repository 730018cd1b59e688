"""Apply a style network to pictures of any size, and blend the result with the photo.

`stylize`, `blend_regions` and `blend_with_photo` are pure functions of arrays. `stylize_tiles` and
`stylize_regions` compute a large picture part by part: a tile is normalised with the statistics of
the whole picture and computed with a margin as wide as the reach of the network, so that no seam
shows.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax import color
from perceptual_jax.models import networks, tiling
from perceptual_jax.models.networks import AnyStyleNetwork
from perceptual_jax.models.tiling import Tile
from perceptual_jax.ops.checks import as_images

# Side of the largest tile, in pixels.
TILE = 1024

# Statistics of a large picture come from at most this many windows along each axis, of at most this
# side: 1.5 megapixels, with which a pixel differs from the untiled picture by 2.5 levels of 8 bits
# on average (docs/style.md has the program), because of the borders of the windows. Smaller tiles,
# which are chosen to save memory, have smaller windows, down to a side at which most of a window is
# not yet affected by its mirrored borders.
_WINDOWS, _WINDOW_SIDE, _LEAST_WINDOW_SIDE = 3, 512, 256


def stylize(
    variables: Any,
    images: Any,
    *,
    network: AnyStyleNetwork,
    style_weights: Any = None,
    size: Any = None,
) -> jax.Array:
    """Stylised images; a pure function, to be jitted, mapped and differentiated.

    Args:
      variables: of the network, `{"params": ...}`, as in `load_network(name).variables`.
      images: `(..., H, W, 3)` in [0, 1], of any height and width.
      network: the network, as in `load_network(name).network`. Variables do not tell how it pads
        or upsamples.
      style_weights: of each style, `(styles,)`, for example `[0.7, 0.3]`; may be left out if the
        network has one style.
      size: `(height, width)` of the pictures, if they are in the top left of `images`; numbers
        that a compiled program may get when it runs.

    Returns:
      The same shape, float32 in [0, 1].

    Raises:
      ValueError: images or weights that the network cannot take.
    """
    return networks.transform(network, variables, images, style_weights, size=size)


stylize_batch = jax.jit(stylize, static_argnames="network")


def stylize_tiles(
    variables: Any,
    image: np.ndarray,
    *,
    network: AnyStyleNetwork,
    style_weights: Any = None,
    tile: int = TILE,
    frames: tiling.Frames | None = None,
) -> Iterator[Tile]:
    """One picture of any size, in as much memory as a tile takes, or as the nine windows do.

    A picture that fits into one tile is exactly that of `stylize`. A larger one differs in the
    statistics of instance normalisation, which are estimated from windows spread over it.

    Args:
      variables: as for `stylize`, and so are `network` and `style_weights`.
      image: `(H, W, 3)` in [0, 1].
      tile: largest side that is computed at once, in pixels, a multiple of 4.
      frames: those of earlier pictures, so that not every size is compiled.

    Yields:
      Every part of the picture once, in [0, 1], from the top left, row by row.

    Raises:
      ValueError: as `stylize` and `tiling.tiles`.
    """
    parts = tiling.tiles(image.shape[:2], network, tile)
    if len(parts) > 1 and getattr(network, "normalization", "instance") == "instance":
        windows = _windows(image, tile, tiling.grid(network))
        windows, size = tiling.framed(windows, frames)
        statistics = _pooled_statistics(
            variables, windows, style_weights, network=network, size=size
        )
        variables = {**variables, "statistics": statistics}
    apply = functools.partial(stylize_batch, network=network, style_weights=style_weights)
    apply = functools.partial(apply, jax.device_put(variables))
    yield from tiling.computed(image, parts, apply, frames=frames)


def stylize_regions(
    variables: Any,
    image: np.ndarray,
    masks: Sequence[Any] | np.ndarray,
    *,
    network: AnyStyleNetwork,
    style_weights: Sequence[Any] | np.ndarray,
    tile: int = TILE,
    frames: tiling.Frames | None = None,
    background: np.ndarray | None = None,
) -> Iterator[Tile]:
    """`stylize_tiles` of a picture whose regions have different styles.

    Beside what that takes: `masks` of the regions, each `(H, W)`, as for `blend_regions`, as many
    `style_weights`, each `(styles,)`, and what shows outside of the regions, by default `image`.
    """
    background = image if background is None else background
    pictures = [
        stylize_tiles(
            variables, image, network=network, style_weights=weights, tile=tile, frames=frames
        )
        for _, weights in zip(masks, style_weights, strict=True)
    ]
    yield from blend_tiles(background, pictures, masks)


def blend_tiles(
    background: np.ndarray, pictures: Sequence[Iterator[Tile]], masks: Sequence[Any] | np.ndarray
) -> Iterator[Tile]:
    """`blend_regions` of pictures in tiles that lie alike."""
    for parts in zip(*pictures, strict=True):
        place = parts[0].place
        pixels = [part.pixels for part in parts]
        blended = _blend_regions(background[place], pixels, [mask[place] for mask in masks])
        yield parts[0]._replace(pixels=np.asarray(blended))


def blend_regions(
    image: Any, stylized: Sequence[Any] | np.ndarray, masks: Sequence[Any] | np.ndarray
) -> jax.Array:
    """A photo whose regions are stylised in different ways; a pure function.

    Args:
      image: the photo, `(..., H, W, 3)`.
      stylized: for each region the whole photo in its style, `(..., H, W, 3)`.
      masks: how much of its style each pixel of a region has, `(..., H, W)` in [0, 1]. Where they
        add up to less than 1, the rest is the photo; where they add up to more, they are divided
        by their sum.
    """
    image, *stylized = (as_images(x).astype(jnp.float32) for x in (image, *stylized))
    masks = [jnp.asarray(mask, jnp.float32) for mask in masks]
    total = jnp.maximum(sum(masks), 1.0)
    shares = [(mask / total)[..., None] for mask in masks]
    parts = (share * picture for share, picture in zip(shares, stylized, strict=True))
    return sum(parts, start=(1.0 - sum(shares)) * image)


_blend_regions = jax.jit(blend_regions)


def blend_with_photo(
    stylized: Any, photo: Any, *, keep_colors: str = "none", strength: Any = 1.0
) -> jax.Array:
    """A stylised picture with as much of the photo as is wanted; a pure function.

    Args:
      stylized: the stylised photo, `(H, W, 3)` in [0, 1], as is the result.
      photo: of the same shape.
      keep_colors: `"none"` for the colours of the style. `"luminance"` for those of the photo, of
        which the style changes light and dark alone. `"histogram"` for the mean and covariance of
        the photo's colours, which are those of the whole picture, so that parts of one cannot be
        blended by themselves.
      strength: from 0, the photo, to 1, the full style.
    """
    stylized, photo = (as_images(x).astype(jnp.float32) for x in (stylized, photo))
    if keep_colors == "luminance":
        stylized = color.replace_luminance(photo, stylized)
    elif keep_colors == "histogram":
        stylized = color.match_statistics(stylized, photo)
    elif keep_colors != "none":
        raise ValueError(f"keep_colors must be none, luminance or histogram, got {keep_colors!r}")
    share, rest = (jnp.asarray(x, jnp.float32) for x in (strength, 1.0 - strength))
    return share * stylized + rest * photo


def _windows(image: np.ndarray, tile: int, grid: int) -> np.ndarray:
    """Parts of a picture, spread evenly over it, `(N, h, w, 3)`."""
    largest = min(_WINDOW_SIDE, max(_LEAST_WINDOW_SIDE, tile))

    def along(length: int) -> list[slice]:
        count = min(_WINDOWS, math.ceil(length / largest))
        # No longer than its share, so that no pixel counts twice.
        side = min(largest, math.ceil(length / count))
        starts = np.linspace(0, length - side, count).astype(int) // grid
        return [slice(start, start + side) for start in starts * grid]

    rows, columns = map(along, image.shape[:2])
    return np.stack([image[row, column] for row in rows for column in columns])


@functools.partial(jax.jit, static_argnames="network")
def _pooled_statistics(
    variables: Any, windows: jax.Array, style_weights: Any, *, network: AnyStyleNetwork, size: Any
) -> Any:
    """Mean and variance of every normalisation, over all windows together."""
    _, updated = network.apply(variables, windows, style_weights, size=size, mutable=["statistics"])
    return updated["statistics"]
