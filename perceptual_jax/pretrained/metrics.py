"""Parameters of LPIPS and DISTS: a network and what its features weigh, in one tree.

A tree is that of the network, `{"normalization": ..., "conv1": {"kernel": ..., "bias": ...}, ...}`,
with `"heads": {"relu1": (64,), ...}` for LPIPS, and with `"alpha"` and `"beta"`, both `{"pixels":
(3,), "relu1_2": (64,), ...}`, for DISTS.  All are float32 NumPy arrays.

The heads were trained on the features of torchvision's networks.  AlexNet comes with the package,
VGG-16 does not: it is `vgg16-torchvision` of `load_vgg`.
"""

from pathlib import Path

import numpy as np

from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained import tensorfile
from perceptual_jax.pretrained.tensorfile import Shapes
from perceptual_jax.pretrained.torchvision import NORMALIZATIONS, Params
from perceptual_jax.pretrained.vgg import load_vgg

FORMAT = "perceptual_jax.metrics"
VERSION = "1"

# The layers that are compared, and their channels.
LPIPS_LAYERS = {
    "alex": {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256},
    "vgg": {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512},
}
DISTS_LAYERS = {"pixels": 3, **LPIPS_LAYERS["vgg"]}

# Side and input channels of AlexNet's kernels; they give the channels of `LPIPS_LAYERS`.
_ALEXNET = {"relu1": (11, 3), "relu2": (5, 64), "relu3": (3, 192), "relu4": (3, 384)}
_ALEXNET |= {"relu5": (3, 256)}


def load_lpips(network: str = "alex", *, vgg: str | Path = "vgg16-torchvision") -> Params:
    """The parameters of `metrics.lpips`.

    Args:
      network: `"alex"`, which comes with the package, or `"vgg"`.
      vgg: for `"vgg"`, what `load_vgg` takes: torchvision's VGG-16, by name or as a file.

    Raises:
      ValueError: there is no such network, or `vgg` is not torchvision's VGG-16.
      FileError: as `load_vgg`; or the package's own file is damaged.
    """
    if network not in LPIPS_LAYERS:
        raise ValueError(f"network must be one of {[*LPIPS_LAYERS]}, got {network!r}")
    trunk = _torchvision_vgg16(vgg, "LPIPS") if network == "vgg" else {}
    return {**trunk, **read_tree("lpips", network)}


def load_dists(*, vgg: str | Path = "vgg16-torchvision") -> Params:
    """The parameters of `metrics.dists`.

    Args:
      vgg: what `load_vgg` takes: torchvision's VGG-16, by name or as a file.

    Raises:
      ValueError: `vgg` is not torchvision's VGG-16.
      FileError: as `load_vgg`; or the package's own file is damaged.
    """
    return {**_torchvision_vgg16(vgg, "DISTS"), **read_tree("dists")}


def lpips_shapes() -> Shapes:
    """Name and shape of each tensor of `lpips.safetensors`."""
    shapes: Shapes = {f"alex/normalization/{part}": (3,) for part in ("mean", "std")}
    for layer, (side, inputs) in _ALEXNET.items():
        channels, name = LPIPS_LAYERS["alex"][layer], layer.replace("relu", "alex/conv")
        shapes |= {f"{name}/kernel": (side, side, inputs, channels), f"{name}/bias": (channels,)}
    for network, layers in LPIPS_LAYERS.items():
        shapes |= {f"{network}/heads/{layer}": (channels,) for layer, channels in layers.items()}
    return shapes


def dists_shapes() -> Shapes:
    """Name and shape of each tensor of `dists.safetensors`."""
    return {
        f"{part}/{layer}": (channels,)
        for part in ("alpha", "beta")
        for layer, channels in DISTS_LAYERS.items()
    }


def _torchvision_vgg16(name_or_path: str | Path, metric: str) -> Params:
    params = load_vgg(name_or_path)
    of_torchvision = np.array_equal(
        params["normalization"]["std"], np.array(NORMALIZATIONS["torchvision"][1], np.float32)
    )
    if not of_torchvision or "conv3_4" in params:
        kind = "VGG-19" if of_torchvision else "the Oxford network"
        raise ValueError(
            f"{name_or_path} is {kind}, but the weights of {metric} were trained for the features "
            "of torchvision's VGG-16: for those of any other network they mean nothing. Take "
            "vgg='vgg16-torchvision', or a file of it"
        )
    return params


def read_tree(name: str, network: str = "") -> Params:
    """What the package's file `lpips` has of a network, or all that `dists` has, in float32.

    Raises:
      FileError: the file is damaged.
    """
    path = resources.folder("weights") / f"{name}.safetensors"
    tensors, metadata = tensorfile.read(path)
    tensorfile.check(path, tensors, metadata, version=VERSION)
    shapes = lpips_shapes() if name == "lpips" else dists_shapes()
    if problems := tensorfile.mismatches(tensors, shapes):
        raise FileError(f"{path} does not hold the parameters of {name}: {'; '.join(problems)}")
    params: Params = {}
    for tensor_name, tensor in tensors.items():
        *of_network, group, part = tensor_name.split("/")
        if of_network in ([], [network]):
            params.setdefault(group, {})[part] = tensor.astype(np.float32)
    return params
