"""How far a picture is from the true one: PSNR and SSIM, as super-resolution reports them.

Images and references are `(..., H, W, C)` in [0, 1], of the same shape, or `ValueError` is raised;
the result is one float32 value per image, shape `(...)`.  The field's convention is `y_psnr_ssim`:
on the luma of 8 bits, without a border as wide as the factor.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from perceptual_jax.ops.checks import as_images

# ITU-R BT.601 in studio range, what MATLAB's rgb2ycbcr gives: 16 for black, 235 for white.
_LUMA_WEIGHTS = (65.481, 128.553, 24.966)
_LUMA_BLACK = 16.0

# Wang et al. 2004: an 11x11 Gaussian window of sigma 1.5, and their K1 and K2.
_WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def luma(images: ArrayLike) -> jax.Array:
    """Y of YCbCr (BT.601, studio range) in [16/255, 235/255], `(..., 3) -> (..., 1)`."""
    weights = jnp.asarray(_LUMA_WEIGHTS, jnp.float32)
    total = jnp.einsum(
        "...c,c->...", _float32(images), weights, precision=jax.lax.Precision.HIGHEST
    )
    return ((total + _LUMA_BLACK) / 255.0)[..., None]


def psnr(images: ArrayLike, references: ArrayLike) -> jax.Array:
    """Peak signal-to-noise ratio, `-10 log10(mean (x - y)^2)` dB; infinite for equal images."""
    images, references = _pair(images, references)
    return -10.0 * jnp.log10(jnp.mean(jnp.square(images - references), axis=(-3, -2, -1)))


def ssim(images: ArrayLike, references: ArrayLike) -> jax.Array:
    """Structural similarity, at most 1 (Wang et al. 2004, eq. 13).

    Mean over channels and the positions whose 11x11 Gaussian window lies within the image, so that
    both sides must be 11 or more; covariances are the population's.
    """
    images, references = _pair(images, references)
    if any(side < _WINDOW for side in images.shape[-3:-1]):
        raise ValueError(f"both sides must be at least {_WINDOW}, got shape {images.shape}")
    # Variances are those of deviations from one level; near it the squares of float32 lose nothing.
    level = jnp.mean(references, axis=(-3, -2, -1), keepdims=True)
    x, y = images - level, references - level
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x**2
    variance_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    true_x, true_y = mean_x + level, mean_y + level
    c1, c2 = _K1**2, _K2**2
    similarity = (
        (2.0 * true_x * true_y + c1)
        * (2.0 * covariance + c2)
        / ((true_x**2 + true_y**2 + c1) * (variance_x + variance_y + c2))
    )
    return jnp.mean(similarity, axis=(-3, -2, -1))


def y_psnr_ssim(
    images: ArrayLike, references: ArrayLike, *, border: int
) -> tuple[jax.Array, jax.Array]:
    """PSNR in dB and SSIM of the luma of RGB images as files of 8 bits have it.

    `border` pixels are left out at each side; the field takes the factor of super-resolution.
    """

    def prepared(pictures: jax.Array) -> jax.Array:
        eight_bits = jnp.round(jnp.clip(pictures, 0.0, 1.0) * 255.0) / 255.0
        rounded = jnp.round(luma(eight_bits) * 255.0) / 255.0
        height, width = rounded.shape[-3:-1]
        return rounded[..., border : height - border, border : width - border, :]

    images, references = map(prepared, _pair(images, references))
    return psnr(images, references), ssim(images, references)


def _float32(images: ArrayLike) -> jax.Array:
    return as_images(images, channels=None).astype(jnp.float32)


def _pair(images: ArrayLike, references: ArrayLike) -> tuple[jax.Array, jax.Array]:
    images, references = _float32(images), _float32(references)
    if images.shape != references.shape:
        raise ValueError(
            f"images must be (..., H, W, C), both alike, got {images.shape} and {references.shape}"
        )
    return images, references


def _windowed(values: jax.Array) -> jax.Array:
    """The Gaussian-weighted mean around every position whose window lies within."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (-3, -2):
        length = values.shape[axis] - _WINDOW + 1
        values = sum(
            weight * jax.lax.slice_in_dim(values, start, start + length, axis=values.ndim + axis)
            for start, weight in enumerate(weights)
        )
    return values
