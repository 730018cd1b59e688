"""Named tensors: the same bytes every time, guarded by a digest, and compared with shapes."""

import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained import tensorfile

TENSORS: dict[str, np.ndarray] = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "a": np.array([1, 2, 3], np.float16),
    "c": np.array(5, np.float32),
    "d": np.array([[0, 255, 7]], np.uint8),
}


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "t", TENSORS, {"name": "x"})
    found = safetensors.numpy.load_file(tmp_path / "t")
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_places_are_where_the_bytes_are(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "t", TENSORS, {"name": "x"})
    content = (tmp_path / "t").read_bytes()
    places = tensorfile.places(tmp_path / "t")
    assert set(places) == set(TENSORS)
    dtype, shape, start, stop = places["a"]
    assert (dtype, shape) == ("F16", [3])
    np.testing.assert_array_equal(np.frombuffer(content[start:stop], np.float16), [1, 2, 3])


def test_order_does_not_change_the_bytes(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "t", TENSORS, {"x": "1", "y": "2"})
    tensorfile.write(tmp_path / "u", dict(reversed(TENSORS.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "t").read_bytes() == (tmp_path / "u").read_bytes()


def test_digest_by_hand() -> None:
    text = b'["a", "float16", [3]]' + bytes.fromhex("003c00400042")
    assert tensorfile.digest({"a": TENSORS["a"]}) == hashlib.sha256(text).hexdigest()


def test_digest_depends_on_name_dtype_shape_and_value() -> None:
    x = np.zeros(4, np.float32)
    others: list[dict[str, np.ndarray]] = [
        {"y": x},
        {"x": np.zeros(8, np.float16)},
        {"x": x.reshape(2, 2)},
        {"x": -x},
        {"x": x, "y": np.zeros(0, np.float32)},
    ]
    assert len({tensorfile.digest(tensors) for tensors in [{"x": x}, *others]}) == 6


def test_check_compares_with_the_metadata(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "t", TENSORS, {"version": "1"})
    tensors, metadata = tensorfile.read(tmp_path / "t")
    tensorfile.check(tmp_path / "t", tensors, metadata, version="1")
    with pytest.raises(FileError, match="damaged"):
        tensorfile.check(tmp_path / "t", {"a": tensors["a"]}, metadata, version="1")
    with pytest.raises(FileError, match="has version 1 of its format; this program reads 2"):
        tensorfile.check(tmp_path / "t", tensors, metadata, version="2")


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "t", TENSORS, {})
    before = (tmp_path / "t").read_bytes()
    with pytest.raises(KeyError):
        tensorfile.write(tmp_path / "t", {"x": np.zeros(3, np.int32)}, {})
    with pytest.raises(TypeError):
        tensorfile.write(tmp_path / "t", TENSORS, {"x": object()})  # type: ignore[dict-item]
    assert (tmp_path / "t").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["t"]
    with pytest.raises(FileError, match=r"cannot write .*t/u \("):
        tensorfile.write(tmp_path / "t" / "u", TENSORS, {})


def test_reads_only_what_is_wanted(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "t", TENSORS, {"name": "x"})
    tensors, metadata = tensorfile.read(tmp_path / "t", lambda name: name == "a")
    assert list(tensors) == ["a"]
    assert metadata["name"] == "x"


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"PK\x03\x04 and so on")
    assert not tensorfile.is_safetensors(tmp_path / "t")
    for path in (tmp_path / "t", tmp_path / "missing"):
        with pytest.raises(FileError, match="cannot be read as a safetensors file"):
            tensorfile.read(path)


def _safetensors(path: Path, dtype: str, shape: list[int], size: int) -> Path:
    path.write_bytes(tensorfile.header({"x": (dtype, shape, size)}) + bytes(size))
    return path


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    tensors, _ = tensorfile.read(_safetensors(tmp_path / "a.safetensors", "BF16", [2], 4))
    assert tensors["x"].dtype == np.float32
    np.testing.assert_array_equal(tensors["x"], [0, 0])


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F8_E4M3", [4], 4),
        ("F8_E8M0", [4], 4),
        ("F32", [0, 2**62], 0),
        ("F32", [2**62, 2**62, 0], 0),
        ("F32", [1] * 100, 4),
        ("F32", [2**40], 4),
    ],
)
def test_tensors_that_numpy_cannot_hold_are_refused(
    tmp_path: Path, dtype: str, shape: list[int], size: int
) -> None:
    path = _safetensors(tmp_path / "a.safetensors", dtype, shape, size)
    with pytest.raises(FileError, match=r"a\.safetensors cannot be read") as caught:
        tensorfile.read(path)
    assert "\n" not in str(caught.value)


def test_a_message_names_some_of_very_many_tensors() -> None:
    tensors = {f"{'a' * 1000}{index}": np.zeros(1) for index in range(10_000)}
    problems = tensorfile.mismatches(tensors, {"b": (1,)})
    assert problems[0] == "b is missing"
    assert problems[-1] == "9970 more are surplus"
    assert len("; ".join(problems)) < 5000


def test_a_missing_file_is_reported_before_its_kind(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="missing cannot be read: No such file"):
        tensorfile.is_safetensors(tmp_path / "missing")


X = np.ones(2, np.float32)


def test_tensors_that_match() -> None:
    tensors: dict[str, Any] = {"a": X, "b": X.astype(np.float16), "c": X.astype(ml_dtypes.bfloat16)}
    assert tensorfile.mismatches(tensors, {"c": (2,), "a": (2,), "b": (2,)}) == []


def test_every_mismatch_is_named() -> None:
    tensors: dict[str, Any] = {"a": X, "b": X[None], "c": X.astype(np.uint8), "d": X * np.nan}
    shapes: tensorfile.Shapes = {"b": (2,), "c": (2,), "d": (2,), "e": ()}
    assert sorted(tensorfile.mismatches(tensors, shapes)) == [
        "a is surplus",
        "b has shape (1, 2) instead of (2,)",
        "c has dtype uint8",
        "d is not finite",
        "e is missing",
    ]
