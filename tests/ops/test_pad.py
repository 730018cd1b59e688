"""Padding: mirrored borders, and gradients that are those of JAX."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.ops import pad
from tests.ops.cases import f32


class TestReflectPad:
    def test_mirrors_without_repeating_the_border(self) -> None:
        row = pad.reflect_pad_reverse(jnp.arange(3.0 * 3).reshape(1, 3, 3, 1), 1)[0, 0, :, 0]
        np.testing.assert_array_equal(row, [4, 3, 4, 5, 4])

    @pytest.mark.parametrize("size", [(5, 12), (9, 10), (16, 11)])
    @pytest.mark.parametrize("margin", [1, 4])
    def test_has_the_values_and_the_gradient_of_jax(
        self, size: tuple[int, int], margin: int
    ) -> None:
        """Also where the margins of both ends are of the same pixels."""
        (images,) = f32(np.random.default_rng(2).normal(size=(2, *size, 3)))
        sides = ((0, 0), (margin, margin), (margin, margin), (0, 0))
        expected, expected_vjp = jax.vjp(lambda x: jnp.pad(x, sides, mode="reflect"), images)
        result, vjp = jax.vjp(lambda x: pad.reflect_pad_reverse(x, margin), images)
        np.testing.assert_array_equal(result, expected)
        (ours,), (of_jax,) = vjp(jnp.cos(result)), expected_vjp(jnp.cos(result))
        np.testing.assert_allclose(ours, of_jax, rtol=1e-5, atol=1e-6)


def test_edge_pad_repeats_the_border() -> None:
    image = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(pad.edge_pad(image)[0, ..., 0], expected)


@pytest.mark.parametrize("size", [(5, 7), (9, 12), (6, 12)])
@pytest.mark.parametrize(
    ("padded", "margin"),
    [(functools.partial(pad.reflect_pad, margin=4), 4), (pad.edge_pad, 1)],
    ids=["reflect", "edge"],
)
def test_a_picture_in_a_larger_array_is_padded_at_its_own_borders(
    padded: Any, margin: int, size: tuple[int, int]
) -> None:
    """Its size is known when the compiled function runs, and what is beside it does not matter."""
    height, width = size
    frame = np.full((2, 9, 12, 3), np.float32(-1e3))
    picture = np.random.default_rng(0).random((2, height, width, 3), np.float32)
    frame[:, :height, :width] = picture
    found = jax.jit(padded)(frame, size=(np.int32(height), np.int32(width)))
    expected = padded(picture)
    np.testing.assert_array_equal(found[:, : height + 2 * margin, : width + 2 * margin], expected)


@pytest.mark.parametrize(("size", "padded"), [((5, 9), (8, 12)), ((8, 4), (8, 4))])
def test_edge_pad_to_repeats_the_last_row_and_column(
    size: tuple[int, int], padded: tuple[int, int]
) -> None:
    (images,) = f32(np.random.default_rng(2).normal(size=(2, *size, 3)))
    below = [(0, new - old) for new, old in zip(padded, size, strict=True)]
    expected = np.pad(images, [(0, 0), *below, (0, 0)], mode="edge")
    np.testing.assert_array_equal(pad.edge_pad_to(images, 4), expected)


def test_edge_pad_to_fills_what_is_beside_a_picture() -> None:
    (frame,) = f32(np.random.default_rng(2).normal(size=(2, 6, 11, 3)))
    found = jax.jit(pad.edge_pad_to, static_argnums=1)(frame, 4, (np.int32(5), np.int32(7)))
    expected = np.pad(frame[:, :5, :7], [(0, 0), (0, 3), (0, 5), (0, 0)], mode="edge")
    np.testing.assert_array_equal(found, expected)
