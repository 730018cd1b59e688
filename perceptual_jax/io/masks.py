"""Files of masks, each of which gives a region of a picture a painting or style of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perceptual_jax.io import images
from perceptual_jax.io.storage import FileError


def read(path: str | Path, height_width: tuple[int, int]) -> np.ndarray:
    """The mask of one region at a size, `(H, W)` float32 in [0, 1].

    Raises:
      FileError: as `images.read_mask`, or no pixel is in the region.
    """
    mask = images.resize(images.read_mask(path), height_width)
    if mask.max() < 0.5:
        raise FileError(f"the mask {path} is black: no pixel of the picture is in its region")
    return mask


def read_all(
    paths: Sequence[str | Path], count: int, height_width: tuple[int, int]
) -> list[np.ndarray]:
    """The masks of `count` regions; with one file fewer, the last region is what the others leave.

    Raises:
      FileError: as `read`, or there are more files, or fewer.
    """
    if len(paths) not in (count, count - 1):
        raise FileError(
            f"{count} regions need {count} masks, or one fewer, and there are {len(paths)}"
        )
    masks = [read(path, height_width) for path in paths]
    if len(masks) < count:
        masks.append(np.clip(np.float32(1) - np.sum(masks, axis=0), 0.0, 1.0))
    return masks
