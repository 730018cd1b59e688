"""Square roots and polar factors of small matrices, with derivatives of every order."""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

HIGHEST = jax.lax.Precision.HIGHEST


def matmul(*matrices: jax.Array) -> jax.Array:
    """The product of matrices `(..., C, C)`; an accelerator would else round what goes in."""
    product = matrices[0]
    for matrix in matrices[1:]:
        product = jnp.matmul(product, matrix, precision=HIGHEST)
    return product


def identity_like(matrix: jax.Array) -> jax.Array:
    """Identity matrices of the shape and type of `matrix`, `(..., C, C)`."""
    return jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)


# The lower triangular L of `L L^T`, one by one: JAX masks a batch with an array that has no axis
# of a mesh, which meshes of explicit axes refuse.
cholesky = jnp.vectorize(jnp.linalg.cholesky, signature="(c,c)->(c,c)")

# The X of `R X = B`, R upper triangular, one by one for the same reason.
solve_upper = jnp.vectorize(
    functools.partial(solve_triangular, lower=False), signature="(c,c),(c,c)->(c,c)"
)


@jax.custom_jvp
def symmetric_sqrt(matrix: jax.Array) -> jax.Array:
    """The symmetric square root of a symmetric positive definite matrix `(..., C, C)`.

    Its derivative is finite where eigenvalues are equal, as those of a flat picture's covariance
    are; that of `jnp.linalg.eigh` is not.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    roots = jnp.sqrt(jnp.maximum(values, 0.0))
    return matmul(vectors * roots[..., None, :], vectors.mT)


@symmetric_sqrt.defjvp
def _symmetric_sqrt_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """`R dR + dR R = dA` for the root R."""
    (matrix,), (change,) = primals, tangents
    root = symmetric_sqrt(matrix)
    return root, sylvester(root, change)


@jax.custom_jvp
def polar_factor(matrix: jax.Array) -> jax.Array:
    """The orthogonal factor U of `matrix = U H`, H symmetric positive definite, `(..., C, C)`.

    `sum(U * matrix)` is the sum of the singular values. On a CPU it is found by these, elsewhere by
    products alone, which are faster there.
    """
    return jax.lax.platform_dependent(matrix, cpu=_by_singular_values, default=_by_products)


def _by_singular_values(matrix: jax.Array) -> jax.Array:
    left, _, right = jnp.linalg.svd(matrix)
    return matmul(left, right)


def _by_products(matrix: jax.Array) -> jax.Array:
    """The iteration of Newton and Schulz (Higham 2008, "Functions of Matrices", eq. 8.20).

    A singular value that is small beside the norm grows by half in every step, so that those of
    1e-6 of it still become 1.
    """

    def improve(_: jax.Array, factor: jax.Array) -> jax.Array:
        return matmul(factor, 1.5 * identity_like(matrix) - 0.5 * matmul(factor.mT, factor))

    start = matrix / jnp.linalg.norm(matrix, axis=(-2, -1), keepdims=True)
    return jax.lax.fori_loop(0, 40, improve, start)


@polar_factor.defjvp
def _polar_factor_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """`dU = U W` with the skew W of `H W + W H = U^T dA - dA^T U`."""
    (matrix,), (change,) = primals, tangents
    factor = polar_factor(matrix)
    stretch = matmul(factor.mT, matrix)
    turned = matmul(factor.mT, change)
    skew = sylvester(0.5 * (stretch + stretch.mT), turned - turned.mT)
    return factor, matmul(factor, skew)


def sylvester(root: jax.Array, right: jax.Array) -> jax.Array:
    """The X of `R X + X R = right`, R symmetric positive definite (Sylvester's equation).

    Its derivatives of every order are solutions of the same equation: the eigenvectors, which have
    none where eigenvalues are equal, are never differentiated.
    """

    def left(solution: jax.Array) -> jax.Array:
        return matmul(root, solution) + matmul(solution, root)

    def solve(_: object, right: jax.Array) -> jax.Array:
        values, vectors = jnp.linalg.eigh(root)
        sums = values[..., :, None] + values[..., None, :]
        return matmul(vectors, matmul(vectors.mT, right, vectors) / sums, vectors.mT)

    found: jax.Array = jax.lax.custom_linear_solve(left, right, solve, symmetric=True)
    return found
