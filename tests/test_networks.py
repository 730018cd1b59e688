"""Image transformation networks: the paper's layers, the values of NumPy, styles and statistics.

The networks have a few channels, except where the paper's own sizes are counted.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import layers, networks
from perceptual_jax.networks import StyleNetwork
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TINY = StyleNetwork(width=2, residual_blocks=1)
THREE_STYLES = StyleNetwork(styles=3, width=2, residual_blocks=1)
TINY_PAPER = networks.paper_style_network().clone(width=2)
RATIO = np.array([0.3, 0.0, 0.7], np.float32)

# Of sides that no stride divides.  Most tests share them, since every other size is another program
# to compile.
IMAGES = reference.random_images(2, 13, 15, 3)

# One compiled program instead of one for every operation.
apply = jax.jit(
    lambda network, variables, images, weights=None, **options: network.apply(
        variables, images, weights, **options
    ),
    static_argnums=0,
    static_argnames=("train", "mutable"),
)


def variables_of(network: StyleNetwork) -> Any:
    side = networks.smallest_side(network)
    shapes = jax.eval_shape(
        network.init,
        jax.random.key(0),
        jnp.zeros((1, side, side, 3)),
        jnp.zeros(network.styles),
    )
    return reference.random_variables(shapes)


def pad(x: np.ndarray, margin: int, mode: Any = "reflect") -> np.ndarray:
    return np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode=mode)


class Forward:
    """The network in float64 NumPy, from table 1 of the supplement and the docstrings."""

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

    def batch_norm(self, x: np.ndarray, layer: Any, running: Any) -> np.ndarray:
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
        params, running = self.variables["params"], self.variables["batch_stats"]

        def normalized(x: np.ndarray, *path: str) -> np.ndarray:
            layer, statistics = params, running
            for name in (*path, "batch"):
                layer, statistics = layer[name], statistics[name]
            return self.batch_norm(x, layer, statistics)

        x = pad(4.0 * np.asarray(images, np.float64) - 2.0, 40)
        for index in (1, 2, 3):
            x = self.convolved(x, params[f"conv{index}"], "zeros", stride=1 if index == 1 else 2)
            x = np.maximum(normalized(x, f"norm{index}"), 0)
        for name in (f"residual{index}" for index in range(1, 6)):
            y = normalized(self.convolved(x, params[name]["conv1"], "none"), name, "norm1")
            y = self.convolved(np.maximum(y, 0), params[name]["conv2"], "none")
            x = x[:, 2:-2, 2:-2] + normalized(y, name, "norm2")
        for index in (1, 2):
            x = self.transposed(x, params[f"up{index}"])
            x = np.maximum(normalized(x, f"up_norm{index}"), 0)
        height, width = images.shape[1:3]
        x = self.convolved(x, params["output"], "zeros")
        return (0.5 + 0.5 * np.tanh(x))[:, :height, :width]

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

    def shapes(self) -> dict[str, Any]:
        """Of what every layer gives for a photo of 256x256."""
        images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
        variables = jax.eval_shape(self.NETWORK.init, jax.random.key(0), images)
        output, found = jax.eval_shape(
            lambda variables, images: self.NETWORK.apply(
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

    def test_every_layer_has_its_size(self) -> None:
        found = self.shapes()
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
        params = variables_of(self.NETWORK)["params"]
        counts = {
            name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
        }
        assert counts == expected
        assert sum(counts.values()) == 1_679_235

    def test_has_one_style(self) -> None:
        with pytest.raises(ValueError, match="several styles need normalization='instance'"):
            apply(networks.paper_style_network(2), {}, jnp.zeros((1, 64, 64, 3)))

    @pytest.mark.parametrize("train", [False, True])
    def test_has_the_values_of_numpy(self, train: bool) -> None:
        variables = variables_of(TINY_PAPER)
        images = reference.random_images(2, 41, 43, 3)
        found, updated = apply(TINY_PAPER, variables, images, train=train, mutable=("batch_stats",))
        expected = Forward(variables, train=train).paper(images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        # In training, the running statistics go a tenth of the way to the batch's.
        first = Forward(variables).convolved(
            pad(4.0 * images.astype(np.float64) - 2.0, 40), variables["params"]["conv1"], "zeros"
        )
        share = 0.1 if train else 0.0
        for name, of_batch in (("mean", first.mean((0, 1, 2))), ("var", first.var((0, 1, 2)))):
            before = variables["batch_stats"]["norm1"]["batch"][name]
            after = (updated["batch_stats"] or variables["batch_stats"])["norm1"]["batch"][name]
            expected = (1 - share) * before + share * of_batch
            np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)

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

    def test_are_what_only_instance_normalisation_has(self) -> None:
        leaves = jax.tree_util.tree_leaves_with_path(self.VARIABLES["params"])
        of_styles = [leaf for path, leaf in leaves if networks.is_style_parameter(path)]
        assert {leaf.shape[0] for leaf in of_styles} == {3}
        # A scale and a bias after each of seven convolutions: all but the last of eight.
        assert len(of_styles) == 2 * 7
        assert len(leaves) == 2 * 7 + 2 * 8
        paper = jax.tree_util.tree_leaves_with_path(variables_of(TINY_PAPER)["params"])
        assert not any(networks.is_style_parameter(path) for path, _ in paper)


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
        margin = -4 * (-networks.reach(TINY) // 4)
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
        reach = networks.reach(network)
        # A transposed convolution looks at fewer pixels than it is given here.
        assert reach - 4 < furthest <= reach if upsampling == "transposed" else furthest == reach

    def test_of_the_default_network(self) -> None:
        """By hand: 17 around the residual blocks, and 8 for each of five."""
        assert networks.reach(StyleNetwork()) == 17 + 5 * 8


class TestMistakes:
    VARIABLES = variables_of(TINY)

    @pytest.mark.parametrize(
        ("images", "told"),
        [
            (jnp.zeros((16, 16, 3)), r"must be \(N, height, width, 3\), got shape \(16, 16, 3\)"),
            (jnp.zeros((1, 3, 16, 16)), r"must be \(N, height, width, 3\), got shape"),
            (jnp.zeros((1, 16, 16, 4)), r"must be \(N, height, width, 3\), got shape"),
            (jnp.zeros((1, 16, 16, 3), jnp.uint8), r"floating point in \[0, 1\], got uint8"),
            (jnp.zeros((1, 4, 16, 3)), "images of 4x16 are too small: both sides need at least 5"),
        ],
    )
    def test_of_images(self, images: jax.Array, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            apply(TINY, self.VARIABLES, images)

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

    @pytest.mark.parametrize("shape", [(), (2,), (3, 3), (1, 1, 3)])
    def test_of_weights(self, shape: tuple[int, ...]) -> None:
        variables = variables_of(THREE_STYLES)
        with pytest.raises(ValueError, match=r"must be \(3,\) or \(2, 3\), got shape"):
            apply(THREE_STYLES, variables, jnp.zeros((2, 16, 16, 3)), jnp.ones(shape))

    def test_of_no_weights(self) -> None:
        with pytest.raises(ValueError, match="style_weights are needed: the network has 3 styles"):
            apply(THREE_STYLES, variables_of(THREE_STYLES), jnp.zeros((1, 16, 16, 3)))


class TestDescription:
    @pytest.mark.parametrize("network", [THREE_STYLES, networks.paper_style_network()])
    def test_makes_the_same_network_again(self, network: StyleNetwork) -> None:
        assert StyleNetwork(**networks.describe(network.clone(dtype="bfloat16"))) == network

    def test_of_variables_of_a_default_network(self) -> None:
        network = StyleNetwork(styles=4, width=3, residual_blocks=2)
        assert networks.of_variables(variables_of(network)) == network
