"""Square roots and polar factors: what they are, and derivatives where values are equal."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from perceptual_jax.ops import linalg
from perceptual_jax.ops.linalg import polar_factor, symmetric_sqrt


def test_its_square_is_the_matrix() -> None:
    # By hand: the eigenvalues 1 and 9 along (1, -1) and (1, 1), their roots 1 and 3.
    root = symmetric_sqrt(jnp.array([[5.0, 4.0], [4.0, 5.0]]))
    np.testing.assert_allclose(root, [[2.0, 1.0], [1.0, 2.0]], rtol=1e-6)


def test_differentiates_where_eigenvalues_are_equal() -> None:
    # sqrt(c I + t E) = sqrt(c) I + t E / (2 sqrt(c)) to first order.
    direction = jnp.array([[1.0, 2.0, 0.0], [2.0, -1.0, 0.5], [0.0, 0.5, 3.0]])
    _, slope = jax.jvp(symmetric_sqrt, (4.0 * jnp.eye(3),), (direction,))
    np.testing.assert_allclose(slope, direction / 4.0, rtol=1e-5, atol=1e-6)


def test_has_the_derivatives_of_finite_differences() -> None:
    factor = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
    matrix = factor @ factor.T + 0.5 * jnp.eye(3)
    check_grads(
        lambda change: symmetric_sqrt(matrix + change + change.T),
        (0.01 * factor,),
        order=2,
        modes=["fwd", "rev"],
        atol=2e-2,
        rtol=2e-2,
    )


def test_a_batch_of_roots() -> None:
    factors = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4)), jnp.float32)
    matrices = factors @ factors.mT + 0.1 * linalg.identity_like(factors)
    roots = symmetric_sqrt(matrices)
    np.testing.assert_allclose(roots @ roots, matrices, atol=1e-4)


@pytest.mark.parametrize("find", [polar_factor, linalg._by_products])
def test_a_polar_factor_is_orthogonal_and_leaves_a_symmetric_matrix(find: Any) -> None:
    """By singular values, as on a CPU, and by products alone, as on an accelerator."""
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.normal(size=(2, 24, 24)))[0] for _ in range(2))
    values = np.geomspace(1.0, 1e-4, 24)
    factor = find(jnp.asarray(left * values @ right, jnp.float32))
    np.testing.assert_allclose(factor, left @ right, atol=5e-3)
    np.testing.assert_allclose(factor @ factor.mT, [np.eye(24)] * 2, atol=1e-5)


def test_a_polar_factor_differentiates_where_singular_values_are_equal() -> None:
    # U = I of I + t W to first order for a skew W, whose U is I + t W.
    skew = jnp.array([[0.0, 1.0, -2.0], [-1.0, 0.0, 0.5], [2.0, -0.5, 0.0]])
    _, slope = jax.jvp(polar_factor, (jnp.eye(3),), (skew,))
    np.testing.assert_allclose(slope, skew, atol=1e-6)


def test_a_polar_factor_has_the_derivatives_of_finite_differences() -> None:
    matrix = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32) + 2 * np.eye(3)
    check_grads(
        polar_factor, (jnp.asarray(matrix, jnp.float32),), order=2, modes=["fwd", "rev"], rtol=3e-2
    )
