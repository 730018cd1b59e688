"""VGG parameters by name or from a file: our format, and torchvision's state dicts.

A parameter tree is `{"normalization": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel":
(3, 3, 3, 64), "bias": (64,)}, ...}` in float32 NumPy arrays, kernels HWIO, for RGB in [0, 1].
It has the normalisation because with another network's it would give wrong features.

Our format is a safetensors file with one tensor, `conv1_1/kernel`, for each leaf of the tree, and
in its metadata `format`, `version`, `name`, `source`, `license`, and `sha256`, the digest of all
tensors, which is checked whenever the file is read.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError, local_path
from perceptual_jax.pretrained import download, tensorfile, torch_pickle, torchvision
from perceptual_jax.pretrained.torchvision import SOURCES, Params, from_torchvision

__all__ = ["NAMES", "Params", "from_torchvision", "load_vgg", "save"]

NAMES = ("vgg16", *SOURCES)

FORMAT = "perceptual_jax.vgg"
VERSION = "1"

_log = logging.getLogger(__name__)


def load_vgg(name_or_path: str | Path = "vgg16") -> Params:
    """The parameters behind a name or in a file.

    Args:
      name_or_path: `vgg16`, which comes with the package; `vgg16-torchvision` or
        `vgg19-torchvision`, fetched once into `download.cache_folder()`; or the path of a file in
        our format, or of a state dict in torchvision's layout (`.pth`, `.pt`, `.safetensors`).  A
        state dict gets torchvision's normalisation, unless `torchvision.is_oxford`.

    Returns:
      The float32 tree described at the head of the module.  Its keys tell VGG-16 from VGG-19.

    Raises:
      FileError: no such name or file, the file is damaged or not a VGG, or it cannot be fetched.
    """
    name = str(name_or_path)
    if name == "vgg16":
        return _read(resources.folder("weights") / "vgg16.safetensors")
    if name in SOURCES:
        return _fetched(name, download.cache_folder())
    return _read(local_path(name_or_path))


def is_here(name_or_path: str | Path) -> bool:
    """Whether `load_vgg` has what it needs for this, without a download."""
    name = str(name_or_path)
    return name not in SOURCES or _kept(name, download.cache_folder()).is_file()


def _kept(name: str, folder: Path) -> Path:
    return folder / f"{name}.safetensors"


def _fetched(name: str, folder: Path) -> Params:
    """The parameters behind a name, from `folder`, or fetched and kept there."""
    path = _kept(name, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with download.file_lock(folder / f"{name}.lock"):
            if path.is_symlink():
                # Whoever may write into a shared folder could lead us to any file.
                _log.warning("%s is a link, which is not followed; fetching it again", path)
            elif path.exists():
                try:
                    return _read(path)
                except FileError as error:
                    _log.warning("%s; fetching it again", error)
            source = SOURCES[name]
            params = torchvision.fetch(source, folder)
            about = {"name": name, "source": source.url, "license": "BSD-3-Clause"}
            save(path, params, **about, dtype="float32")
            return params
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"the weights {name} cannot be kept in {folder}: {error.strerror or error}; choose "
            "another folder with the environment variable PERCEPTUAL_JAX_CACHE"
        ) from error


def save(
    path: str | Path,
    params: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    source: str,
    license: str,
    dtype: Literal["float16", "float32"] = "float16",
) -> None:
    """Writes parameters in our format; the same parameters give the same bytes.

    Args:
      path: the file, see `storage.atomic_write`.
      params: the tree described at the head of the module, of NumPy or JAX arrays.
      name, source, license: of the weights; the source in words or as an address.
      dtype: of kernels and biases.  float16 halves the file and moves features by less than
        1e-3 of their size.  The normalisation stays float32.

    Raises:
      FileError: the file cannot be written.
      ValueError: the tree is not a VGG, or holds values that are not finite in `dtype`.
    """
    tensors = {}
    for layer, parts in params.items():
        kind = "float32" if layer == "normalization" else dtype
        for part, value in parts.items():
            with np.errstate(over="ignore"):  # The check below names the tensor.
                tensors[f"{layer}/{part}"] = np.asarray(value, np.float32).astype(kind)
    if problems := torchvision.tree_problems(tensors):
        raise ValueError(f"not the parameters of a VGG in {dtype}: {'; '.join(problems)}")
    about = {"name": name, "source": source, "license": license}
    tensorfile.write(Path(path), tensors, {"format": FORMAT, "version": VERSION, **about})


def _read(path: Path) -> Params:
    """The parameters in a file; its first bytes show the format."""
    if not path.is_file():
        raise FileError(
            f"there are no weights {str(path)!r}: give the path of a file, or one of the names "
            f"{', '.join(NAMES)}"
        )
    if tensorfile.is_safetensors(path):
        tensors, metadata = tensorfile.read(path, torchvision.is_used)
        if metadata.get("format") == FORMAT:
            tensorfile.check(path, tensors, metadata, version=VERSION)
            if problems := torchvision.tree_problems(tensors):
                raise FileError(
                    f"{path} does not hold the parameters of a VGG: {'; '.join(problems)}"
                )
            params: Params = {}
            for name, tensor in tensors.items():
                layer, part = name.split("/")
                params.setdefault(layer, {})[part] = tensor.astype(np.float32)
            return params
        state_dict = tensors
    else:
        state_dict = torch_pickle.read_state_dict(path, torchvision.is_used)
    state_dict = torchvision.standard_names(state_dict)
    oxford = torchvision.is_oxford(state_dict)
    try:
        return from_torchvision(state_dict, normalization="oxford" if oxford else "torchvision")
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
