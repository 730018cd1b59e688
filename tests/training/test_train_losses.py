"""What networks are trained for: each photo's loss, against an independent VGG.

The network and VGG have a few channels, and photos a few hundred pixels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import losses, vgg
from perceptual_jax.models import networks
from perceptual_jax.models.networks import (
    TRANSPORTED,
    Decoder,
    StyleNetwork,
    SuperResolutionNetwork,
)
from perceptual_jax.objective import Objective
from perceptual_jax.training import train_losses
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PARAMS = reference.random_vgg()
OBJECTIVE = Objective(
    formulation="johnson_code",
    content_layers=("relu2_2",),
    content_weight=2.0,
    style_layers=("relu1_2", "relu2_2"),
    style_weight=300.0,
    tv_weight=1e-3,
)
MOMENTS = dataclasses.replace(
    OBJECTIVE,
    formulation="normalized",
    style_statistics="wasserstein",
    tv_weight=0.0,
    range_weight=None,
)
NETWORK = StyleNetwork(styles=3, width=2, residual_blocks=0)
PAINTINGS = [reference.random_images(16, 20, 3, seed=i) ** (i + 1) for i in range(3)]
PHOTOS = np.random.default_rng(5).integers(0, 256, size=(4, 16, 18, 3), dtype=np.uint8)
INDEX = np.array([4, 5, 6, 7])  # Styles 1, 2, 0 and 1 of three.


def gram(image: np.ndarray, layer: str) -> np.ndarray:
    """`F F^T / (C H W)`."""
    features = reference.vgg_features(PARAMS, image[None], "max")[layer][0]
    return reference.gram(features) / features.size


def turned(image: np.ndarray, number: int) -> np.ndarray:
    """The middle of a square image, by an angle and a zoom that follow from its number."""
    draws = jax.random.uniform(jax.random.fold_in(jax.random.key(0), number), (2,))
    turn, zoom = (float(draw) for draw in draws)
    turn, zoom = (turn - 0.5) * np.pi / 2, 1 + 0.4 * zoom
    middle = (len(image) - 1) / 2
    side = int(np.sqrt(2) * middle) + 1
    places = np.arange(side) - (side - 1) / 2
    # As complex numbers: a row is a real part.
    places = (places[:, None] + 1j * places) * np.exp(1j * turn) / zoom + middle * (1 + 1j)
    result = np.zeros((side, side, 3))
    for row, column in np.ndindex(image.shape[:2]):
        away = places - (row + 1j * column)
        near = np.maximum(0, 1 - abs(away.real)) * np.maximum(0, 1 - abs(away.imag))
        result += near[..., None] * image[row, column].astype(np.float64)
    return result


def variables_of(network: StyleNetwork | SuperResolutionNetwork) -> Any:
    initial = jax.eval_shape(lambda: networks.initial_variables(network, seed=0))
    return reference.random_variables(initial)


@pytest.fixture(scope="module")
def constants() -> Any:
    return train_losses.style_constants(OBJECTIVE, PARAMS, PAINTINGS)


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(NETWORK)


def test_64_bits_change_no_type(variables: Any, constants: Any) -> None:
    batch = {
        "photos": jax.ShapeDtypeStruct((4, 20, 20, 3), jnp.uint8),
        "low": jax.ShapeDtypeStruct((4, 5, 5, 3), jnp.uint8),
        "index": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    superres = SuperResolutionNetwork(width=2, residual_blocks=0)
    features = Objective(formulation="johnson", content_layers=("relu2_2",))
    style_loss = train_losses.style_loss(NETWORK, OBJECTIVE)
    with jax.enable_x64(True):
        for loss, given in (
            (style_loss, variables),
            *(
                (train_losses.superres_loss(superres, x, pixel_weight=1.0), variables_of(superres))
                for x in (features, MOMENTS)
            ),
        ):
            found = jax.eval_shape(loss, given, batch, constants)
            assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_photos_are_scaled_from_bytes() -> None:
    found = train_losses.unit_range(jnp.array([0, 51, 255], jnp.uint8))
    np.testing.assert_allclose(found, np.array([0.0, 0.2, 1.0], np.float32), rtol=1e-7)
    assert found.dtype == jnp.float32


class TestStyleConstants:
    def test_have_every_paintings_gram_matrices_in_order(self, constants: Any) -> None:
        assert set(constants["style"]) == set(OBJECTIVE.style_layers)
        for layer, found in constants["style"].items():
            expected = np.stack([gram(painting, layer) for painting in PAINTINGS])
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)

    def test_have_vgg_in_its_constant_form(self, constants: Any) -> None:
        """Else every step would flip its kernels."""
        kernel = constants["vgg"]["conv2_1"]["kernel"]
        np.testing.assert_array_equal(kernel.kernel, PARAMS["conv2_1"]["kernel"])
        flipped = np.asarray(kernel.kernel)[::-1, ::-1].swapaxes(2, 3)
        np.testing.assert_array_equal(kernel.adjoint, flipped)


class TestStyleLoss:
    def evaluated(
        self, variables: Any, constants: Any, first_style: int = 0
    ) -> tuple[np.ndarray, dict[str, np.ndarray], Any]:
        loss = train_losses.style_loss(NETWORK, OBJECTIVE, first_style=first_style)
        batch = {"photos": jnp.asarray(PHOTOS), "index": jnp.asarray(INDEX, jnp.int32)}
        return jax.device_get(jax.jit(loss)(variables, batch, constants))

    @pytest.mark.parametrize(
        ("first_style", "styles"),
        [(0, [1, 2, 0, 1]), (1, [1, 2, 1, 2])],
    )
    def test_is_that_of_each_photo_in_its_turn_of_the_styles(
        self, variables: Any, constants: Any, first_style: int, styles: list[int]
    ) -> None:
        """Johnson et al. 2016, eq. 2 to 4, in the form of the released code."""
        grams = {layer: found[first_style:] for layer, found in constants["style"].items()}
        of_trained = {**constants, "style": grams}
        totals, terms, updated = self.evaluated(variables, of_trained, first_style)
        assert set(terms) == set(OBJECTIVE.term_weights())
        assert updated == {}
        one_hot = jax.nn.one_hot(jnp.array(styles), 3)
        photos = PHOTOS / np.float32(255)
        outputs = np.asarray(jax.jit(NETWORK.apply)(variables, photos, one_hot), np.float64)
        for index, style in enumerate(styles):
            found, wanted = (
                reference.vgg_features(PARAMS, image[index : index + 1], "max")["relu2_2"]
                for image in (outputs, photos)
            )
            vertical, horizontal = (255 * np.diff(outputs[index], axis=axis) for axis in (0, 1))
            expected = {
                "content/relu2_2": 2.0 * np.mean(np.square(found - wanted)),
                "total_variation": 1e-3 * (np.sum(vertical**2) + np.sum(horizontal**2)) / 2,
            }
            for layer in OBJECTIVE.style_layers:
                away = gram(outputs[index], layer) - gram(PAINTINGS[style], layer)
                expected[f"style/{layer}"] = 300.0 * np.mean(np.square(away))
            for name, value in expected.items():
                np.testing.assert_allclose(terms[name][index], value, rtol=1e-3, err_msg=name)
            np.testing.assert_allclose(totals[index], sum(expected.values()), rtol=1e-3)

    @pytest.mark.parametrize("name", ["gram", "moments"])
    def test_of_parts_is_that_of_one_picture_of_them(
        self, variables: Any, constants: Any, name: str
    ) -> None:
        """Whose statistics are those of all their positions, whatever lies beside what."""
        objective = OBJECTIVE if name == "gram" else MOMENTS
        if name == "moments":
            constants = train_losses.style_constants(objective, PARAMS, PAINTINGS)
        loss = jax.jit(train_losses.style_loss(NETWORK, objective))
        # Photos 5 and 6 get styles 2 and 0.
        index = jnp.arange(10, 14, dtype=jnp.int32).reshape(2, 2)
        photos = jnp.asarray(PHOTOS).reshape(2, 2, *PHOTOS.shape[1:])
        totals, terms, updated = loss(variables, {"photos": photos, "index": index}, constants)
        assert totals.shape == (2,)
        assert updated == {}
        for photo, style in ((0, 2), (1, 0)):
            pair = PHOTOS[2 * photo : 2 * photo + 2] / np.float32(255)
            outputs, _ = NETWORK.apply(
                variables, pair, jax.nn.one_hot(style, 3), mutable=["statistics"]
            )
            outputs = np.asarray(outputs)
            found, wanted = (reference.vgg_features(PARAMS, x, "max") for x in (outputs, pair))
            sizes = constants["sizes"] or dict.fromkeys(objective.layers, 1.0)
            unit = float(sizes["relu2_2"])
            away = (found["relu2_2"] - wanted["relu2_2"]) / unit
            expected = {"content/relu2_2": 2.0 * np.mean(np.square(away))}
            weights = objective.term_weights()
            for layer in objective.style_layers:
                # One below the other they are one map.
                column = found[layer].reshape(1, -1, *found[layer].shape[2:])[0]
                style_of = jax.tree.map(lambda x: x[style], constants["style"][layer])  # noqa: B023
                if name == "gram":
                    gap = reference.gram(column) / column.size - style_of
                    value = np.mean(np.square(gap))
                else:
                    moments = losses.moments(jnp.asarray(column, jnp.float32))
                    value = losses.gaussian_wasserstein_of_moments(moments, style_of)
                    value = value / float(sizes[layer]) ** 2
                expected[f"style/{layer}"] = weights[f"style/{layer}"] * float(value)
            if name == "gram":
                vertical, horizontal = (255 * np.diff(outputs, axis=axis) for axis in (1, 2))
                variation = np.sum(vertical**2) + np.sum(horizontal**2)
                expected["total_variation"] = 1e-3 * variation / 2
            else:
                outside = outputs - np.clip(outputs, 0, 1)
                expected["range"] = weights["range"] * np.mean(outside**2)
            assert set(expected) == set(terms)
            for term, value in expected.items():
                np.testing.assert_allclose(terms[term][photo], value, rtol=2e-3, err_msg=term)

    def test_compares_content_with_the_photo_before_it_was_varied(
        self, variables: Any, constants: Any
    ) -> None:
        inputs = np.random.default_rng(8).integers(0, 256, size=PHOTOS.shape, dtype=np.uint8)
        loss = jax.jit(train_losses.style_loss(NETWORK, OBJECTIVE))
        batch = {"photos": PHOTOS, "inputs": inputs, "index": np.int32(INDEX)}
        _, terms, _ = loss(variables, batch, constants)
        one_hot = jax.nn.one_hot(jnp.asarray(INDEX) % 3, 3)
        outputs = jax.jit(NETWORK.apply)(variables, inputs / np.float32(255), one_hot)
        found, wanted = (
            reference.vgg_features(PARAMS, np.asarray(x), "max")["relu2_2"]
            for x in (outputs, PHOTOS / np.float32(255))
        )
        expected = 2.0 * np.mean(np.square(found - wanted), (1, 2, 3))
        np.testing.assert_allclose(terms["content/relu2_2"], expected, rtol=1e-3)

    def test_gives_the_running_statistics_on(self, constants: Any) -> None:
        """Of batch normalisation, which moves them while it trains."""
        network = StyleNetwork(width=2, residual_blocks=0, normalization="batch")
        photos = jnp.asarray(PHOTOS)
        initial = variables_of(network)
        batch = {"photos": photos, "index": jnp.asarray(INDEX, jnp.int32)}
        _, _, updated = jax.jit(train_losses.style_loss(network, OBJECTIVE))(
            initial, batch, constants
        )
        running = updated["batch_stats"]
        assert running.keys() == initial["batch_stats"].keys()
        before = initial["batch_stats"]["norm1"]["batch"]["mean"]
        assert np.abs(running["norm1"]["batch"]["mean"] - before).min() > 0


class TestSuperresLoss:
    NETWORK = SuperResolutionNetwork(width=2, residual_blocks=0)
    # Of two unrelated photos each, so that no term is small.
    TRUE = np.random.default_rng(6).integers(0, 256, size=(2, 20, 24, 3), dtype=np.uint8)
    LOW = np.random.default_rng(7).integers(0, 256, size=(2, 5, 6, 3), dtype=np.uint8)
    # What VGG looks at is shifted by their last two bits: by one column, and by one row.
    INDEX = np.array([5, 6])
    SEEN = (np.s_[:19, 1:], np.s_[1:, :23])

    def evaluated(
        self, network: SuperResolutionNetwork, layers: tuple[str, ...], pixel_weight: float
    ) -> tuple[np.ndarray, dict[str, np.ndarray], Any]:
        objective = Objective(formulation="johnson", content_layers=layers, content_weight=3.0)
        loss = train_losses.superres_loss(network, objective, pixel_weight=pixel_weight)
        batch = {
            "photos": jnp.asarray(self.TRUE),
            "low": jnp.asarray(self.LOW),
            "index": jnp.asarray(self.INDEX, jnp.int32),
        }
        constants = train_losses.superres_constants(objective, PARAMS)
        assert bool(constants) == bool(layers)
        return jax.device_get(jax.jit(loss)(variables_of(network), batch, constants))

    @pytest.mark.parametrize(
        ("layers", "pixel_weight"),
        [((), 0.5), (("relu2_2",), 0.0), (("relu1_2", "relu2_2"), 0.5)],
        ids=["pixel", "feature", "both"],
    )
    def test_is_that_of_each_photo_in_features_and_pixels(
        self, layers: tuple[str, ...], pixel_weight: float
    ) -> None:
        """Johnson et al. 2016, eq. 2 and section 3.2; VGG is not there where it is not needed.

        Which pixels VGG pools together changes from photo to photo.
        """
        totals, terms, updated = self.evaluated(self.NETWORK, layers, pixel_weight)
        assert updated == {}
        assert totals.shape == (2,)
        low, photos = (picture / np.float32(255) for picture in (self.LOW, self.TRUE))
        outputs = np.asarray(jax.jit(self.NETWORK.apply)(variables_of(self.NETWORK), low))
        for index in range(2):
            found, wanted = (
                reference.vgg_features(PARAMS, image[index][self.SEEN[index]][None], "max")
                for image in (outputs, photos)
            )
            expected = {
                f"content/{layer}": 3.0 * np.mean(np.square(found[layer] - wanted[layer]))
                for layer in layers
            }
            if pixel_weight:
                away = 255.0 * outputs[index].astype(np.float64) - self.TRUE[index]
                expected["pixel"] = 0.5 * np.mean(np.square(away))
            assert {name: term.shape for name, term in terms.items()} == dict.fromkeys(
                expected, (2,)
            )
            for name, value in expected.items():
                np.testing.assert_allclose(terms[name][index], value, rtol=1e-4, err_msg=name)
            np.testing.assert_allclose(totals[index], sum(expected.values()), rtol=1e-4)

    def test_is_nothing_for_the_true_picture(self) -> None:
        """An enlargement of a flat picture, to which the network adds nothing, is flat."""
        variables = variables_of(self.NETWORK)
        output = jax.tree.map(np.zeros_like, variables["params"]["output"])
        variables["params"]["output"] = output
        objective = Objective(formulation="johnson", content_layers=("relu2_2",))
        flat = {"photos": np.full((1, 20, 20, 3), 77), "low": np.full((1, 5, 5, 3), 77)}
        batch = {name: jnp.asarray(picture, jnp.uint8) for name, picture in flat.items()}
        batch["index"] = jnp.zeros(1, jnp.int32)
        loss = train_losses.superres_loss(self.NETWORK, objective, pixel_weight=1.0)
        constants = train_losses.superres_constants(objective, PARAMS)
        total, _, _ = jax.jit(loss)(variables, batch, constants)
        np.testing.assert_allclose(total, [0.0], atol=1e-7)

    def test_of_textures_is_of_pictures_that_are_turned(self) -> None:
        """Johnson's features, and Wasserstein distances, both in units of their layers."""
        objective = dataclasses.replace(MOMENTS, style_layer_weights=(2.0, 1.0), range_weight=0.0)
        photos = np.random.default_rng(8).integers(0, 256, size=(2, 24, 24, 3), dtype=np.uint8)
        low = np.random.default_rng(9).integers(0, 256, size=(2, 6, 6, 3), dtype=np.uint8)
        loss = train_losses.superres_loss(self.NETWORK, objective, pixel_weight=0.5)
        numbers = np.array([5, 6], np.int32)
        batch = {name: jnp.asarray(x) for name, x in (("photos", photos), ("low", low))}
        batch["index"] = jnp.asarray(numbers)
        constants = train_losses.superres_constants(objective, PARAMS)
        variables = variables_of(self.NETWORK)
        totals, terms, _ = jax.jit(loss)(variables, batch, constants)
        outputs = np.asarray(jax.jit(self.NETWORK.apply)(variables, low / np.float32(255)))
        sizes = vgg.layer_sizes(PARAMS, objective.layers)
        for index, number in enumerate(numbers):
            found, wanted = (
                reference.vgg_features(PARAMS, turned(image[index], number)[None], "max")
                for image in (outputs, photos / np.float32(255))
            )
            content = np.mean(np.square(found["relu2_2"] - wanted["relu2_2"]))
            expected = {"content/relu2_2": 2.0 * content / float(sizes["relu2_2"]) ** 2}
            for layer, weight in zip(objective.style_layers, (2.0, 1.0), strict=True):
                maps = (x[layer][0].astype(np.float32) for x in (found, wanted))
                distance = losses.gaussian_wasserstein(*maps) / sizes[layer] ** 2
                expected[f"style/{layer}"] = 300.0 * weight * float(distance)
            for name, value in expected.items():
                np.testing.assert_allclose(terms[name][index], value, rtol=2e-3, err_msg=name)
            expected["pixel"] = float(terms["pixel"][index])
            np.testing.assert_allclose(totals[index], sum(expected.values()), rtol=2e-3)

    def test_gives_the_running_statistics_on(self) -> None:
        """Of batch normalisation, which moves them while it trains."""
        network = self.NETWORK.clone(normalization="batch")
        _, _, updated = self.evaluated(network, (), 1.0)
        before = variables_of(network)["batch_stats"]
        assert updated["batch_stats"].keys() == before.keys() == {"norm1", "up_norm1", "up_norm2"}
        for name, norm in updated["batch_stats"].items():
            assert np.abs(norm["batch"]["mean"] - before[name]["batch"]["mean"]).min() > 0


