"""Any painting in one pass: what is transported, at any size, and in tiles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import losses, models
from perceptual_jax.models import networks, stylization, tiling, universal
from perceptual_jax.models.networks import TRANSPORTED, Decoder, UniversalNetwork
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WIDTH = 2
VGG = reference.random_vgg(widths=(WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH, 4))
DECODER = Decoder(width=WIDTH)
NETWORK = UniversalNetwork(styles=2, width=WIDTH)
apply = jax.jit(NETWORK.apply)
transfer_style = jax.jit(universal.transfer_style)
PHOTO = reference.random_images(40, 48, 3, seed=1)
PAINTINGS = [reference.random_images(33, 50, 3, seed=2) ** 2, reference.random_images(24, 24, 3)]


@pytest.fixture(scope="module")
def decoder() -> Any:
    variables = networks.initial_variables(DECODER, seed=0)
    return {**variables, "units": {"relu4_1": jnp.float32(0.3), "relu1_1": jnp.float32(0.7)}}


@pytest.fixture(scope="module")
def variables(decoder: Any) -> Any:
    moments = [universal.style_moments(VGG, painting) for painting in PAINTINGS]
    return universal.variables(VGG, decoder, moments)


def seen(decoder: Any, photo: np.ndarray, style: int, variables: Any) -> dict[str, Any]:
    """The features that the network gives to its next layer, by layer."""
    found: dict[str, Any] = {}
    encoded = networks.encode(VGG, photo[None], TRANSPORTED[:1])[TRANSPORTED[0]]

    def change(layer: str, features: jax.Array, _: Any) -> jax.Array:
        wanted = jax.tree.map(lambda x: x[style : style + 1], variables["styles"][layer])
        found[layer] = networks.transported(layer, features, losses.moments(features), wanted)
        return found[layer]

    found["pixels"] = DECODER.apply(decoder, encoded, change)
    return found


class TestTransport:
    def test_gives_features_the_moments_of_the_painting(self, decoder: Any, variables: Any) -> None:
        """Up to the ridge, which is larger for the decoder's own features."""
        found = seen(decoder, PHOTO, 0, variables)
        for layer in TRANSPORTED:
            wanted = jax.tree.map(lambda x: x[0], variables["styles"][layer])
            size = np.sqrt(np.mean(np.square(wanted.mean)))
            np.testing.assert_allclose(
                losses.moments(found[layer][0]).mean, wanted.mean, atol=1e-3 * size
            )
        deepest = TRANSPORTED[0]
        wanted = jax.tree.map(lambda x: x[0], variables["styles"][deepest])
        before = losses.moments(networks.encode(VGG, PHOTO, [deepest])[deepest])
        after = losses.moments(found[deepest][0])
        distance = losses.gaussian_wasserstein_of_moments
        assert distance(after, wanted) < 0.05 * distance(before, wanted)

    def test_is_what_the_network_does(self, decoder: Any, variables: Any) -> None:
        found = seen(decoder, PHOTO, 1, variables)["pixels"]
        whole = apply(variables, PHOTO[None], np.array([0.0, 1.0]))
        np.testing.assert_allclose(whole, found, atol=1e-5)

    def test_of_a_photo_to_itself_changes_nothing(self, decoder: Any) -> None:
        """But what the decoder's own features have of another size."""
        moments = universal.style_moments(VGG, PHOTO)
        features = networks.encode(VGG, PHOTO[None], TRANSPORTED)
        for layer in TRANSPORTED:
            one = jax.tree.map(lambda x: x[None], moments[layer])
            moved = networks.transported(layer, features[layer], one, one)
            np.testing.assert_allclose(moved, features[layer], atol=1e-4)

    def test_blends_the_moments_of_paintings(self, variables: Any) -> None:
        """Half of either painting is one painting with both their positions."""
        blended = apply(variables, PHOTO[None], np.array([0.5, 0.5]))
        halves = jax.tree.map(
            lambda moments: jax.tree.map(
                lambda x: x[None], losses.blend_moments(moments, np.array([0.5, 0.5]))
            ),
            variables["styles"],
            is_leaf=lambda x: isinstance(x, losses.Moments),
        )
        one = jax.jit(UniversalNetwork(width=WIDTH).apply)(
            {**variables, "styles": halves}, PHOTO[None]
        )
        np.testing.assert_allclose(blended, one, atol=1e-5)
        other = apply(variables, PHOTO[None], np.array([1.0, 0.0]))
        assert np.abs(np.asarray(blended) - np.asarray(other)).max() > 0.01


