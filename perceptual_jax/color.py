"""Colour: luminance, and giving one picture the colours of another.

Images are `(..., H, W, 3)` in [0, 1], encoded sRGB as everywhere in this package; the methods
here, like the papers they come from, work on the encoded values.  Where a `reference` is matched,
it and `images` are single pictures, `(H, W, 3)`, of any two sizes, and so is the result, in [0, 1].

Both ways of keeping a photo's colours are from Gatys et al. 2016, "Preserving Color in Neural
Artistic Style Transfer": transfer style in luminance alone and put the photo's colours back
(`replace_luminance`), or give the painting the photo's colours first (`match_statistics`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from perceptual_jax.ops.checks import as_images
from perceptual_jax.ops.linalg import symmetric_sqrt

# The first row of NTSC's YIQ, the space that the paper names.
_LUMINANCE = (0.299, 0.587, 0.114)

# An accelerator would round what goes into matrix products to 8 or 11 bits.
_HIGHEST = jax.lax.Precision.HIGHEST


def luminance(images: ArrayLike) -> jax.Array:
    """`Y = 0.299 R + 0.587 G + 0.114 B`, `(..., H, W, 3) -> (..., H, W, 1)`."""
    weights = jnp.asarray(_LUMINANCE, jnp.float32)
    products = jnp.einsum("...c,c->...", _float32(images), weights, precision=_HIGHEST)
    return products[..., None]


def grey(images: ArrayLike) -> jax.Array:
    """The luminance in all three channels, `(..., H, W, 3)`."""
    return jnp.broadcast_to(luminance(images), jnp.shape(images))


def replace_luminance(images: ArrayLike, source: ArrayLike) -> jax.Array:
    """The colours of `images` with the luminance of `source`, both `(..., H, W, 3)`, in [0, 1].

    In YIQ this adds the same number to all three channels, since the colour axes I and Q do not
    change when it does.
    """
    return jnp.clip(_float32(images) + (luminance(source) - luminance(images)), 0.0, 1.0)


def match_luminance(images: ArrayLike, reference: ArrayLike) -> jax.Array:
    """Gives `images`, made grey, the mean and standard deviation of the luminance of `reference`.

    `L' = (sigma_C / sigma_S) (L - mu_S) + mu_C` (Gatys et al. 2016, section 3.2), which keeps a
    painting's contrasts comparable with the photo's when only luminance is transferred.
    """
    own, wanted = luminance(images), luminance(reference)
    # The floor, a quarter of a level of 8 bits, keeps rounding in a blank picture small.
    scale = _deviation(wanted) / jnp.maximum(_deviation(own), 1e-3)
    matched = (own - jnp.mean(own)) * scale + jnp.mean(wanted)
    return jnp.broadcast_to(jnp.clip(matched, 0.0, 1.0), jnp.shape(images))


def _float32(images: ArrayLike) -> jax.Array:
    return as_images(images).astype(jnp.float32)


def _deviation(values: jax.Array) -> jax.Array:
    """The standard deviation, whose gradient is taken as 0 where all values are equal."""
    variance = jnp.var(values)
    flat = variance == 0
    return jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, variance)))


def match_statistics(images: ArrayLike, reference: ArrayLike) -> jax.Array:
    """Gives `images` the mean and covariance of the colours of `reference`.

    The linear map `A p + b` with `A = sqrt(Sigma_C) sqrt(Sigma_S)^-1` (Gatys et al. 2016, section
    3.1, "Image Analogies" form with symmetric square roots), clipped to [0, 1].
    """
    own, own_mean, own_covariance = _statistics(images)
    _, mean, covariance = _statistics(reference)
    # `A^T = sqrt(Sigma_S)^-1 sqrt(Sigma_C)`, both symmetric.
    transform = jnp.linalg.solve(symmetric_sqrt(own_covariance), symmetric_sqrt(covariance))
    matched = jnp.matmul(own - own_mean, transform, precision=_HIGHEST) + mean
    return jnp.clip(matched.reshape(jnp.shape(images)), 0.0, 1.0)


def match_histogram(images: ArrayLike, reference: ArrayLike) -> jax.Array:
    """Gives each channel of `images` the distribution of values that it has in `reference`.

    Each value goes to the value of equal rank, between 257 quantiles linearly; one that many pixels
    have, such as black, to that of the middle of their ranks.  Johnson et al. 2016 (section 4.2) do
    so with what super-resolution gives and its low-resolution input.
    """
    images, reference = _float32(images), _float32(reference)
    ranks = jnp.linspace(0.0, 1.0, 257, dtype=jnp.float32)

    def quantiles(channel: jax.Array) -> jax.Array:
        # Values that are there: equal ones would differ by rounding if they were interpolated.
        return jnp.quantile(channel, ranks, method="nearest")

    def matched(channel: jax.Array, wanted: jax.Array) -> jax.Array:
        own = quantiles(channel)
        last = jnp.interp(channel, own, ranks)
        first = 1.0 - jnp.interp(-channel, -own[::-1], ranks)
        return jnp.interp(0.5 * (first + last), ranks, quantiles(wanted))

    return jnp.stack([matched(images[..., c], reference[..., c]) for c in range(3)], axis=-1)


def before_transfer(
    content: ArrayLike, styles: Sequence[ArrayLike], *, keep_colors: str
) -> tuple[jax.Array, list[jax.Array]]:
    """The photo and the paintings as style transfer needs them to keep the photo's colours.

    Args:
      content: the photo, `(H, W, 3)`.
      styles: paintings, each `(H', W', 3)` of any size.
      keep_colors: `"none"` leaves all as they are; `"luminance"` makes the photo grey, and the
        paintings grey with its contrast; `"histogram"` gives the paintings its mean and covariance
        of colours (Gatys et al. 2016, sections 3.2 and 3.1).
    """
    if keep_colors == "none":
        return jnp.asarray(content), [jnp.asarray(style) for style in styles]
    if keep_colors == "luminance":
        return grey(content), [match_luminance(style, content) for style in styles]
    if keep_colors == "histogram":
        return jnp.asarray(content), [match_statistics(style, content) for style in styles]
    raise ValueError(f"keep_colors must be none, luminance or histogram, got {keep_colors!r}")


def after_transfer(image: ArrayLike, content: ArrayLike, *, keep_colors: str) -> jax.Array:
    """The result for what `before_transfer` gave, with the colours of the photo `content`.

    With `"luminance"` they are put back; with the others of its `keep_colors` the result has them.
    """
    return replace_luminance(content, image) if keep_colors == "luminance" else jnp.asarray(image)


def _statistics(image: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pixels `(M, 3)`, their mean `(1, 3)` and their covariance `(3, 3)`."""
    pixels = _float32(image).reshape(-1, 3)
    mean = jnp.mean(pixels, axis=0, keepdims=True)
    centred = pixels - mean
    covariance = jnp.matmul(centred.T, centred, precision=_HIGHEST) / pixels.shape[0]
    # The floor keeps the square root of a picture with few colours invertible.
    return pixels, mean, covariance + 1e-5 * jnp.eye(3, dtype=jnp.float32)
