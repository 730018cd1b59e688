"""Enlarging pictures: the network as a pure function, and tile by tile."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.models import super_resolution, tiling
from tests import enlargers, reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TRAINED = enlargers.random_enlarger()
NETWORK, VARIABLES = TRAINED.network, TRAINED.variables


# One compiled program instead of one for every operation.
enlarge = jax.jit(super_resolution.enlarge, static_argnames="network")


def enlarged(images: Any) -> np.ndarray:
    return np.asarray(enlarge(VARIABLES, images, network=NETWORK))


def in_tiles(image: np.ndarray, tile: int, trained: Any = TRAINED) -> np.ndarray:
    factor = trained.network.factor
    shape = (factor * image.shape[0], factor * image.shape[1], 3)
    parts = super_resolution.enlarge_tiles(
        trained.variables, image, network=trained.network, tile=tile
    )
    return tiling.assemble(parts, shape)


class TestFunction:
    def test_is_the_network_clipped(self) -> None:
        pictures = reference.random_images(2, 7, 9, 3)
        raw: Any = jax.jit(NETWORK.apply)(VARIABLES, pictures)
        assert raw.min() < 0
        assert raw.max() > 1
        np.testing.assert_allclose(enlarged(pictures), np.clip(raw, 0, 1), atol=1e-6)

    def test_takes_one_image_or_batches_of_batches(self) -> None:
        pictures = reference.random_images(2, 3, 7, 9, 3)
        found = enlarged(pictures)
        assert found.shape == (2, 3, 28, 36, 3)
        np.testing.assert_allclose(found[1, 2], enlarged(pictures[1, 2]), atol=1e-6)

    def test_can_be_jitted_mapped_and_differentiated(self) -> None:
        pictures = jnp.asarray(reference.random_images(2, 7, 9, 3))

        def brightness(variables: Any, image: jax.Array) -> jax.Array:
            return jnp.mean(super_resolution.enlarge(variables, image, network=NETWORK))

        both = jax.vmap(jax.grad(brightness, argnums=(0, 1)), in_axes=(None, 0))
        of_variables, of_pictures = jax.jit(both)(VARIABLES, pictures)
        assert of_pictures.shape == pictures.shape
        for gradient in jax.tree.leaves((of_variables, of_pictures)):
            assert np.isfinite(gradient).all()
            assert np.abs(gradient).max() > 0

    def test_its_gradient_is_that_of_what_it_adds_to(self) -> None:
        """Where nothing is added, each pixel is spread over 4 x 4, and none of it is lost."""
        trained = enlargers.zero_enlarger()

        def total(image: jax.Array) -> jax.Array:
            options: Any = {"network": trained.network}
            return jnp.sum(super_resolution.enlarge(trained.variables, image, **options))

        gradient = jax.jit(jax.grad(total))(jnp.full((6, 7, 3), 0.5))
        np.testing.assert_allclose(jnp.sum(gradient), 16 * 6 * 7 * 3, rtol=1e-5)

    def test_what_a_network_cannot_take_is_refused(self) -> None:
        with pytest.raises(ValueError, match="both sides need at least 5"):
            enlarged(reference.random_images(4, 9, 3))


class TestTiles:
    @pytest.mark.parametrize("size", [(25, 24), (60, 47), (7, 90)])
    def test_are_the_whole(self, size: tuple[int, int]) -> None:
        image = reference.random_images(*size, 3)
        np.testing.assert_allclose(in_tiles(image, 24), enlarged(image), atol=1e-5)

    @pytest.mark.parametrize("upsampling", ["subpixel", "transposed"])
    def test_are_the_whole_of_other_networks(self, upsampling: str) -> None:
        trained = enlargers.random_enlarger(8, upsampling=upsampling, padding="zeros")
        image = reference.random_images(24, 41, 3)
        whole = enlarge(trained.variables, image, network=trained.network)
        np.testing.assert_allclose(in_tiles(image, 24, trained), whole, atol=1e-5)

    def test_that_do_not_exceed_twice_the_reach_are_refused(self) -> None:
        twice = 2 * tiling.reach(NETWORK)
        assert tiling.tiles((100, 100), NETWORK, twice + 1)
        with pytest.raises(ValueError, match=f"tile must be above {twice}"):
            tiling.tiles((100, 100), NETWORK, twice)


class TestMatchInput:
    ENLARGED = reference.random_images(8, 12, 3, seed=3)
    SMALL = reference.random_images(2, 3, 3, seed=4)

    def test_changes_nothing_of_a_picture_with_colors(self) -> None:
        found = super_resolution.match_input(self.ENLARGED, self.SMALL)
        np.testing.assert_array_equal(found, self.ENLARGED)

    @pytest.mark.parametrize(("difference", "is_grey"), [(0.0, True), (2e-4, False)])
    def test_of_a_grey_one_is_grey(self, difference: float, is_grey: bool) -> None:
        """The mean of its channels."""
        small = self.SMALL[..., :1] + np.array([0.0, 0.0, difference], np.float32)
        found = super_resolution.match_input(self.ENLARGED, small)
        mean = self.ENLARGED.mean(-1, keepdims=True).repeat(3, axis=-1)
        np.testing.assert_allclose(found, mean if is_grey else self.ENLARGED, rtol=1e-6)

    def test_may_have_the_distribution_of_every_channel(self) -> None:
        """Of values that are all the same, there is one to be had."""
        small = np.broadcast_to(np.array([0.2, 0.4, 0.6], np.float32), (2, 3, 3))
        found = super_resolution.match_input(self.ENLARGED, small, match_histogram=True)
        np.testing.assert_allclose(found, np.broadcast_to(small[0, 0], (8, 12, 3)), rtol=1e-6)
