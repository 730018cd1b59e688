"""Masks that divide a picture into regions, each for a painting or style of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perceptual_jax.io import images
from perceptual_jax.io.storage import FileError


def check_count(paths: Sequence[str | Path], count: int, *, of: str) -> None:
    """Raises `FileError` unless there is a mask for each of `count`, or one fewer."""
    if len(paths) not in (count, count - 1):
        raise FileError(
            f"--content_mask needs a mask for each of {count} {of}, or one fewer, got {len(paths)}"
        )


def read(path: str | Path, height_width: tuple[int, int]) -> np.ndarray:
    """The mask of one region at a size, (H, W) float32 in [0, 1].

    Raises:
      FileError: as `images.read_mask`; or nothing lies in the region.
    """
    mask = images.resize(images.read_mask(path), height_width)
    if mask.max() < 0.5:
        raise FileError(f"the mask {path} is black: nothing of the picture is in its region")
    return mask


def read_all(
    paths: Sequence[str | Path], count: int, height_width: tuple[int, int]
) -> list[np.ndarray]:
    """`count` masks: those of the files, and if that is one fewer, what they leave for the last.

    Raises:
      FileError: as `read`.
    """
    masks = [read(path, height_width) for path in paths]
    if len(masks) < count:
        masks.append(np.clip(np.float32(1) - np.sum(masks, axis=0), 0.0, 1.0))
    return masks
