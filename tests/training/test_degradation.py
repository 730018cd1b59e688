"""The making of low-resolution pictures: against Pillow, JAX, and arithmetic by hand."""

import jax
import numpy as np
import pytest

from perceptual_jax.training import degradation
from tests import reference


def photo(height: int = 48, width: int = 40) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return values.astype(np.uint8)


@pytest.mark.parametrize("factor", [4, 8])
class TestBicubic:
    def test_equals_pillows(self, factor: int) -> None:
        picture = photo()
        expected = reference.bicubic(picture[None], 48 // factor, 40 // factor)[0]
        found = degradation.degrade(picture, factor, sigma=0.0)
        # Rounding to 8 bits can fall either way where the value lies between two levels.
        assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-3

    def test_equals_jaxs(self, factor: int) -> None:
        line = np.random.default_rng(1).random((1, 48)).astype(np.float32)
        shape = (1, 48 // factor)
        expected = jax.image.resize(line, shape, method="cubic", antialias=True)
        found = line @ degradation.bicubic_matrix(48, 48 // factor).T
        np.testing.assert_allclose(found, expected, atol=1e-5)


class TestEnlarging:
    def test_equals_pillows(self) -> None:
        line = np.random.default_rng(1).random((1, 12)).astype(np.float32)
        found = line @ degradation.bicubic_matrix(12, 48).T
        expected = reference.bicubic(line.reshape(1, 1, 12, 1), 1, 48)
        np.testing.assert_allclose(found, expected[0, :, :, 0], atol=1e-5)


class TestBlur:
    def test_of_a_point_is_the_gaussian(self) -> None:
        matrix = degradation.blur_matrix(21, 1.0)
        weights = np.exp(-0.5 * (np.arange(-4, 5)) ** 2.0)
        np.testing.assert_allclose(matrix[10, 6:15], weights / weights.sum(), rtol=1e-12)
        assert matrix[10, :6].sum() == matrix[10, 15:].sum() == 0

    def test_mirrors_the_border(self) -> None:
        """Beyond the first pixel come the first, the second, ...: d c b a | a b c d."""
        matrix = degradation.blur_matrix(21, 1.0)
        weights = np.exp(-0.5 * (np.arange(-4, 5)) ** 2.0)
        weights /= weights.sum()
        assert matrix[0, 0] == pytest.approx(weights[4] + weights[3])
        assert matrix[0, 1] == pytest.approx(weights[5] + weights[2])

    def test_comes_before_the_downsampling(self) -> None:
        picture = photo()
        blurred = np.einsum("hH,HWc->hWc", degradation.blur_matrix(48, 1.0), picture)
        blurred = np.einsum("wW,hWc->hwc", degradation.blur_matrix(40, 1.0), blurred)
        expected = reference.bicubic(blurred[None], 12, 10)[0]
        found = degradation.degrade(picture, 4)
        assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
class TestAnySigma:
    def test_a_constant_stays(self, sigma: float) -> None:
        flat = np.full((32, 24, 3), 77, np.uint8)
        np.testing.assert_array_equal(degradation.degrade(flat, 8, sigma=sigma), 77)

    def test_mirrors_with_the_photo(self, sigma: float) -> None:
        picture = photo()
        mirrored = degradation.degrade(np.ascontiguousarray(picture[:, ::-1]), 4, sigma=sigma)
        difference = mirrored[:, ::-1].astype(int) - degradation.degrade(picture, 4, sigma=sigma)
        assert np.abs(difference).max() <= 1


class TestMixed:
    def test_takes_every_sigma_in_turn(self) -> None:
        found = [degradation.sigma_of("mixed", number) for number in range(22)]
        np.testing.assert_allclose(found, 2 * [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])

    def test_lies_between_the_named_ones(self) -> None:
        """The larger sigma, the more of a photo's contrast is gone."""
        contrasts = [
            degradation.degrade(photo(), 4, sigma=degradation.sigma_of("mixed", number)).std()
            for number in range(11)
        ]
        assert contrasts[0] == degradation.degrade(photo(), 4, sigma=0.0).std()
        assert contrasts[10] == degradation.degrade(photo(), 4).std()
        assert contrasts[10] < contrasts[7] < contrasts[4] < contrasts[0]


class TestErrors:
    def test_sides_that_are_no_multiples(self) -> None:
        with pytest.raises(ValueError, match="multiples of 4"):
            degradation.degrade(photo(46), 4)

    def test_floats(self) -> None:
        with pytest.raises(ValueError, match="uint8"):
            degradation.degrade(photo().astype(np.float32), 4)

    @pytest.mark.parametrize("sigma", [-0.1, np.nan, np.inf])
    def test_a_sigma_that_is_none(self, sigma: float) -> None:
        with pytest.raises(ValueError, match="sigma must be"):
            degradation.degrade(photo(), 4, sigma=sigma)
