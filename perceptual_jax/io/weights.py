"""VGG parameters from a name or a file: our own format, and torchvision's state dicts.

A parameter tree is `{"normalization": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel":
(3, 3, 3, 64), "bias": (64,)}, ...}` in float32 NumPy arrays, kernels HWIO, for RGB in [0, 1].
The normalisation travels with the weights because a network that is fed another one's still
runs, and its features are quietly wrong.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors

from perceptual_jax.errors import UserError
from perceptual_jax.io import resources, tensorfile

Params = dict[str, dict[str, np.ndarray]]
Shapes = dict[str, tuple[int, ...]]

FORMAT = "perceptual_jax.vgg"
VERSION = "1"

# Convolutions in each of the five blocks, and their output channels.
_CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


def load(name_or_path: str | Path = "vgg16") -> Params:
    """The parameters behind a name or a path.

    Args:
      name_or_path: `vgg16` (embedded), or a file of ours.

    Returns:
      The float32 tree of the module's head.

    Raises:
      UserError: no such name or file, or the file is damaged or is not a VGG.
    """
    if name_or_path == "vgg16":
        return read(resources.folder("weights") / "vgg16.safetensors")
    return read(Path(name_or_path).expanduser())


def read(path: Path) -> Params:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as a safetensors file: {error}") from error
    tensorfile.check(path, tensors, metadata)
    return _nested(tensors)


def _nested(tensors: Mapping[str, np.ndarray]) -> Params:
    params: Params = {}
    for name, tensor in tensors.items():
        layer, part = name.split("/")
        params.setdefault(layer, {})[part] = tensor.astype(np.float32)
    return params


def save(
    path: str | Path,
    params: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    source: str,
    license: str,
    dtype: Literal["float16", "float32"] = "float16",
) -> None:
    """Writes parameters as a file of ours: safetensors, the same bytes every time.

    Args:
      path: the file, replaced as a whole if it is there.
      params: the tree of the module's head, of NumPy or JAX arrays.
      name: what the weights are called.
      source: where they come from, in words or as an address.
      license: under what they may be used.
      dtype: of kernels and biases; float16 halves the file and moves features by less than 1e-3.
        The normalisation stays float32.

    Raises:
      ValueError: the tree is not a VGG, or a value does not fit into `dtype`.
    """
    tensors = {}
    for layer, parts in params.items():
        kind = np.float32 if layer == "normalization" else np.dtype(dtype)
        for part, value in parts.items():
            with np.errstate(over="ignore"):
                tensors[f"{layer}/{part}"] = np.asarray(value, np.float32).astype(kind)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "source": source,
        "license": license,
    }
    tensorfile.write(Path(path), tensors, metadata)
