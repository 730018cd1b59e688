"""Files and folders on disks and in buckets, and what is said where one cannot be reached."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from perceptual_jax.io import storage
from perceptual_jax.io.storage import FileError


@pytest.mark.parametrize(
    ("path", "remote"),
    [("gs://bucket/run", True), ("/home/me/run", False), ("run:1/a", False), (Path("a"), False)],
)
def test_a_bucket_is_recognised(path: str | Path, remote: bool) -> None:
    assert storage.is_remote(path) is remote


def test_a_file_goes_there_and_back(tmp_path: Path) -> None:
    """Folders on the way are made; a local path stands for a bucket."""
    file, target = tmp_path / "file", tmp_path / "deep" / "folder" / "there"
    file.write_bytes(b"content")
    storage.put(file, str(target))
    storage.get(str(target), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_what_is_not_there_is_not_got(tmp_path: Path) -> None:
    storage.get(str(tmp_path / "nothing"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("no gcsfs"), r"gs://bucket/a: no gcsfs \(pip install gcsfs"),
        (OSError("denied"), r"gs://bucket/a \(denied\): check the path, and your rights"),
        (FileError("of its own"), "^of its own$"),
    ],
)
def test_an_error_names_the_path(error: Exception, message: str) -> None:
    with pytest.raises(FileError, match=message), storage.access("gs://bucket/a"):
        raise error


def names_in(folder: Path, **options: Any) -> list[str]:
    found = storage.pictures_in(folder, **options)
    return [path.relative_to(folder).as_posix() for path in found]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


class TestPicturesIn:
    def test_are_those_of_subfolders_too_told_by_suffix_and_sorted(self, tmp_path: Path) -> None:
        touch(
            tmp_path, "b/2.JPG", "b.tiff", "a/1.webp", "a/c/3.png", "0.jpeg", "notes.md", "a/list"
        )
        assert names_in(tmp_path) == ["0.jpeg", "a/1.webp", "a/c/3.png", "b/2.JPG", "b.tiff"]
        assert names_in(tmp_path, suffixes=(".md",)) == ["notes.md"]

    def test_hidden_ones_are_passed_over(self, tmp_path: Path) -> None:
        touch(tmp_path / ".cache", "a.png", ".a.png", ".thumbnails/a.png", "b/._a.png")
        assert names_in(tmp_path / ".cache") == ["a.png"]

    @pytest.mark.skipif(sys.platform == "win32", reason="it has no named pipes")
    def test_what_is_no_regular_file_is_passed_over(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "folder.png/b.png")
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing.png")
        assert names_in(tmp_path) == ["a.png", "folder.png/b.png"]

    def test_a_folder_counts_once_however_many_links_lead_to_it(self, tmp_path: Path) -> None:
        touch(tmp_path, "photos/sub/a.png", "elsewhere/deep/b.png")
        photos = tmp_path / "photos"
        for name, target in [
            ("again", photos / "sub"),
            ("around", photos),
            ("sub/around", photos),
            ("link", tmp_path / "elsewhere"),
            ("link2", tmp_path / "elsewhere" / "deep"),
            ("itself", photos / "itself"),
        ]:
            (photos / name).symlink_to(target)
        assert names_in(photos) == ["link/deep/b.png", "sub/a.png"]

    def test_a_linked_file_counts_under_each_of_its_names(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.png")
        (tmp_path / "a.png").symlink_to("b.png")
        assert names_in(tmp_path) == ["a.png", "b.png"]

    def test_results_can_be_left_out(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "results/a.png", "results/deep/b.png")
        (tmp_path / "link").symlink_to(tmp_path / "results")
        assert names_in(tmp_path, exclude=tmp_path / "results") == ["a.png"]
        assert names_in(tmp_path, exclude=tmp_path / "b" / ".." / "results") == ["a.png"]
        assert len(names_in(tmp_path, exclude=tmp_path / "missing")) == 3
        assert names_in(tmp_path, exclude=tmp_path / "a.png") == [
            "results/a.png",
            "results/deep/b.png",
        ]

    def test_in_a_bucket(self, tmp_path: Path) -> None:
        """A local folder stands for it; paths are of the same type."""
        touch(tmp_path, "b.png", "a/c.png", ".hidden.png")
        found = storage.pictures_in(epath.Path(tmp_path))
        assert [type(path) for path in found] == [type(epath.Path(tmp_path))] * 2
        assert [path.name for path in found] == ["c.png", "b.png"]

    def test_mistakes_name_the_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, "file.png", "empty/notes.md")
        with pytest.raises(FileError, match=r"file\.png is not a folder"):
            storage.pictures_in(tmp_path / "file.png")
        with pytest.raises(FileError, match=r"there is no picture in .*empty: it needs \.jpg, "):
            storage.pictures_in(tmp_path / "empty")

    def test_a_folder_that_may_not_be_opened_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "a.png", "closed/b.png")
        iterdir = Path.iterdir

        def refuse(folder: Path) -> Iterator[Path]:
            if folder.name == "closed":
                raise PermissionError(13, "Permission denied")
            return iterdir(folder)

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(FileError, match=r"cannot open .*closed .*Permission denied"):
            storage.pictures_in(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such locks")
class TestLock:
    def test_is_had_by_one_at_a_time(self, tmp_path: Path) -> None:
        with storage.lock(tmp_path / "run") as first, storage.lock(tmp_path / "run") as second:
            assert (first, second) == (True, False)
        with storage.lock(tmp_path / "run") as again:
            assert again

    def test_of_a_program_that_was_killed_is_free(self, tmp_path: Path) -> None:
        program = (
            "import sys, time; from pathlib import Path; from perceptual_jax.io import storage\n"
            "with storage.lock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            with storage.lock(tmp_path) as alone:
                assert not alone
            process.kill()
        with storage.lock(tmp_path) as alone:
            assert alone

    def test_where_there_are_none_everybody_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", refuse)
        (tmp_path / "file").touch()
        for place in (tmp_path, tmp_path / "file" / "run", epath.Path("gs://bucket/run")):
            with storage.lock(place) as alone:
                assert alone


class TestAtomicWrite:
    def test_replaces_the_file_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "file"
        for content in ("one", "two"):
            with storage.atomic_write(path) as file:
                file.write_text(content)
                assert not path.exists() or path.read_text() == "one"
            assert path.read_text() == content
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
    def test_leaves_the_old_file_after_an_error(self, error: BaseException, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("as it was")

        def write_half() -> None:
            with storage.atomic_write(tmp_path / "file") as file:
                file.write_text("half")
                raise error

        with pytest.raises(type(error)):
            write_half()
        assert [path.read_text() for path in tmp_path.iterdir()] == ["as it was"]

    def test_says_which_file_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        message = r"cannot write .*file/a \(.*\): choose another place"
        with pytest.raises(FileError, match=message), storage.atomic_write(tmp_path / "file" / "a"):
            pass
        with pytest.raises(FileError, match=message):
            storage.check_writable(tmp_path / "file" / "a")

    def test_can_be_checked_beforehand(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("as it was")
        storage.check_writable(tmp_path / "a")
        storage.check_writable(tmp_path / "new" / "a")
        assert (tmp_path / "a").read_text() == "as it was"
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "new"]


def test_a_tilde_is_the_home_folder_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert storage.local_path("~/a.png") == tmp_path / "home" / "a.png"
    assert storage.local_path("~no_such_user.png") == Path("~no_such_user.png")
    assert storage.local_path("sub/~a.png") == Path("sub/~a.png")
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "a.png").touch()
    assert storage.local_path("~/a.png") == Path("~/a.png")


def test_a_path_is_on_a_disk_or_in_a_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~run").mkdir()
    assert [str(storage.any_path(name)) for name in ("~run", "gs://bucket/~run")] == [
        "~run",
        "gs://bucket/~run",
    ]
