"""Files of `torch.save`, read without PyTorch and without running any code that is in them.

Such a file is a pickle, which is a program that builds objects, and raw storages of numbers.  The
unpickler here builds dicts and tensors and refuses every other name, so an unknown file can do no
harm.  It reads both layouts:

- zip (since PyTorch 1.6): `NAME/data.pkl`, and each storage as an uncompressed `NAME/data/KEY`;
- legacy (torchvision's VGG files): five pickles (a magic number, the protocol, the machine,
  the object, the keys of its storages), then each storage as an int64 count and its items.

The pickle only describes tensors.  Numbers are read for those that are wanted, so the classifier,
nine tenths of a VGG file, takes no memory.

What a file makes the reader do is bounded by its size: no number in it is taken for an amount of
memory or of work without a check.
"""

import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from perceptual_jax.io.storage import FileError

_T = TypeVar("_T")

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_BIG_ENDIAN = "it was written by a big-endian machine, which is not supported"

_STORAGE_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

# What training programs wrap a state dict in.
_WRAPPERS = ("state_dict", "model_state_dict", "model")

# A program that builds dicts of tensors handles each part of itself a few times.
_MOST_ITEMS_PER_CALL = 1000
_MOST_ITEMS = 1_000_000


def read_state_dict(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The wanted tensors of the state dict in a file, alone or in a checkpoint; see `read`."""
    saved = read(path, wanted)
    for wrapper in _WRAPPERS:
        if isinstance(saved.get(wrapper), dict):
            saved = saved[wrapper]
    return {str(k): v for k, v in saved.items() if isinstance(v, np.ndarray)}


def without_prefix(tensors: Mapping[str, _T], first: str) -> dict[str, _T]:
    """Tensors by the names that they have in the network itself.

    A module that holds the network, or wraps it (`DataParallel`, `torch.compile`), puts its own
    names before: `module.`, `_orig_mod.`, `encoder.net.`.

    Args:
      tensors: by their names in a state dict.
      first: a name that the network has, which shows what is before it.

    Returns:
      What has this prefix, without it; all, if `first` is not there.
    """
    found = (name.removesuffix(first) for name in tensors if f".{name}".endswith(f".{first}"))
    prefix = min(found, key=len, default="")
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def read(path: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The dict in a file of `torch.save`, with NumPy arrays in place of its tensors.

    Args:
      path: a `.pth` or `.pt` file of a state dict, or of dicts that hold one.
      wanted: called with the key of each tensor; those that are not wanted are left out, and
        their numbers are not read.

    Returns:
      The dict, nested as it was saved; whatever in it is neither a dict nor a tensor is left
      out.  Arrays are read-only, keep their dtype (bfloat16 as `ml_dtypes.bfloat16`), and share
      memory where the tensors did.

    Raises:
      FileError: the file is missing, damaged, cut short, not of `torch.save`, big-endian, no
        dict, or asks for anything that is not plain data or a tensor.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
            file.seek(0)
            return _read_zip(file, wanted) if is_zip else _read_legacy(file, wanted)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    except _RefusedError as error:
        raise FileError(f"{path}: {error}") from error
    except Exception as error:
        # Damaged bytes make the unpickler raise almost anything: IndexError, KeyError, ...
        reason = str(error) or type(error).__name__
        raise FileError(f"{path} is damaged, or not a file of torch.save: {reason}") from error


class _RefusedError(Exception):
    """The file is intact, but of a kind that is not read; says why."""


class _Storage(NamedTuple):
    """A run of numbers in the file: `size` items of storage `key`, from item `start`."""

    key: str
    dtype: np.dtype
    start: int
    size: int


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it; `_array` checks it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _OrderedDict(dict):
    """In place of `collections.OrderedDict`, without the attributes a pickle can give that."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Drops `_metadata`, the version numbers that PyTorch attaches to a state dict."""


def _ordered_dict(pairs: Iterable[tuple[Any, Any]] = ()) -> _OrderedDict:
    pairs = list(pairs)
    _check_keys(key for key, _ in pairs)
    return _OrderedDict(pairs)


def _check_keys(keys: Iterable[Any]) -> None:
    """Names of tensors are text; optimisers number theirs."""
    for key in keys:
        if not (type(key) is str or (type(key) is int and abs(key) < 2**32)):
            raise _RefusedError(f"a key in it is a {type(key).__name__}, not a name")


class _StorageType(NamedTuple):
    dtype: np.dtype


class _Function(NamedTuple):
    """What a pickle may call; a pickle cannot set attributes of it, as it could of a function."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


_REBUILD_TENSOR = _Function(
    lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
)
_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function(_ordered_dict),
    ("torch._utils", "_rebuild_tensor"): _REBUILD_TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): _REBUILD_TENSOR,
    ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
    ("torch", "Size"): _Function(lambda sizes: sizes),
    ("torch", "device"): _Function(lambda *_: None),
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_DTYPES.items()},
    # Checkpoints have these beside their tensors.
    **{("torch", dtype.name): None for dtype in _STORAGE_DTYPES.values()},
}


# Instructions that `torch.save` does not write: they make objects of other classes, or sets.
_REFUSED_INSTRUCTIONS = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.DICT),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
)


_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    """The unpickler in Python, of which single instructions can be replaced.

    That in C makes room for as many objects as the largest index in the file says, and hashes
    nested tuples, which takes a time that doubles with each level.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: load
        for code, load in _PythonUnpickler.dispatch.items()
        if bytes([code]) not in _REFUSED_INSTRUCTIONS
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")  # Python 2 pickled text as bytes.
        self.item_sizes: dict[str, int] = {}
        self._items = 0

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_reduce(self) -> None:
        arguments = self.stack[-1]
        sizes = [len(value) for value in arguments if isinstance(value, list | tuple | dict)]
        self._items += len(arguments) + sum(sizes)
        if len(arguments) > _MOST_ITEMS_PER_CALL or self._items > _MOST_ITEMS:
            raise _RefusedError("it calls functions with more arguments than a dict of tensors has")
        super().load_reduce()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.REDUCE[0]] = load_reduce

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise _RefusedError(
                f"it asks to run {module}.{name}, which is refused: only dicts of tensors are "
                "read; save model.state_dict(), not the model"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or type(key) is not str:
            raise ValueError("it has an unknown kind of storage")
        self.item_sizes.setdefault(key, storage_type.dtype.itemsize)
        start = 0
        if view and view[0] is not None:  # Before PyTorch 0.4 a storage could be part of another.
            _, start, size = view[0]
        return _Storage(key, storage_type.dtype, start, size)


def _read_zip(file: IO[bytes], wanted: Callable[[str], bool]) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            # torch.save never compresses.  Uncompressed, nothing can be larger than the file.
            raise ValueError("the archive is compressed")
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("the archive has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise _RefusedError(_BIG_ENDIAN)
        with archive.open(pickles[0]) as stream:
            described = _Unpickler(stream).load()
        size = os.fstat(file.fileno()).st_size
        return _filled(described, lambda key: archive.read(f"{folder}data/{key}"), wanted, size)


def _read_legacy(file: IO[bytes], wanted: Callable[[str], bool]) -> dict[str, Any]:
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise ValueError("the magic number is missing")
    if _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise ValueError("its protocol is unknown")
    if _Unpickler(file).load()["little_endian"] is not True:
        raise _RefusedError(_BIG_ENDIAN)
    unpickler = _Unpickler(file)
    described = unpickler.load()

    places = {}
    end = os.fstat(file.fileno()).st_size
    for key in _Unpickler(file).load():
        if type(key) is not str:
            raise ValueError("it has an unknown kind of storage")
        size = int.from_bytes(file.read(8), "little", signed=True) * unpickler.item_sizes[key]
        if not 0 <= size <= end - file.tell():
            raise ValueError("it is cut short")
        places[key] = (file.tell(), size)
        file.seek(size, os.SEEK_CUR)

    def fetch(key: str) -> bytes:
        position, size = places[key]
        file.seek(position)
        return file.read(size)

    return _filled(described, fetch, wanted, end)


def _filled(
    described: Any, fetch: Callable[[str], bytes], wanted: Callable[[str], bool], file_size: int
) -> dict[str, Any]:
    """The dicts of a described object, with arrays in place of tensors."""
    if not isinstance(described, dict):
        raise _RefusedError(f"it holds a {type(described).__name__.strip('_')}, not a dict")
    storages: dict[str, bytes] = {}
    # By identity: a pickle can hold a dict several times, and even inside itself.
    finished: dict[int, dict[str, Any]] = {}

    total = 0

    def fill(node: dict[str, Any]) -> dict[str, Any]:
        nonlocal total
        if id(node) in finished:
            return finished[id(node)]
        result = finished[id(node)] = {}
        for name, value in node.items():
            if isinstance(value, dict):
                result[name] = fill(value)
            elif isinstance(value, _Tensor) and wanted(str(name)):
                key = value.storage.key
                if key not in storages:
                    storages[key] = fetch(key)
                    total += len(storages[key])
                    if total > file_size:
                        raise ValueError("its storages overlap")
                result[name] = _array(value, storages[key])
        return result

    return fill(described)


def _array(tensor: _Tensor, storage: bytes) -> np.ndarray:
    """A read-only view of a storage, after a check that the view lies inside it."""
    _, dtype, start, size = tensor.storage
    numbers = (start, size, tensor.offset, *tensor.shape, *tensor.strides)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor has an impossible layout")
    if len(tensor.shape) != len(tensor.strides) or (start + size) * dtype.itemsize > len(storage):
        raise ValueError(f"a tensor's storage {tensor.storage.key} is cut short")
    if 0 in tensor.shape:
        return np.empty(tensor.shape, dtype)
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset + last >= size or math.prod(tensor.shape) > size:
        raise ValueError(f"a tensor has more numbers than its storage {tensor.storage.key}")
    return np.ndarray(
        tensor.shape,
        dtype,
        buffer=storage,
        offset=(start + tensor.offset) * dtype.itemsize,
        strides=[stride * dtype.itemsize for stride in tensor.strides],
    )