class TestTransferStyle:
    def test_is_the_network_of_its_paintings_clipped(self, decoder: Any, variables: Any) -> None:
        weights = np.array([0.3, 0.7])
        found = transfer_style(VGG, decoder, PHOTO, PAINTINGS, style_weights=weights)
        raw = np.asarray(apply(variables, PHOTO[None], weights))[0]
        np.testing.assert_allclose(found, np.clip(raw, 0, 1), atol=1e-5)

    @pytest.mark.parametrize("size", [(9, 9), (16, 17), (41, 23)])
    def test_takes_images_of_any_size(self, decoder: Any, size: tuple[int, int]) -> None:
        images = reference.random_images(2, 1, *size, 3)
        found = transfer_style(VGG, decoder, images, PAINTINGS[:1])
        assert found.shape == images.shape
        one = transfer_style(VGG, decoder, images[1, 0], PAINTINGS[:1])
        np.testing.assert_allclose(found[1, 0], one, atol=1e-5)

    def test_can_be_jitted_and_differentiated(self, decoder: Any) -> None:
        def brightness(photo: Any, painting: Any) -> jax.Array:
            return jnp.mean(universal.transfer_style(VGG, decoder, photo, [painting]))

        gradient = jax.jit(jax.grad(brightness, argnums=(0, 1)))
        for part in gradient(PHOTO, PAINTINGS[0]):
            assert np.isfinite(part).all()
            assert np.abs(part).max() > 0

    def test_of_flat_pictures_is_finite(self, decoder: Any) -> None:
        flat, varied = np.full((24, 24, 3), 0.5, np.float32), PAINTINGS[1]
        for photo, painting in ((flat, varied), (varied, flat), (flat * 0, flat * 0)):
            found = transfer_style(VGG, decoder, photo, [painting])
            assert np.isfinite(found).all()

    @pytest.mark.parametrize(
        ("images", "weights", "message"),
        [
            (PHOTO[:4], [0.5, 0.5], "both sides need at least 9"),
            (PHOTO, None, "style_weights are needed: the network has 2 styles"),
            (PHOTO, [1.0], r"style_weights must be \(2,\)"),
            (PHOTO * 255, [0.5, 0.5], r"\[0, 1\]"),
        ],
    )
    def test_refuses_what_does_not_fit(
        self, decoder: Any, images: Any, weights: Any, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            universal.transfer_style(VGG, decoder, images, PAINTINGS, style_weights=weights)


class TestPicturesInLargerArrays:
    """One compiled program computes pictures of many sizes, to rounding as if each had its own."""

    SIZES = ((40, 48), (41, 50), (9, 33))

    @staticmethod
    def in_frame(pictures: np.ndarray) -> tuple[np.ndarray, tuple[np.int32, np.int32]]:
        height, width = pictures.shape[1:3]
        frame = np.ones((len(pictures), 48, 52, 3), np.float32)
        frame[:, :height, :width] = pictures
        return frame, (np.int32(height), np.int32(width))

    @pytest.mark.parametrize("size", SIZES)
    def test_have_the_same_pixels(self, variables: Any, size: tuple[int, int]) -> None:
        pictures, weights = reference.random_images(2, *size, 3), np.array([0.4, 0.6])
        frame, size_there = self.in_frame(pictures)
        found = apply(variables, frame, weights, size=size_there)[:, : size[0], : size[1]]
        np.testing.assert_allclose(found, apply(variables, pictures, weights), atol=2e-5)

    def test_share_moments_without_what_is_beside_them(self, variables: Any) -> None:
        pictures, weights = reference.random_images(2, 41, 50, 3), np.array([0.4, 0.6])
        frame, size = self.in_frame(pictures)
        together = jax.jit(functools.partial(NETWORK.apply, mutable=["statistics"]))
        _, found = together(variables, frame, weights, size=size)
        _, expected = together(variables, pictures, weights)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, found, expected)


class TestTiles:
    def test_network_reaches_as_far_as_it_says(self, variables: Any) -> None:
        """With given statistics a pixel depends on those within its reach alone."""
        photo = reference.random_images(1, 192, 192, 3)
        network, weights = UniversalNetwork(styles=2, width=WIDTH), np.array([1.0, 0.0])
        _, updated = jax.jit(functools.partial(network.apply, mutable=["statistics"]))(
            variables, photo, weights
        )
        fixed = {**variables, **updated}

        def row(image: Any) -> jax.Array:
            made: Any = network.apply(fixed, image, weights)
            return jnp.sum(jnp.abs(made[:, 96:104]))

        rows = np.flatnonzero(np.abs(jax.jit(jax.grad(row))(photo)).sum((0, 2, 3)))
        reach = tiling.reach(network)
        assert 96 - reach <= rows.min()
        assert rows.max() < 104 + reach
        assert rows.min() < 96 - 0.6 * reach

    def test_are_those_of_the_whole_with_its_statistics(self, variables: Any) -> None:
        photo = reference.random_images(1, 280, 216, 3)[0]
        weights = np.array([1.0, 0.0])
        _, updated = jax.jit(functools.partial(NETWORK.apply, mutable=["statistics"]))(
            variables, photo[None], weights
        )
        apply = functools.partial(
            stylization.stylize_batch,
            {**variables, **updated},
            network=NETWORK,
            style_weights=weights,
        )
        parts = tiling.tiles(photo.shape[:2], NETWORK, 200)
        assert len(parts) > 2
        tiles = tiling.computed(photo, parts, apply)
        whole = apply(photo[None])[0]
        np.testing.assert_allclose(models.assemble(tiles, photo.shape), whole, atol=1e-4)

    def test_have_the_moments_of_all_windows_together(self, variables: Any) -> None:
        windows = reference.random_images(3, 32, 24, 3)
        apply = jax.jit(functools.partial(NETWORK.apply, mutable=["statistics"]))
        _, updated = apply(variables, windows, np.array([1.0, 0.0]))
        deepest = TRANSPORTED[0]
        features = np.asarray(networks.encode(VGG, windows, [deepest])[deepest], np.float64)
        positions = features.reshape(-1, features.shape[-1])
        found = updated["statistics"][deepest]
        np.testing.assert_allclose(found.mean[0], positions.mean(0), rtol=1e-4)
        covariance = np.cov(positions, rowvar=False, bias=True)
        np.testing.assert_allclose(found.covariance[0], covariance, atol=1e-4 * covariance.max())
