"""Files of torch.save: both layouts, every dtype and stride, and nothing that runs."""

import collections
import contextlib
import pickle
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained import torch_pickle
from tests.pretrained import torchwriter
from tests.pretrained.torchwriter import Call, Global, Storage, Tensor, tensor

Writer = Callable[[Path, Any], None]


@pytest.fixture(params=[torchwriter.write_zip, torchwriter.write_legacy])
def write(request: pytest.FixtureRequest) -> Writer:
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.pth"


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(FileError) as caught:
        torch_pickle.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_state_dict_comes_back_in_order(write: Writer, path: Path) -> None:
    arrays: dict[str, np.ndarray] = {
        "features.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "features.0.bias": np.array([1.5, -2.5], np.float32),
        "scalar": np.array(7, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    write(path, torchwriter.state_dict(arrays))
    found = torch_pickle.read(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize(
    "dtype",
    [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool],
)
def test_dtypes(write: Writer, path: Path, dtype: Any) -> None:
    array = np.array([0, 1, 3, 100]).astype(dtype)
    write(path, {"x": tensor(array)})
    found = torch_pickle.read(path)["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_views_of_one_storage(write: Writer, path: Path) -> None:
    base = np.arange(100, dtype=np.float32)
    storage = Storage(base)
    square = base.reshape(10, 10)
    write(
        path,
        {
            "slice": Tensor(storage, 10, (20,), (1,)),
            "transposed": Tensor(storage, 0, (10, 10), (1, 10)),
            "strided": Tensor(storage, 21, (3, 3), (10, 3)),
            "expanded": Tensor(storage, 99, (2, 4), (0, 0)),
        },
    )
    found = torch_pickle.read(path)
    np.testing.assert_array_equal(found["slice"], base[10:30])
    np.testing.assert_array_equal(found["transposed"], square.T)
    np.testing.assert_array_equal(found["strided"], square[2:5, 1::3])
    np.testing.assert_array_equal(found["expanded"], np.full((2, 4), 99))
    assert np.shares_memory(found["slice"], found["transposed"])
    assert not found["slice"].flags.writeable


def test_parameters_and_nested_checkpoints(write: Writer, path: Path) -> None:
    parameter = Call(
        Global("torch._utils", "_rebuild_parameter"),
        (tensor(np.ones(3)), True, collections.OrderedDict()),
    )
    checkpoint = {
        "state_dict": {"w": parameter},
        "epoch": 3,
        "size": Call(Global("torch", "Size"), ((1, 2),)),
        "dtype": Global("torch", "float32"),
        "device": Call(Global("torch", "device"), ("cpu",)),
        "history": [0.5, None],
    }
    write(path, checkpoint)
    found = torch_pickle.read(path)
    assert list(found) == ["state_dict"]
    np.testing.assert_array_equal(found["state_dict"]["w"], np.ones(3))


def test_a_dict_that_contains_itself(write: Writer, path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    write(path, endless)
    found = torch_pickle.read(path)
    assert found["again"] is found


def test_storages_within_storages_of_the_first_pytorch(path: Path) -> None:
    storage = Storage(np.arange(10, dtype=np.float32), view=("view", 4, 3))
    torchwriter.write_legacy(path, {"x": Tensor(storage, 1, (2,), (1,))})
    np.testing.assert_array_equal(torch_pickle.read(path)["x"], [5, 6])


def test_unwanted_tensors_are_not_read(write: Writer, path: Path) -> None:
    # The unwanted tensor's layout is impossible, so that reading it would be refused.
    broken = Tensor(Storage(np.zeros(2)), 0, (1000,), (1,))
    write(path, {"features": tensor(np.ones(2)), "classifier": broken})
    assert list(torch_pickle.read(path, lambda name: name != "classifier")) == ["features"]


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (6, (1,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (2,), (2**62,)),
        (0, (2**40, 2**40), (1, 1)),
        (0, (2**33,), (0,)),
        (0, (7, 6), (0, 1)),
        (0, (2, None), (1, 1)),
        (-1, (2,), (1,)),
        (3, (3,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 3), (1,)),
        (0, (2.0,), (1,)),
        ("0", (2,), (1,)),
        (0, None, (1,)),
    ],
)
def test_a_tensor_cannot_reach_out_of_its_storage(
    write: Writer, path: Path, offset: Any, shape: Any, strides: Any
) -> None:
    storage = Storage(np.zeros(6, np.float32))
    # A second storage behind the first, so that the bytes beyond it do exist in the file.
    write(path, {"x": Tensor(storage, offset, shape, strides), "y": tensor(np.zeros(100))})
    assert "damaged" in refusal(path)


def test_a_storage_cannot_be_larger_than_what_is_there(write: Writer, path: Path) -> None:
    write(path, {"x": Tensor(Storage(np.zeros(6), size=100), 0, (100,), (1,))})
    assert "cut short" in refusal(path)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch", "load"),
        ("perceptual_jax.pretrained.torch_pickle", "read"),
    ],
)
def test_any_other_name_is_refused_and_nothing_runs(
    write: Writer, path: Path, tmp_path: Path, module: str, name: str
) -> None:
    trace = tmp_path / "trace"
    write(path, {"x": Call(Global(module, name), (f"touch {trace}",))})
    message = refusal(path)
    assert f"{module}.{name}" in message
    assert "state_dict()" in message
    assert not trace.exists()


def _raw(path: Path, program: bytes) -> None:
    """A zip file of torch.save with these instructions of the pickle machine."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + program)


# Each level holds the one before twice.
_NESTED = b"K\x01" + 60 * b"q\x00h\x00\x86"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"}" + _NESTED + b"K\x01s.", "a key in it is a tuple"),
        (b"}(" + _NESTED + b"K\x01u.", "a key in it is a tuple"),
        (b"ccollections\nOrderedDict\n](" + _NESTED + b"K\x01\x86e\x85R.", "is a tuple"),
        (b"(" + _NESTED + b"K\x01d.", "damaged"),
        (b"\x8f(" + _NESTED + b"\x90.", "damaged"),
        (b"}" + b"\x8a\x10" + bytes(15) + b"\x01" + b"K\x01s.", "a key in it is a int"),
        (b"ctorch\nSize\n(" + 2000 * b"K\x01" + b"tR.", "more arguments"),
        (b"(" + 1000 * b"K\x01" + b"lq\x000" + 2000 * b"ctorch\nSize\nh\x00\x85R0", "arguments"),
        (_NESTED + b"Q.", "damaged"),
    ],
    ids=[
        *("key", "keys", "pairs", "dict", "set"),
        *("large number", "arguments", "repeated arguments", "persistent"),
    ],
)
def test_a_small_file_cannot_keep_the_reader_busy(path: Path, program: bytes, reason: str) -> None:
    _raw(path, program)
    assert reason in refusal(path)


def test_an_index_of_the_memo_is_not_an_amount_of_memory(path: Path) -> None:
    _raw(path, b"}r\xff\xff\xff\x7f.")
    tracemalloc.start()
    assert torch_pickle.read(path) == {}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_storages_cannot_be_read_more_than_once_through_overlapping_entries(path: Path) -> None:
    """A directory with 20 entries that lead to the same bytes."""
    numbers = np.zeros(10_000, np.float32)
    torchwriter.write_zip(path, {f"t{index}": tensor(numbers) for index in range(20)})
    content = bytearray(path.read_bytes())
    entries = [match.start() for match in re.finditer(b"PK\x01\x02", bytes(content))]
    data = [at for at in entries if b"/data/" in content[at + 46 : at + 80]]
    for at in data:
        content[at + 42 : at + 46] = content[data[0] + 42 : data[0] + 46]
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_a_name_is_refused_in_every_pickle_of_a_legacy_file(path: Path) -> None:
    path.write_bytes(pickle.dumps(print, protocol=2))
    assert "builtin" in refusal(path)


class _Build(tuple):
    """Unpickles as `target`, after setting attributes on it."""

    def __reduce__(self) -> Any:
        target, state = self
        return Global("torch._utils", "_rebuild_parameter"), (target,), state


@pytest.mark.parametrize(
    "target",
    [
        Global("torch._utils", "_rebuild_tensor_v2"),
        Global("torch", "FloatStorage"),
        Global("collections", "OrderedDict"),
        Global("torch", "Size"),
    ],
)
def test_a_pickle_cannot_change_the_reader(path: Path, target: Global) -> None:
    torchwriter.write_zip(path, {"x": _Build((target, (None, {"__doc__": "changed"})))})
    assert "damaged" in refusal(path)


def test_big_endian_files_are_refused(path: Path) -> None:
    torchwriter.write_zip(path, {}, byteorder="big")
    assert "big-endian" in refusal(path)
    torchwriter.write_legacy(path, {}, little_endian=False)
    assert "big-endian" in refusal(path)


def test_what_is_no_dict_is_refused(write: Writer, path: Path) -> None:
    write(path, tensor(np.ones(2)))
    assert "it holds a Tensor, not a dict" in refusal(path)


def test_a_compressed_archive_is_refused(path: Path) -> None:
    torchwriter.write_zip(path, {}, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)


def test_every_truncation_is_refused(write: Writer, path: Path) -> None:
    write(path, {"x": tensor(np.ones(5, np.float32))})
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        refusal(path)


def test_damaged_bytes_are_refused_or_harmless(write: Writer, path: Path) -> None:
    write(path, {"x": tensor(np.ones(5, np.float32))})
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(FileError):
            torch_pickle.read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", pickle.dumps({"x": 1}), struct.pack("<Q", 2) + b"{}", b"PK\x03\x04"],
)
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "not a file of torch.save" in refusal(path)


def test_a_missing_file_and_a_folder(path: Path) -> None:
    assert "No such file" in refusal(path)
    path.mkdir()
    assert "cannot be read" in refusal(path)


X = np.ones(2, np.float32)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_is_found_in_a_checkpoint(write: Writer, path: Path, wrapper: str) -> None:
    state = torchwriter.state_dict({"features": X, "classifier": X})
    write(path, {wrapper: state, "optimizer": {"lr": tensor(X)}, "epoch": 3})
    found = torch_pickle.read_state_dict(path, lambda name: name != "classifier")
    assert list(found) == ["features"]
    np.testing.assert_array_equal(found["features"], X)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net.", "module.vgg.encoder."])
def test_whatever_is_before_all_names_goes(prefix: str) -> None:
    saved = {f"{prefix}conv1.weight": X, f"{prefix}conv2.conv1.weight": X, "other.bias": X}
    found = torch_pickle.without_prefix(saved, "conv1.weight")
    assert list(found)[:2] == ["conv1.weight", "conv2.conv1.weight"]
    assert ("other.bias" in found) == (not prefix)


def test_names_are_kept_where_the_first_is_missing() -> None:
    saved = {"module.conv2.weight": X, "myconv1.weight": X}
    assert torch_pickle.without_prefix(saved, "conv1.weight") == saved
