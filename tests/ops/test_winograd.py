"""Winograd's convolution: the plain values, whatever the height leaves when divided by four."""

import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.ops import winograd
from tests import reference


@pytest.mark.parametrize(("margin", "padding"), [(1, "SAME"), (0, "VALID")])
@pytest.mark.parametrize("height", [3, 4, 5, 6, 11])
def test_is_the_sum_over_windows(height: int, margin: int, padding: str) -> None:
    generator = np.random.default_rng(0)
    images, kernel = generator.normal(size=(2, height, 7, 2)), generator.normal(size=(3, 3, 2, 4))
    expected = reference.convolve(images, kernel, padding)
    result = winograd.winograd_conv2d(
        jnp.asarray(images, jnp.float32), winograd.transform_kernel(kernel), margin
    )
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("height", [1, 2, 5, 8, 11])
def test_of_five_rows_is_the_sum_over_windows(height: int) -> None:
    generator = np.random.default_rng(0)
    images, kernel = generator.normal(size=(2, height, 7, 2)), generator.normal(size=(5, 5, 2, 4))
    expected = reference.convolve(images, kernel, "SAME")
    result = winograd.winograd_conv2d_5x5(*(jnp.asarray(x, jnp.float32) for x in (images, kernel)))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_refuses_what_it_would_round() -> None:
    kernels = winograd.transform_kernel(np.ones((3, 3, 2, 2), np.float32))
    with pytest.raises(ValueError, match=r"only float32 is exact enough .* got bfloat16"):
        winograd.winograd_conv2d(jnp.ones((1, 8, 8, 2), jnp.bfloat16), kernels)


@pytest.mark.parametrize(
    ("shape", "dtype", "fast"),
    [
        ((3, 3, 64, 64), jnp.float32, True),
        ((3, 3, 64, 63), jnp.float32, False),
        ((9, 9, 64, 64), jnp.float32, False),
        ((3, 3, 64, 64), jnp.bfloat16, False),
    ],
)
def test_is_for_wide_layers_in_float32(shape: tuple[int, ...], dtype: type, fast: bool) -> None:
    assert winograd.is_fast(shape, dtype) == fast


def test_that_of_five_rows_is_for_wide_layers_in_float32() -> None:
    assert winograd.is_fast_5x5((5, 5, 64, 192), jnp.float32)
    assert not winograd.is_fast_5x5((5, 5, 63, 192), jnp.float32)
    assert not winograd.is_fast_5x5((5, 5, 64, 192), jnp.bfloat16)
    assert not winograd.is_fast_5x5((3, 3, 64, 192), jnp.float32)
