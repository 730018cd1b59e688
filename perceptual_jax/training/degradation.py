"""How a low-resolution picture is made from a photo: the inverse of what super-resolution learns.

Gaussian blur of sigma 1, then bicubic downsampling with antialiasing, as in Johnson et al. 2016
(section 4.2); or the bicubic downsampling alone, as in the field's benchmarks; or, to train for
pictures of unknown origin, every blur in between.  In NumPy, since it runs in the input pipeline.
"""

import functools

import numpy as np
from PIL import Image

# The blur's sigma in pixels of the photo, by the name of the degradation. Johnson et al. 2016,
# section 4.2: 1.
SIGMAS = {"blur": 1.0, "bicubic": 0.0}

# What a network can be trained for.
DEGRADATIONS = ("mixed", *SIGMAS)


def sigma_of(name: str, number: int) -> float:
    """The sigma for example `number` of a training: for `mixed` 0, 0.1, ... 1 in turn.

    A sigma of 0.1 or 0.2 hardly reaches the next pixels, so three of eleven pictures are sharp.
    """
    return number % 11 / 10 if name == "mixed" else SIGMAS[name]


def degrade(photo: np.ndarray, factor: int, *, sigma: float = SIGMAS["blur"]) -> np.ndarray:
    """The low-resolution picture of a photo, rounded to 8 bits as a file would have it.

    Args:
      photo: `(H, W, C)` uint8, both sides multiples of the factor.
      factor: by which each side becomes smaller.
      sigma: of the Gaussian blur before the bicubic downsampling, in pixels; 0 for none.

    Returns:
      `(H / factor, W / factor, C)` uint8.

    Raises:
      ValueError: an argument is not as described.
    """
    if photo.ndim != 3 or photo.dtype != np.uint8:
        raise ValueError(f"photo must be (H, W, C) uint8, got {photo.shape} {photo.dtype}")
    height, width, _ = photo.shape
    if height % factor or width % factor:
        raise ValueError(
            f"photo must have sides that are multiples of {factor}: crop {photo.shape}"
        )
    if not 0 <= sigma < np.inf:
        raise ValueError(f"sigma must be a finite number of at least 0, got {sigma}")
    rows, columns = (_shrinking(length, factor, sigma) for length in (height, width))
    small = np.einsum("hH,HWc->hWc", rows, photo.astype(np.float32), optimize=True)
    small = np.einsum("wW,hWc->hwc", columns, small, optimize=True)
    return np.rint(np.clip(small, 0.0, 255.0)).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _shrinking(length: int, factor: int, sigma: float) -> np.ndarray:
    """`degrade` along one axis, as a matrix `(length / factor, length)`."""
    matrix = bicubic_matrix(length, length // factor)
    if sigma:
        matrix = matrix @ blur_matrix(length, sigma)
    return matrix.astype(np.float32)


def bicubic_matrix(length: int, result: int) -> np.ndarray:
    """Bicubic resizing along one axis, `(result, length)` float32, antialiased where it shrinks.

    Pillow's, whose kernel is that of MATLAB: Keys' cubic with a = -0.5.
    """
    identity = Image.fromarray(np.eye(length, dtype=np.float32))
    return np.asarray(identity.resize((length, result), Image.Resampling.BICUBIC))


def blur_matrix(length: int, sigma: float) -> np.ndarray:
    """Gaussian blur along one axis, `(length, length)` float64, the border mirrored.

    Cut off at four sigma, where SciPy's `gaussian_filter` does.
    """
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    # Mirrored with the border pixel repeated: d c b a | a b c d | d c b a.
    mirrored = np.pad(np.eye(length), ((radius, radius), (0, 0)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, len(weights), axis=0)
    return windows @ (weights / weights.sum())
