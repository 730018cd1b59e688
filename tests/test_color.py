"""Colour: luminance by hand, and statistics beside NumPy's."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import color
from tests import reference

# NTSC's YIQ, as in Gatys et al. 2016, "Preserving Color", section 3.2.
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

# Correlated colours around the middle, where no map of one onto the other leaves [0, 1].
MIX = np.array([[0.2, 0.05, 0.0], [0.1, 0.15, -0.05], [0.05, 0.1, 0.1]], np.float32)
PHOTO = 0.5 + (reference.random_images(12, 17, 3, seed=1) - 0.5) @ MIX
PAINTING = 0.45 + (reference.random_images(15, 11, 3, seed=2) - 0.5) @ MIX.T[::-1]
CONSTANT = np.full((6, 5, 3), 0.3, np.float32)

Matching = Callable[[Any, Any], Any]
MATCHINGS = [color.match_luminance, color.match_statistics]


class TestLuminance:
    @pytest.mark.parametrize(
        ("rgb", "expected"),
        [
            ((1.0, 0.0, 0.0), 0.299),
            ((0.0, 1.0, 0.0), 0.587),
            ((0.0, 0.0, 1.0), 0.114),
            ((1.0, 1.0, 1.0), 1.0),
            ((0.0, 0.0, 0.0), 0.0),
            ((0.2, 0.4, 0.6), 0.363),  # By hand: 0.0598 + 0.2348 + 0.0684.
        ],
    )
    def test_of_known_colours(self, rgb: tuple[float, ...], expected: float) -> None:
        image = jnp.array(rgb).reshape(1, 1, 3)
        np.testing.assert_allclose(color.luminance(image), [[[expected]]], atol=1e-6)

    def test_keeps_leading_axes(self) -> None:
        assert color.luminance(reference.random_images(2, 4, 5, 3)).shape == (2, 4, 5, 1)

    def test_grey_has_the_same_luminance_and_no_colour(self) -> None:
        found = np.asarray(color.grey(PHOTO))
        assert found.shape == PHOTO.shape
        np.testing.assert_array_equal(found[..., 0], found[..., 1])
        np.testing.assert_array_equal(found[..., 0], found[..., 2])
        np.testing.assert_allclose(found[..., 0], PHOTO @ YIQ[0], atol=1e-6)


class TestReplaceLuminance:
    def test_takes_luminance_from_one_and_chroma_from_the_other(self) -> None:
        source = 0.5 + 0.2 * (reference.random_images(*PHOTO.shape, seed=3) - 0.5)
        found = np.asarray(color.replace_luminance(PHOTO, source)) @ YIQ.T
        np.testing.assert_allclose(found[..., 0], source @ YIQ[0], atol=1e-6)
        np.testing.assert_allclose(found[..., 1:], PHOTO @ YIQ[1:].T, atol=1e-6)

    def test_its_own_luminance_changes_nothing(self) -> None:
        np.testing.assert_allclose(color.replace_luminance(PHOTO, PHOTO), PHOTO, atol=1e-6)

    def test_stays_in_range(self) -> None:
        red, white = (
            np.broadcast_to(np.array(x, np.float32), (2, 2, 3)) for x in ([1, 0, 0], [1, 1, 1])
        )
        # By hand: 0.701 is added to every channel of red, and the first clipped.
        np.testing.assert_allclose(
            color.replace_luminance(red, white)[0, 0], [1.0, 0.701, 0.701], atol=1e-6
        )


class TestMatchLuminance:
    def test_has_the_mean_and_deviation_of_the_reference(self) -> None:
        found = np.asarray(color.match_luminance(PAINTING, PHOTO))
        wanted = PHOTO @ YIQ[0]
        np.testing.assert_allclose(found.mean(), wanted.mean(), atol=1e-5)
        np.testing.assert_allclose(found[..., 0].std(), wanted.std(), rtol=1e-4)

    def test_is_grey_and_keeps_the_order_of_tones(self) -> None:
        found = np.asarray(color.match_luminance(PAINTING, PHOTO))
        assert found.shape == PAINTING.shape
        np.testing.assert_array_equal(found, found[..., :1].repeat(3, axis=-1))
        own = PAINTING @ YIQ[0]
        correlation = np.corrcoef(own.ravel(), found[..., 0].ravel())[0, 1]
        np.testing.assert_allclose(correlation, 1.0, atol=1e-5)


class TestMatchStatistics:
    def test_has_the_mean_and_covariance_of_the_reference(self) -> None:
        found = np.asarray(color.match_statistics(PAINTING, PHOTO), np.float64).reshape(-1, 3)
        assert found.min() > 0
        assert found.max() < 1  # Nothing was clipped.
        wanted = PHOTO.astype(np.float64).reshape(-1, 3)
        np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=1e-5)
        covariance, expected = (np.cov(x.T, bias=True) for x in (found, wanted))
        # The floor that keeps pictures of few colours finite weighs 1e-5.
        np.testing.assert_allclose(covariance, expected, atol=3e-5)
        assert np.abs(np.cov(PAINTING.reshape(-1, 3).T) - expected).max() > 10 * 3e-5

    def test_its_own_statistics_change_nothing(self) -> None:
        np.testing.assert_allclose(color.match_statistics(PHOTO, PHOTO), PHOTO, atol=1e-4)

    def test_is_the_symmetric_map(self) -> None:
        """`A = sqrt(Sigma_C) sqrt(Sigma_S)^-1` by hand: a diagonal of the deviations' ratios."""
        corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), np.float32)
        corners = corners.reshape(3, 8).T.reshape(2, 4, 3)
        own, wanted = 0.5 + corners * [0.1, 0.2, 0.3], 0.4 + corners * [0.3, 0.1, 0.2]
        found = color.match_statistics(own.astype(np.float32), wanted.astype(np.float32))
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("match", MATCHINGS)
class TestMatching:
    def test_constant_pictures_stay_finite(self, match: Matching) -> None:
        for own, wanted in ((CONSTANT, PHOTO), (PHOTO, CONSTANT), (CONSTANT, CONSTANT)):
            assert np.isfinite(match(own, wanted)).all()

    def test_a_constant_picture_becomes_the_mean(self, match: Matching) -> None:
        found = np.asarray(match(CONSTANT, PHOTO))
        np.testing.assert_allclose(found @ YIQ[0], PHOTO.mean((0, 1)) @ YIQ[0], atol=1e-4)

    def test_stays_in_range(self, match: Matching) -> None:
        """Against black and white, which stretches beyond."""
        extremes = np.zeros((8, 8, 3), np.float32)
        extremes[:, 4:] = 1.0
        found = np.asarray(match(reference.random_images(9, 9, 3) ** 4, extremes))
        assert found.min() == 0.0
        assert found.max() == 1.0
        assert found.dtype == np.float32


