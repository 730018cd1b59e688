"""PSNR and SSIM: against arithmetic by hand, and scikit-image's numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import metrics

# Of `pictures()` in float64, by scikit-image 0.26.0; the calls stand in the tests' docstrings.
PSNR = 29.153155560116346
SSIM = 0.8543677558273574


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """A picture with edges and slopes, and the same with an error of its own at every pixel."""
    y, x = np.mgrid[:32, :40]
    picture = np.stack([x / 39, y / 31, ((x // 8 + y // 8) % 2) * 0.8 + 0.1], axis=-1)
    error = 0.05 * np.sin(np.arange(picture.size) * 1.7).reshape(picture.shape)
    return picture.astype(np.float32), np.clip(picture + error, 0, 1).astype(np.float32)


class TestPsnr:
    def test_of_a_constant_error(self) -> None:
        """A mean squared error of 0.01 is 20 dB."""
        image = np.full((4, 5, 3), 0.5, np.float32)
        assert metrics.psnr(image, image + 0.1) == pytest.approx(20.0, abs=1e-4)

    def test_of_equal_images_is_infinite(self) -> None:
        image = np.full((4, 5, 3), 0.5, np.float32)
        assert np.isinf(metrics.psnr(image, image))

    def test_is_one_value_per_image(self) -> None:
        first, second = pictures()
        both = metrics.psnr(np.stack([first, first]), np.stack([second, first]))
        assert both.shape == (2,)
        assert both[0] == pytest.approx(float(metrics.psnr(first, second)), rel=1e-6)

    def test_equals_scikit_image(self) -> None:
        """`peak_signal_noise_ratio(second, first, data_range=1)` of scikit-image 0.26."""
        first, second = pictures()
        assert metrics.psnr(first, second) == pytest.approx(PSNR, abs=1e-4)


class TestSsim:
    def test_of_equal_images_is_one(self) -> None:
        first, _ = pictures()
        assert metrics.ssim(first, first) == pytest.approx(1.0, abs=1e-6)

    def test_of_constant_images_is_the_luminance_term(self) -> None:
        """`(2 a b + C1) / (a^2 + b^2 + C1)`, Wang et al. 2004, eq. 6, since nothing varies."""
        a, b = np.full((16, 16, 1), 0.25, np.float32), np.full((16, 16, 1), 0.75, np.float32)
        expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
        assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-5)

    def test_equals_scikit_image(self) -> None:
        """`structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`,
        with `data_range=1, channel_axis=-1`, of scikit-image 0.26."""
        first, second = pictures()
        assert metrics.ssim(first, second) == pytest.approx(SSIM, abs=1e-5)

    def test_does_not_depend_on_the_level_by_rounding(self) -> None:
        """Bright pictures, whose squares are large beside their variances."""
        first, second = pictures()
        low = metrics.ssim(first * 0.02 + 0.95, second * 0.02 + 0.95)
        exact = _ssim64(first * 0.02 + 0.95, second * 0.02 + 0.95)
        assert low == pytest.approx(exact, abs=1e-5)

    def test_refuses_images_smaller_than_its_window(self) -> None:
        with pytest.raises(ValueError, match="at least 11"):
            metrics.ssim(np.zeros((10, 20, 1), np.float32), np.zeros((10, 20, 1), np.float32))


class TestConvention:
    def test_luma_of_black_and_white(self) -> None:
        black, white = np.zeros((1, 1, 3), np.float32), np.ones((1, 1, 3), np.float32)
        assert metrics.luma(black).item() * 255 == pytest.approx(16.0, abs=1e-4)
        assert metrics.luma(white).item() * 255 == pytest.approx(235.0, abs=1e-3)

    def test_the_border_does_not_count(self) -> None:
        first, second = pictures()
        framed = second.copy()
        framed[:4] = framed[-4:] = 0
        framed[:, :4] = framed[:, -4:] = 1
        inside = metrics.y_psnr_ssim(second, first, border=4)
        assert metrics.y_psnr_ssim(framed, first, border=4) == inside

    def test_less_than_half_a_level_is_no_error(self) -> None:
        image = np.full((24, 24, 3), 100 / 255, np.float32)
        psnr, ssim = metrics.y_psnr_ssim(image + 0.4 / 255, image, border=4)
        assert np.isinf(psnr)
        assert ssim == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim])
class TestBoth:
    def test_refuses_what_does_not_match(self, measure: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="both alike"):
            measure(np.zeros((16, 16, 3), np.float32), np.zeros((16, 15, 3), np.float32))
        with pytest.raises(ValueError, match="floating point"):
            measure(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.float32))

    def test_can_be_jitted(self, measure: Callable[..., Any]) -> None:
        first, second = pictures()
        jitted = jax.jit(measure)(jnp.asarray(first), jnp.asarray(second))
        assert jitted == pytest.approx(float(measure(first, second)), rel=1e-5)


def _ssim64(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13, window by window in float64."""
    offsets = np.arange(11) - 5
    line = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window = np.outer(line, line)
    window = (window / window.sum())[..., None]
    x, y = x.astype(np.float64), y.astype(np.float64)
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
            var_a = (window * (a - mean_a) ** 2).sum((0, 1))
            var_b = (window * (b - mean_b) ** 2).sum((0, 1))
            both = (window * (a - mean_a) * (b - mean_b)).sum((0, 1))
            found.append(
                (2 * mean_a * mean_b + 1e-4)
                * (2 * both + 9e-4)
                / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
            )
    return float(np.mean(found))


def test_bytes_are_refused_in_the_luma_too() -> None:
    """Clipped to [0, 1] they would be black and white."""
    picture = np.full((1, 30, 30, 3), 200, np.uint8)
    with pytest.raises(ValueError, match=r"floating point in \[0, 1\], got uint8"):
        metrics.y_psnr_ssim(picture, picture, border=4)
