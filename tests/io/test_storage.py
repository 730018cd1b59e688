"""Places in buckets and on disks, and what is said where one cannot be reached."""

from pathlib import Path

import pytest

from perceptual_jax.io import storage
from perceptual_jax.io.storage import FileError


@pytest.mark.parametrize(
    ("place", "remote"),
    [("gs://bucket/run", True), ("/home/me/run", False), ("run:1/a", False), (Path("a"), False)],
)
def test_a_bucket_is_told_from_a_folder(place: str | Path, remote: bool) -> None:
    assert storage.is_remote(place) is remote


def test_a_file_goes_there_and_back(tmp_path: Path) -> None:
    """Folders on the way are made; a local path stands for a bucket."""
    file, place = tmp_path / "file", tmp_path / "deep" / "folder" / "there"
    file.write_bytes(b"content")
    storage.put(file, str(place))
    storage.get(str(place), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_what_is_not_there_is_not_got(tmp_path: Path) -> None:
    storage.get(str(tmp_path / "nothing"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError("no gcsfs"), r"gs://bucket/a: no gcsfs \(pip install gcsfs"),
        (OSError("denied"), r"gs://bucket/a \(denied\): check the path, and your rights"),
        (FileError("of its own"), "^of its own$"),
    ],
)
def test_an_error_names_the_place(error: Exception, told: str) -> None:
    with pytest.raises(FileError, match=told), storage.access("gs://bucket/a"):
        raise error
