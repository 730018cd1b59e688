"""Networks of PyTorch's fast_neural_style: the same pixels as the definition gives."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from perceptual_jax.pretrained import transformer_net
from tests import reference

State = dict[str, np.ndarray]


def random_transformer_net(width: int, residual_blocks: int, seed: int = 0) -> State:
    """A state dict of a `TransformerNet`, whose pictures fill most of 0..255."""
    random = np.random.default_rng(seed)
    state: State = {}

    def convolution(name: str, size: int, inputs: int, outputs: int, scale: float = 1) -> None:
        kernel = random.standard_normal((outputs, inputs, size, size), np.float32)
        state[f"{name}.conv2d.weight"] = kernel * np.float32(scale / (size * inputs**0.5))
        state[f"{name}.conv2d.bias"] = random.standard_normal(outputs, np.float32)

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + random.standard_normal(channels, np.float32) / 4
        state[f"{name}.bias"] = random.standard_normal(channels, np.float32) / 4

    channels = [3, width, 2 * width, 4 * width]
    for index, size in ((1, 9), (2, 3), (3, 3)):
        convolution(f"conv{index}", size, channels[index - 1], channels[index])
        norm(f"in{index}", channels[index])
    for block in range(1, residual_blocks + 1):
        for index in (1, 2):
            convolution(f"res{block}.conv{index}", 3, 4 * width, 4 * width)
            norm(f"res{block}.in{index}", 4 * width)
    for index in (1, 2):
        convolution(f"deconv{index}", 3, channels[4 - index], channels[3 - index])
        norm(f"in{3 + index}", channels[3 - index])
    convolution("deconv3", 9, width, 3, scale=40)
    state["deconv3.conv2d.bias"] += 127
    return state


def computed_by_pytorch(state: State, pixels: np.ndarray) -> np.ndarray:
    """What `TransformerNet` computes, in float64, of `(N, H, W, 3)` in 0..255."""

    def convolved(x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        kernel = state[f"{name}.conv2d.weight"].transpose(2, 3, 1, 0)
        margin = (len(kernel) // 2, len(kernel) // 2)
        padded = np.pad(x, ((0, 0), margin, margin, (0, 0)), mode="reflect")
        every = reference.convolve(padded, kernel, "VALID")[:, ::stride, ::stride]
        return every + state[f"{name}.conv2d.bias"]

    def normalized(x: np.ndarray, name: str) -> np.ndarray:
        mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        normal = (x - mean) / np.sqrt(variance + 1e-5)
        return normal * state[f"{name}.weight"] + state[f"{name}.bias"]

    def activated(x: np.ndarray, name: str) -> np.ndarray:
        return np.maximum(normalized(x, name), 0)

    x = activated(convolved(pixels.astype(np.float64), "conv1"), "in1")
    x = activated(convolved(x, "conv2", stride=2), "in2")
    x = activated(convolved(x, "conv3", stride=2), "in3")
    block = 1
    while f"res{block}.conv1.conv2d.weight" in state:
        y = activated(convolved(x, f"res{block}.conv1"), f"res{block}.in1")
        x = x + normalized(convolved(y, f"res{block}.conv2"), f"res{block}.in2")
        block += 1
    for index in (1, 2):
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        x = activated(convolved(x, f"deconv{index}"), f"in{3 + index}")
    return convolved(x, "deconv3")


@pytest.mark.parametrize(
    ("height", "width", "channels", "residual_blocks"), [(24, 20, 4, 1), (23, 17, 3, 2)]
)
def test_same_pixels(height: int, width: int, channels: int, residual_blocks: int) -> None:
    state = random_transformer_net(channels, residual_blocks)
    pixels = np.random.default_rng(1).integers(0, 256, (2, height, width, 3))
    # If a side is no multiple of 4, their output is larger than the input, and ours is cropped.
    expected = computed_by_pytorch(state, pixels)[:, :height, :width]
    assert expected.std() > 20

    network, variables = transformer_net.from_transformer_net(state)
    found = jax.jit(network.apply)(variables, jnp.asarray(pixels / 255, jnp.float32))
    np.testing.assert_allclose(found, expected / 255, atol=1e-4)


def test_the_network_has_the_width_and_depth_of_the_file() -> None:
    network, variables = transformer_net.from_transformer_net(random_transformer_net(4, 2))
    assert (network.width, network.residual_blocks, network.styles) == (4, 2, 1)
    params = variables["params"]
    assert params["residual2"]["conv1"]["kernel"].shape == (3, 3, 16, 16)
    assert params["up_norm2"]["instance"]["scale"].shape == (1, 4)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


def test_layers_between_the_first_and_the_last_are_kept_to_the_bit() -> None:
    state = random_transformer_net(4, 1)
    params = transformer_net.from_transformer_net(state)[1]["params"]
    kernel = params["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel[2, 1].T, state["conv2.conv2d.weight"][:, :, 2, 1])
    np.testing.assert_array_equal(params["up1"]["bias"], state["deconv1.conv2d.bias"])
    np.testing.assert_array_equal(params["norm3"]["instance"]["bias"][0], state["in3.bias"])


def test_running_statistics_of_old_files_are_ignored() -> None:
    state = random_transformer_net(2, 1)
    old: State = {
        "in1.running_mean": np.full(2, np.nan, np.float32),
        "res1.in2.running_var": np.ones(8, np.float32),
        "in5.num_batches_tracked": np.array(5),
    }
    _, with_them = transformer_net.from_transformer_net(state | old)
    _, without = transformer_net.from_transformer_net(state)
    jax.tree.map(np.testing.assert_array_equal, with_them, without)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_dtypes(dtype: Any) -> None:
    state = {name: v.astype(dtype) for name, v in random_transformer_net(2, 1).items()}
    _, variables = transformer_net.from_transformer_net(state)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    scale = variables["params"]["norm1"]["instance"]["scale"][0]
    np.testing.assert_array_equal(scale, state["in1.weight"].astype(np.float32))


def test_all_problems_are_reported_at_once() -> None:
    state = random_transformer_net(4, 2)
    del state["res1.conv2.conv2d.bias"]
    state["conv1.conv2d.weight"] = np.zeros((4, 1, 9, 9))
    state["in2.weight"] = np.full(8, np.inf)
    state["deconv2.conv2d.bias"] = np.zeros(4, np.int64)
    state["features.0.weight"] = np.zeros(3)
    with pytest.raises(ValueError, match="fast_neural_style") as caught:
        transformer_net.from_transformer_net(state)
    for problem in (
        "res1.conv2.conv2d.bias is missing",
        "conv1.conv2d.weight has shape (4, 1, 9, 9) instead of (4, 3, 9, 9)",
        "in2.weight is not finite",
        "deconv2.conv2d.bias has dtype int64",
        "features.0.weight is surplus",
    ):
        assert problem in str(caught.value)
    assert str(caught.value).count(";") == 4


@pytest.mark.parametrize("state", [{}, {"in1.weight": np.ones(())}, {"in1.weight": np.ones(0)}])
def test_without_a_first_layer_the_usual_width_is_expected(state: State) -> None:
    with pytest.raises(ValueError, match=r"conv3\.conv2d\.bias is missing"):
        transformer_net.from_transformer_net(state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "style.net."])
def test_what_a_wrapper_puts_before_all_names_goes(prefix: str) -> None:
    state = random_transformer_net(2, 1)
    network, variables = transformer_net.from_transformer_net(state)
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    same_network, same = transformer_net.from_transformer_net(wrapped)
    assert same_network == network
    jax.tree.map(np.testing.assert_array_equal, same, variables)


def test_more_blocks_than_any_network_has_are_refused() -> None:
    state = {f"res{index}.conv1.conv2d.weight": np.ones((1, 1, 3, 3)) for index in range(2000)}
    with pytest.raises(ValueError, match="residual_blocks=2000 is more than 100"):
        transformer_net.from_transformer_net(state)


def test_a_missing_block_is_reported() -> None:
    state = {
        name.replace("res2.", "res999999999."): value
        for name, value in random_transformer_net(2, 2).items()
    }
    with pytest.raises(
        ValueError, match=r"res2\.in1\.weight is missing.*res999999999.* is surplus"
    ):
        transformer_net.from_transformer_net(state)
