"""Named tensors: safetensors files with a digest, and comparing tensors with expected shapes.

The safetensors library reads the files.  They are written here because it orders metadata by the
hash seed of the process, while the same tensors should always give the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from perceptual_jax.io import storage
from perceptual_jax.io.storage import FileError

Shapes = dict[str, tuple[int, ...]]

# Of the tensors that a message names; how many a stranger's file has is not ours to say.
_MOST_SURPLUS, _LONGEST_NAME = 30, 100

_DTYPES = {"float16": "F16", "float32": "F32", "uint8": "U8"}


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over all tensors: sorted by name, each its name, dtype, shape and raw bytes."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = _plain(tensor)
        sha.update(json.dumps([name, tensor.dtype.name, list(tensor.shape)]).encode())
        sha.update(tensor.data)
    return sha.hexdigest()


def header(
    entries: Mapping[str, tuple[str, Sequence[int], int]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The first bytes of a safetensors file whose tensors follow in the order of `entries`.

    Args:
      entries: for each tensor its safetensors dtype (`"F32"`), shape, and size in bytes.
      metadata: text by name.
    """
    description: dict[str, Any] = {"__metadata__": dict(sorted((metadata or {}).items()))}
    position = 0
    for name, (dtype, shape, size) in entries.items():
        offsets = [position, position + size]
        description[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += size
    text = json.dumps(description, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # Tensors start on a multiple of 8, as the format asks.
    return len(text).to_bytes(8, "little") + text


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes tensors and text, see `storage.atomic_write`.

    The metadata gains `sha256`, the `digest` of the tensors.

    Raises:
      FileError: the file cannot be written.
      KeyError: a tensor is neither float16, float32 nor uint8.
    """
    # Wide tensors first keeps every tensor aligned to its own item size.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    plain = {name: _plain(tensor) for name, tensor in ordered.items()}
    entries = {name: (_DTYPES[t.dtype.name], t.shape, t.nbytes) for name, t in plain.items()}
    first_bytes = header(entries, {**metadata, "sha256": digest(plain)})
    with storage.atomic_write(path) as unfinished, unfinished.open("wb") as file:
        file.write(first_bytes)
        for tensor in plain.values():
            file.write(tensor.data)
        file.flush()
        os.fsync(file.fileno())


def is_safetensors(path: Path) -> bool:
    """Whether a file begins like a safetensors file: the length of its header, then the header.

    Raises:
      FileError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error


def read(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The wanted tensors, and the metadata, of any safetensors file.

    Types that NumPy does not have, such as bfloat16, become float32.

    Raises:
      FileError: the file is missing, damaged, not a safetensors file, or has tensors of a type or
        shape that NumPy cannot hold.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names = [name for name in file.keys() if wanted(name)]  # noqa: SIM118 (not a dict)
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except Exception as error:
        # Unknown types and impossible shapes raise AttributeError, TypeError and ValueError.
        raise FileError(f"{path} cannot be read as a safetensors file: {error}") from error
    return {
        n: t.astype(np.float32) if t.dtype.kind == "V" else t for n, t in tensors.items()
    }, metadata


def places(path: Path) -> dict[str, tuple[str, list[int], int, int]]:
    """Where the tensors of a file are: dtype (`"F32"`), shape, first byte, and the one behind."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        description = json.loads(file.read(length))
    return {
        name: (entry["dtype"], entry["shape"], *(8 + length + at for at in entry["data_offsets"]))
        for name, entry in description.items()
        if name != "__metadata__"
    }


def check(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], *, version: str
) -> None:
    """Checks the version of a file in one of our formats, and the digest of its tensors.

    Raises:
      FileError: the file is newer than the program, or was damaged or edited.
    """
    if (found := metadata.get("version")) != version:
        raise FileError(f"{path} has version {found} of its format; this program reads {version}")
    if digest(tensors) != metadata.get("sha256"):
        raise FileError(
            f"{path} is damaged: the SHA-256 of its tensors is not the one in its header; "
            "put an intact copy in its place"
        )


def mismatches(tensors: Mapping[str, np.ndarray], shapes: Shapes) -> list[str]:
    """Why `tensors` are not finite floats of exactly these names and shapes; empty if they are."""
    problems = [f"{name} is missing" for name in shapes if name not in tensors]
    surplus = [name for name in tensors if name not in shapes]
    problems += [f"{name[:_LONGEST_NAME]} is surplus" for name in surplus[:_MOST_SURPLUS]]
    if len(surplus) > _MOST_SURPLUS:
        problems.append(f"{len(surplus) - _MOST_SURPLUS} more are surplus")
    for name, shape in shapes.items():
        if (tensor := tensors.get(name)) is None:
            continue
        if tensor.shape != shape:
            problems.append(f"{name} has shape {tensor.shape} instead of {shape}")
        elif tensor.dtype.kind in "iubc":
            problems.append(f"{name} has dtype {tensor.dtype}")
        else:
            # As it is used: float64 has numbers that float32 has not.
            with np.errstate(over="ignore"):
                finite = np.isfinite(tensor.astype(np.float32, copy=False)).all()
            if not finite:
                problems.append(f"{name} is not finite")
    return problems


def _plain(tensor: np.ndarray) -> np.ndarray:
    """In C order and little-endian, which is what the file holds on every machine."""
    # Not `np.ascontiguousarray`, which gives a number an axis.
    return np.asarray(tensor, tensor.dtype.newbyteorder("<"), order="C")
