"""Perceptual losses: pure functions of feature maps and images.

Conventions, for every function here:

- Feature maps are `(..., H, W, C)` and images `(..., H, W, 3)`, floating point.  Leading axes are a
  batch and broadcast.  The result is one float32 value per image, shape `(...)`, at least 0: no
  hidden mean over the batch, the caller reduces.
- The first argument is of the image that is made, the second the same of the photo or the painting.
  A painting may have another height and width.
- Gram matrices are `(..., C, C)`.
- Sums and Gram matrices are float32 whatever the dtype of the features.

In the equations F is the C x M matrix of a layer's features, C channels (the papers' N_l or C_j)
by M = H W positions; P the same of the content image, A the Gram matrix of the style image.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from perceptual_jax.ops import linalg

NORMALIZATIONS = ("elements", "positions", "none")


def _check_floating(name: str, array: ArrayLike, rank: int) -> None:
    """Integers would wrap or truncate without a word, and a low rank sum over the wrong axes."""
    if jnp.ndim(array) < rank:
        raise ValueError(f"{name} must have at least {rank} axes, got shape {jnp.shape(array)}")
    if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
        raise ValueError(f"{name} must be floating point, got {jnp.result_type(array)}")


def _check_alike(first: ArrayLike, second: ArrayLike, axes: int, what: str) -> None:
    """Broadcasting over the trailing axes would give a plausible wrong number."""
    if jnp.shape(first)[-axes:] != jnp.shape(second)[-axes:]:
        raise ValueError(
            f"{what} differ in shape: {jnp.shape(first)} and {jnp.shape(second)}; "
            f"the last {axes} axes must be equal"
        )


def _float32(array: ArrayLike) -> jax.Array:
    return jnp.asarray(array).astype(jnp.float32)


def _squared_distance(first: ArrayLike, second: ArrayLike, axes: tuple[int, ...]) -> jax.Array:
    # Explicitly, so that it also works where JAX is told to refuse implicit broadcasting.
    first, second = jnp.broadcast_arrays(_float32(first), _float32(second))
    return jnp.sum(jnp.square(first - second), axis=axes)


def gatys_content(features: ArrayLike, content_features: ArrayLike) -> jax.Array:
    """Content loss, `1/2 sum (F - P)^2` (Gatys et al. 2015, eq. 1)."""
    _check_floating("features", features, 3)
    _check_floating("content_features", content_features, 3)
    _check_alike(features, content_features, 3, "features")
    return 0.5 * _squared_distance(features, content_features, (-3, -2, -1))


def feature_reconstruction(features: ArrayLike, content_features: ArrayLike) -> jax.Array:
    """Feature reconstruction loss, `||F - P||^2 / (C H W)` (Johnson et al. 2016, eq. 2)."""
    half_squared_distance = gatys_content(features, content_features)
    height, width, channels = jnp.shape(features)[-3:]
    return half_squared_distance * (2.0 / (height * width * channels))


def gram_matrix(
    features: ArrayLike, *, normalize_by: str = "elements", mask: ArrayLike | None = None
) -> jax.Array:
    """Gram matrix of a feature map, `F F^T`, divided as asked.

    Args:
      features: `(..., H, W, C)`.
      normalize_by: `"elements"` divides by C H W (Johnson et al. 2016, eq. 3), `"positions"` by
        H W, so that pictures of different sizes compare, `"none"` not at all (Gatys et al. 2015,
        eq. 3).
      mask: `(..., H, W)`, at least 0: how much each position counts (guided Gram matrices, Gatys
        et al. 2017, "Controlling perceptual factors"). The sum of the mask then takes the
        place of H W. A mask that is zero everywhere gives a Gram matrix of zeros.

    Returns:
      `(..., C, C)` float32, symmetric.
    """
    _check_floating("features", features, 3)
    if normalize_by not in NORMALIZATIONS:
        raise ValueError(f"normalize_by must be one of {NORMALIZATIONS}, got {normalize_by!r}")
    features = jnp.asarray(features)
    height, width, channels = features.shape[-3:]
    rows = features.reshape(*features.shape[:-3], height * width, channels)
    if mask is None:
        gram = _self_product(rows)
        positions = jnp.asarray(height * width, jnp.float32)
    else:
        _check_floating("mask", mask, 2)
        if jnp.shape(mask)[-2:] != (height, width):
            raise ValueError(
                f"mask must have the features' height and width, got {jnp.shape(mask)} "
                f"for features {features.shape}"
            )
        shares = _float32(mask).reshape(*jnp.shape(mask)[:-2], height * width, 1)
        batch = jnp.broadcast_shapes(shares.shape[:-2], rows.shape[:-2])
        shares = jnp.broadcast_to(shares, (*batch, *shares.shape[-2:]))
        rows = jnp.broadcast_to(rows, (*batch, *rows.shape[-2:]))
        gram = _product(rows * shares.astype(rows.dtype), rows)
        gram = 0.5 * (gram + gram.swapaxes(-1, -2))  # Rounding leaves the product asymmetric.
        positions = jnp.maximum(jnp.sum(shares, axis=(-2, -1), keepdims=True), 1e-6)
    if normalize_by == "none":
        return gram
    divisor = positions * channels if normalize_by == "elements" else positions
    # A product is rounded in the same way in every transformation, a quotient is not.
    return gram * (1.0 / divisor)


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    """`X^T Y` of `(..., M, C)` in float32; an accelerator would else round what goes in."""
    return jnp.einsum(
        "...mc,...md->...cd",
        first,
        second,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


@jax.custom_jvp
def _self_product(rows: jax.Array) -> jax.Array:
    """`X^T X`, whose gradient `X (S + S^T)` is one product where JAX's own rule makes two."""
    return _product(rows, rows)


