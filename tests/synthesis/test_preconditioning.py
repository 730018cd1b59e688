"""The coordinates of pixels: large shapes move further in them, and nothing is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.synthesis.preconditioning import precondition
from tests import reference


def test_large_shapes_move_three_times_as_far() -> None:
    """Away from the border, where a constant is kept whole."""
    change = precondition(jnp.full((192, 160, 3), 0.1))
    np.testing.assert_allclose(change[64:-64, 64:-64], np.full((64, 32, 3), 0.3), rtol=1e-5)


def test_fine_detail_moves_as_it_is() -> None:
    """Stripes of eight pixels and finer."""
    for period in (2, 4, 8):
        stripes = 0.1 * np.cos(2 * np.pi * np.arange(160) / period)
        picture = np.broadcast_to(stripes[:, None], (96, 160, 3)).astype(np.float32)
        change = precondition(jnp.asarray(picture))
        np.testing.assert_allclose(change[32:-32, 32:-32], picture[32:-32, 32:-32], atol=2e-3)


def test_in_between_it_falls_with_the_frequency() -> None:
    gains = []
    for period in (256, 128, 64, 32):
        waves = np.cos(2 * np.pi * np.arange(512) / period)
        picture = np.broadcast_to(waves[:, None], (512, 512, 1)).astype(np.float32)
        change = np.asarray(precondition(jnp.asarray(picture)))[128:-128, 128:-128]
        gains.append(np.vdot(change, picture[128:-128, 128:-128]) / 256**2 * 2)
    assert all(np.diff(gains) < 0), gains
    assert gains[0] > 2.7
    assert gains[-1] < 1.1


@pytest.mark.parametrize("size", [(1, 1), (5, 64), (33, 20)])
def test_is_symmetric_and_loses_nothing(size: tuple[int, int]) -> None:
    """By its matrix, of any size: no eigenvalue is below 1, and none above 3."""
    height, width = size
    count = height * width
    unit = jnp.eye(count).reshape(count, height, width, 1)
    matrix = np.asarray(jax.vmap(precondition)(unit)).reshape(count, count)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > 1 - 1e-4
    assert eigenvalues.max() < 3.01


def test_channels_are_apart() -> None:
    picture = jnp.asarray(reference.random_images(40, 30, 3))
    change = precondition(picture)
    alone = precondition(picture[..., 1:2])
    np.testing.assert_allclose(change[..., 1:2], alone, rtol=1e-5)


def test_without_gain_pixels_are_the_coordinates() -> None:
    picture = jnp.asarray(reference.random_images(40, 30, 3))
    np.testing.assert_array_equal(precondition(picture, 0.0), picture)


def test_computes_in_the_type_of_the_coordinates() -> None:
    picture = reference.random_images(40, 30, 3)
    expected = precondition(jnp.asarray(picture))
    with jax.enable_x64(True):
        found = precondition(jnp.asarray(picture, jnp.float64))
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, atol=1e-6)
