"""2x2 pooling: values, odd sides, and which position gets the gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.ops import pool
from tests import reference
from tests.ops.cases import f32


class TestMaxPool:
    def test_takes_the_maximum_of_blocks(self) -> None:
        image = jnp.array([[1.0, 2.0, -1.0, -2.0], [4.0, 3.0, -4.0, -3.0]])
        np.testing.assert_array_equal(
            pool.max_pool_reverse(image[:, :, None])[..., 0], [[4.0, -1.0]]
        )

    @pytest.mark.parametrize("shape", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 3)])
    def test_leaves_out_an_odd_last_row_and_column(self, shape: tuple[int, int]) -> None:
        images = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
        pooled = pool.max_pool_reverse(jnp.asarray(images))
        np.testing.assert_array_equal(pooled, reference.pool(images, "max"))

    def test_any_leading_axes(self) -> None:
        images = jnp.asarray(reference.random_images(2, 3, 5, 4, 2))
        pooled = pool.max_pool_reverse(images)
        assert pooled.shape == (2, 3, 2, 2, 2)
        np.testing.assert_array_equal(pooled[1, 2], pool.max_pool_reverse(images[1, 2]))

    def test_after_a_relu_its_gradient_is_that_of_a_window_reduction(self) -> None:
        (images,) = f32(np.random.default_rng(5).normal(size=(1, 7, 8, 3)))

        def reduce_window(x: jax.Array) -> jax.Array:
            window = (1, 2, 2, 1)
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")

        ours, theirs = (
            jax.grad(lambda x, pool=pool: jnp.sum(jnp.sin(pool(jax.nn.relu(x)))))(images)
            for pool in (pool.max_pool_reverse, reduce_window)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert np.count_nonzero(theirs) > 20

    @pytest.mark.parametrize(
        ("block", "shares"),
        [
            ([1.0, 3.0, 2.0, 0.0], [0, 1, 0, 0]),
            ([3.0, 3.0, 2.0, 0.0], [0.5, 0.5, 0, 0]),
            ([3.0, 2.0, 0.0, 3.0], [0.5, 0, 0, 0.5]),
            ([3.0, 3.0, 3.0, 3.0], [0.25, 0.25, 0.25, 0.25]),
        ],
    )
    def test_ties_share_the_gradient(self, block: list[float], shares: list[float]) -> None:
        image = jnp.array(block).reshape(2, 2, 1)
        gradient = jax.grad(lambda x: jnp.sum(pool.max_pool_reverse(x)))(image)
        np.testing.assert_array_equal(gradient.ravel(), shares)

    @pytest.mark.parametrize("value", [0.0, -1.0])
    def test_ties_of_a_relu_pass_nothing_on(self, value: float) -> None:
        image = jnp.full((2, 2, 1), value)
        gradient = jax.grad(lambda x: jnp.sum(pool.max_pool_reverse(jax.nn.relu(x))))(image)
        np.testing.assert_array_equal(gradient, np.zeros((2, 2, 1)))


class TestAveragePool:
    def test_takes_the_mean_of_blocks(self) -> None:
        image = jnp.array([[1.0, 2.0, -1.0, -2.0], [4.0, 3.0, -4.0, -3.0]])
        np.testing.assert_array_equal(pool.average_pool(image[:, :, None])[..., 0], [[2.5, -2.5]])

    @pytest.mark.parametrize("shape", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 3)])
    def test_leaves_out_an_odd_last_row_and_column(self, shape: tuple[int, int]) -> None:
        images = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
        pooled = pool.average_pool(jnp.asarray(images))
        np.testing.assert_allclose(pooled, reference.pool(images, "avg"), rtol=1e-5, atol=1e-6)

    def test_every_position_of_a_block_gets_a_quarter_of_the_gradient(self) -> None:
        gradient = jax.grad(lambda x: jnp.sum(pool.average_pool(x)))(jnp.ones((2, 3, 1)))
        np.testing.assert_array_equal(gradient[..., 0], [[0.25, 0.25, 0.0], [0.25, 0.25, 0.0]])


@pytest.mark.parametrize("pool", [pool.max_pool_reverse, pool.average_pool])
def test_pooling_keeps_bfloat16(pool: Callable[[jax.Array], jax.Array]) -> None:
    image = jnp.array([[1.0, 3.0], [5.0, 7.0]], jnp.bfloat16).reshape(2, 2, 1)
    assert pool(image).dtype == jnp.bfloat16
    assert (
        float(pool(image)[0, 0, 0]) == {"max_pool_reverse": 7.0, "average_pool": 4.0}[pool.__name__]
    )


@pytest.mark.parametrize(
    ("plain", "reverse"),
    [
        (pool.max_pool, pool.max_pool_reverse),
        (pool.average_pool, pool.average_pool_reverse),
    ],
)
def test_both_forms_are_one_function(plain: Any, reverse: Any) -> None:
    image = jnp.asarray(reference.random_images(2, 5, 7, 3)) - 0.5
    np.testing.assert_array_equal(plain(image), reverse(image))
    slopes = [
        jax.grad(lambda x, form=form: jnp.sum(jnp.sin(form(jax.nn.relu(x)))))(image)
        for form in (plain, reverse)
    ]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-6)


class TestOverlappingMaxPool:
    @pytest.mark.parametrize("shape", [(3, 3), (4, 6), (7, 8)])
    def test_is_a_window_reduction(self, shape: tuple[int, int]) -> None:
        images = jnp.asarray(reference.random_images(2, *shape, 3)) - 0.5
        windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
        found = pool.overlapping_max_pool(images)
        np.testing.assert_array_equal(found, windows[:, ::2, ::2].max((-2, -1)))


class TestL2Pool:
    def test_of_a_point(self) -> None:
        """Its square counts a quarter in its own window; windows are around even positions."""
        image = jnp.zeros((5, 5, 1)).at[2, 2].set(4.0).at[0, 1].set(4.0)
        root_of_an_eighth = 4 / np.sqrt(8)
        found = pool.l2_pool(image)[..., 0]
        expected = [[root_of_an_eighth, root_of_an_eighth, 0], [0, 2, 0], [0, 0, 0]]
        np.testing.assert_allclose(found, expected, atol=2e-6)  # The root of 1e-12, and rounding.

    @pytest.mark.parametrize("shape", [(4, 6), (5, 7), (1, 3)])
    def test_keeps_an_odd_last_row_and_column(self, shape: tuple[int, int]) -> None:
        images = reference.random_images(2, *shape, 3)
        np.testing.assert_allclose(
            pool.l2_pool(jnp.asarray(images)), reference.l2_pool(images), rtol=1e-5
        )

    def test_has_a_gradient_of_zero_where_all_is_zero(self) -> None:
        gradient = jax.grad(lambda x: jnp.sum(pool.l2_pool(x)))(jnp.zeros((4, 4, 1)))
        np.testing.assert_array_equal(gradient, 0)