@_self_product.defjvp
def _self_product_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (rows,), (change,) = primals, tangents
    half = _product(change, rows)  # In this order XLA:CPU transposes it faster.
    return _self_product(rows), half + half.swapaxes(-1, -2)


def gatys_style(features: ArrayLike, style_features: ArrayLike) -> jax.Array:
    """Style loss of one layer, `E = sum (G - A)^2 / (4 N^2 M^2)` (Gatys et al. 2015, eq. 4).

    For a style image of another size, M positions against M', the Gram matrices are divided by
    their own number of positions: `sum (G/M - A/M')^2 / (4 N^2)`, which is the paper's where
    M = M'.
    """
    return gatys_style_of_grams(
        gram_matrix(features, normalize_by="positions"),
        gram_matrix(style_features, normalize_by="positions"),
    )


def gatys_style_of_grams(gram: ArrayLike, style_gram: ArrayLike) -> jax.Array:
    """`gatys_style` of Gram matrices `(..., C, C)` made with `normalize_by="positions"`.

    For optimisation: the painting's Gram matrix is computed once.
    """
    channels = jnp.shape(gram)[-1]
    return style_reconstruction_of_grams(gram, style_gram) / (4.0 * channels**2)


def style_reconstruction(
    features: ArrayLike, style_features: ArrayLike, *, reduction: str = "sum"
) -> jax.Array:
    """Style reconstruction loss of one layer, `||G - A||_F^2` (Johnson et al. 2016, eq. 4).

    `reduction` is `"sum"` over the C^2 entries as in the paper, or `"mean"` as in the authors'
    released code, where deep layers weigh C^2 less.
    """
    return style_reconstruction_of_grams(
        gram_matrix(features), gram_matrix(style_features), reduction=reduction
    )


def style_reconstruction_of_grams(
    gram: ArrayLike, style_gram: ArrayLike, *, reduction: str = "sum"
) -> jax.Array:
    """`style_reconstruction` of Gram matrices `(..., C, C)` made with `normalize_by="elements"`."""
    _check_floating("gram", gram, 2)
    _check_floating("style_gram", style_gram, 2)
    _check_alike(gram, style_gram, 2, "Gram matrices")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
    total = _squared_distance(gram, style_gram, (-2, -1))
    return total if reduction == "sum" else total / jnp.shape(gram)[-1] ** 2


class Moments(NamedTuple):
    """Mean and covariance of a layer's features over positions.

    Attributes:
      mean: `(..., C)`.
      covariance: `(..., C, C)`, symmetric.
    """

    mean: jax.Array
    covariance: jax.Array


def moments(features: ArrayLike, *, mask: ArrayLike | None = None) -> Moments:
    """Mean and covariance over positions of a feature map, `(..., H, W, C)`, in float32.

    `mask` is as for `gram_matrix`: how much each position counts.
    """
    products = gram_matrix(features, normalize_by="positions", mask=mask)
    features = jnp.asarray(features)
    if mask is None:
        mean = jnp.mean(features, axis=(-3, -2), dtype=jnp.float32)
    else:
        shares = _float32(mask)[..., None]
        total = jnp.maximum(jnp.sum(shares, axis=(-3, -2)), 1e-6)
        mean = jnp.sum(_float32(features) * shares, axis=(-3, -2)) * (1.0 / total)
    return Moments(mean, products - mean[..., :, None] * mean[..., None, :])


