"""Style networks of PyTorch's example `fast_neural_style`, converted to `StyleNetwork`.

Its `TransformerNet` is our network with other names, its axes in another order, and pixels
in 0..255 on both sides.  The change of scale becomes part of the first and the last convolution,
so a loaded network is used as any other and computes the same pictures.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from perceptual_jax.models.networks import Network, StyleNetwork, initial_variables
from perceptual_jax.pretrained import tensorfile, torch_pickle

# Before PyTorch 0.4 instance normalisation collected running statistics, but never used them.
_UNUSED = (".running_mean", ".running_var", ".num_batches_tracked")

# Beyond these a file is no network but an attempt to keep the reader busy.
_LARGEST = {"styles": 10_000, "width": 1024, "residual_blocks": 100}

# Replaced one after the other, these make their names of ours.
_THEIR_NAMES = {
    "params/": "",
    "residual": "res",
    "up_norm1": "in4",
    "up_norm2": "in5",
    "norm": "in",
    "up": "deconv",
    "output": "deconv3",
    "/instance/scale": ".weight",
    "/instance/bias": ".bias",
    "/kernel": ".conv2d.weight",
    "/bias": ".conv2d.bias",
    "/": ".",
}


def is_used(name: str) -> bool:
    """Whether a tensor of a state dict has to be read."""
    return not name.endswith(_UNUSED)


def leaf_shapes(network: Network) -> tensorfile.Shapes:
    """Name (`params/conv1/kernel`) and shape of each leaf of a network's variables.

    Raises:
      ValueError: the network is larger than any that is trained.
    """
    for field, most in _LARGEST.items():
        if (found := getattr(network, field, 1)) > most:
            raise ValueError(f"{field}={found} is more than {most}")
    shapes = jax.eval_shape(lambda: initial_variables(network, seed=0))
    leaves = traverse_util.flatten_dict(shapes, sep="/")
    return {name: leaf.shape for name, leaf in leaves.items()}


def from_transformer_net(state_dict: Mapping[str, Any]) -> tuple[StyleNetwork, dict[str, Any]]:
    """Converts a state dict of `TransformerNet` to a network that gives the same pictures.

    Args:
      state_dict: `conv1.conv2d.weight` (OIHW), `in1.weight` and so on, of any width and number of
        residual blocks, under what a wrapper puts before all names; running statistics of old files
        are ignored.

    Returns:
      The network, of one style, and its variables, `{"params": ...}`, float32, kernels HWIO.

    Raises:
      ValueError: tensors are missing, surplus, misshapen or not finite; the message lists all.
    """
    named = torch_pickle.without_prefix(state_dict, "deconv1.conv2d.weight")
    arrays = {name: np.asarray(v) for name, v in named.items() if is_used(name)}
    # Residual blocks are counted, as the number in a name could be anything.
    blocks = {match[0] for name in arrays if (match := re.match(r"res\d+\.", name))}
    width = np.size(arrays.get("in1.weight", ())) or StyleNetwork.width  # Without: an error below.
    network = StyleNetwork(width=width, residual_blocks=len(blocks))
    shapes = leaf_shapes(network)
    their_shapes = {
        _their_name(name): (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[-1:]
        for name, shape in shapes.items()
    }
    if problems := tensorfile.mismatches(arrays, their_shapes):
        raise ValueError(
            "not a state dict of TransformerNet, the network of PyTorch's example "
            f"fast_neural_style: {'; '.join(problems)}"
        )
    leaves = {}
    for name, shape in shapes.items():
        leaf = arrays[_their_name(name)].astype(np.float64)
        leaves[name] = leaf.transpose(2, 3, 1, 0) if leaf.ndim == 4 else leaf.reshape(shape)
    # A pixel x in 0..255 is u in our first convolution, where x = 255 (0.5 + u / 4); our last one
    # gives y where theirs gives 255 (0.5 + y / 4).
    leaves["params/conv1/bias"] += 127.5 * leaves["params/conv1/kernel"].sum((0, 1, 2))
    leaves["params/conv1/kernel"] *= 255 / 4
    leaves["params/output/kernel"] *= 4 / 255
    leaves["params/output/bias"] = leaves["params/output/bias"] * (4 / 255) - 2
    float32 = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in leaves.items()}
    return network, traverse_util.unflatten_dict(float32, sep="/")


def _their_name(name: str) -> str:
    for ours, theirs in _THEIR_NAMES.items():
        name = name.replace(ours, theirs)
    return name
