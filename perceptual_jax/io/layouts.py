"""Which tensors make a VGG: in our parameter trees, and in torchvision's state dicts."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from perceptual_jax.errors import UserError
from perceptual_jax.io.statedict import Shapes, differences

Params = dict[str, dict[str, np.ndarray]]

# For RGB in [0, 1].  "torchvision" is what its own training used.  "oxford" is what torchvision
# states for its copy of the Oxford features; it rounds the authors' mean, (123.68, 116.779,
# 103.939) / 255, which the embedded file has, to whole grey levels.
NORMALIZATIONS = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "oxford": ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
}

# Convolutions in each of the five blocks, and their output channels.
_CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)

# The fully connected layers, as torchvision and timm call them.
_UNUSED = ("classifier.", "avgpool.", "pre_logits.", "head.")
_CLASSIFIER_BIAS = "classifier.0.bias"

# SHA-256 of the Oxford network's first kernel, as float16 in torchvision's order (OIHW).
_OXFORD_FIRST_KERNEL = "b45cfdd6d2b58b62e381cb9a7e95157765d4e057fa4110e31581541aba591e0e"


def tree_shapes(depth: int) -> Shapes:
    """Name (`conv1_1/kernel`) and shape of each leaf in the tree of VGG-16 or VGG-19."""
    shapes: Shapes = {"normalization/mean": (3,), "normalization/std": (3,)}
    inputs = 3
    for layer in _torch_indices(depth):
        outputs = _CHANNELS[int(layer[len("conv")]) - 1]
        shapes[f"{layer}/kernel"] = (3, 3, inputs, outputs)
        shapes[f"{layer}/bias"] = (outputs,)
        inputs = outputs
    return shapes


def torch_shapes(depth: int) -> Shapes:
    """Name (`features.0.weight`) and shape of each feature tensor of torchvision's network."""
    ours = tree_shapes(depth)
    shapes: Shapes = {}
    for layer, index in _torch_indices(depth).items():
        height, width, inputs, outputs = ours[f"{layer}/kernel"]
        shapes[f"features.{index}.weight"] = (outputs, inputs, height, width)
        shapes[f"features.{index}.bias"] = (outputs,)
    return shapes


def is_used(name: str) -> bool:
    """Whether a state dict's tensor is worth reading: features, unknowns, the NaN classifier."""
    return not name.startswith(_UNUSED) or name == _CLASSIFIER_BIAS


def tree_problems(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """What keeps flat `tensors` from being the parameters of a VGG; empty if nothing does."""
    return _problems(tensors, [tree_shapes(depth) for depth in _CONVOLUTIONS])


def from_torchvision(
    state_dict: Mapping[str, Any],
    *,
    normalization: Literal["torchvision", "oxford"] = "torchvision",
) -> Params:
    """Parameters from a state dict in the layout of torchvision's VGG-16 and VGG-19.

    Args:
      state_dict: arrays `features.N.weight` (OIHW) and `features.N.bias`.  The classifier may be
        there too, under torchvision's or timm's names, and is ignored.
      normalization: what the network was trained with: `"torchvision"`, or `"oxford"` for
        torchvision's `VGG16_Weights.IMAGENET1K_FEATURES`.

    Returns:
      `{"normalization": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel": (3, 3, 3, 64),
      "bias": (64,)}, ...}`, float32, kernels HWIO.

    Raises:
      UserError: tensors are missing, surplus, misshapen or not finite; the message lists all.
      ValueError: an unknown normalisation.
    """
    if normalization not in NORMALIZATIONS:
        known = ", ".join(NORMALIZATIONS)
        raise ValueError(f"normalization must be one of {known}, got {normalization!r}")
    arrays = {k: np.asarray(v) for k, v in state_dict.items() if not k.startswith(_UNUSED)}
    problems = _problems(arrays, [torch_shapes(depth) for depth in _CONVOLUTIONS])
    if problems:
        raise UserError(
            "not a state dict of torchvision's VGG-16 or VGG-19 (without batch normalisation): "
            + "; ".join(problems)
        )
    mean, std = NORMALIZATIONS[normalization]
    params = {
        "normalization": {"mean": np.array(mean, np.float32), "std": np.array(std, np.float32)}
    }
    depth = next(depth for depth in _CONVOLUTIONS if torch_shapes(depth).keys() == arrays.keys())
    for layer, index in _torch_indices(depth).items():
        kernel = arrays[f"features.{index}.weight"].transpose(2, 3, 1, 0)
        params[layer] = {
            "kernel": np.ascontiguousarray(kernel, np.float32),
            "bias": arrays[f"features.{index}.bias"].astype(np.float32),
        }
    return params


def is_oxford(state_dict: Mapping[str, np.ndarray]) -> bool:
    """Whether a torchvision-layout state dict is the Oxford network, which has its own mean.

    Told by the first kernel, or by the classifier: torchvision's `IMAGENET1K_FEATURES` file
    fills it with NaNs, and no other does.
    """
    classifier = state_dict.get(_CLASSIFIER_BIAS)
    if classifier is not None and classifier.shape == (4096,) and np.isnan(classifier).all():
        return True
    kernel = state_dict.get("features.0.weight")
    if kernel is None or kernel.shape != (64, 3, 3, 3):
        return False
    rounded = np.ascontiguousarray(kernel, "<f2")
    return hashlib.sha256(rounded.data).hexdigest() == _OXFORD_FIRST_KERNEL


def _torch_indices(depth: int) -> dict[str, int]:
    """Each convolution's place among the modules of torchvision's `features`."""
    indices, place = {}, 0
    for block, count in enumerate(_CONVOLUTIONS[depth], 1):
        for index in range(1, count + 1):
            indices[f"conv{block}_{index}"] = place
            place += 2  # The convolution and its ReLU;
        place += 1  # the pooling.
    return indices


def _problems(tensors: Mapping[str, np.ndarray], candidates: list[Shapes]) -> list[str]:
    """The differences from the candidate that is nearest."""
    return min((differences(tensors, shapes) for shapes in candidates), key=len)