def blend_moments(moments: Moments, shares: ArrayLike) -> Moments:
    """The moments of all positions of several feature maps, of which map i counts `shares[i]`.

    Args:
      moments: `(R, ..., C)` and `(R, ..., C, C)`.
      shares: `(R,)`, whose sum is 1.

    Returns:
      `(..., C)` and `(..., C, C)`.
    """
    shares = _float32(shares)
    mean = functools.partial(jnp.tensordot, shares, axes=1, precision=linalg.HIGHEST)
    centre = mean(_float32(moments.mean))
    shifts = _float32(moments.mean) - centre[None]
    between = shifts[..., :, None] * shifts[..., None, :]
    return Moments(centre, mean(_float32(moments.covariance) + between))


# Added to the diagonals of both covariances, as a part of the mean square of a channel: far more
# than what rounding leaves of a covariance that is 0. And what is left where all features are 0.
_RIDGE = 1e-3
_LEAST = 1e-20


def gaussian_wasserstein(features: ArrayLike, style_features: ArrayLike) -> jax.Array:
    """Squared 2-Wasserstein distance of two Gaussians with the features' moments, divided by C.

    `(1/C) [|mu - mu_s|^2 + tr(S + S_s - 2 (S_s^1/2 S S_s^1/2)^1/2)]` (Dowson & Landau 1982), mu and
    S mean and covariance over positions: what it costs to move one distribution of features onto
    the other.  Both covariances get a ridge of 1e-3 times the mean square of both features, so that
    flat pictures, and fewer positions than channels, have a derivative.
    """
    return gaussian_wasserstein_of_moments(moments(features), moments(style_features))


def gaussian_wasserstein_of_moments(of: Moments, style: Moments) -> jax.Array:
    """`gaussian_wasserstein` of moments, `(..., C)` and `(..., C, C)`.

    For optimisation: the painting's moments are computed once.
    """
    means, first, second = _ridged(of, style, _RIDGE)
    shift = jnp.sum(jnp.square(means[0] - means[1]), axis=-1)
    return (shift + _bures(first, second)) * (1.0 / means.shape[-1])


class Transport(NamedTuple):
    """An affine map of features: `x @ matrix + offset`.

    Attributes:
      matrix: `(..., C, C)`, symmetric but for rounding.
      offset: `(..., C)`.
    """

    matrix: jax.Array
    offset: jax.Array


def optimal_transport(of: Moments, style: Moments, *, ridge: float = _RIDGE) -> Transport:
    """The map that `gaussian_wasserstein_of_moments` is the cost of: to features of other moments.

    `x -> M (x - mu) + mu_s` with `M = S^-1/2 (S^1/2 S_s S^1/2)^1/2 S^-1/2`, of all maps that give
    features with the first moments the second ones that which moves them least (Dowson & Landau
    1982).

    Args:
      of: of the features that are to be moved, `(..., C)` and `(..., C, C)`.
      style: those that they are to have.
      ridge: what is added to the diagonals of both covariances, as a part of the mean square of
        both features.  Directions in which features hardly vary are magnified less with more of it.

    Raises:
      ValueError: moments that are no floats, or do not match.
    """
    means, first, second = _ridged(of, style, ridge)
    matrix = _transport_matrix(first, second)
    moved = jnp.einsum("...i,...ij->...j", means[0], matrix, precision=linalg.HIGHEST)
    return Transport(matrix, means[1] - moved)


@jax.custom_jvp
def _transport_matrix(covariance: jax.Array, style_covariance: jax.Array) -> jax.Array:
    """The M of `M S M = S_s`, all symmetric positive definite."""
    return _of_factors(*_bures_and_factors(covariance, style_covariance)[1])


@_transport_matrix.defjvp
def _transport_matrix_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """`G X + X G = L^T (dS_s - M dS M) L` for `X = L^T dM L`, `S = L L^T` and `G = L^T M L`."""
    (covariance, _), (change, style_change) = primals, tangents
    matrix = _transport_matrix(*primals)
    factor = linalg.cholesky(covariance)
    stretch = linalg.matmul(factor.mT, matrix, factor)
    right = style_change - linalg.matmul(matrix, change, matrix)
    solution = linalg.sylvester(
        0.5 * (stretch + stretch.mT), linalg.matmul(factor.mT, right, factor)
    )
    half = linalg.solve_upper(factor.mT, solution)
    return matrix, linalg.solve_upper(factor.mT, half.mT).mT