# A VGG whose blocks are each twice as wide as the one before, which decoders mirror.
WIDE = reference.random_vgg(widths=(2, 4, 8, 16, 4))
DECODER = Decoder(width=2)
CROPS = np.random.default_rng(6).integers(0, 256, size=(2, 2, 16, 24, 3), dtype=np.uint8)
NUMBERS = np.array([[4, 5], [6, 7]])  # The third and fourth photo: paintings 2 and 0 of three.


@pytest.fixture(scope="module")
def wide_constants() -> Any:
    return train_losses.decoder_constants(WIDE, PAINTINGS)


@pytest.fixture(scope="module")
def decoder() -> Any:
    initial = jax.eval_shape(lambda: networks.initial_variables(DECODER, seed=0))
    units = {"relu4_1": np.float32(0.4), "relu1_1": np.float32(0.8)}
    variables = {**reference.random_variables(initial), "units": units}
    variables["params"]["conv1_1"]["kernel"] *= 0.2  # So that no pixel leaves [0, 1].
    return variables


def decoder_loss(variables: Any, constants: Any, **batch: Any) -> Any:
    given = {"photos": CROPS, "index": NUMBERS, **batch}
    return jax.jit(train_losses.decoder_loss(DECODER))(variables, given, constants)


class TestDecoderLoss:
    def test_is_the_sum_of_its_terms(self, decoder: Any, wide_constants: Any) -> None:
        total, terms, updated = decoder_loss(decoder, wide_constants)
        assert total.shape == (2,)
        assert not updated
        kinds = {name.split("/")[0] for name in terms}
        assert kinds == {"inversion", "content", "style", "range"}
        np.testing.assert_allclose(total, sum(terms.values()), rtol=1e-5)

    def test_inversion_compares_pictures_of_a_photos_own_features(
        self, decoder: Any, wide_constants: Any
    ) -> None:
        _, terms, _ = decoder_loss(decoder, wide_constants)
        photos = train_losses.unit_range(CROPS)
        encoded = networks.encode(WIDE, photos, TRANSPORTED[:1])[TRANSPORTED[0]]
        pictures = jax.vmap(lambda features: DECODER.apply(decoder, features))(encoded)
        expected = 20.0 * np.square(pictures - photos).mean((1, 2, 3, 4))
        np.testing.assert_allclose(terms["inversion/pixels"], expected, rtol=1e-4)

    def test_style_compares_all_crops_of_a_photo_with_its_painting(
        self, decoder: Any, wide_constants: Any
    ) -> None:
        """What was transported together, by the moments of both crops."""
        _, terms, _ = decoder_loss(decoder, wide_constants)
        sizes = vgg.layer_sizes(WIDE, ["relu2_1"], pooling="avg")
        photos = train_losses.unit_range(CROPS)
        for photo, painting, found in zip(
            photos, (PAINTINGS[2], PAINTINGS[0]), terms["style/relu2_1"], strict=True
        ):

            def change(
                layer: str, features: jax.Array, _: Any, painting: np.ndarray = painting
            ) -> Any:
                style = losses.moments(networks.encode(WIDE, painting[None], [layer])[layer])
                rows = features.reshape(1, -1, *features.shape[2:])
                of = jax.tree.map(lambda x: x, losses.moments(rows))
                return networks.transported(layer, features, of, style)

            encoded = networks.encode(WIDE, photo, TRANSPORTED[:1])[TRANSPORTED[0]]
            pictures: Any = DECODER.apply(decoder, encoded, change)
            maps = networks.encode(WIDE, pictures, ["relu2_1"])["relu2_1"]
            wanted = networks.encode(WIDE, painting, ["relu2_1"])["relu2_1"]
            distance = losses.gaussian_wasserstein(maps.reshape(-1, *maps.shape[2:]), wanted)
            expected = 10.0 * 0.33 * distance / sizes["relu2_1"] ** 2
            np.testing.assert_allclose(found, expected, rtol=1e-3)

    def test_takes_the_varied_photos_where_there_are_some(
        self, decoder: Any, wide_constants: Any
    ) -> None:
        other = CROPS[:, :, ::-1]
        varied = decoder_loss(decoder, wide_constants, inputs=other)
        alone = decoder_loss(decoder, wide_constants, photos=other)
        np.testing.assert_array_equal(varied[0], alone[0])

    def test_has_a_gradient_of_every_parameter(self, decoder: Any, wide_constants: Any) -> None:
        def mean(params: Any) -> jax.Array:
            given: Any = {"photos": CROPS[:, 0], "index": NUMBERS[:, 0]}
            loss = train_losses.decoder_loss(DECODER)
            return jnp.mean(loss({**decoder, "params": params}, given, wide_constants)[0])

        for leaf in jax.tree.leaves(jax.jit(jax.grad(mean))(decoder["params"])):
            assert np.isfinite(leaf).all()
            assert np.abs(leaf).max() > 0
