"""Photos repainted with patches of paintings: of which, in which colours, at any size."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import models
from perceptual_jax.models import patches
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# As many channels of relu3_1 as principal components are used, and more.
VGG = reference.random_vgg(widths=(8, 16, 32, 1, 1))
PAINTING = np.kron(reference.random_images(24, 30, 3, seed=2), np.ones((4, 4, 1), np.float32))
OTHER = np.kron(reference.random_images(12, 9, 3, seed=3) ** 3, np.ones((8, 8, 1), np.float32))
PHOTO = np.kron(reference.random_images(10, 14, 3, seed=1), np.ones((9, 9, 1), np.float32))


def repaint(image: Any, paintings: Any = (PAINTING,), **options: Any) -> np.ndarray:
    return models.repaint(VGG, image, paintings, **options)


def plan_of(photo: np.ndarray, painting: np.ndarray) -> Any:
    """The plan for a photo of 64 n pixels a side, with its margins of 8 cells."""
    framed = np.pad(photo, ((32, 32), (32, 32), (0, 0)), mode="symmetric")
    features = patches._features(VGG, framed, dtype=jnp.float32)
    return patches._plan(VGG, framed, features, painting, factor=1, dtype=jnp.float32)


def patches_of(photo: np.ndarray, painting: np.ndarray) -> np.ndarray:
    return np.asarray(plan_of(photo, painting).patches)[8:-8, 8:-8]


class TestWhichPatches:
    def test_a_painting_is_found_in_itself(self) -> None:
        """Each cell at its own place, but where a patch would reach over the border."""
        painting = np.tile(OTHER[:64, :64], (1, 2, 1)) + 0.2 * reference.random_images(64, 128, 3)
        painting = np.clip(painting, 0, 1)
        found = patches_of(painting, painting)
        rows, columns = np.mgrid[:16, :32]
        wanted = np.stack([np.clip(rows, 1, 14), np.clip(columns, 1, 30)], -1)
        assert np.mean(np.all(found == wanted, -1)) > 0.9

    def test_neighbours_continue_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def share_of_continued() -> float:
            found = patches_of(PHOTO[:64, :64], PAINTING)
            return float(np.mean(np.all(np.diff(found, axis=1) == [0, 1], -1)))

        with_sweeps = share_of_continued()
        monkeypatch.setattr(patches, "_SWEEPS", 0)
        jax.clear_caches()
        without = share_of_continued()
        jax.clear_caches()
        assert with_sweeps > without + 0.1

    def test_a_flat_part_does_not_repeat_one_patch(self) -> None:
        """It is made of pieces of the painting that differ."""
        photo = np.full((128, 128, 3), np.float32(0.5))
        photo[:, :64] = PHOTO[:64, :64].repeat(2, 0)
        found = patches_of(photo, np.concatenate([PAINTING] * 2))[:, 20:]
        continued = np.all(np.diff(found, axis=1) == [0, 1], -1)
        assert continued.mean() > 0.7
        assert (
            len(np.unique((found - np.mgrid[:32, 20:32].transpose(1, 2, 0)).reshape(-1, 2), axis=0))
            > 3
        )

    def test_flat_pictures_are_no_trouble(self) -> None:
        grey = np.full((40, 50, 3), np.float32(0.5))
        for photo, painting in ((grey, PAINTING), (PHOTO, grey), (grey, grey)):
            assert np.isfinite(repaint(photo, [painting])).all()
        np.testing.assert_allclose(repaint(PHOTO, [grey]), np.full_like(PHOTO, 0.5), atol=1e-5)


class TestWhatIsPainted:
    def test_colours_and_strokes_are_those_of_the_painting(self) -> None:
        red = np.clip(PAINTING * np.array([1, 0, 0], np.float32), 0, 1)
        found = repaint(PHOTO, [red])
        assert np.abs(found[..., 1:]).max() < 1e-6
        assert found[..., 0].mean() == pytest.approx(red[..., 0].mean(), abs=0.1)
        assert found[..., 0].std() > 0.5 * red[..., 0].std()

    def test_bands_are_those_of_the_plan(self) -> None:
        """Against NumPy, over the whole picture: of each pixel the mean over the patches there."""
        photo = PHOTO[:64, :64]
        photo = np.concatenate([photo, photo[::-1]])
        plan = plan_of(photo, PAINTING)
        height, width = len(PAINTING), len(PAINTING[0])
        tent = np.minimum(np.arange(12) + 0.5, 11.5 - np.arange(12))
        strokes, weights = np.zeros((2, 200, 136, 3))
        source = np.asarray(plan.strokes)
        for row, column in np.ndindex(48, 32):
            top, left = 4 * (np.asarray(plan.patches)[row, column] - 1)
            assert 0 <= top <= height - 12
            assert 0 <= left <= width - 12
            place = slice(4 * row, 4 * row + 12), slice(4 * column, 4 * column + 12)
            weight = (tent[:, None] * tent)[..., None]
            strokes[place] += weight * source[top : top + 12, left : left + 12]
            weights[place] += weight
        strokes = (strokes / np.maximum(weights, 1e-9))[36:-36, 36:-36]
        luminance = photo @ np.array([0.2126, 0.7152, 0.0722], np.float32)
        gain, offset = (
            np.asarray(jax.image.resize(x, (192, 128, 3), "linear"))[32:-32, 32:-32]
            for x in (plan.gain, plan.offset)
        )
        wanted = np.clip(gain * luminance[..., None] + offset + 1.25 * strokes, 0, 1)
        np.testing.assert_allclose(repaint(photo), wanted, atol=1e-5)

    def test_edges_are_those_of_the_photo(self) -> None:
        """Colours that differ where luminance does so are linear in it, those of a border too."""
        luminance = np.zeros((16, 40, 1), np.float32)
        luminance[:, 7:] = 1
        colours = luminance * np.array([0.6, -0.4, 0.2], np.float32) + 0.3
        gain, offset = patches._guided(jnp.asarray(colours), jnp.asarray(luminance))
        np.testing.assert_allclose(gain * luminance + offset, colours, atol=0.01)
        # Far from the edge there is nothing to be linear in.
        assert np.abs(gain[:, 24:]).max() < 1e-3

    def test_paintings_are_mixed_by_their_weights(self) -> None:
        both = [PAINTING, OTHER]
        first, second = (repaint(PHOTO, [each]) for each in both)
        np.testing.assert_array_equal(repaint(PHOTO, both, style_weights=[1, 0]), first)
        np.testing.assert_array_equal(repaint(PHOTO, both, style_weights=[0, 1]), second)
        mixed = repaint(PHOTO, both, style_weights=[0.5, 0.5])
        np.testing.assert_array_equal(repaint(PHOTO, both, style_weights=[2, 2]), mixed)
        mean = (first + second) / 2
        # Their strokes are as strong as those of one: of the mean they are weaker.
        assert np.abs(mixed - mean).mean() < 0.5 * np.abs(first - second).mean()
        assert mixed.std() > mean.std()


class TestSizes:
    @pytest.mark.parametrize("size", [(1, 1), (5, 70), (64, 63), (130, 41)])
    def test_any_is_painted(self, size: tuple[int, int]) -> None:
        photo = reference.random_images(*size, 3)
        found = repaint(photo)
        assert found.shape == photo.shape
        assert found.dtype == np.float32
        assert 0 <= found.min() <= found.max() <= 1

    @pytest.mark.parametrize("size", [(1, 1), (5, 70), (41, 13)])
    def test_a_painting_may_have_any(self, size: tuple[int, int]) -> None:
        assert np.isfinite(repaint(PHOTO, [reference.random_images(*size, 3)])).all()

    def test_bands_cover_the_picture_once(self) -> None:
        photo = reference.random_images(150, 40, 3)
        tiles = list(models.repaint_rows(VGG, photo, [PAINTING]))
        assert len(tiles) == patches.number_of_bands(photo.shape) == 3
        assert [tile.top for tile in tiles] == [0, 64, 128]
        assert [tile.pixels.shape for tile in tiles] == [(64, 40, 3)] * 2 + [(22, 40, 3)]
        np.testing.assert_array_equal(np.concatenate([t.pixels for t in tiles]), repaint(photo))

    def test_a_large_one_looks_like_a_small_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of three times the size, in strokes of three times the size."""
        small = repaint(PHOTO)
        photo, painting = (np.repeat(np.repeat(x, 3, 0), 3, 1) for x in (PHOTO, PAINTING))
        monkeypatch.setattr(patches, "LOOKED_AT", max(PHOTO.shape))
        found = repaint(photo, [painting])
        height, width = PHOTO.shape[:2]
        means = found.reshape(height, 3, width, 3, 3).mean((1, 3))
        assert np.abs(means - small).mean() < 0.02

    def test_few_are_compiled_for(self) -> None:
        jax.clear_caches()
        for size in ((60, 60), (64, 50), (41, 64)):
            repaint(reference.random_images(*size, 3))
        plan: Any = patches._plan
        assert plan._cache_size() == 1


class TestArguments:
    @pytest.mark.parametrize(
        ("image", "paintings", "message"),
        [
            (PHOTO[None], [PAINTING], "must be (height, width, 3), got shape (1, "),
            (PHOTO, [PAINTING[None]], "must be (height, width, 3), got shape (1, "),
            (255 * PHOTO, [PAINTING], "[0, 1]"),
            (PHOTO, [PAINTING, OTHER], "style_weights are needed"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, image: Any, paintings: Any, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            repaint(image, paintings)

    @pytest.mark.parametrize("weights", [[0, 0], [1, -1], [np.nan, 1]])
    def test_weights_that_are_no_ratios_are_refused(self, weights: list[float]) -> None:
        with pytest.raises(ValueError, match="at least 0, and not all 0"):
            repaint(PHOTO, [PAINTING, OTHER], style_weights=weights)

    def test_half_precision_is_nearly_the_same(self) -> None:
        found, half = repaint(PHOTO), repaint(PHOTO, dtype=jnp.bfloat16)
        assert np.abs(found - half).mean() < 0.05
