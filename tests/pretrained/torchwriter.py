"""Writes files as `torch.save` does, without PyTorch, and files that it never would.

Checked by hand: PyTorch 2.13 loads both layouts with `weights_only=True`.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class Global:
    """Pickled as the name of something in another module, whether or not there is such a thing."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        """Never called: the pickler only asks whether it could be."""


class Storage:
    """A flat array of numbers; `size` and `view` are what the pickle says of it."""

    def __init__(self, array: Any, *, size: int | None = None, view: Any = None) -> None:
        self.array = np.asarray(array).ravel()
        self.size = self.array.size if size is None else size
        self.view = view


class Tensor(NamedTuple):
    """A tensor of any layout, also one that no tensor can have."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any

    def __reduce__(self) -> Any:
        return Global("torch._utils", "_rebuild_tensor_v2"), (*self, False, OrderedDict())


class Call(NamedTuple):
    """What unpickles as the result of `function(*arguments)`."""

    function: Global
    arguments: tuple

    def __reduce__(self) -> Any:
        return tuple(self)


def tensor(array: Any) -> Tensor:
    """A contiguous tensor with a storage of its own."""
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(Storage(array), 0, array.shape, strides)


def state_dict(arrays: dict[str, Any]) -> OrderedDict:
    """As `Module.state_dict()` gives it, with the attribute `_metadata` that it hangs on it."""
    result = OrderedDict((name, tensor(array)) for name, array in arrays.items())
    result._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return result


def write_zip(path: Path, value: Any, *, byteorder: str = "little", compression: int = 0) -> None:
    """The layout of PyTorch 1.6 and later."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        with archive.open("archive/data.pkl", "w") as stream:
            pickler = _Pickler(stream)
            pickler.dump(value)
        archive.writestr("archive/byteorder", byteorder)
        for key, storage in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{key}", storage.array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_legacy(path: Path, value: Any, *, little_endian: bool = True) -> None:
    """The layout before, which torchvision's VGG files have."""
    with path.open("wb") as file:
        sizes = {"short": 2, "int": 4, "long": 4}
        machine = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": sizes}
        for part in (0x1950A86A20F9469CFC6C, 1001, machine):
            pickle.dump(part, file, protocol=2)
        pickler = _Pickler(file, legacy=True)
        pickler.dump(value)
        pickle.dump([str(key) for key in range(len(pickler.storages))], file, protocol=2)
        for storage in pickler.storages:
            file.write(storage.array.size.to_bytes(8, "little") + storage.array.tobytes())


# The pickler written in Python, because the one in C insists on importing what it names.
class _Pickler(pickle._Pickler):
    def __init__(self, file: Any, *, legacy: bool = False) -> None:
        super().__init__(file, protocol=2)
        self.legacy = legacy
        self.storages: list[Storage] = []

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            name = f"{obj.module}\n{obj.name}\n".encode()
            self.write(pickle.GLOBAL + name)  # type: ignore[attr-defined]
        else:
            super().save(obj, save_persistent_id)  # type: ignore[misc]

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        if not any(obj is known for known in self.storages):
            self.storages.append(obj)
        key = next(str(k) for k, known in enumerate(self.storages) if known is obj)
        kind = Global("torch", _STORAGES[obj.array.dtype.name])
        return ("storage", kind, key, "cpu", obj.size, *([obj.view] if self.legacy else []))
