"""Noise for flat parts: where, how much, and always the same."""

import numpy as np
import pytest

from perceptual_jax.models import vary
from tests import reference

GREY = np.full((300, 420, 3), np.float32(0.5))


def test_flat_parts_get_grey_noise_of_every_scale() -> None:
    noise = vary(GREY, amount=1) - 0.5
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise[..., :1], noise[..., 1:2])
    # The root of the sum of the octaves' squares, 2, 4, 6, 10 and 10 of 255; of the largest octave
    # there are but 35 values here.
    assert noise.std() == pytest.approx(256**0.5 / 255, rel=0.2)
    blocks = noise[:288, :408, 0].reshape(12, 24, 17, 24)
    assert blocks.mean((1, 3)).std() > 0.02
    assert blocks.std((1, 3)).min() > 0.01


def test_larger_strokes_get_larger_noise() -> None:
    def fine(size: float | None) -> float:
        """What varies within blocks of 12 pixels, but for the white noise."""
        noise = vary(GREY, amount=1, stroke_size=size)[..., 0] - 0.5
        return float(noise.reshape(25, 12, 35, 12).var((1, 3)).mean() - (2 / 255) ** 2)

    assert fine(384) == fine(None)
    assert fine(192) > 1.5 * fine(384)
    assert fine(384) > 1.5 * fine(1024)
    assert vary(GREY, amount=1, stroke_size=5).std() == pytest.approx(16 / 255, rel=0.2)


def test_parts_with_something_to_see_stay() -> None:
    image = GREY.copy()
    image[:, 200:] = reference.random_images(300, 220, 3)
    difference = np.abs(vary(image) - image)
    assert difference[:, 216:].mean() < 0.1 * difference[:, :184].mean()


def test_it_is_the_same_for_a_seed_and_a_share_for_an_amount() -> None:
    np.testing.assert_array_equal(vary(GREY), vary(GREY))
    assert np.abs(vary(GREY, seed=1) - vary(GREY)).max() > 0.02
    np.testing.assert_allclose(
        vary(GREY, amount=0.25) - 0.5, (vary(GREY, amount=1) - 0.5) / 4, atol=1e-6
    )
    np.testing.assert_array_equal(vary(GREY, amount=0), GREY)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (61, 7), (8, 16)])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_any_size_stays_in_the_range(size: tuple[int, int], level: float) -> None:
    image = np.full((*size, 3), np.float32(level))
    found = vary(image)
    assert found.shape == image.shape
    assert 0 <= found.min() <= found.max() <= 1
