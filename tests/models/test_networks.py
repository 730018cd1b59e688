"""Image transformation networks: the paper's layers, the values of NumPy, styles and statistics.

The networks have a few channels, except where the paper's own sizes are counted.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.models import layers, networks, tiling
from perceptual_jax.models.networks import StyleNetwork, SuperResolutionNetwork
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TINY = StyleNetwork(width=2, residual_blocks=1)
THREE_STYLES = StyleNetwork(styles=3, width=2, residual_blocks=1)
TINY_PAPER = networks.paper_style_network().clone(width=2)
ENLARGING = {
    factor: SuperResolutionNetwork(factor, width=2, residual_blocks=1) for factor in (4, 8)
}
ENLARGING_PAPER = {
    factor: networks.paper_super_resolution_network(factor).clone(width=2, residual_blocks=1)
    for factor in (4, 8)
}
RATIO = np.array([0.3, 0.0, 0.7], np.float32)

# Of sides that no stride divides.  Most tests share them, since every other size is another program
# to compile.
IMAGES = reference.random_images(2, 13, 15, 3)
SMALL_IMAGES = reference.random_images(2, 7, 9, 3)

# Of what is added to the bicubic enlargement: files of trained networks rely on it.
ADDED_SCALE = 0.0025

# One compiled program instead of one for every operation.
apply = jax.jit(
    lambda network, variables, *inputs, **options: network.apply(variables, *inputs, **options),
    static_argnums=0,
    static_argnames=("train", "mutable"),
)


def variables_of(network: StyleNetwork | SuperResolutionNetwork) -> Any:
    shapes = jax.eval_shape(lambda: networks.initial_variables(network, seed=0))
    return reference.random_variables(shapes)


def layer_shapes(network: Any, height: int, width: int) -> dict[str, Any]:
    """Of what every layer gives for a photo of this size."""
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    output, found = jax.eval_shape(
        lambda variables, images: network.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        ),
        variables,
        images,
    )
    layers = {
        name: layer["__call__"][0].shape[1:]
        for name, layer in found["intermediates"].items()
        if "__call__" in layer and name != "__call__"
    }
    return {**layers, "image": output.shape[1:]}


def parameter_counts(variables: Any) -> dict[str, int]:
    """Of every part of a network."""
    return {
        name: sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in variables["params"].items()
    }


def check_running_statistics(
    variables: Any, updated: Any, first: np.ndarray, *, train: bool
) -> None:
    """Those of the first layer go a tenth of the way to the batch's, in training."""
    share = 0.1 if train else 0.0
    for name, of_batch in (("mean", first.mean((0, 1, 2))), ("var", first.var((0, 1, 2)))):
        before = variables["batch_stats"]["norm1"]["batch"][name]
        after = (updated["batch_stats"] or variables["batch_stats"])["norm1"]["batch"][name]
        expected = (1 - share) * before + share * of_batch
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


def pad(x: np.ndarray, margin: int, mode: Any = "reflect") -> np.ndarray:
    return np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode=mode)


