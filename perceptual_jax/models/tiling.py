"""Cutting a picture that is too large for one pass into tiles that overlap by a network's reach."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Span(NamedTuple):
    """Along one axis: what is read, `start` to `stop`, and what of it is kept."""

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
        """Where it is in the whole, to index with."""
        height, width = self.pixels.shape[:2]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def spans(length: int, tile: int, margin: int, *, grid: int = 1) -> list[Span]:
    """Covers an axis with tiles that overlap by twice the margin, the first and last at its ends.

    Args:
      length: of the axis, in pixels.
      tile: how long each is at most. All have the length that divides the axis into as many evenly,
        so that little is computed twice, and one compiled program serves them; the last may be
        longer by up to `grid - 1`, so that it starts on the grid.
      margin: pixels that are read beyond what is kept, a multiple of the grid.
      grid: tiles start on its multiples.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    inner = length - 2 * margin
    count = math.ceil(inner / (tile - 2 * margin))
    tile = math.ceil((math.ceil(inner / count) + 2 * margin) / grid) * grid
    found: list[Span] = []
    kept = 0
    while True:
        start = max(0, kept - margin)
        if start + tile >= length:
            start = (length - tile) // grid * grid
            return [*found, Span(start, length, kept, length)]
        found.append(Span(start, start + tile, kept, start + tile - margin))
        kept = start + tile - margin


def tiles(
    height_width: Sequence[int], tile: int, reach: int, *, grid: int = 1
) -> list[tuple[Span, Span]]:
    """The tiles of a picture, `(rows, columns)` of each, from the top left in rows.

    Args:
      height_width: of the picture.
      tile: largest side of a tile, in pixels.
      reach: how far away a pixel can change another.
      grid: see `spans`.

    Raises:
      ValueError: the tile is not a multiple of the grid, or not larger than twice the reach.
    """
    margin = math.ceil(reach / grid) * grid
    if tile % grid or tile <= 2 * margin:
        multiple = f"a multiple of {grid} " if grid > 1 else ""
        raise ValueError(f"tile must be {multiple}above {2 * margin} for this network, got {tile}")
    rows, columns = (spans(length, tile, margin, grid=grid) for length in height_width)
    return [(row, column) for row in rows for column in columns]


def computed(
    image: np.ndarray,
    parts: Sequence[tuple[Span, Span]],
    compute: Callable[[np.ndarray], Any],
    *,
    scale: int = 1,
) -> Iterator[Tile]:
    """Every part of a result, tile by tile.

    Args:
      image: `(H, W, C)`.
      parts: what `tiles` gave for it.
      compute: from a batch of one tile, `(1, h, w, C)`, to `(1, scale h, scale w, C)`.
      scale: by which the result is larger.

    Yields:
      Each pixel of the result once.
    """
    for row, column in parts:
        window = image[None, row.start : row.stop, column.start : column.stop]
        result = np.asarray(compute(window))[0]
        top, bottom, left, right = (
            scale * (kept - span.start)
            for span in (row, column)
            for kept in (span.kept_start, span.kept_stop)
        )
        kept = result[top:bottom, left:right]
        yield Tile(scale * row.kept_start, scale * column.kept_start, kept)
