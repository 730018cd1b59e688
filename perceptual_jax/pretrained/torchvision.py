"""torchvision's VGG networks: the layout of their state dicts, and fetching their weights."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained import download, tensorfile, torch_pickle
from perceptual_jax.pretrained.tensorfile import Shapes

Params = dict[str, dict[str, np.ndarray]]

# For RGB in [0, 1].  "torchvision" is that of its own training.  "oxford" is what torchvision
# states for its copy of the Oxford features: the authors' mean, (123.68, 116.779, 103.939) / 255,
# which the embedded file has, rounded to whole grey levels.
NORMALIZATIONS = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "oxford": ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
}

# Convolutions in each of the five blocks, and their output channels.
_COUNTS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)

# The fully connected layers, by the names of torchvision and timm.
_UNUSED = {"classifier", "avgpool", "pre_logits", "head"}
_CLASSIFIER_BIAS = "classifier.0.bias"

# SHA-256 of the Oxford network's first kernel, as float16 in torchvision's order (OIHW).
_OXFORD_FIRST_KERNEL = "b45cfdd6d2b58b62e381cb9a7e95157765d4e057fa4110e31581541aba591e0e"


def tree_shapes(depth: int) -> Shapes:
    """Name (`conv1_1/kernel`) and shape of each leaf in the tree of VGG-16 or VGG-19."""
    shapes: Shapes = {"normalization/mean": (3,), "normalization/std": (3,)}
    for layer, _, inputs, outputs in _convolutions(depth):
        shapes |= {f"{layer}/kernel": (3, 3, inputs, outputs), f"{layer}/bias": (outputs,)}
    return shapes


def torch_shapes(depth: int) -> Shapes:
    """Name (`features.0.weight`) and shape of each feature tensor of torchvision's network."""
    shapes: Shapes = {}
    for _, theirs, inputs, outputs in _convolutions(depth):
        shapes |= {f"{theirs}.weight": (outputs, inputs, 3, 3), f"{theirs}.bias": (outputs,)}
    return shapes


def _convolutions(depth: int) -> Iterator[tuple[str, str, int, int]]:
    """Our name and torchvision's of each convolution, its input and output channels."""
    place, inputs = 0, 3
    for block, (count, outputs) in enumerate(zip(_COUNTS[depth], _CHANNELS, strict=True), 1):
        for index in range(1, count + 1):
            yield f"conv{block}_{index}", f"features.{place}", inputs, outputs
            inputs = outputs
            place += 2  # The convolution and its ReLU;
        place += 1  # the pooling.


def is_used(name: str) -> bool:
    """Whether a tensor of a state dict has to be read: not the classifier, but for `is_oxford`."""
    return not _UNUSED.intersection(name.split(".")) or name.endswith(_CLASSIFIER_BIAS)


def standard_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict by torchvision's names: of a wrapped network, of a part of a larger one, or of
    the `features` alone, as in `0.weight`."""
    first, *_ = torch_shapes(16)
    found = torch_pickle.without_prefix(state_dict, first)
    if first in found:
        return found
    used = {name: tensor for name, tensor in state_dict.items() if is_used(name)}
    found = torch_pickle.without_prefix(used, first.removeprefix("features."))
    return {f"features.{name}" if name[:1].isdigit() else name: found[name] for name in found}


def tree_problems(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Why flat `tensors` are not the parameters of a VGG; empty if they are."""
    return _problems(tensors, tree_shapes)


def _problems(tensors: Mapping[str, np.ndarray], shapes: Callable[[int], Shapes]) -> list[str]:
    """The mismatches with the nearer of the two networks."""
    return min((tensorfile.mismatches(tensors, shapes(depth)) for depth in _COUNTS), key=len)