class Forward:
    """The networks in float64 NumPy, from the tables of the supplement and the docstrings."""

    def __init__(self, variables: Any, weights: Any = (1.0,), *, train: bool = False) -> None:
        self.variables = variables
        self.weights = np.asarray(weights, np.float64)
        self.train = train

    def convolved(
        self, x: np.ndarray, layer: Any, padding: str = "reflect", stride: int = 1
    ) -> np.ndarray:
        kernel = np.asarray(layer["kernel"], np.float64)
        if padding != "none":
            x = pad(x, len(kernel) // 2, {"zeros": "constant"}.get(padding, padding))
        return reference.convolve(x, kernel, "VALID")[:, ::stride, ::stride] + layer["bias"]

    def instance_norm(self, x: np.ndarray, layer: Any) -> np.ndarray:
        mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        scale, bias = self.weights @ layer["scale"], self.weights @ layer["bias"]
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias

    def batch_norm(self, x: np.ndarray, *path: str) -> np.ndarray:
        layer, running = self.variables["params"], self.variables["batch_stats"]
        for name in (*path, "batch"):
            layer, running = layer[name], running[name]
        mean, variance = running["mean"], running["var"]
        if self.train:
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(variance + 1e-5) * layer["scale"] + layer["bias"]

    def default(self, images: np.ndarray) -> np.ndarray:
        """Instance normalisation, repeated pixels, reflection, linear output."""
        params = self.variables["params"]
        x = 4.0 * np.asarray(images, np.float64) - 2.0
        for index in (1, 2, 3):
            x = self.convolved(x, params[f"conv{index}"], stride=1 if index == 1 else 2)
            x = np.maximum(self.instance_norm(x, params[f"norm{index}"]["instance"]), 0)
        for index in range(1, sum(name.startswith("residual") for name in params) + 1):
            block = params[f"residual{index}"]
            y = self.instance_norm(self.convolved(x, block["conv1"]), block["norm1"]["instance"])
            y = self.convolved(np.maximum(y, 0), block["conv2"])
            x = x + self.instance_norm(y, block["norm2"]["instance"])
        for index in (1, 2):
            x = self.convolved(x.repeat(2, axis=1).repeat(2, axis=2), params[f"up{index}"])
            x = np.maximum(self.instance_norm(x, params[f"up_norm{index}"]["instance"]), 0)
        height, width = images.shape[1:3]
        return (0.5 + 0.25 * self.convolved(x, params["output"]))[:, :height, :width]

    def paper(self, images: np.ndarray) -> np.ndarray:
        """Batch normalisation, transposed convolutions, 40 pixels of padding, tanh."""
        params = self.variables["params"]
        x = pad(4.0 * np.asarray(images, np.float64) - 2.0, 40)
        for index in (1, 2, 3):
            x = self.convolved(x, params[f"conv{index}"], "zeros", stride=1 if index == 1 else 2)
            x = np.maximum(self.batch_norm(x, f"norm{index}"), 0)
        for name in (f"residual{index}" for index in range(1, 6)):
            y = self.batch_norm(self.convolved(x, params[name]["conv1"], "none"), name, "norm1")
            y = self.convolved(np.maximum(y, 0), params[name]["conv2"], "none")
            x = x[:, 2:-2, 2:-2] + self.batch_norm(y, name, "norm2")
        for index in (1, 2):
            x = self.transposed(x, params[f"up{index}"])
            x = np.maximum(self.batch_norm(x, f"up_norm{index}"), 0)
        height, width = images.shape[1:3]
        x = self.convolved(x, params["output"], "zeros")
        return (0.5 + 0.5 * np.tanh(x))[:, :height, :width]

    def enlarging(self, images: np.ndarray, factor: int, upsampling: str) -> np.ndarray:
        """One residual block, no normalisation, reflection: what its last layer gives."""
        params = self.variables["params"]
        x = np.maximum(self.convolved(4.0 * images.astype(np.float64) - 2.0, params["conv1"]), 0)
        y = np.maximum(self.convolved(x, params["residual1"]["conv1"]), 0)
        x = x + self.convolved(y, params["residual1"]["conv2"])
        for index in range(1, {4: 2, 8: 3}[factor] + 1):
            if upsampling == "nearest":
                x = self.convolved(x.repeat(2, axis=1).repeat(2, axis=2), params[f"up{index}"])
            else:
                x = self.subpixel(x, params[f"up{index}"])
            x = np.maximum(x, 0)
        return self.convolved(x, params["output"])

    def enlarging_paper(self, images: np.ndarray, factor: int) -> np.ndarray:
        """One residual block, batch normalisation, transposed convolutions, zeros around, tanh."""
        params = self.variables["params"]
        x = self.convolved(4.0 * images.astype(np.float64) - 2.0, params["conv1"], "zeros")
        x = np.maximum(self.batch_norm(x, "norm1"), 0)
        block = params["residual1"]
        y = self.batch_norm(self.convolved(x, block["conv1"], "zeros"), "residual1", "norm1")
        y = self.convolved(np.maximum(y, 0), block["conv2"], "zeros")
        x = x + self.batch_norm(y, "residual1", "norm2")
        for index in range(1, {4: 2, 8: 3}[factor] + 1):
            x = self.transposed(x, params[f"up{index}"])
            x = np.maximum(self.batch_norm(x, f"up_norm{index}"), 0)
        return 0.5 + 0.5 * np.tanh(self.convolved(x, params["output"], "zeros"))

    @staticmethod
    def transposed(x: np.ndarray, layer: Any) -> np.ndarray:
        """Every input paints its 3x3 patch, two pixels from its neighbour's."""
        count, height, width, _ = x.shape
        kernel = np.asarray(layer["kernel"], np.float64)
        painted = np.zeros((count, 2 * height + 1, 2 * width + 1, kernel.shape[3]))
        for k in range(3):
            for j in range(3):
                painted[:, k : k + 2 * height : 2, j : j + 2 * width : 2] += x @ kernel[k, j]
        return painted[:, 1:, 1:] + layer["bias"]

    @staticmethod
    def subpixel(x: np.ndarray, layer: Any) -> np.ndarray:
        """Each position becomes 2x2 pixels, of a quarter of the channels each."""
        four = reference.convolve(pad(x, 1), np.asarray(layer["kernel"], np.float64), "VALID")
        count, height, width, _ = x.shape
        enlarged = np.empty((count, 2 * height, 2 * width, four.shape[-1] // 4))
        for index, quarter in enumerate(np.split(four, 4, axis=-1)):
            enlarged[:, index // 2 :: 2, index % 2 :: 2] = quarter
        return enlarged + layer["bias"]


@jax.jit
@jax.value_and_grad
def energy_and_gradient(variables_and_images: Any) -> jax.Array:
    """The sum of the squares of what `TINY` gives."""
    variables, images = variables_and_images
    output: Any = TINY.apply(variables, images)
    return jnp.sum(jnp.square(output))


class TestPaper:
    """Johnson et al. 2016, supplement, table 1."""

    NETWORK = networks.paper_style_network()

    def test_every_layer_has_its_size(self) -> None:
        found = layer_shapes(self.NETWORK, 256, 256)
        expected = {
            "conv1": (336, 336, 32),
            "conv2": (168, 168, 64),
            "conv3": (84, 84, 128),
            "residual1": (80, 80, 128),
            "residual2": (76, 76, 128),
            "residual3": (72, 72, 128),
            "residual4": (68, 68, 128),
            "residual5": (64, 64, 128),
            "up1": (128, 128, 64),
            "up2": (256, 256, 32),
            "output": (256, 256, 3),
            "image": (256, 256, 3),
        }
        assert {name: found[name] for name in expected} == expected

    def test_every_layer_has_its_parameters(self) -> None:
        """By hand: sides² inputs outputs + outputs, and twice the channels of a normalisation."""
        convolutions = {
            "conv1": 9 * 9 * 3 * 32 + 32,
            "conv2": 3 * 3 * 32 * 64 + 64,
            "conv3": 3 * 3 * 64 * 128 + 128,
            "up1": 3 * 3 * 128 * 64 + 64,
            "up2": 3 * 3 * 64 * 32 + 32,
            "output": 9 * 9 * 32 * 3 + 3,
        }
        norms = {"norm1": 32, "norm2": 64, "norm3": 128, "up_norm1": 64, "up_norm2": 32}
        expected = convolutions | {name: 2 * channels for name, channels in norms.items()}
        for index in range(1, 6):
            expected[f"residual{index}"] = 2 * (3 * 3 * 128 * 128 + 128) + 2 * 2 * 128
        counts = parameter_counts(variables_of(self.NETWORK))
        assert counts == expected
        assert sum(counts.values()) == 1_679_235

    def test_has_one_style(self) -> None:
        with pytest.raises(ValueError, match="several styles need normalization='instance'"):
            apply(networks.paper_style_network(styles=2), {}, jnp.zeros((1, 64, 64, 3)))

    @pytest.mark.parametrize("train", [False, True])
    def test_has_the_values_of_numpy(self, train: bool) -> None:
        variables = variables_of(TINY_PAPER)
        images = reference.random_images(2, 41, 43, 3)
        found, updated = apply(TINY_PAPER, variables, images, train=train, mutable=("batch_stats",))
        expected = Forward(variables, train=train).paper(images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        first = Forward(variables).convolved(
            pad(4.0 * images.astype(np.float64) - 2.0, 40), variables["params"]["conv1"], "zeros"
        )
        check_running_statistics(variables, updated, first, train=train)

    def test_cannot_leave_the_range_of_pixels(self) -> None:
        variables = jax.tree.map(lambda leaf: 30 * leaf, variables_of(TINY_PAPER))
        images = reference.random_images(2, 41, 43, 3)
        found, _ = apply(TINY_PAPER, variables, images, train=False, mutable=("batch_stats",))
        assert (np.min(found), np.max(found)) == (0.0, 1.0)


class TestDefault:
    @pytest.mark.parametrize("shape", [IMAGES.shape[:3], (1, 5, 6)])
    def test_has_the_values_of_numpy(self, shape: tuple[int, ...]) -> None:
        variables, images = variables_of(THREE_STYLES), reference.random_images(*shape, 3)
        found = apply(THREE_STYLES, variables, images, RATIO)
        expected = Forward(variables, RATIO).default(images)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)

    def test_its_gradients_are_the_slopes_of_numpy(self) -> None:
        variables, generator = variables_of(TINY), np.random.default_rng(1)
        direction = jax.tree.map(lambda x: generator.normal(size=x.shape), (variables, IMAGES))

        def energy(step: float) -> float:
            moved, seen = jax.tree.map(lambda x, d: x + step * d, (variables, IMAGES), direction)
            return float(np.sum(np.square(Forward(moved).default(seen))))

        slope = (energy(1e-6) - energy(-1e-6)) / 2e-6
        _, gradients = energy_and_gradient((variables, IMAGES))
        along = jax.tree.leaves(jax.tree.map(np.vdot, gradients, direction))
        np.testing.assert_allclose(sum(along), slope, rtol=1e-4)

    @pytest.mark.parametrize("values", [(0.0, 0.0), (0.5, 1.0)])
    def test_flat_images_have_finite_values_and_gradients(self, values: Any) -> None:
        """Their variance is 0, of which a normalisation takes the root."""
        images = np.ones_like(IMAGES) * np.array(values, np.float32).reshape(2, 1, 1, 1)
        found = energy_and_gradient((variables_of(TINY), images))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))

    def test_has_the_papers_parameters_and_rows_for_styles(self) -> None:
        """By hand, as for the paper: 1,676,035 in convolutions; 2 * 1600 for each style."""
        params = variables_of(StyleNetwork(styles=7))["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1_676_035 + 7 * 3200

    @pytest.mark.parametrize("network", [TINY, TINY_PAPER])
    @pytest.mark.parametrize("more", range(4))
    def test_gives_back_any_height_and_width(self, network: StyleNetwork, more: int) -> None:
        variables, least = variables_of(network), networks.smallest_side(network)
        for height_width in [(least + more, 638 + more), (338 + more, least + 2 * more)]:
            images = jax.ShapeDtypeStruct((1, *height_width, 3), jnp.float32)
            found: Any = jax.eval_shape(network.apply, variables, images)
            assert (found.shape, found.dtype) == (images.shape, jnp.float32)

    def test_maps_over_images_and_weights(self) -> None:
        variables = variables_of(THREE_STYLES)
        weights = np.eye(3, dtype=np.float32)[:2]
        mapped = jax.jit(
            jax.vmap(lambda image, row: apply(THREE_STYLES, variables, image[None], row)[0])
        )(IMAGES, weights)
        together = apply(THREE_STYLES, variables, IMAGES, weights)
        np.testing.assert_allclose(mapped, together, rtol=0, atol=1e-5)

    def test_bfloat16_is_for_convolutions_alone(self) -> None:
        short_network = TINY.clone(dtype="bfloat16")
        initial = jax.eval_shape(short_network.init, jax.random.key(0), IMAGES)
        assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
        variables = variables_of(TINY)
        short = apply(short_network, variables, IMAGES)
        assert short.dtype == jnp.float32
        # Eight bits of significand, in a few layers.
        exact = apply(TINY, variables, IMAGES)
        assert 0 < np.abs(short - exact).max() < 0.1


class TestSuperResolutionPaper:
    """Johnson et al. 2016, supplement, table 2."""

    @pytest.mark.parametrize(("factor", "side"), [(4, 72), (8, 36)])
    def test_every_layer_has_its_size(self, factor: int, side: int) -> None:
        """Nothing is cropped: what is made of 72x72, and of 36x36, is 288x288."""
        network = networks.paper_super_resolution_network(factor)
        expected = {"conv1": (side, side, 64)}
        for index in range(1, 5):
            expected[f"residual{index}"] = (side, side, 64)
        for index, doubled in enumerate((144, 288) if factor == 4 else (72, 144, 288), start=1):
            expected[f"up{index}"] = (doubled, doubled, 64)
        expected |= {"output": (288, 288, 3), "image": (288, 288, 3)}
        found = layer_shapes(network, side, side)
        assert {name: shape for name, shape in found.items() if "norm" not in name} == expected

    @pytest.mark.parametrize(("factor", "total"), [(4, 401_859), (8, 438_915)])
    def test_every_layer_has_its_parameters(self, factor: int, total: int) -> None:
        """By hand, as those of the network for style."""
        expected = {"conv1": 9 * 9 * 3 * 64 + 64, "norm1": 2 * 64, "output": 9 * 9 * 64 * 3 + 3}
        for index in range(1, 5):
            expected[f"residual{index}"] = 2 * (3 * 3 * 64 * 64 + 64) + 2 * 2 * 64
        for index in (1, 2) if factor == 4 else (1, 2, 3):
            expected |= {f"up{index}": 3 * 3 * 64 * 64 + 64, f"up_norm{index}": 2 * 64}
        counts = parameter_counts(variables_of(networks.paper_super_resolution_network(factor)))
        assert counts == expected
        assert sum(counts.values()) == total

    @pytest.mark.parametrize("train", [False, True])
    @pytest.mark.parametrize("factor", [4, 8])
    def test_has_the_values_of_numpy(self, factor: int, train: bool) -> None:
        network = ENLARGING_PAPER[factor]
        variables = variables_of(network)
        found, updated = apply(
            network, variables, SMALL_IMAGES, train=train, mutable=("batch_stats",)
        )
        expected = Forward(variables, train=train).enlarging_paper(SMALL_IMAGES, factor)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        first = Forward(variables).convolved(
            4.0 * SMALL_IMAGES.astype(np.float64) - 2.0, variables["params"]["conv1"], "zeros"
        )
        check_running_statistics(variables, updated, first, train=train)

    def test_cannot_leave_the_range_of_pixels(self) -> None:
        network = ENLARGING_PAPER[4]
        variables = jax.tree.map(lambda leaf: 30 * leaf, variables_of(network))
        found = apply(network, variables, SMALL_IMAGES)
        assert (np.min(found), np.max(found)) == (0.0, 1.0)


class TestSuperResolution:
    @pytest.mark.parametrize(
        ("upsampling", "factor", "shape"),
        [
            ("nearest", 4, (2, 7, 9)),
            ("nearest", 8, (2, 7, 9)),
            ("nearest", 4, (1, 5, 6)),
            ("subpixel", 4, (2, 7, 9)),
        ],
    )
    def test_has_the_values_of_numpy(
        self, upsampling: str, factor: int, shape: tuple[int, ...]
    ) -> None:
        network = ENLARGING[factor].clone(upsampling=upsampling)
        variables, images = variables_of(network), reference.random_images(*shape, 3)
        found = apply(network, variables, images)
        assert found.dtype == jnp.float32
        added = ADDED_SCALE * Forward(variables).enlarging(images, factor, upsampling)
        expected = reference.bicubic(images, factor * shape[1], factor * shape[2]) + added
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("factor", [4, 8])
    def test_adds_to_the_bicubic_enlargement(self, factor: int, dtype: str) -> None:
        """Which is in full precision, whatever the convolutions compute in."""
        network = ENLARGING[factor].clone(dtype=dtype)
        variables = variables_of(network)
        variables["params"]["output"] = jax.tree.map(np.zeros_like, variables["params"]["output"])
        found = apply(network, variables, SMALL_IMAGES)
        expected = reference.bicubic(SMALL_IMAGES, 7 * factor, 9 * factor)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

    def test_begins_close_to_it(self) -> None:
        """A picture from the start: its first weights add about a level of 8 bits."""
        network = ENLARGING[4].clone(width=8)
        found = apply(network, networks.initial_variables(network, seed=0), SMALL_IMAGES)
        added = np.asarray(found) - reference.bicubic(SMALL_IMAGES, 28, 36)
        assert 0.2 < 255 * np.sqrt(np.mean(np.square(added))) < 2.0

    def test_without_it_is_centred_on_grey(self) -> None:
        """As the network for style."""
        network = ENLARGING[4].clone(upsampling="nearest", skip=False)
        variables = variables_of(network)
        found = apply(network, variables, SMALL_IMAGES)
        expected = 0.5 + 0.25 * Forward(variables).enlarging(SMALL_IMAGES, 4, "nearest")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("factor", [4, 8])
    @pytest.mark.parametrize("upsampling", layers.UPSAMPLINGS)
    def test_enlarges_any_height_and_width(self, upsampling: str, factor: int) -> None:
        network = ENLARGING[factor].clone(upsampling=upsampling)
        variables = variables_of(network)
        for height, width in [(5, 5), (7, 9), (338, 5), (6, 641)]:
            images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
            found: Any = jax.eval_shape(network.apply, variables, images)
            assert found.shape == (2, factor * height, factor * width, 3)

    def test_has_nothing_that_training_would_move_by_itself(self) -> None:
        """Unlike the paper's, whose batch normalisation keeps running statistics."""
        variables = variables_of(ENLARGING[4])
        assert set(variables) == {"params"}
        found, updated = apply(
            ENLARGING[4], variables, SMALL_IMAGES, train=True, mutable=("batch_stats",)
        )
        assert updated == {}
        np.testing.assert_array_equal(found, apply(ENLARGING[4], variables, SMALL_IMAGES))


class TestStyles:
    VARIABLES = variables_of(THREE_STYLES)

    def alone(self, weights: Any) -> Any:
        """Variables of a network of one style, whose row is the weighted sum of the three."""

        def mixed(path: Any, leaf: np.ndarray) -> np.ndarray:
            return weights[None] @ leaf if networks.is_style_parameter(path) else leaf

        return jax.tree_util.tree_map_with_path(mixed, self.VARIABLES)

    @pytest.mark.parametrize("style", [0, 1, 2])
    def test_one_is_the_network_of_its_row(self, style: int) -> None:
        one_hot = np.eye(3, dtype=np.float32)[style]
        found = apply(THREE_STYLES, self.VARIABLES, IMAGES, one_hot)
        expected = apply(TINY, self.alone(one_hot), IMAGES)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("weights", [RATIO, np.array([2.0, -1.0, 0.5], np.float32)])
    def test_a_mix_is_of_their_parameters(self, weights: np.ndarray) -> None:
        """Dumoulin et al. 2017, section 3.3; also beyond one and below zero."""
        found = apply(THREE_STYLES, self.VARIABLES, IMAGES, weights)
        expected = apply(TINY, self.alone(weights), IMAGES)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

    def test_weights_for_all_images_or_for_each(self) -> None:
        rows = np.stack([RATIO, np.eye(3, dtype=np.float32)[1]])
        of_each = apply(THREE_STYLES, self.VARIABLES, IMAGES, rows)
        for index, row in enumerate(rows):
            of_all = apply(THREE_STYLES, self.VARIABLES, IMAGES, row)
            np.testing.assert_allclose(of_each[index], of_all[index], rtol=0, atol=1e-6)

    def test_more_begin_as_the_mean_and_leave_the_others_alone(self) -> None:
        params = networks.with_more_styles(self.VARIABLES["params"], 2)
        five = THREE_STYLES.clone(styles=5)
        for style in range(3):
            before = apply(THREE_STYLES, self.VARIABLES, IMAGES, np.eye(3, dtype=np.float32)[style])
            after = apply(five, {"params": params}, IMAGES, np.eye(5, dtype=np.float32)[style])
            np.testing.assert_array_equal(after, before)
        scale = self.VARIABLES["params"]["norm1"]["instance"]["scale"]
        grown = params["norm1"]["instance"]["scale"]
        np.testing.assert_array_equal(grown[:3], scale)
        mean = np.broadcast_to(scale.mean(0), (2, 2))
        np.testing.assert_allclose(grown[3:], mean, rtol=1e-6)

    def test_of_several_sizes_more_begin_as_the_mean_at_their_size(self) -> None:
        """Of one style with three sizes two more are made, each of them as the first."""
        params = networks.with_more_styles(self.VARIABLES["params"], 2, sizes=3)
        scale = self.VARIABLES["params"]["norm1"]["instance"]["scale"]
        grown = params["norm1"]["instance"]["scale"]
        np.testing.assert_array_equal(grown, np.concatenate([scale] * 3))

    def test_sizes_begin_alike(self) -> None:
        params = networks.with_sizes(self.VARIABLES["params"], 2)
        scale = self.VARIABLES["params"]["norm1"]["instance"]["scale"]
        grown = params["norm1"]["instance"]["scale"]
        np.testing.assert_array_equal(grown, scale[np.array([0, 0, 1, 1, 2, 2])])
        np.testing.assert_array_equal(
            params["conv1"]["kernel"], self.VARIABLES["params"]["conv1"]["kernel"]
        )

    def test_are_what_only_instance_normalisation_has(self) -> None:
        leaves = jax.tree_util.tree_leaves_with_path(self.VARIABLES["params"])
        of_styles = [leaf for path, leaf in leaves if networks.is_style_parameter(path)]
        assert {leaf.shape[0] for leaf in of_styles} == {3}
        # A scale and a bias after each of seven convolutions: all but the last of eight.
        assert len(of_styles) == 2 * 7
        assert len(leaves) == 2 * 7 + 2 * 8
        paper = jax.tree_util.tree_leaves_with_path(variables_of(TINY_PAPER)["params"])
        assert not any(networks.is_style_parameter(path) for path, _ in paper)


def test_inner_kernels_are_those_of_all_convolutions_but_the_last() -> None:
    leaves = jax.tree_util.tree_leaves_with_path(variables_of(THREE_STYLES)["params"])
    inner = [path for path, _ in leaves if networks.is_inner_kernel(path)]
    assert len(inner) == 7
    assert not any("output" in jax.tree_util.keystr(path) for path in inner)


class TestStatistics:
    """Shared by the tiles of a picture that does not fit into memory as a whole."""

    VARIABLES = variables_of(TINY)

    def collected(self, images: np.ndarray) -> tuple[jax.Array, Any]:
        return apply(TINY, self.VARIABLES, images, mutable=("statistics",))

    def given(self, statistics: Any, images: np.ndarray) -> jax.Array:
        return apply(TINY, {**self.VARIABLES, **statistics}, images)

    def test_are_of_all_images_together(self) -> None:
        images = IMAGES * np.array([0.3, 1.0], np.float32).reshape(2, 1, 1, 1)
        _, found = self.collected(images)
        first = Forward(self.VARIABLES).convolved(
            4.0 * images.astype(np.float64) - 2.0, self.VARIABLES["params"]["conv1"]
        )
        statistics = found["statistics"]["norm1"]["instance"]
        np.testing.assert_allclose(statistics["mean"].ravel(), first.mean((0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(statistics["variance"].ravel(), first.var((0, 1, 2)), rtol=1e-4)

    def test_are_used_where_they_are_given(self) -> None:
        """By an image alone as in the batch that they were collected from."""
        images = IMAGES * np.array([0.3, 1.0], np.float32).reshape(2, 1, 1, 1)
        output, statistics = self.collected(images)
        for index in range(2):
            found = self.given(statistics, images[index : index + 1])
            np.testing.assert_allclose(found[0], output[index], rtol=0, atol=1e-5)
        of_each = apply(TINY, self.VARIABLES, images)
        assert np.abs(of_each - output).max() > 0.05

    def test_of_copies_of_an_image_are_its_own(self) -> None:
        copies = np.repeat(IMAGES[:1], 2, axis=0)
        output, _ = self.collected(copies)
        of_each = apply(TINY, self.VARIABLES, copies)
        np.testing.assert_allclose(output, of_each, rtol=0, atol=1e-6)

    def test_tiles_have_the_pixels_of_the_whole(self) -> None:
        """Cut where the strides fall, with the network's reach around what is kept."""
        margin = -4 * (-tiling.reach(TINY) // 4)
        images = reference.random_images(1, 33, 157, 3)
        whole, statistics = self.collected(images)
        left = self.given(statistics, images[:, :, : 80 + margin])
        right = self.given(statistics, images[:, :, 80 - margin :])
        joined = np.concatenate([left[:, :, :80], right[:, :, margin:]], axis=2)
        np.testing.assert_allclose(joined, whole, rtol=0, atol=1e-5)


class TestReach:
    @pytest.mark.parametrize("upsampling", layers.UPSAMPLINGS)
    def test_is_how_far_the_gradient_of_a_pixel_goes(self, upsampling: str) -> None:
        network = StyleNetwork(width=4, residual_blocks=1, upsampling=upsampling)
        images = reference.random_images(1, 72, 72, 3)
        variables = variables_of(network)
        given = jax.eval_shape(lambda: network.apply(variables, images, mutable=["statistics"])[1])
        # So that every ReLU lets everything through.
        statistics = jax.tree_util.tree_map_with_path(
            lambda path, leaf: np.full(leaf.shape, -9 if path[-1].key == "mean" else 1, np.float32),
            given,
        )

        @jax.jit
        @jax.grad
        def gradient(images: jax.Array, place: jax.Array) -> jax.Array:
            output: Any = network.apply({**variables, **statistics}, images)
            return jnp.sum(output[0, place, place])

        furthest = 0
        # Two strides make four kinds of pixels.
        for place in range(34, 38):
            reached = np.nonzero(np.asarray(gradient(images, place))[0].any(-1))
            furthest = max(furthest, *(int(np.abs(axis - place).max()) for axis in reached))
        reach = tiling.reach(network)
        # A transposed convolution looks at fewer pixels than it is given here.
        assert reach - 4 < furthest <= reach if upsampling == "transposed" else furthest == reach

    @pytest.mark.parametrize("factor", [4, 8])
    @pytest.mark.parametrize("upsampling", layers.UPSAMPLINGS)
    def test_of_super_resolution_is_in_pixels_of_the_input(
        self, upsampling: str, factor: int
    ) -> None:
        network = ENLARGING[factor].clone(upsampling=upsampling)
        # Positive weights: every ReLU lets everything through, and nothing cancels.
        variables = jax.tree.map(np.abs, variables_of(network))
        images = 0.5 + 0.5 * reference.random_images(1, 25, 25, 3)

        @jax.jit
        @jax.grad
        def gradient(images: jax.Array, place: jax.Array) -> jax.Array:
            output: Any = network.apply(variables, images)
            return jnp.sum(output[0, place, place])

        furthest = 0
        # All output pixels of one pixel of the input.
        for place in range(12 * factor, 13 * factor):
            reached = np.nonzero(np.asarray(gradient(images, place))[0].any(-1))
            furthest = max(furthest, *(int(np.abs(axis - 12).max()) for axis in reached))
        reach = tiling.reach(network)
        # The other upsamplings look at fewer pixels than they are given here.
        assert furthest == reach if upsampling == "subpixel" else reach - 1 <= furthest <= reach

    def test_of_networks_of_full_size(self) -> None:
        """By hand: 17 around the residual blocks, and 8 for each of five; 7, and 2 for each."""
        assert tiling.reach(StyleNetwork()) == 17 + 5 * 8
        assert tiling.reach(SuperResolutionNetwork(upsampling="subpixel")) == 7 + 4 * 2


class TestMistakes:
    @pytest.mark.parametrize(
        ("images", "told"),
        [
            (jnp.zeros((16, 16, 3)), r"must be \(N, height, width, 3\), got shape \(16, 16, 3\)"),
            (jnp.zeros((1, 3, 16, 16)), "channels first: pass jnp.moveaxis"),
            (jnp.zeros((1, 16, 16, 4)), r"height, width, 3\), got shape \(1, 16, 16, 4\)"),
            (jnp.zeros((1, 16, 16, 3), jnp.uint8), r"pass images.astype\('float32'\) / 255"),
            (jnp.zeros((1, 4, 16, 3)), "images of 4x16 are too small: both sides need at least 5"),
        ],
    )
    def test_of_images(self, images: jax.Array, told: str) -> None:
        for network in (TINY, ENLARGING[4]):
            with pytest.raises(ValueError, match=told):
                apply(network, {}, images)

    def test_of_the_range_are_seen_where_values_are_known(self) -> None:
        for network in (TINY, ENLARGING[4]):
            with pytest.raises(ValueError, match="from 200 to 200: pass images / 255"):
                network.apply({}, jnp.full((1, 16, 16, 3), 200.0))

    def test_of_images_too_small_for_the_padding_of_the_paper(self) -> None:
        with pytest.raises(ValueError, match="both sides need at least 41"):
            apply(TINY_PAPER, {}, jnp.zeros((1, 40, 64, 3)))

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"normalization": "layer"}, "normalization must be one of .*instance.*, got 'layer'"),
            ({"upsampling": "bicubic"}, "upsampling must be one of .*nearest.*, got 'bicubic'"),
            ({"padding": "zeros"}, "padding must be one of .*reflect.*, got 'zeros'"),
            ({"output": "sigmoid"}, "output must be one of .*linear.*, got 'sigmoid'"),
            ({"normalization": "none", "styles": 2}, "several styles need normalization='inst"),
            ({"padding": "once", "residual_blocks": 4}, "padding='once' is for five residual"),
        ],
    )
    def test_of_options(self, options: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            StyleNetwork(**options).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"factor": 2}, r"factor must be one of \(4, 8\), got 2"),
            ({"factor": 6}, r"factor must be one of \(4, 8\), got 6"),
            ({"normalization": "instance"}, "normalization must be .*batch.*, got 'instance'"),
            ({"upsampling": "bicubic"}, "upsampling must be one of .*subpixel.*, got 'bicubic'"),
            ({"padding": "once"}, "padding must be one of .*zeros.*, got 'once'"),
            ({"output": "sigmoid", "skip": False}, "output must be one of .*tanh.*, got 'sigmoid'"),
            ({"output": "tanh"}, "skip=True needs output='linear'"),
        ],
    )
    def test_of_options_of_super_resolution(self, options: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            SuperResolutionNetwork(**options).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))

    @pytest.mark.parametrize("shape", [(), (2,), (3, 3), (1, 1, 3)])
    def test_of_weights(self, shape: tuple[int, ...]) -> None:
        variables = variables_of(THREE_STYLES)
        with pytest.raises(ValueError, match=r"must be \(3,\) or \(2, 3\), got shape"):
            apply(THREE_STYLES, variables, jnp.zeros((2, 16, 16, 3)), jnp.ones(shape))

    def test_of_no_weights(self) -> None:
        with pytest.raises(ValueError, match="style_weights are needed: the network has 3 styles"):
            apply(THREE_STYLES, variables_of(THREE_STYLES), jnp.zeros((1, 16, 16, 3)))


