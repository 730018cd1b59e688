"""Square roots of small symmetric matrices."""

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.custom_jvp
def symmetric_sqrt(matrix: jax.Array) -> jax.Array:
    """The symmetric square root of a symmetric positive definite matrix `(C, C)`, C at most ten.

    Its derivative is finite where eigenvalues are equal, as those of a flat picture's covariance
    are; that of `jnp.linalg.eigh` is not.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    roots = jnp.sqrt(jnp.maximum(values, 0.0))
    return jnp.matmul(vectors * roots[None], vectors.T, precision=_HIGHEST)


@symmetric_sqrt.defjvp
def _symmetric_sqrt_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """`R dR + dR R = dA` (Sylvester's equation) for the root R, as a system of C^2 equations."""
    (matrix,), (change,) = primals, tangents
    root = symmetric_sqrt(matrix)
    identity = jnp.eye(root.shape[0], dtype=root.dtype)
    system = jnp.kron(identity, root) + jnp.kron(root, identity)
    return root, jnp.linalg.solve(system, change.ravel()).reshape(root.shape)
