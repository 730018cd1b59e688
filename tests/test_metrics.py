"""PSNR, SSIM, LPIPS and DISTS: against arithmetic by hand, and the numbers of other programs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import metrics, vgg
from perceptual_jax.pretrained import metrics as pretrained
from tests import perceptual_pairs, reference

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


VALUES = perceptual_pairs.values()
PAIRS = perceptual_pairs.pairs()

# A network of few channels, with weights for some of its layers.  With fewer still, all features of
# a position become 0 now and then, where the direction of what is left jumps.
TINY: Any = reference.random_vgg((1, 1), (16, 16))
RAMP = np.linspace(0, 2, 16, dtype=np.float32)
PIXELS = np.array([1, 2, 3], np.float32)
TINY_LPIPS = {**TINY, "heads": {"relu1_1": RAMP, "relu2_1": RAMP[::-1]}}
TINY_DISTS = {
    **TINY,
    "alpha": {"pixels": PIXELS, "relu2_1": RAMP},
    "beta": {"pixels": PIXELS, "relu2_1": RAMP[::-1]},
}


def oxford(**parts: Any) -> Any:
    """The embedded VGG-16 with weights that are not for it; the arithmetic is the same."""
    return {**perceptual_pairs.oxford_behind_torchvisions_normalization(), **parts}


@pytest.fixture(scope="module")
def measured() -> dict[str, np.ndarray]:
    """Of all stored pairs."""
    heads = pretrained.read_tree("lpips", "vgg")
    weights = pretrained.read_tree("dists")
    lpips = jax.jit(metrics.lpips, static_argnames="spatial")
    found = {
        "lpips_alex": lpips(pretrained.load_lpips(), *PAIRS),
        "lpips_alex_map": lpips(pretrained.load_lpips(), *PAIRS, spatial=True),
        "lpips_vgg of Oxford": lpips(oxford(**heads), *PAIRS),
        "dists of Oxford": jax.jit(metrics.dists)(oxford(**weights), *PAIRS),
    }
    return {name: np.asarray(values) for name, values in found.items()}


class TestTheAuthorsPrograms:
    """`lpips` 0.1.4 and `DISTS_pytorch` 0.1; `benchmarks/perceptual_pairs.py` asked them."""

    # Of AlexNet the package has kernels in float16.  Without the rounding, all differ by 2e-7.
    @pytest.mark.parametrize(
        ("name", "tolerance"),
        [("lpips_alex", 1e-4), ("lpips_vgg of Oxford", 2e-6), ("dists of Oxford", 2e-6)],
    )
    def test_agree_on_stored_pairs(
        self, measured: dict[str, np.ndarray], name: str, tolerance: float
    ) -> None:
        assert measured[name].dtype == np.float32
        np.testing.assert_allclose(measured[name], VALUES[name], rtol=0, atol=tolerance)

    def test_agree_on_maps(self, measured: dict[str, np.ndarray]) -> None:
        """At single positions float16 is seen more than in a mean: by up to 1.04e-4 in all maps."""
        found = perceptual_pairs.some_of_map(measured["lpips_alex_map"])
        np.testing.assert_allclose(found, VALUES["lpips_alex_map"], rtol=0, atol=1.5e-4)

    @pytest.mark.parametrize("kind", ["noise", "blur", "jpeg"])
    @pytest.mark.parametrize("name", ["lpips_alex", "lpips_vgg of Oxford", "dists of Oxford"])
    def test_more_of_a_distortion_is_a_larger_distance(
        self, measured: dict[str, np.ndarray], name: str, kind: str
    ) -> None:
        columns = [k for k, _ in perceptual_pairs.COLUMNS[1:]]
        by_photo = measured[name][:-1].reshape(len(perceptual_pairs.PHOTOS), len(columns))
        chosen = by_photo[:, [column == kind for column in columns]]
        assert (np.diff(np.c_[np.zeros(len(chosen)), chosen], axis=1) > 0).all()


class TestLpips:
    def test_is_the_papers_equation(self) -> None:
        """Zhang et al. 2018, eq. 1, layer by layer in float64."""
        first, second = pictures()
        expected = 0.0
        for layer, head in TINY_LPIPS["heads"].items():
            x, y = (
                reference.vgg_features(TINY, picture[None], "max")[layer]
                for picture in (first, second)
            )
            x, y = (z / np.sqrt((z**2).sum(-1, keepdims=True) + 1e-10) for z in (x, y))
            expected += (head * (x - y) ** 2).sum(-1).mean()
        assert metrics.lpips(TINY_LPIPS, first, second) == pytest.approx(expected, rel=1e-5)

    def test_the_mean_of_a_map_of_one_layer_is_the_value(self) -> None:
        """Where the map is not enlarged: the first layer has the size of the picture."""
        params = {**TINY, "heads": {"relu1_1": RAMP}}
        first, second = pictures()
        found = metrics.lpips(params, first, second, spatial=True)
        assert found.shape == first.shape[:2]
        value = metrics.lpips(params, first, second)
        assert np.mean(found) == pytest.approx(float(value), rel=1e-5)

    def test_a_map_is_zero_where_pictures_are_equal(self) -> None:
        first, _ = pictures()
        second = first.copy()
        second[:8, :8] = 0.5
        found = metrics.lpips(TINY_LPIPS, second, first, spatial=True)
        assert found[:6, :6].min() > 0
        # Beyond what two layers of 3x3, one of them at half the size, can see, and the enlargement.
        assert not np.any(found[14:])
        assert not np.any(found[:, 14:])

    def test_knows_which_network_it_has(self) -> None:
        first, second = pictures()
        value = metrics.lpips(TINY_LPIPS, first, second)
        assert metrics.lpips(TINY_LPIPS, first, second, network="vgg") == value
        with pytest.raises(ValueError, match="of network='vgg', not of 'alex'"):
            metrics.lpips(TINY_LPIPS, first, second, network="alex")

    def test_refuses_pictures_that_are_too_small_for_the_network(self) -> None:
        small = np.zeros((40, 30, 3), np.float32)
        with pytest.raises(ValueError, match="need at least 31 pixels"):
            metrics.lpips(pretrained.load_lpips(), small, small)


class TestDists:
    def test_is_the_papers_equation(self) -> None:
        """Ding et al. 2020: one minus the weighted sum of both similarities, in float64."""
        first, second = (picture.astype(np.float64) for picture in pictures())
        params = TINY_DISTS
        total = sum(part[x].sum() for part in (params["alpha"], params["beta"]) for x in part)
        similarity = 0.0
        for layer in params["alpha"]:
            x, y = (self._layer(picture, layer) for picture in (first, second))
            mean_x, mean_y = x.mean((0, 1)), y.mean((0, 1))
            covariance = (x * y).mean((0, 1)) - mean_x * mean_y
            texture = (2 * mean_x * mean_y + 1e-6) / (mean_x**2 + mean_y**2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (x.var((0, 1)) + y.var((0, 1)) + 1e-6)
            similarity += params["alpha"][layer] @ texture + params["beta"][layer] @ structure
        expected = 1 - similarity / total
        found = metrics.dists(params, *pictures())
        assert found == pytest.approx(expected, abs=1e-6)

    @staticmethod
    def _layer(picture: np.ndarray, layer: str) -> np.ndarray:
        if layer == "pixels":
            return picture
        first = reference.vgg_features(TINY, picture[None], "max")["relu1_1"]
        pooled = reference.l2_pool(first)
        convolution = TINY["conv2_1"]
        x = reference.convolve(pooled, convolution["kernel"].astype(np.float64), "SAME")
        return np.maximum(x + convolution["bias"], 0)[0]

    def test_compares_textures_by_their_statistics(self) -> None:
        """Moved by a few pixels a noise is as near as it was; LPIPS counts it as another."""
        noise = reference.random_images(64, 64, 3)
        moved, dark = np.roll(noise, 5, axis=1), 0.7 * noise
        statistics = {**TINY_DISTS, "beta": {k: 0 * v for k, v in TINY_DISTS["beta"].items()}}
        near, far = (metrics.dists(statistics, other, noise) for other in (moved, dark))
        assert near < 0.05 * far
        assert metrics.lpips(TINY_LPIPS, moved, noise) > metrics.lpips(TINY_LPIPS, dark, noise)


MEASURES = {
    "lpips_alex": lambda x, y: metrics.lpips(pretrained.load_lpips(), x, y),
    "lpips_vgg": lambda x, y: metrics.lpips(TINY_LPIPS, x, y),
    "dists": lambda x, y: metrics.dists(TINY_DISTS, x, y),
}


@pytest.mark.parametrize("name", MEASURES)
class TestPerceptual:
    @pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
    def test_equal_flat_pictures_are_zero_apart_with_a_gradient_of_zero(
        self, name: str, level: float
    ) -> None:
        flat = jnp.full((32, 32, 3), level)
        value, gradients = jax.value_and_grad(MEASURES[name], (0, 1))(flat, flat)
        assert value == 0
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0)

    def test_equal_photos_are_zero_apart_with_a_gradient_of_zero(self, name: str) -> None:
        photo = jnp.asarray(PAIRS[0][0])
        value, gradient = jax.value_and_grad(MEASURES[name])(photo, photo)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)

    def test_a_black_picture_has_a_gradient_of_finite_size(self, name: str) -> None:
        """Features that are all 0 included: a root without more under it would have NaNs there."""
        photo = jnp.asarray(PAIRS[0][0])
        for pair in ((jnp.zeros_like(photo), photo), (photo, jnp.zeros_like(photo))):
            gradient = jax.grad(MEASURES[name])(*pair)
            assert np.isfinite(gradient).all()
            assert np.any(gradient)

    def test_both_ways_of_differentiating_agree_with_finite_differences(self, name: str) -> None:
        x, y = (jnp.asarray(picture) for picture in PAIRS[0][1:3])
        direction = y - x

        def along(share: jax.Array) -> jax.Array:
            return MEASURES[name](x + share * direction, y)

        # At a place where no maximum changes its position within the step.
        _, forward = jax.jvp(along, (jnp.float32(0.3),), (jnp.float32(1),))
        reverse = jax.grad(along)(jnp.float32(0.3))
        step = jnp.float32(0.01)
        slope = (along(jnp.float32(0.3) + step) - along(jnp.float32(0.3) - step)) / (2 * step)
        assert forward == pytest.approx(float(reverse), rel=1e-4)
        assert forward == pytest.approx(float(slope), rel=0.02)

    def test_leading_axes_broadcast(self, name: str) -> None:
        images, references = (pictures[:2] for pictures in PAIRS)
        wanted = np.array([[MEASURES[name](x, y) for y in references] for x in images])
        found = MEASURES[name](images[:, None], references)
        assert found.shape == (2, 2)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
        many_with_one = MEASURES[name](images, references[0])
        np.testing.assert_allclose(many_with_one, wanted[:, 0], rtol=1e-5, atol=1e-7)

    def test_refuses_the_ranges_of_other_programs(self, name: str) -> None:
        photo = PAIRS[0][0]
        for wrong in (2 * photo - 1, 255 * photo):
            for pair in ((wrong, photo), (photo, wrong)):
                with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got values from"):
                    MEASURES[name](*pair)
        with pytest.raises(ValueError, match="floating point"):
            MEASURES[name](np.uint8(255 * photo), photo)

    def test_refuses_other_layouts_and_sizes(self, name: str) -> None:
        photo = PAIRS[0][0]
        with pytest.raises(ValueError, match="channels first"):
            MEASURES[name](photo, np.moveaxis(photo, -1, 0))
        with pytest.raises(ValueError, match="the same height and width"):
            MEASURES[name](photo, photo[:-1])


@pytest.mark.parametrize(
    ("measure", "params"), [(metrics.lpips, TINY_LPIPS), (metrics.dists, TINY_DISTS)]
)
def test_a_frozen_network_gives_the_same(measure: Callable[..., Any], params: Any) -> None:
    x, y = (jnp.asarray(picture) for picture in PAIRS[0][:2])
    frozen = vgg.freeze(params, ["relu2_1"])
    wanted, slope = jax.value_and_grad(lambda x: measure(params, x, y))(x)
    found, frozen_slope = jax.value_and_grad(lambda x: measure(frozen, x, y))(x)
    assert found == pytest.approx(float(wanted), rel=1e-5)
    np.testing.assert_allclose(frozen_slope, slope, rtol=0, atol=1e-4 * np.abs(slope).max())


def test_a_network_without_weights_is_refused_with_a_way_out() -> None:
    photo = PAIRS[0][0]
    for measure, loader in ((metrics.lpips, "load_lpips"), (metrics.dists, "load_dists")):
        with pytest.raises(ValueError, match=f"{loader}.*torchvision.*Oxford VGG-16"):
            measure(TINY, photo, photo)