def from_torchvision(
    state_dict: Mapping[str, Any],
    *,
    normalization: Literal["torchvision", "oxford"] = "torchvision",
) -> Params:
    """Parameters from a state dict in the layout of torchvision's VGG-16 and VGG-19.

    Args:
      state_dict: arrays `features.N.weight` (OIHW) and `features.N.bias`, see `standard_names`.
        The classifier may be there too, under torchvision's or timm's names, and is ignored.
      normalization: that with which the network was trained: `"torchvision"`, or `"oxford"` for
        torchvision's `VGG16_Weights.IMAGENET1K_FEATURES`.

    Returns:
      `{"normalization": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel": (3, 3, 3, 64),
      "bias": (64,)}, ...}`, float32, kernels HWIO.

    Raises:
      ValueError: tensors are missing, surplus, misshapen or not finite, and the message lists all
        of them; or the normalisation is unknown.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be in {[*NORMALIZATIONS]}, got {normalization!r}")
    named = standard_names(state_dict)
    arrays = {k: np.asarray(v) for k, v in named.items() if not _UNUSED.intersection(k.split("."))}
    if problems := _problems(arrays, torch_shapes):
        raise ValueError(
            "not a state dict of torchvision's VGG-16 or VGG-19 (without batch normalisation): "
            + "; ".join(problems)
        )
    mean, std = (np.array(values, np.float32) for values in NORMALIZATIONS[normalization])
    params = {"normalization": {"mean": mean, "std": std}}
    # Of VGG-16 there are 13 kernels and as many biases.
    for layer, theirs, *_ in _convolutions(16 if len(arrays) == 26 else 19):
        kernel = arrays[f"{theirs}.weight"].transpose(2, 3, 1, 0)
        params[layer] = {
            "kernel": np.ascontiguousarray(kernel, np.float32),
            "bias": arrays[f"{theirs}.bias"].astype(np.float32),
        }
    return params


def is_oxford(state_dict: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict in torchvision's layout is the Oxford network, which has its own mean.

    Its first kernel tells, or its classifier, which torchvision's `IMAGENET1K_FEATURES` file alone
    fills with NaNs.
    """
    classifier = state_dict.get(_CLASSIFIER_BIAS, np.zeros(1))
    if classifier.shape == (4096,) and np.isnan(classifier).all():
        return True
    kernel = state_dict.get("features.0.weight", np.zeros(1))
    if kernel.dtype.kind != "f":
        return False
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(kernel, "<f2")
    return hashlib.sha256(rounded.data).hexdigest() == _OXFORD_FIRST_KERNEL


@dataclass(frozen=True)
class Source:
    """A network's `.pth` file as torchvision publishes it.

    Attributes:
      url: its address; the digits after the dash begin its SHA-256.
      size: in bytes.
      sha256: in hexadecimal digits, all of them.
    """

    url: str
    size: int
    sha256: str


# torchvision publishes 8 digits of each digest.  The others, and the sizes, are those that many
# projects which fetch these files found, each from a copy of its own.
SOURCES: dict[str, Source] = {
    "vgg16-torchvision": Source(
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        size=553_433_881,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "vgg19-torchvision": Source(
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        size=574_673_361,
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
}


def fetch(source: Source, folder: Path) -> Params:
    """Fetches a network, or takes its `.pth` file if someone has put it into `folder`.

    Raises:
      FileError: the address did not give the network, or the file in `folder` is damaged.
      OSError: `folder` cannot be written.
    """
    name = PurePosixPath(source.url).name
    by_hand = folder / name
    if by_hand.exists():
        if not by_hand.is_file() or download.digest(by_hand) != source.sha256:
            raise FileError(
                f"{by_hand} is damaged: its SHA-256 is not {source.sha256}; remove it, or put an "
                "intact copy in its place"
            )
        return _from_pth(by_hand)
    fetched = folder / f"{name}.fetched"
    try:
        download.fetch_file(source.url, fetched, size=source.size, sha256=source.sha256)
        return _from_pth(fetched)
    except download.DownloadError as error:
        raise FileError(
            f"the weights could not be fetched ({error}). Fetch {source.url} on a machine that "
            f"can, and put it into {folder}, or give its path instead of the name"
        ) from error
    finally:
        fetched.unlink(missing_ok=True)


def _from_pth(path: Path) -> Params:
    return from_torchvision(torch_pickle.read_state_dict(path, _is_feature))


def _is_feature(name: str) -> bool:
    return name.startswith("features.")