def test_initial_variables_follow_from_the_seed() -> None:
    network = ENLARGING_PAPER[4].clone(residual_blocks=0)
    first, again, other = (networks.initial_variables(network, seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, again, first)
    kernel, another = (found["params"]["conv1"]["kernel"] for found in (first, other))
    assert np.abs(kernel - another).max() > 0.01


class TestDescription:
    @pytest.mark.parametrize(
        "network",
        [
            THREE_STYLES,
            networks.paper_style_network(),
            ENLARGING[8],
            networks.paper_super_resolution_network(4),
        ],
    )
    def test_makes_the_same_network_again(self, network: Any) -> None:
        assert type(network)(**networks.describe(network.clone(dtype="bfloat16"))) == network


class TestPicturesInLargerArrays:
    """One compiled program computes pictures of many sizes, to rounding as if each had its own."""

    @pytest.mark.parametrize("size", [(13, 15), (16, 20), (5, 18)])
    @pytest.mark.parametrize(
        "network",
        [
            THREE_STYLES,
            THREE_STYLES.clone(upsampling="subpixel", normalization="instance"),
            ENLARGING[4],
            ENLARGING[8].clone(upsampling="subpixel"),
            ENLARGING[4].clone(normalization="batch", skip=False),
        ],
        ids=["style", "subpixel", "x4", "x8 subpixel", "x4 without skip"],
    )
    def test_have_the_same_pixels(self, network: Any, size: tuple[int, int]) -> None:
        height, width = size
        variables = variables_of(network)
        inputs = (RATIO,) if isinstance(network, StyleNetwork) else ()
        pictures = reference.random_images(2, height, width, 3)
        frame = np.full((2, 16, 20, 3), np.float32(1.0))
        frame[:, :height, :width] = pictures
        size_there = (np.int32(height), np.int32(width))
        found = apply(network, variables, frame, *inputs, size=size_there)
        expected = apply(network, variables, pictures, *inputs)
        found = found[:, : expected.shape[1], : expected.shape[2]]
        np.testing.assert_allclose(found, expected, atol=2e-5)

    def test_share_statistics_without_what_is_beside_them(self) -> None:
        frame = np.ones((2, 16, 20, 3), np.float32)
        frame[:, :13, :15] = IMAGES
        variables = variables_of(THREE_STYLES)
        options: Any = {"mutable": ("statistics",)}
        size = (np.int32(13), np.int32(15))
        _, found = apply(THREE_STYLES, variables, frame, RATIO, size=size, **options)
        _, expected = apply(THREE_STYLES, variables, IMAGES, RATIO, **options)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, found, expected)

    @pytest.mark.parametrize(
        "network", [TINY_PAPER, ENLARGING_PAPER[4], TINY.clone(upsampling="transposed")]
    )
    def test_are_refused_where_borders_are_no_reflections(self, network: Any) -> None:
        assert not networks.fits_frames(network)
        with pytest.raises(ValueError, match="padding='reflect'"):
            network.apply(variables_of(network), np.ones((1, 48, 48, 3), np.float32), size=(40, 40))
