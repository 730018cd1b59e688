"""The symmetric square root: its square, and a derivative where eigenvalues are equal."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from perceptual_jax.ops.linalg import symmetric_sqrt


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
