"""Tiles of a picture that is too large for one pass: they overlap by the reach of the network."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from perceptual_jax.models.networks import (
    UNIVERSAL_GRID,
    Network,
    StyleNetwork,
    SuperResolutionNetwork,
    UniversalNetwork,
    check_sides,
    fits_frames,
    smallest_side,
)

# Positions of a style network's residual blocks are 4 pixels apart: tiles start on one of them.
STYLE_GRID = 4


def grid(network: Network) -> int:
    """Tiles start on multiples of so many pixels."""
    if isinstance(network, UniversalNetwork):
        return UNIVERSAL_GRID
    return STYLE_GRID if isinstance(network, StyleNetwork) else 1


# Sides of frames are rounded up to a multiple of this, in pixels.
_FRAME_GRID = 128

# So many pixels are computed, on a CPU, in the time in which a program is compiled.
_PIXELS_PER_PROGRAM = {
    StyleNetwork: 800_000,
    UniversalNetwork: 500_000,
    SuperResolutionNetwork: 80_000,
}


class Span(NamedTuple):
    """Along one axis: pixels `start` to `stop` are read, `kept_start` to `kept_stop` are kept."""

    start: int
    stop: int
    kept_start: int
    kept_stop: int


class Tile(NamedTuple):
    """A finished part of a picture: where its first pixel is, and its pixels `(h, w, C)`."""

    top: int
    left: int
    pixels: np.ndarray

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rows and columns in the picture, to index with."""
        height, width = self.pixels.shape[:2]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def spans(length: int, tile: int, margin: int, *, grid: int = 1) -> list[Span]:
    """Covers an axis with as few tiles as possible, which overlap by twice the margin.

    All have the same length, which is the least for this number of tiles, so that one compiled
    program serves all of them; the last may be up to `grid - 1` longer, to start on the grid.

    Args:
      length: of the axis, in pixels.
      tile: largest length of a tile.
      margin: pixels that are read beyond those that are kept, a multiple of the grid.
      grid: tiles start on its multiples.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    inner = length - 2 * margin
    count = math.ceil(inner / (tile - 2 * margin))
    tile = math.ceil((math.ceil(inner / count) + 2 * margin) / grid) * grid
    starts = [*range(0, length - tile, tile - 2 * margin), (length - tile) // grid * grid]
    stops = [*(start + tile for start in starts[:-1]), length]
    borders = [stop - margin for stop in stops[:-1]]
    return list(map(Span, starts, stops, [0, *borders], [*borders, length]))


def reach(network: Network) -> int:
    """The largest distance between an output pixel and an input pixel that it depends on.

    In pixels of the input. Statistics of normalisation, which depend on all pixels, do not count.
    """
    if isinstance(network, SuperResolutionNetwork):
        # 9x9 and the residual blocks at the size of the input; the upsamplings, of which the first
        # counts 1 and the others together 1; 9x9 at the size of the output.
        return 4 + 2 * network.residual_blocks + 2 + 1
    if isinstance(network, UniversalNetwork):
        # VGG: 3x3 at full, half, quarter and eighth size, twice, twice, three times and once, and
        # the pixels that it pools; the decoder alike.
        return 2 * (2 * 1 + 2 * 2 + 3 * 4 + 8 + (1 + 2 + 4))
    # 9x9 at full size; 3x3 at full and at half size; two 3x3 at a quarter for each residual block;
    # the upsamplings at a quarter and at half, which reach one pixel of their result further if
    # each of its pixels depends on three of the input; 9x9 at full size.
    upsamplings = 4 + 2 + (3 if network.upsampling == "subpixel" else 0)
    return 4 + 1 + 2 + 8 * network.residual_blocks + upsamplings + 4


def tiles(height_width: Sequence[int], network: Network, tile: int) -> list[tuple[Span, Span]]:
    """The tiles in which a network computes a picture, rows and columns, from the top left.

    Their largest side is `tile` pixels; the network decides how wide the margins are, and on which
    grid tiles start.

    Raises:
      ValueError: the tile is not a multiple of the grid, or not larger than twice the reach.
    """
    step = grid(network)
    margin = math.ceil(reach(network) / step) * step
    if tile % step or tile <= 2 * margin:
        multiple = f"a multiple of {step} " if step > 1 else ""
        raise ValueError(f"tile must be {multiple}above {2 * margin} for this network, got {tile}")
    rows, columns = (spans(length, tile, margin, grid=step) for length in height_width)
    return [(row, column) for row in rows for column in columns]


class Frames:
    """Shapes of arrays for pictures of many sizes, of which few are compiled.

    A picture is put into the smallest shape in use that holds it, and computed there with the rest
    of the array as filler.  Only when that has cost as much as compiling another program would, for
    pictures of its size, or if none holds it, it gets a shape of its own.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._used: set[tuple[int, int, int]] = set()
        self._filler: collections.Counter[tuple[int, int, int]] = collections.Counter()

    def shape(self, pictures: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape `(N, H, W)` for as many pictures of a size, which differ in H and W."""
        fitting = [
            used
            for used in self._used
            if used[0] == pictures[0] and used[1] >= pictures[1] and used[2] >= pictures[2]
        ]
        if fitting:
            smallest = min(fitting, key=math.prod)
            self._filler[pictures] += math.prod(smallest) - math.prod(pictures)
            if self._filler[pictures] <= _PIXELS_PER_PROGRAM[type(self.network)]:
                return smallest
        # Rounded up, so that one shape serves pictures of almost the same size as well.
        found = _rounded_up(pictures, _FRAME_GRID)
        if found in self._used:
            found = _rounded_up(pictures, STYLE_GRID)
        self._used.add(found)
        return found


def _rounded_up(shape: tuple[int, int, int], grid: int) -> tuple[int, int, int]:
    count, height, width = shape
    return count, -(-height // grid) * grid, -(-width // grid) * grid


def framed(images: np.ndarray, frames: Frames | None) -> tuple[np.ndarray, Any]:
    """Images `(N, H, W, C)` in a frame, if there are frames for them, and their size there."""
    if frames is None or not fits_frames(frames.network):
        return images, None
    height, width = images.shape[1:3]
    check_sides(height, width, smallest_side(frames.network))
    array = np.zeros((*frames.shape(images.shape[:3]), images.shape[3]), images.dtype)
    array[:, :height, :width] = images
    return array, (np.int32(height), np.int32(width))


def computed(
    image: np.ndarray,
    parts: Sequence[tuple[Span, Span]],
    compute: Callable[..., Any],
    *,
    scale: int = 1,
    frames: Frames | None = None,
) -> Iterator[Tile]:
    """Applies a function to the tiles of a picture `(H, W, C)`, and cuts off their margins.

    The function takes a batch of one tile, `(1, h, w, C)`, to `(1, scale h, scale w, C)`; with
    `frames` it gets the `size` of the tile besides, which is in the top left.
    """
    for row, column in parts:
        window = image[None, row.start : row.stop, column.start : column.stop]
        window, size = framed(window, frames)
        options = {} if size is None else {"size": size}
        result = np.asarray(compute(window, **options))[0]
        top, bottom, left, right = (
            scale * (kept - span.start)
            for span in (row, column)
            for kept in (span.kept_start, span.kept_stop)
        )
        kept = result[top:bottom, left:right]
        yield Tile(scale * row.kept_start, scale * column.kept_start, kept)


def assemble(parts: Iterable[Tile], shape: tuple[int, ...]) -> np.ndarray:
    """The picture of this shape whose tiles are given, float32."""
    picture = np.empty(shape, np.float32)
    for part in parts:
        picture[part.place] = part.pixels
    return picture