def _ridged(of: Moments, style: Moments, part: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both means, `(2, ..., C)`, and the covariances with what makes them positive definite."""
    for name, one in (("of", of), ("style", style)):
        _check_floating(f"{name}.mean", one.mean, 1)
        _check_floating(f"{name}.covariance", one.covariance, 2)
    _check_alike(of.mean, style.mean, 1, "means")
    _check_alike(of.covariance, style.covariance, 2, "covariances")
    channels = jnp.shape(of.mean)[-1]
    means = jnp.stack(jnp.broadcast_arrays(_float32(of.mean), _float32(style.mean)))
    first, second = jnp.broadcast_arrays(_float32(of.covariance), _float32(style.covariance))
    sizes = jnp.trace(first + second, axis1=-2, axis2=-1) + jnp.sum(jnp.square(means), axis=(0, -1))
    ridge = part / (2.0 * channels) * sizes + _LEAST
    diagonal = ridge[..., None, None] * linalg.identity_like(first)
    return means, first + diagonal, second + diagonal


@jax.custom_jvp
def _bures(covariance: jax.Array, style_covariance: jax.Array) -> jax.Array:
    """`tr(S + S_s - 2 (S_s^1/2 S S_s^1/2)^1/2)` of positive definite matrices, at least 0."""
    return _bures_and_factors(covariance, style_covariance)[0]


def _bures_and_factors(
    covariance: jax.Array, style_covariance: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """The distance, and L, L_s and U of `S = L L^T`, `S_s = L_s L_s^T` and `L^T L_s = U H`.

    The trace of H is that of the equation above: no matrix is squared, which would cost half of
    the digits.
    """
    factor = linalg.cholesky(covariance)
    style_factor = linalg.cholesky(style_covariance)
    product = linalg.matmul(factor.mT, style_factor)
    turn = linalg.polar_factor(product)
    sizes = jnp.trace(covariance + style_covariance, axis1=-2, axis2=-1)
    distance = sizes - 2.0 * jnp.sum(turn * product, axis=(-2, -1))
    return jnp.maximum(distance, 0.0), (factor, style_factor, turn)


def _of_factors(factor: jax.Array, style_factor: jax.Array, turn: jax.Array) -> jax.Array:
    """The map of optimal transport `M = L^-T U L_s^T`, of what `_bures_and_factors` gives."""
    return linalg.solve_upper(factor.mT, linalg.matmul(turn, style_factor.mT))


def _bures_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
    """`tr((I - M) dS) + tr((I - M^-1) dS_s)`, M the map of optimal transport from S to S_s."""
    distance, (factor, style_factor, turn) = _bures_and_factors(*primals)
    slope = jnp.zeros_like(distance)
    # The inverse of M has the same form with the two exchanged.
    for change, own, other, between in (
        (tangents[0], factor, style_factor, turn),
        (tangents[1], style_factor, factor, turn.mT),
    ):
        if not isinstance(change, SymbolicZero):
            transport = _of_factors(own, other, between)
            slope += jnp.trace(change, axis1=-2, axis2=-1)
            slope -= jnp.sum(0.5 * (transport + transport.mT) * change, axis=(-2, -1))
    return distance, slope


_bures.defjvp(_bures_jvp, symbolic_zeros=True)


def total_variation(images: ArrayLike, *, kind: str = "squared") -> jax.Array:
    """Total variation of neighbouring pixels in [0, 1], summed over positions and channels.

    To compare with programs that work on 0..255, multiply the squared kind by 255^2 and the
    isotropic one by 255; see `docs/losses.md`.

    Args:
      images: `(..., H, W, 3)`.
      kind: `"squared"`, `sum dx^2 + dy^2` over all neighbours, what the released programs of
        both papers regularise with; or `"isotropic"`, `sum sqrt(dx^2 + dy^2)` over the positions
        that have both neighbours (Rudin, Osher & Fatemi 1992), which leaves edges sharp.
    """
    _check_floating("images", images, 3)
    images = _float32(images)
    vertical = images[..., 1:, :, :] - images[..., :-1, :, :]
    horizontal = images[..., :, 1:, :] - images[..., :, :-1, :]
    if kind == "squared":
        return jnp.sum(vertical**2, (-3, -2, -1)) + jnp.sum(horizontal**2, (-3, -2, -1))
    if kind == "isotropic":
        squared = jnp.square(vertical[..., :, :-1, :]) + jnp.square(horizontal[..., :-1, :, :])
        # The square root's slope is infinite at 0, where a flat image is: there the gradient
        # is taken as 0, its value by symmetry.
        flat = squared == 0
        length = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, squared)))
        return jnp.sum(length, axis=(-3, -2, -1))
    raise ValueError(f"kind must be 'squared' or 'isotropic', got {kind!r}")
