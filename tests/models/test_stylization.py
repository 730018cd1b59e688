"""Applying a network: one picture, many, and one that is done in tiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.io import images, resources
from perceptual_jax.models import networks, stylization, tiling
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.pretrained import networks as pretrained_networks
from tests import reference

NETWORK = StyleNetwork(styles=2, width=2, residual_blocks=1)
REACH = networks.reach(NETWORK)


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


def whole(variables: Any, image: np.ndarray, weights: Any = (1.0, 0.0)) -> np.ndarray:
    return np.asarray(
        stylization.stylize_batch(
            variables, image[None], np.array(weights, np.float32), network=NETWORK
        )[0]
    )


def in_tiles(variables: Any, image: np.ndarray, tile: int) -> np.ndarray:
    result = np.full_like(image, np.nan)
    for part in stylization.stylize_tiles(
        variables, image, network=NETWORK, style_weights=np.array([1, 0], np.float32), tile=tile
    ):
        place = result[part.place]
        assert np.isnan(place).all(), "a pixel was given twice"
        place[:] = part.pixels
    return result


class TestFunction:
    def test_is_the_network_clipped(self, variables: Any) -> None:
        pictures = reference.random_images(2, 20, 17, 3)
        raw = NETWORK.apply(variables, pictures, jnp.array([0.3, 0.7]))
        found = stylization.stylize(
            variables, pictures, network=NETWORK, style_weights=np.array([0.3, 0.7], np.float32)
        )
        np.testing.assert_array_equal(found, np.clip(np.asarray(raw), 0, 1))

    def test_finds_the_network_by_its_variables(self, variables: Any) -> None:
        pictures = reference.random_images(1, 20, 17, 3)
        weights = np.array([1, 0], np.float32)
        np.testing.assert_array_equal(
            stylization.stylize(variables, pictures, style_weights=weights),
            stylization.stylize(variables, pictures, network=NETWORK, style_weights=weights),
        )

    def test_takes_one_image_or_batches_of_batches(self, variables: Any) -> None:
        pictures = reference.random_images(2, 1, 12, 16, 3)
        weights = np.array([1, 0], np.float32)
        found = stylization.stylize(variables, pictures, style_weights=weights)
        one = stylization.stylize(variables, pictures[1, 0], style_weights=weights)
        assert found.shape == pictures.shape
        np.testing.assert_allclose(found[1, 0], one, atol=1e-6)

    def test_can_be_jitted_mapped_and_differentiated(self, variables: Any) -> None:
        pictures = jnp.asarray(reference.random_images(2, 12, 16, 3))

        def brightness(image: jax.Array) -> jax.Array:
            weights = jnp.array([1.0, 0.0])
            return jnp.mean(stylization.stylize(variables, image, style_weights=weights))

        gradients = jax.jit(jax.vmap(jax.grad(brightness)))(pictures)
        assert gradients.shape == pictures.shape
        assert np.isfinite(gradients).all()
        assert np.abs(gradients).max() > 0


class TestTiles:
    def test_a_picture_that_fits_is_one_tile_and_exact(self, variables: Any) -> None:
        image = reference.random_images(40, 61, 3)
        np.testing.assert_array_equal(in_tiles(variables, image, 64), whole(variables, image))

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
        tiled = np.full_like(image, np.nan)
        parts = stylization.tiles_of((height, width), NETWORK, 80)
        for tile in tiling.computed(image, parts, lambda window: whole(given, window[0])[None]):
            tiled[tile.place] = tile.pixels
        np.testing.assert_allclose(tiled, expected, atol=1e-5)

    def test_of_a_photo_are_nearly_the_whole(self) -> None:
        """With a network that is shipped: on average within half a level of 8 bits.

        It takes some seconds, but one with random weights makes of the borders of windows, where
        statistics differ, what no trained one does.
        """
        trained = pretrained_networks.load_network("styles")
        photo = images.read(resources.picture("coffee", "content"))[:200, :600]
        options: Any = {
            "network": trained.network,
            "style_weights": np.eye(len(trained.styles), dtype=np.float32)[0],
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

        monkeypatch.setattr(stylization, "_pooled", pooled)
        image = np.zeros((2000, 3000, 3), np.float32)
        parts = stylization.stylize_tiles({}, image, network=NETWORK, tile=tile)
        with pytest.raises(RuntimeError):  # As a generator turns StopIteration into.
            next(parts)
        assert shapes == [(9, side, side, 3)]

    def test_are_of_few_sizes(self) -> None:
        """Each size is compiled."""
        sizes = {
            (row.stop - row.start, column.stop - column.start)
            for row, column in stylization.tiles_of((1003, 2002), NETWORK, 128)
        }
        assert len(sizes) <= 4

    @pytest.mark.parametrize("tile", [130, 2 * REACH - 2])
    def test_of_a_size_that_cannot_be_are_refused(self, tile: int) -> None:
        with pytest.raises(ValueError, match="multiple of 4 above"):
            stylization.tiles_of((500, 500), NETWORK, tile)