class TestTransfer:
    """Gatys et al. 2016: style in luminance alone, or the painting in the photo's colours."""

    SECOND = reference.random_images(7, 9, 3, seed=5) * np.float32(0.5)

    def test_by_default_everything_stays(self) -> None:
        content, styles = color.before_transfer(PHOTO, [PAINTING], keep_colors="none")
        np.testing.assert_array_equal(content, PHOTO)
        np.testing.assert_array_equal(styles, [PAINTING])
        result = color.after_transfer(PAINTING, PAINTING[::-1], keep_colors="none")
        np.testing.assert_array_equal(result, PAINTING)

    def test_luminance_makes_all_grey_and_every_painting_of_the_photos_contrast(self) -> None:
        content, styles = color.before_transfer(
            PHOTO, [PAINTING, self.SECOND], keep_colors="luminance"
        )
        wanted = PHOTO @ YIQ[0]
        np.testing.assert_allclose(content, np.stack([wanted] * 3, axis=-1), atol=1e-6)
        assert [style.shape for style in styles] == [PAINTING.shape, self.SECOND.shape]
        for style in styles:
            found = np.asarray(style)
            np.testing.assert_array_equal(found, found[..., :1].repeat(3, axis=-1))
        own = PAINTING @ YIQ[0]
        expected = (own - own.mean()) * wanted.std() / own.std() + wanted.mean()
        np.testing.assert_allclose(styles[0][..., 0], expected, atol=1e-4)

    def test_luminance_puts_the_photos_chroma_back(self) -> None:
        grey = np.stack([0.3 + 0.4 * (PHOTO @ YIQ[0])] * 3, axis=-1)
        found = np.asarray(color.after_transfer(grey, PHOTO, keep_colors="luminance")) @ YIQ.T
        np.testing.assert_allclose(found[..., 0], grey[..., 0], atol=1e-6)
        np.testing.assert_allclose(found[..., 1:], PHOTO @ YIQ[1:].T, atol=1e-6)

    def test_histogram_gives_every_painting_the_photos_statistics(self) -> None:
        content, styles = color.before_transfer(
            PHOTO, [PAINTING, self.SECOND], keep_colors="histogram"
        )
        np.testing.assert_array_equal(content, PHOTO)
        for style in styles:
            found = np.asarray(style).reshape(-1, 3)
            np.testing.assert_allclose(found.mean(0), PHOTO.mean((0, 1)), atol=1e-4)
        covariances = [np.cov(np.reshape(x, (-1, 3)).T, bias=True) for x in (styles[0], PHOTO)]
        np.testing.assert_allclose(covariances[0], covariances[1], atol=3e-5)
        result = color.after_transfer(styles[0], PAINTING, keep_colors="histogram")
        np.testing.assert_array_equal(result, styles[0])

    def test_there_is_no_other_way(self) -> None:
        with pytest.raises(ValueError, match="none, luminance or histogram, got 'hue'"):
            color.before_transfer(PHOTO, [PAINTING], keep_colors="hue")


