"""What jaxlib itself must get right: a release that computes wrong numbers fails here, loudly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.parametrize("rows", [1000, 32_769, 100_000])
def test_squared_sum_of_a_batched_matrix_vector_product(rows: int) -> None:
    """Jax issue 39103: jaxlib 0.10.2 computes it wrongly on CPU, compiled, without an error."""
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(3, 3)).astype(np.float32)
    vectors = generator.normal(size=(rows, 3)).astype(np.float32)

    def lengths(vectors: jax.Array) -> jax.Array:
        return jax.vmap(lambda vector: jnp.sum(jnp.square(matrix @ vector)))(vectors)

    expected = np.sum((vectors.astype(np.float64) @ matrix.astype(np.float64).T) ** 2, axis=1)
    np.testing.assert_allclose(jax.jit(lengths)(vectors), expected, rtol=1e-4)
    np.testing.assert_allclose(lengths(jnp.asarray(vectors)), expected, rtol=1e-4)


def test_sum_over_many_positions() -> None:
    """The Gram matrix of a large layer, compiled: integers that float32 holds exactly."""
    rows = np.random.default_rng(0).integers(-2, 3, (65_537, 8))
    gram = jax.jit(lambda rows: jnp.einsum("mc,md->cd", rows, rows))(rows.astype(np.float32))
    np.testing.assert_array_equal(gram, rows.T @ rows)
