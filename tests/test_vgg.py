"""VGG features: the values of an independent implementation, no more work than asked, clear errors.

The networks are the embedded VGG-16 and a VGG-19 with random kernels; where the values do not
matter, a VGG-16 of a few channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import vgg
from perceptual_jax.io import images, resources
from perceptual_jax.ops import conv
from perceptual_jax.ops.checks import as_images
from perceptual_jax.pretrained import vgg as pretrained_vgg
from tests import reference

TINY = reference.random_vgg()

VGG16_LAYERS = (
    "conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 "
    "conv3_1 relu3_1 conv3_2 relu3_2 conv3_3 relu3_3 pool3 "
    "conv4_1 relu4_1 conv4_2 relu4_2 conv4_3 relu4_3 pool4 "
    "conv5_1 relu5_1 conv5_2 relu5_2 conv5_3 relu5_3 pool5"
)
VGG19_LAYERS = (
    "conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 "
    "conv3_1 relu3_1 conv3_2 relu3_2 conv3_3 relu3_3 conv3_4 relu3_4 pool3 "
    "conv4_1 relu4_1 conv4_2 relu4_2 conv4_3 relu4_3 conv4_4 relu4_4 pool4 "
    "conv5_1 relu5_1 conv5_2 relu5_2 conv5_3 relu5_3 conv5_4 relu5_4 pool5"
)


# One compiled program instead of one for every operation.
compiled = jax.jit(vgg.features, static_argnums=2, static_argnames=("pooling", "dtype"))


@pytest.fixture(scope="session")
def networks() -> dict[str, Any]:
    depths, widths = reference.VGG19_DEPTHS, reference.VGG_WIDTHS
    return {"vgg16": pretrained_vgg.load_vgg(), "vgg19": reference.random_vgg(depths, widths)}


class TestValues:
    @pytest.mark.parametrize(
        ("network", "pooling", "shape"),
        [
            ("vgg16", "max", (1, 48, 40)),
            ("vgg16", "avg", (1, 33, 35)),
            ("vgg19", "max", (1, 35, 33)),
            ("vgg19", "avg", (2, 32, 40)),
        ],
    )
    def test_every_layer_is_that_of_an_independent_implementation(
        self, networks: dict[str, Any], network: str, pooling: str, shape: tuple[int, ...]
    ) -> None:
        images = reference.random_images(*shape, 3)
        params = networks[network]
        expected = reference.vgg_features(params, images, pooling)
        found = compiled(params, images, tuple(vgg.layer_names(params)), pooling=pooling)
        assert found.keys() == expected.keys()
        for layer, features in found.items():
            assert features.dtype == jnp.float32
            assert features.shape == expected[layer].shape
            scale = np.max(np.abs(expected[layer]))
            np.testing.assert_allclose(
                features, expected[layer], rtol=0, atol=1e-5 * scale, err_msg=layer
            )

    @pytest.mark.parametrize("pooling", ["max", "avg", "l2"])
    def test_of_a_picture_in_a_larger_array_are_its_own_with_zeros_around(
        self, pooling: str
    ) -> None:
        """Its size is known when the compiled function runs."""
        pictures = reference.random_images(2, 41, 54, 3)
        frame = np.ones((2, 64, 64, 3), np.float32)
        frame[:, :41, :54] = pictures
        layers = tuple(vgg.layer_names(TINY))
        size = (np.int32(41), np.int32(54))
        found = compiled(TINY, frame, layers, pooling=pooling, size=size)
        expected = compiled(TINY, pictures, layers, pooling=pooling)
        for layer, features in expected.items():
            height, width = features.shape[1:3]
            around = [
                (0, 0),
                *(
                    (0, b - a)
                    for a, b in zip((height, width), found[layer].shape[1:3], strict=True)
                ),
                (0, 0),
            ]
            np.testing.assert_allclose(
                found[layer], np.pad(features, around), atol=1e-6, err_msg=layer
            )

    def test_a_colour_equal_to_the_mean_leaves_only_the_bias(
        self, networks: dict[str, Any]
    ) -> None:
        params = networks["vgg16"]
        image = jnp.broadcast_to(params["normalization"]["mean"], (6, 5, 3))
        found = vgg.features(params, image, ["conv1_1"])["conv1_1"]
        bias = np.broadcast_to(params["conv1_1"]["bias"], found.shape)
        np.testing.assert_allclose(found, bias, rtol=1e-5, atol=1e-5)

    def test_a_flat_image_has_flat_features_away_from_the_border(self) -> None:
        """Zero padding reaches 1, 2 pixels in block 1, and one more per convolution after it."""
        features = compiled(TINY, jnp.full((24, 24, 3), 0.3), ("relu1_2", "relu2_2"))
        for layer, border in {"relu1_2": 2, "relu2_2": 3}.items():
            inside = np.asarray(features[layer])[border:-border, border:-border]
            flat = np.broadcast_to(inside[0, 0], inside.shape)
            np.testing.assert_allclose(inside, flat, rtol=1e-5, atol=1e-6)
            assert np.ptp(np.asarray(features[layer])) > np.ptp(inside)

    def test_features_move_with_the_image(self) -> None:
        """Two poolings make one position of block 3 out of four pixels."""
        wide = reference.random_images(24, 60, 3)
        left, right = (
            np.asarray(compiled(TINY, part, ("relu3_1",))["relu3_1"])
            for part in (wide[:, :-4], wide[:, 4:])
        )
        # Each position sees 5 more to either side, less than 3 positions of block 3.
        np.testing.assert_allclose(left[:, 4:-3], right[:, 3:-4], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("pooling", ["max", "avg"])
    def test_gradient_is_the_slope_of_the_reference(self, pooling: str) -> None:
        image = reference.random_images(1, 18, 17, 3)
        direction = np.random.default_rng(1).normal(size=image.shape)
        step = 1e-6

        def total(image: np.ndarray) -> float:
            return float(np.sum(reference.vgg_features(TINY, image, pooling)["conv4_1"] ** 2))

        slope = (total(image + step * direction) - total(image - step * direction)) / (2 * step)
        gradient = jax.grad(
            lambda x: jnp.sum(compiled(TINY, x, ("conv4_1",), pooling=pooling)["conv4_1"] ** 2)
        )(jnp.asarray(image))
        np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-3)

    def test_bfloat16_is_close_and_stays_bfloat16(self, networks: dict[str, Any]) -> None:
        image = jnp.asarray(reference.random_images(24, 24, 3))
        layers = ("conv1_1", "relu2_2", "relu3_3")
        short = compiled(networks["vgg16"], image, layers, dtype=jnp.bfloat16)
        exact = compiled(networks["vgg16"], image, layers)
        for layer in layers:
            assert short[layer].dtype == jnp.bfloat16
            difference = short[layer].astype(jnp.float32) - exact[layer]
            # Eight bits of significand are 0.4%; seven layers add up to a few times as much.
            assert jnp.linalg.norm(difference) < 0.02 * jnp.linalg.norm(exact[layer])

    def test_constant_kernels_change_neither_features_nor_gradients(self) -> None:
        image = jnp.asarray(reference.random_images(16, 17, 3))
        layers = ("relu1_1", "conv3_2", "pool4")

        @jax.jit
        def gradient(params: Any, image: jax.Array) -> jax.Array:
            def total(image: jax.Array) -> jax.Array:
                found = vgg.features(params, image, layers)
                return sum((jnp.sum(found[layer] ** 2) for layer in layers), start=jnp.zeros(()))

            return jax.grad(total)(image)

        doubled = vgg.freeze(TINY, layers)
        assert vgg.layer_names(doubled) == vgg.layer_names(TINY)
        kinds = {name: type(part["kernel"]) for name, part in doubled.items() if "kernel" in part}
        assert kinds["conv4_3"] is conv.FrozenKernel
        assert kinds["conv5_1"] is type(TINY["conv5_1"]["kernel"])  # Not asked for.
        features = compiled(TINY, image, layers)
        for layer, same in compiled(doubled, image, layers).items():
            np.testing.assert_array_equal(same, features[layer], err_msg=layer)
        expected = gradient(TINY, image)
        scale = float(jnp.max(jnp.abs(expected)))
        np.testing.assert_allclose(gradient(doubled, image), expected, atol=1e-6 * scale)


class TestLayers:
    def test_names_of_vgg16(self, networks: dict[str, Any]) -> None:
        assert " ".join(vgg.layer_names(networks["vgg16"])) == VGG16_LAYERS

    def test_names_of_vgg19(self, networks: dict[str, Any]) -> None:
        assert " ".join(vgg.layer_names(networks["vgg19"])) == VGG19_LAYERS

    def test_come_in_order_of_computation_and_once(self) -> None:
        image = jnp.asarray(reference.random_images(16, 16, 3))
        asked = ["pool3", "relu1_1", "conv2_2", "relu1_1"]
        assert list(vgg.features(TINY, image, asked)) == ["relu1_1", "conv2_2", "pool3"]

    def test_may_be_one_name_or_none(self) -> None:
        image = jnp.asarray(reference.random_images(4, 4, 3))
        assert list(vgg.features(TINY, image, "relu1_2")) == ["relu1_2"]
        assert vgg.features(TINY, image, []) == {}

    @pytest.mark.parametrize(
        ("layers", "convolutions"),
        [
            (["conv1_1"], 1),
            (["relu1_1"], 1),
            (["pool1"], 2),
            (["relu3_3", "conv1_2"], 7),
            (["conv4_2"], 9),
            (["pool5"], 13),
        ],
    )
    def test_nothing_is_computed_beyond_the_deepest(
        self, layers: list[str], convolutions: int
    ) -> None:
        image = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
        jaxpr = jax.make_jaxpr(lambda x: vgg.features(TINY, x, layers))(image)
        assert str(jaxpr).count("conv_general_dilated[") == convolutions

    @pytest.mark.parametrize(
        ("layer", "shape"),
        [
            ("conv1_1", (35, 50)),
            ("pool1", (17, 25)),
            ("relu2_2", (17, 25)),
            ("conv3_1", (8, 12)),
            ("relu4_3", (4, 6)),
            ("conv5_1", (2, 3)),
            ("pool5", (1, 1)),
        ],
    )
    def test_shape_of_a_layer(self, layer: str, shape: tuple[int, int]) -> None:
        """By hand: halved, without the remainder, at every pool."""
        assert vgg.layer_shape((35, 50), layer) == shape
        found = jax.eval_shape(lambda x: vgg.features(TINY, x, [layer]), jnp.zeros((35, 50, 3)))
        assert found[layer].shape[:2] == shape

    @pytest.mark.parametrize(
        ("layers", "side"),
        [
            ([], 1),
            (["relu1_2"], 1),
            (["pool1"], 2),
            (["conv1_1", "conv5_1"], 16),
            (["pool5", "conv1_1"], 32),
        ],
    )
    def test_smallest_side(self, layers: list[str], side: int) -> None:
        assert vgg.smallest_side(layers) == side


class TestLeadingAxes:
    def test_one_image_and_batches_agree(self) -> None:
        images = jnp.asarray(reference.random_images(2, 3, 17, 20, 3))
        layers = ("conv1_1", "relu3_3", "pool4")
        nested = compiled(TINY, images, layers)
        batch = compiled(TINY, images[1], layers)
        alone = compiled(TINY, images[1, 2], layers)
        for layer in layers:
            assert nested[layer].shape == (2, 3, *alone[layer].shape)
            np.testing.assert_allclose(nested[layer][1], batch[layer], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(batch[layer][2], alone[layer], rtol=1e-5, atol=1e-5)

    def test_numpy_images_in_float64_are_taken(self) -> None:
        image = reference.random_images(8, 8, 3)
        found = vgg.features(TINY, image.astype(np.float64), "conv2_1")
        np.testing.assert_array_equal(
            found["conv2_1"], vgg.features(TINY, jnp.asarray(image), "conv2_1")["conv2_1"]
        )


class TestErrors:
    image = reference.random_images(8, 8, 3)

    @pytest.mark.parametrize(
        ("images", "advice"),
        [
            (image * 255, r"images / 255"),
            (image * 2 - 1, r"\(images \+ 1\) / 2"),
            ((image - 0.45) / 0.225, r"normalisation .* is done here"),
            ((image * 255).astype(np.uint8), r"astype\('float32'\) / 255"),
            (np.moveaxis(image, -1, 0), r"moveaxis\(images, -3, -1\)"),
            (np.zeros((2, 3, 8, 8), np.float32), r"moveaxis\(images, -3, -1\)"),
            (np.zeros((8, 3), np.float32), r"\(\.\.\., height, width, 3\), got shape \(8, 3\)"),
            (np.zeros((8, 8, 4), np.float32), r"got shape \(8, 8, 4\)"),
            (np.zeros((8, 8, 1), np.float32), r"got shape \(8, 8, 1\)"),
        ],
        ids=["0..255", "-1..1", "normalised", "integers", "CHW", "NCHW", "rank2", "RGBA", "grey"],
    )
    def test_wrong_images_are_told_what_to_pass(self, images: np.ndarray, advice: str) -> None:
        with pytest.raises(ValueError, match=advice):
            vgg.features(TINY, jnp.asarray(images), ["conv1_1"])

    def test_wrong_range_is_told_with_its_values(self) -> None:
        images = jnp.array([0.0, 130.0, 255.0]).reshape(1, 1, 3)
        with pytest.raises(ValueError, match=r"from 0 to 255"):
            as_images(images)

    def test_images_may_stray_a_little_as_in_optimisation(self) -> None:
        as_images(jnp.array([-0.4, 0.5, 1.4]).reshape(1, 1, 3))

    def test_an_unknown_layer_is_told_what_there_is(self) -> None:
        with pytest.raises(
            ValueError, match=r"no layer conv3_4, relu9_9; it has conv1_1, .* pool5"
        ):
            vgg.features(TINY, jnp.asarray(self.image), ["conv1_1", "conv3_4", "relu9_9"])

    @pytest.mark.parametrize(
        ("layer", "shape", "needed"),
        [("pool3", (7, 9, 3), 8), ("conv5_1", (64, 15, 3), 16), ("pool5", (31, 31, 3), 32)],
    )
    def test_a_small_image_is_told_the_needed_size(
        self, layer: str, shape: tuple[int, ...], needed: int
    ) -> None:
        with pytest.raises(ValueError, match=rf"{shape[0]}x{shape[1]} .*at least {needed} pixels"):
            vgg.features(TINY, jnp.zeros(shape), ["conv1_1", layer])
        enough = jnp.zeros((needed, needed, 3))
        assert vgg.features(TINY, enough, layer)[layer].shape[:2] == (1, 1)

    def test_bad_pooling(self) -> None:
        with pytest.raises(ValueError, match=r"'max', 'avg' or 'l2', got 'mean'"):
            vgg.features(TINY, jnp.asarray(self.image), ["conv1_1"], pooling="mean")

    def test_values_cannot_be_looked_at_inside_jit(self) -> None:
        program = jax.jit(lambda images: vgg.features(TINY, images, ["conv1_1"])["conv1_1"])
        assert program(255 * self.image).shape == (8, 8, 4)

    def test_a_known_image_may_be_used_inside_jit(self) -> None:
        """Such as the photo that a compiled loss closes over."""
        program = jax.jit(lambda: vgg.features(TINY, jnp.asarray(self.image), ["conv1_1"]))
        assert program()["conv1_1"].shape == (8, 8, 4)
        image = jnp.asarray(self.image)
        program = jax.jit(lambda: vgg.features(TINY, image, ["conv1_1"]))
        assert program()["conv1_1"].shape == (8, 8, 4)

    def test_shape_and_dtype_are_looked_at_inside_jit(self) -> None:
        program = jax.jit(lambda images: vgg.features(TINY, images, ["conv1_1"]))
        with pytest.raises(ValueError, match="moveaxis"):
            program(jnp.zeros((3, 8, 8)))
        with pytest.raises(ValueError, match="astype"):
            program(jnp.zeros((8, 8, 3), jnp.int32))


class TestNormalizeFilters:
    """Gatys et al. 2016, section 2: every filter's mean activation over photos is 1."""

    @pytest.mark.parametrize("pooling", ["max", "avg"])
    def test_mean_activation_is_one_and_features_only_change_scale(self, pooling: str) -> None:
        params = reference.random_vgg(reference.VGG16_DEPTHS)
        photos = np.random.default_rng(0).uniform(0, 1, (2, 32, 48, 3)).astype(np.float32)
        normalised = vgg.normalize_filters(params, photos, pooling=pooling)
        layers = [name for name in vgg.layer_names(params) if name.startswith("relu")]
        before = vgg.features(params, jnp.asarray(photos), layers, pooling=pooling)
        after = vgg.features(normalised, jnp.asarray(photos), layers, pooling=pooling)
        for layer in layers:
            means = np.mean(np.asarray(before[layer]), axis=(0, 1, 2))
            fires = means > 0
            new_means = np.mean(np.asarray(after[layer]), axis=(0, 1, 2))
            np.testing.assert_allclose(new_means[fires], 1.0, rtol=1e-3)
            expected = np.asarray(before[layer])[..., fires] / means[fires]
            np.testing.assert_allclose(
                np.asarray(after[layer])[..., fires], expected, rtol=1e-3, atol=1e-3
            )

    def test_without_photos(self) -> None:
        params = reference.random_vgg(reference.VGG16_DEPTHS)
        with pytest.raises(ValueError, match="photo"):
            vgg.normalize_filters(params, [])


def test_layer_sizes_are_near_those_of_photos() -> None:
    """Of VGG-16 as it ships; photos differ by as much from one another."""
    params = pretrained_vgg.load_vgg()
    layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    sizes = vgg.layer_sizes(params, layers, pooling="avg")
    photo = images.fit(images.read(resources.picture("chelsea", "content")), 128)
    found = vgg.features(params, photo, layers, pooling="avg")
    for layer in layers:
        assert 0.5 < jnp.sqrt(jnp.mean(found[layer] ** 2)) / sizes[layer] < 2
