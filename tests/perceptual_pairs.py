"""Stored pictures and their distortions, and what LPIPS and DISTS are by their authors' programs.

`benchmarks/perceptual_pairs.py` makes the files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perceptual_jax.pretrained.vgg import load_vgg

SHEET = Path(__file__).with_name("perceptual_pairs.png")
VALUES = Path(__file__).with_name("perceptual_pairs.json")

PHOTOS = ("astronaut", "coffee")
SIZE = (61, 75)  # Odd, so that the last row and column of each layer are seen.

# What became of a photo, from the weakest to the strongest.
COLUMNS = (
    ("reference", 0.0),
    *(("noise", sigma) for sigma in (5.0, 15.0, 40.0)),
    *(("blur", sigma) for sigma in (0.6, 1.2, 2.4)),
    *(("jpeg", quality) for quality in (60.0, 25.0, 8.0)),
)


def cells() -> np.ndarray:
    """`(photos, columns, H, W, 3)` in [0, 1]."""
    height, width = SIZE
    sheet = np.asarray(Image.open(SHEET), np.float32) / 255
    rows = sheet.reshape(len(PHOTOS), height, len(COLUMNS), width, 3)
    return rows.transpose(0, 2, 1, 3, 4)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Distorted photos and the photos, `(N, H, W, 3)`; the last of the pairs are the two photos."""
    found = cells()
    images = [*found[:, 1:].reshape(-1, *SIZE, 3), found[1, 0]]
    references = [*found[:, :1].repeat(len(COLUMNS) - 1, axis=1).reshape(-1, *SIZE, 3), found[0, 0]]
    return np.stack(images), np.stack(references)


def values() -> Any:
    """By metric, one value for each of the pairs."""
    return json.loads(VALUES.read_text(encoding="utf-8"))


def some_of_map(maps: np.ndarray) -> np.ndarray:
    """A few positions of the maps of the last pairs: corners, sides and the middle."""
    return np.asarray(maps)[-2:, ::15, ::37]


def oxford_behind_torchvisions_normalization() -> dict[str, Any]:
    """The embedded VGG-16, which then gets pixels of the size that it was trained for."""
    params = load_vgg()
    std = np.array([0.229, 0.224, 0.225], np.float32)
    kernel = params["conv1_1"]["kernel"] * (255 * std)[:, None]
    return {
        **params,
        "normalization": {"mean": np.array([0.485, 0.456, 0.406], np.float32), "std": std},
        "conv1_1": {**params["conv1_1"], "kernel": kernel.astype(np.float32)},
    }
