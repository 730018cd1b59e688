"""How far a picture is from the true one: PSNR, SSIM, LPIPS and DISTS.

Images and references are `(..., H, W, C)` in [0, 1], of the same shape, or `ValueError` is raised;
the result is one float32 value per image, shape `(...)`.  For super-resolution the field's
convention is `y_psnr_ssim`: on the luma of 8 bits, without a border as wide as the factor.

LPIPS and DISTS compare features, and take RGB alone and the parameters of a network.  Their leading
axes broadcast: many pictures with one reference cost its features once.  Both are 0 for equal
pictures and have finite gradients there and for black ones; in the equations x is of the image, y
of the reference.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from perceptual_jax import alexnet, vgg
from perceptual_jax.ops.checks import as_images

Params = Mapping[str, Mapping[str, Any]]

# ITU-R BT.601 in studio range, what MATLAB's rgb2ycbcr gives: 16 for black, 235 for white.
_LUMA_WEIGHTS = (65.481, 128.553, 24.966)
_LUMA_BLACK = 16.0

# Wang et al. 2004: an 11x11 Gaussian window of sigma 1.5, and their K1 and K2.
_WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03

# Added to the squared length of a feature vector.  The authors of LPIPS add 1e-10 to the length,
# whose slope is infinite where all features are 0; this changes lengths of 0.1 by 5e-9 of them.
_LEAST_SQUARE = 1e-10

# Ding et al. 2020: their c1 and c2, for features of any size.
_C1 = _C2 = 1e-6


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


def lpips(
    params: Params,
    images: ArrayLike,
    references: ArrayLike,
    *,
    network: str | None = None,
    spatial: bool = False,
) -> jax.Array:
    """LPIPS, version 0.1 of the authors' program (Zhang et al. 2018, eq. 1).

    `sum_l mean_hw sum_c w_lc (x_lc / |x_l| - y_lc / |y_l|)^2`, where `|x_l|` is the length over the
    channels of layer l at a position, and w_l are weights that were fitted to what people see.

    Args:
      params: of `perceptual_jax.load_lpips`: a network, with its weights w under `"heads"`.
      images: `(..., H, W, 3)` in [0, 1], the range of all functions here; the authors' is [-1, 1].
      references: the same; leading axes broadcast.
      network: `"alex"` or `"vgg"`, to be sure that `params` are of that one.
      spatial: to get a map instead of the mean over positions, each layer enlarged bilinearly.

    Returns:
      `(...)` float32, at least 0; a map is `(..., H, W)`.

    Raises:
      ValueError: wrong layout, dtype or range, sizes that differ, sides below 31 pixels (AlexNet)
        or 16 (VGG), or parameters without heads or of another network.
    """
    heads = _weights(params, "heads", "LPIPS", "load_lpips")
    found = "alex" if "conv1" in params else "vgg"
    if network not in (None, found):
        raise ValueError(f"params are those of network={found!r}, not of {network!r}")
    of_network = alexnet.features if found == "alex" else vgg.features
    images, references = _rgb_pair(images, references)
    xs, ys = (of_network(params, picture, tuple(heads)) for picture in (images, references))
    total = jnp.zeros((), jnp.float32)
    for layer, head in heads.items():
        x, y = jnp.broadcast_arrays(_unit(xs[layer]), _unit(ys[layer]))
        distance = _weighted_sum(jnp.square(x - y), head)
        if spatial:
            shape = (*distance.shape[:-2], *images.shape[-3:-1])
            distance = jax.image.resize(distance, shape, "bilinear")
        else:
            distance = jnp.mean(distance, axis=(-2, -1))
        total = distance + jnp.broadcast_to(total, distance.shape)
    return total


def dists(params: Params, images: ArrayLike, references: ArrayLike) -> jax.Array:
    """DISTS, of structure and texture (Ding et al. 2020).

    `1 - sum_lc (alpha_lc (2 mx my + c1) / (mx^2 + my^2 + c1) + beta_lc (2 vxy + c2) / (vx + vy +
    c2))`, where mx and vx are mean and variance over the positions of channel c in layer l, vxy is
    the covariance, the sum of all alpha and beta is 1, and one layer is the pixels themselves.
    Textures are compared by their statistics: two pieces of one lawn are alike.

    It is computed as the sum of `alpha (mx - my)^2 / ...` and of `beta` times the variance of
    x - y, the same numbers, of which float32 keeps more digits where pictures are alike.

    Args:
      params: of `perceptual_jax.load_dists`: VGG-16, with `"alpha"` and `"beta"`.
      images: `(..., H, W, 3)` in [0, 1]. The authors reduce large pictures to a short side of 256.
      references: the same; leading axes broadcast.

    Returns:
      `(...)` float32, at least 0.

    Raises:
      ValueError: wrong layout, dtype or range, sizes that differ, sides below 16 pixels, or
        parameters without `"alpha"` and `"beta"`.
    """
    alpha = _weights(params, "alpha", "DISTS", "load_dists")
    beta = _weights(params, "beta", "DISTS", "load_dists")
    images, references = _rgb_pair(images, references)
    layers = tuple(layer for layer in alpha if layer != "pixels")
    xs, ys = (
        {"pixels": picture, **vgg.features(params, picture, layers, pooling="l2")}
        for picture in (images, references)
    )
    total = sum(jnp.sum(jnp.asarray(part[layer])) for part in (alpha, beta) for layer in alpha)
    distance = jnp.zeros((), jnp.float32)
    for layer in alpha:
        mean_x, mean_y = (jnp.mean(z[layer], axis=(-3, -2), keepdims=True) for z in (xs, ys))
        x, y = jnp.broadcast_arrays(xs[layer] - mean_x, ys[layer] - mean_y)
        mean_x, mean_y = jnp.broadcast_arrays(mean_x[..., 0, 0, :], mean_y[..., 0, 0, :])
        variance_x, variance_y, variance_difference = (
            jnp.mean(jnp.square(z), axis=(-3, -2)) for z in (x, y, x - y)
        )
        texture = jnp.square(mean_x - mean_y) / (mean_x**2 + mean_y**2 + _C1)
        structure = variance_difference / (variance_x + variance_y + _C2)
        of_layer = _weighted_sum(texture, alpha[layer]) + _weighted_sum(structure, beta[layer])
        distance = of_layer + jnp.broadcast_to(distance, of_layer.shape)
    return distance / total


def _weights(params: Params, part: str, metric: str, loader: str) -> Mapping[str, Any]:
    """What the features weigh, by layer."""
    if part not in params:
        raise ValueError(
            f"params have no {part!r}, the weights of {metric}: pass those of "
            f"perceptual_jax.{loader}. They belong to torchvision's networks; for the features of "
            "another training, such as the embedded Oxford VGG-16, they mean nothing"
        )
    return params[part]


def _rgb_pair(images: ArrayLike, references: ArrayLike) -> tuple[jax.Array, jax.Array]:
    images, references = (as_images(x).astype(jnp.float32) for x in (images, references))
    if images.shape[-3:] != references.shape[-3:]:
        raise ValueError(
            "images and references must have the same height and width, got "
            f"{images.shape} and {references.shape}"
        )
    return images, references


def _unit(features: jax.Array) -> jax.Array:
    """Feature vectors of length 1."""
    squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(squares + _LEAST_SQUARE)


def _weighted_sum(values: jax.Array, weights: ArrayLike) -> jax.Array:
    """Over channels, which an accelerator would else round."""
    weights = jnp.asarray(weights, jnp.float32)
    return jnp.einsum("...c,c->...", values, weights, precision=jax.lax.Precision.HIGHEST)


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
