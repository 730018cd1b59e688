"""Noise of several scales for the flat parts of a photo, before a style network paints them.

Where a photo shows nothing, as in a clear sky, a network repeats one small pattern, and draws the
contour lines between the levels of 8 bits as strokes. With something to hold on to it paints
strokes and shapes of all sizes, as the painter did.
"""

from typing import Any

import numpy as np

# Pixels between the values of an octave, and its standard deviation, for strokes of this size: what
# strokes are painted on is larger for larger ones, but for the finest octave.
_STROKE_SIZE = 384
_OCTAVES = ((1, 2 / 255), (4, 4 / 255), (10, 6 / 255), (24, 10 / 255), (60, 10 / 255))

# A part is flat if its luminance deviates by less than this within a block of this many pixels.
_FLAT, _BLOCK = 0.03, 8

# Of linear light (BT.709); here as a measure of pixels as they are.
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)

# The standard deviation of white noise after cubic B-splines along both axes.
_SPLINE_DEVIATION = 0.479


def vary(
    image: Any, *, amount: float = 0.5, stroke_size: float | None = None, seed: int = 0
) -> np.ndarray:
    """A photo with grey noise where it is flat; the same for the same seed.

    Args:
      image: `(H, W, 3)` in [0, 1]; the whole picture, since its tiles have to agree.
      amount: from 0, nothing, to 1; by default what looks best with the network that is shipped.
      stroke_size: of the strokes that will be painted on it, as the long side of the painting that
        they are in, in pixels.
      seed: of the noise.

    Returns:
      `(H, W, 3)` float32 in [0, 1]. In NumPy, for which no size has to be compiled.
    """
    image = np.asarray(image, np.float32)
    if not amount:
        return image
    height, width = image.shape[:2]
    random = np.random.default_rng(seed)
    noise = np.zeros((height, width), np.float32)
    for pixels, deviation in _OCTAVES:
        if pixels == 1:
            noise += deviation * random.standard_normal((height, width), np.float32)
            continue
        pixels = max(2, round(pixels * (stroke_size or _STROKE_SIZE) / _STROKE_SIZE))
        grid = random.standard_normal((height // pixels + 4, width // pixels + 4), np.float32)
        noise += deviation / _SPLINE_DEVIATION * _enlarged(grid, pixels)[:height, :width]
    noise *= np.float32(amount) * _flatness(image @ LUMINANCE)
    return np.clip(image + noise[..., None], 0.0, 1.0)


def _flatness(luminance: np.ndarray) -> np.ndarray:
    """From 0 where there is much to see to 1 where there is nothing, `(H, W)`, smooth."""
    height, width = luminance.shape
    whole = np.pad(luminance, ((0, -height % _BLOCK), (0, -width % _BLOCK)), mode="edge")
    blocks = whole.reshape(whole.shape[0] // _BLOCK, _BLOCK, whole.shape[1] // _BLOCK, _BLOCK)
    flatness = 1 / (1 + blocks.var((1, 3)) / np.float32(_FLAT**2))
    # The first value is that of the middle of a block.
    enlarged = _enlarged(np.pad(flatness, 2, mode="edge"), _BLOCK)
    start = _BLOCK // 2
    return enlarged[start : start + height, start : start + width]


def _enlarged(grid: np.ndarray, factor: int) -> np.ndarray:
    """Cubic B-splines through a grid: `(h, w)` to `((h - 3) factor, (w - 3) factor)`.

    The first of the result is at the second of the grid.
    """
    t = np.arange(factor, dtype=np.float32) / np.float32(factor)
    taps = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    ) / np.float32(6)
    height, width = (side - 3 for side in grid.shape)
    rows: Any = sum(grid[k : k + height, None] * taps[:, k, None] for k in range(4))
    rows = rows.reshape(height * factor, -1)
    columns: Any = sum(rows[:, k : k + width, None] * taps[:, k] for k in range(4))
    return columns.reshape(height * factor, width * factor)
