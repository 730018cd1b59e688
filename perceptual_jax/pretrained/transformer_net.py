"""Style networks of PyTorch's example `fast_neural_style`, converted to `StyleNetwork`.

Its `TransformerNet` is our network with other names, its axes in another order, and pixels
in 0..255 on both sides.  The change of scale becomes part of the first and the last convolution,
so a loaded network is used as any other and computes the same pictures.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.pretrained import tensorfile

# Before PyTorch 0.4 instance normalisation collected running statistics, but never used them.
_UNUSED = (".running_mean", ".running_var", ".num_batches_tracked")


class _Layer(NamedTuple):
    """A convolution and the normalisation after it, by their names there and here."""

    their_convolution: str
    convolution: str
    their_norm: str
    norm: str
    size: int
    inputs: int
    outputs: int


def is_used(name: str) -> bool:
    """Whether a tensor of a state dict has to be read."""
    return not name.endswith(_UNUSED)


def from_transformer_net(
    state_dict: Mapping[str, Any],
) -> tuple[StyleNetwork, dict[str, Any]]:
    """Converts a state dict of `TransformerNet` to a network that gives the same pictures.

    Args:
      state_dict: `conv1.conv2d.weight` (OIHW), `in1.weight` and so on, of any width and number of
        residual blocks, with or without the running statistics of old files.

    Returns:
      The network, of one style, and its variables, `{"params": ...}`, float32, kernels HWIO.

    Raises:
      ValueError: tensors are missing, surplus, misshapen or not finite; the message lists all.
    """
    arrays = {name: np.asarray(v) for name, v in state_dict.items() if is_used(name)}
    network = StyleNetwork(width=_width(arrays), residual_blocks=_residual_blocks(arrays))
    layers = list(_layers(network.width, network.residual_blocks))
    if problems := tensorfile.mismatches(arrays, _shapes(layers)):
        raise ValueError(
            "not a state dict of TransformerNet, the network of PyTorch's example "
            f"fast_neural_style: {'; '.join(problems)}"
        )
    leaves = {}
    for layer in layers:
        kernel = arrays[f"{layer.their_convolution}.weight"].transpose(2, 3, 1, 0)
        bias = arrays[f"{layer.their_convolution}.bias"]
        kernel, bias = _rescaled(
            layer.convolution, kernel.astype(np.float64), bias.astype(np.float64)
        )
        leaves[f"params/{layer.convolution}/kernel"] = kernel
        leaves[f"params/{layer.convolution}/bias"] = bias
        if layer.norm:
            row = f"params/{layer.norm}/instance"
            leaves[f"{row}/scale"] = arrays[f"{layer.their_norm}.weight"][None]
            leaves[f"{row}/bias"] = arrays[f"{layer.their_norm}.bias"][None]
    contiguous = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in leaves.items()}
    return network, traverse_util.unflatten_dict(contiguous, sep="/")


def _width(arrays: Mapping[str, np.ndarray]) -> int:
    """Channels of the first layer; the default if it is missing, which is an error later."""
    shape = arrays["in1.weight"].shape if "in1.weight" in arrays else ()
    return shape[0] if len(shape) == 1 and shape[0] else StyleNetwork.width


def _residual_blocks(arrays: Mapping[str, np.ndarray]) -> int:
    # The count, as the number in a name could be anything.
    return len({match[0] for name in arrays if (match := re.match(r"res\d+\.", name))})


def _layers(width: int, residual_blocks: int) -> Iterator[_Layer]:
    middle = 4 * width
    yield _Layer("conv1.conv2d", "conv1", "in1", "norm1", 9, 3, width)
    yield _Layer("conv2.conv2d", "conv2", "in2", "norm2", 3, width, 2 * width)
    yield _Layer("conv3.conv2d", "conv3", "in3", "norm3", 3, 2 * width, middle)
    for block in range(1, residual_blocks + 1):
        for index in (1, 2):
            yield _Layer(
                f"res{block}.conv{index}.conv2d",
                f"residual{block}/conv{index}",
                f"res{block}.in{index}",
                f"residual{block}/norm{index}",
                3,
                middle,
                middle,
            )
    yield _Layer("deconv1.conv2d", "up1", "in4", "up_norm1", 3, middle, 2 * width)
    yield _Layer("deconv2.conv2d", "up2", "in5", "up_norm2", 3, 2 * width, width)
    yield _Layer("deconv3.conv2d", "output", "", "", 9, width, 3)


def _shapes(layers: list[_Layer]) -> tensorfile.Shapes:
    shapes: tensorfile.Shapes = {}
    for layer in layers:
        kernel = (layer.outputs, layer.inputs, layer.size, layer.size)
        shapes[f"{layer.their_convolution}.weight"] = kernel
        shapes[f"{layer.their_convolution}.bias"] = (layer.outputs,)
        if layer.norm:
            shapes[f"{layer.their_norm}.weight"] = (layer.outputs,)
            shapes[f"{layer.their_norm}.bias"] = (layer.outputs,)
    return shapes


def _rescaled(
    convolution: str, kernel: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A kernel (HWIO) and bias for our range of pixels.

    A pixel x in 0..255 is u in our first convolution, where x = 255 (0.5 + u / 4); our last one
    gives y where theirs gives 255 (0.5 + y / 4).
    """
    if convolution == "conv1":
        return kernel * (255 / 4), bias + 127.5 * kernel.sum((0, 1, 2))
    if convolution == "output":
        return kernel * (4 / 255), bias * (4 / 255) - 2
    return kernel, bias
