"""Applying a network: one picture, many, and one that is done in tiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.io import images, resources
from perceptual_jax.models import stylization, tiling
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.pretrained import networks as pretrained_networks
from tests import reference

NETWORK = StyleNetwork(styles=2, width=2, residual_blocks=1)
OPTIONS: Any = {"network": NETWORK, "style_weights": [1.0, 0.0]}


@pytest.fixture(scope="module")
def variables() -> Any:
    """Of a network whose two styles differ."""
    example = jnp.zeros((1, 32, 32, 3))
    initial = jax.jit(NETWORK.init)(jax.random.key(0), example, jnp.ones(2))

    def varied(path: Any, leaf: Any) -> np.ndarray:
        seed = sum(map(ord, jax.tree_util.keystr(path)))
        noise = np.random.default_rng(seed).normal(0, 0.3, leaf.shape)
        return np.asarray(leaf + noise, np.float32)

    return jax.tree_util.tree_map_with_path(varied, initial)


def whole(variables: Any, image: np.ndarray, **options: Any) -> np.ndarray:
    batch = stylization.stylize_batch(variables, image[None], **{**OPTIONS, **options})
    return np.asarray(batch[0])


class TestFunction:
    def test_is_the_network_clipped(self, variables: Any) -> None:
        pictures = reference.random_images(2, 20, 17, 3)
        raw = NETWORK.apply(variables, pictures, jnp.array([0.3, 0.7]))
        found = stylization.stylize(
            variables, pictures, network=NETWORK, style_weights=np.array([0.3, 0.7])
        )
        np.testing.assert_array_equal(found, np.clip(np.asarray(raw), 0, 1))

    def test_takes_one_image_or_batches_of_batches(self, variables: Any) -> None:
        pictures = reference.random_images(2, 1, 12, 16, 3)
        found = stylization.stylize(variables, pictures, **OPTIONS)
        one = stylization.stylize(variables, pictures[1, 0], **OPTIONS)
        assert found.shape == pictures.shape
        np.testing.assert_allclose(found[1, 0], one, atol=1e-6)

    def test_can_be_jitted_mapped_and_differentiated(self, variables: Any) -> None:
        pictures = jnp.asarray(reference.random_images(2, 12, 16, 3))

        def brightness(image: jax.Array) -> jax.Array:
            return jnp.mean(stylization.stylize(variables, image, **OPTIONS))

        gradients = jax.jit(jax.vmap(jax.grad(brightness)))(pictures)
        assert gradients.shape == pictures.shape
        assert np.isfinite(gradients).all()
        assert np.abs(gradients).max() > 0


class TestTiles:
    def test_a_picture_that_fits_is_one_tile_and_exact(self, variables: Any) -> None:
        image = reference.random_images(40, 61, 3)
        (tile,) = stylization.stylize_tiles(variables, image, tile=64, **OPTIONS)
        assert (tile.top, tile.left) == (0, 0)
        np.testing.assert_array_equal(tile.pixels, whole(variables, image))

    @pytest.mark.parametrize(("height", "width"), [(150, 131), (64, 203), (97, 64)])
    def test_with_the_same_statistics_are_the_whole(
        self, variables: Any, height: int, width: int
    ) -> None:
        """Every pixel once, at any size, and no seam: to rounding the untiled picture."""
        image = reference.random_images(height, width, 3)
        weights = jnp.array([1.0, 0.0])
        _, updated = NETWORK.apply(variables, image[None], weights, mutable=["statistics"])
        given = {**variables, **updated}
        expected = whole(given, image)
        parts = tiling.tiles((height, width), NETWORK, 80)
        tiles = tiling.computed(image, parts, lambda window: whole(given, window[0])[None])
        tiled = tiling.assemble(tiles, image.shape)
        np.testing.assert_allclose(tiled, expected, atol=1e-5)

    def test_of_a_photo_are_nearly_the_whole(self) -> None:
        """With a network that is shipped: on average within half a level of 8 bits.

        In a style of little contrast; others differ by up to 1.2 levels. It takes some seconds, but
        one with random weights makes of the borders of windows, where statistics differ, what no
        trained one does.
        """
        trained = pretrained_networks.load_network("styles")
        photo = images.read(resources.picture("coffee", "content"))[:200, :600]
        options: Any = {
            "network": trained.network,
            "style_weights": trained.style_weights({"wave": 1.0}),
        }
        expected = stylization.stylize_batch(trained.variables, photo[None], **options)[0]
        parts = list(stylization.stylize_tiles(trained.variables, photo, tile=360, **options))
        assert len(parts) == 2
        joined = np.concatenate([part.pixels for part in parts], axis=1)
        assert np.abs(joined - expected).mean() < 0.5 / 255

    @pytest.mark.parametrize(("tile", "side"), [(1024, 512), (360, 360), (128, 256)])
    def test_smaller_ones_need_less_memory_for_the_statistics_too(
        self, tile: int, side: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[int, ...]] = []

        def pooled(variables: Any, windows: np.ndarray, *_: Any, **__: Any) -> Any:
            shapes.append(windows.shape)
            raise StopIteration

        monkeypatch.setattr(stylization, "_pooled_statistics", pooled)
        image = np.zeros((2000, 3000, 3), np.float32)
        parts = stylization.stylize_tiles({}, image, network=NETWORK, tile=tile)
        with pytest.raises(RuntimeError):  # As a generator turns StopIteration into.
            next(parts)
        assert shapes == [(9, side, side, 3)]

    def test_of_a_size_that_cannot_be_are_refused(self, variables: Any) -> None:
        image = reference.random_images(40, 61, 3)
        with pytest.raises(ValueError, match="multiple of 4 above"):
            next(stylization.stylize_tiles(variables, image, tile=130, **OPTIONS))


def masks_of(*rows: list[float]) -> list[np.ndarray]:
    """Each `(2, 3)`, the same in both rows."""
    return [np.tile(np.array(row, np.float32), (2, 1)) for row in rows]


class TestRegions:
    def test_are_the_sum_of_their_shares_and_the_rest_of_the_photo(self) -> None:
        """By hand: half a style, a whole one, and two that share a pixel by 1 to 3."""
        photo, first, second = (np.full((2, 3, 3), value, np.float32) for value in (0.8, 0.2, 0.4))
        masks = masks_of([0.5, 0.0, 0.5], [0.0, 1.0, 1.5])
        found = stylization.blend_regions(photo, [first, second], masks)
        expected = [0.5 * 0.2 + 0.5 * 0.8, 0.4, 0.25 * 0.2 + 0.75 * 0.4]
        for channel in range(3):
            np.testing.assert_allclose(found[..., channel], np.tile(expected, (2, 1)), rtol=1e-6)

    def test_have_finite_gradients(self) -> None:
        """Also with respect to masks, where they are 0."""
        photo, first, second = reference.random_images(3, 2, 3, 3)
        masks = masks_of([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])

        def total(*inputs: Any) -> jax.Array:
            return jnp.sum(jnp.square(stylization.blend_regions(*inputs)))

        gradients = jax.grad(total, argnums=(0, 1, 2))(photo, [first, second], masks)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
        np.testing.assert_array_equal(gradients[0][:, 1:], 0)  # Where no photo is left.

    def test_of_a_large_picture_are_computed_in_tiles(self, variables: Any) -> None:
        """As the tiles of each style, blended."""
        image = reference.random_images(64, 150, 3)
        masks = reference.random_images(2, 64, 150)
        weights = [[1.0, 0.0], [0.25, 0.75]]
        options: Any = {"network": NETWORK, "tile": 100}
        parts = stylization.stylize_regions(
            variables, image, masks, style_weights=weights, **options
        )
        found = tiling.assemble(parts, image.shape)
        stylized = [
            tiling.assemble(
                stylization.stylize_tiles(variables, image, style_weights=row, **options),
                image.shape,
            )
            for row in weights
        ]
        expected = stylization.blend_regions(image, stylized, masks)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_need_weights_for_each_mask(self, variables: Any) -> None:
        image = reference.random_images(40, 61, 3)
        parts = stylization.stylize_regions(
            variables, image, [image[..., 0]], network=NETWORK, style_weights=np.eye(2)
        )
        with pytest.raises(ValueError, match="zip"):
            next(parts)


class TestBlendWithPhoto:
    STYLIZED, PHOTO = reference.random_images(2, 5, 7, 3, seed=3)

    def test_is_the_stylized_picture_by_default(self) -> None:
        found = stylization.blend_with_photo(self.STYLIZED, self.PHOTO)
        np.testing.assert_array_equal(found, self.STYLIZED)

    @pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
    def test_strength_is_the_share_of_the_style(self, strength: float) -> None:
        found = stylization.blend_with_photo(self.STYLIZED, self.PHOTO, strength=strength)
        expected = strength * self.STYLIZED + (1 - strength) * self.PHOTO
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_luminance_keeps_the_chroma_of_the_photo(self) -> None:
        """Differences of channels, where nothing is clipped; the luminance is the style's."""
        photo, stylized = (0.4 + 0.2 * picture for picture in (self.PHOTO, self.STYLIZED))
        found = stylization.blend_with_photo(stylized, photo, keep_colors="luminance")
        np.testing.assert_allclose(np.diff(found), np.diff(photo), atol=1e-6)
        luma = np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(found @ luma, stylized @ luma, atol=1e-6)

    def test_histogram_gives_mean_and_covariance_of_the_photo(self) -> None:
        """Where nothing is clipped."""
        stylized = 0.3 + 0.4 * self.STYLIZED
        photo = 0.45 + 0.1 * self.PHOTO
        found = stylization.blend_with_photo(stylized, photo, keep_colors="histogram")
        pixels, wanted = (np.reshape(picture, (-1, 3)) for picture in (found, photo))
        np.testing.assert_allclose(pixels.mean(0), wanted.mean(0), atol=1e-5)
        np.testing.assert_allclose(np.cov(pixels.T), np.cov(wanted.T), atol=3e-5)

    def test_colors_are_kept_before_strength_is_applied(self) -> None:
        options: Any = {"keep_colors": "luminance"}
        full = stylization.blend_with_photo(self.STYLIZED, self.PHOTO, **options)
        half = stylization.blend_with_photo(self.STYLIZED, self.PHOTO, strength=0.5, **options)
        np.testing.assert_allclose(half, (full + self.PHOTO) / 2, rtol=1e-6)

    def test_an_unknown_way_to_keep_colors_is_refused(self) -> None:
        with pytest.raises(ValueError, match="none, luminance or histogram, got 'hue'"):
            stylization.blend_with_photo(self.STYLIZED, self.PHOTO, keep_colors="hue")