class TestMatchHistogram:
    def test_of_equal_pictures_changes_nothing(self) -> None:
        clipped = np.clip(4 * PHOTO - 1.8, 0.0, 1.0)
        assert (clipped == 0).mean() > 0.01
        for image in (PHOTO, clipped, np.round(7 * PHOTO) / np.float32(7), CONSTANT):
            np.testing.assert_allclose(color.match_histogram(image, image), image, atol=1e-6)

    @pytest.mark.parametrize("size", [(40, 50), (6, 7)])
    def test_undoes_a_curve_of_each_channel(self, size: tuple[int, int]) -> None:
        """Whatever lies between two of 257 quantiles is so on a straight line: nearly."""
        image = reference.random_images(*size, 3)
        curved = np.stack([image[..., 0] ** 2, np.sqrt(image[..., 1]), image[..., 2] / 3], axis=-1)
        found = color.match_histogram(curved, image)
        np.testing.assert_allclose(found, image, atol=0.003)
        assert np.abs(curved - image).max() > 0.1

    def test_has_the_quantiles_of_the_reference(self) -> None:
        """Of every channel apart, though the pictures differ in size."""
        images, wanted = reference.random_images(40, 31, 3, seed=1), PAINTING
        found = color.match_histogram(images, wanted)
        assert found.shape == images.shape
        ranks = [0.0, 0.1, 0.5, 0.9, 1.0]
        np.testing.assert_allclose(
            np.quantile(found, ranks, axis=(0, 1)),
            np.quantile(wanted, ranks, axis=(0, 1)),
            atol=0.01,
        )

    def test_what_many_pixels_have_becomes_the_middle_of_their_ranks(self) -> None:
        """By hand: 40 % of black have the ranks up to 0.4, 40 % of white those from 0.6."""
        ramp = np.linspace(0.1, 0.9, 1001, dtype=np.float32)
        wanted = np.broadcast_to(ramp[:, None, None], (1001, 1, 3))
        column = np.clip(np.linspace(-2.0, 3.0, 1001, dtype=np.float32), 0.0, 1.0)
        found = np.asarray(color.match_histogram(np.tile(column[:, None, None], 3), wanted))
        np.testing.assert_allclose(found[0], 0.1 + 0.8 * 0.2, atol=0.005)
        np.testing.assert_allclose(found[-1], 0.1 + 0.8 * 0.8, atol=0.005)
        np.testing.assert_allclose(found[500], 0.5, atol=0.005)

    def test_constant_pictures_become_the_median_and_give_themselves(self) -> None:
        found = np.asarray(color.match_histogram(CONSTANT, PHOTO))
        expected = np.broadcast_to(np.median(PHOTO, axis=(0, 1)), CONSTANT.shape)
        np.testing.assert_allclose(found, expected, atol=0.005)
        found = np.asarray(color.match_histogram(PHOTO, CONSTANT))
        np.testing.assert_allclose(found, np.full_like(PHOTO, 0.3), atol=1e-6)
