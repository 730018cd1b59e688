"""Photos to train on: where they are found, what is done with bad ones, and how they are batched.

Every pixel of the photos here tells its row, its column and the number of its photo, and their
short side is 9/8 of the crop, so that none is resampled and each crop tells where it is from.
"""

import contextlib
import io
import itertools
import logging
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from array_record.python import array_record_module
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from perceptual_jax.io.storage import FileError
from perceptual_jax.training import photos

CROP, SHORT_SIDE, LONG_SIDE = 16, 18, 21
Batch = dict[str, np.ndarray]


def scene(number: int) -> bytes:
    """A PNG file of (SHORT_SIDE, LONG_SIDE) pixels, (row, column, number) each."""
    rows, columns = np.mgrid[:SHORT_SIDE, :LONG_SIDE]
    pixels = np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folder_of_scenes(folder: Path, count: int) -> Path:
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(scene(number))
    return folder


def write_shard(path: Path, records: list[bytes]) -> None:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def numbers(found: photos.Photos) -> list[int]:
    """The numbers of the scenes that were found, in their order."""
    return [int(found.read_or_next(i, short_side=SHORT_SIDE)[0, 0, 2]) for i in range(len(found))]


class Crop(NamedTuple):
    number: int
    top: int
    left: int
    mirrored: bool


def crop_of(photo: np.ndarray) -> Crop:
    """Where a crop is from; fails if it is anything else than a square of a scene."""
    mirrored = bool(photo[0, 0, 1] > photo[0, -1, 1])
    upright = photo[:, ::-1] if mirrored else photo
    top, left, number = (int(value) for value in upright[0, 0])
    rows, columns = np.mgrid[top : top + CROP, left : left + CROP]
    np.testing.assert_array_equal(upright[..., 0], rows)
    np.testing.assert_array_equal(upright[..., 1], columns)
    np.testing.assert_array_equal(upright[..., 2], number)
    return Crop(number, top, left, mirrored)


def batches(source: photos.Photos, **options: Any) -> Iterator[Batch]:
    defaults: dict[str, Any] = {"batch_size": 4, "crop": CROP, "seed": 0, "num_threads": 0}
    return iter(photos.batches(source, **(defaults | options)))


def crops(source: photos.Photos, count: int, **options: Any) -> list[Crop]:
    """Where the first `count` examples are from."""
    endless = batches(source, batch_size=1, **options)
    return [crop_of(next(endless)["photos"][0]) for _ in range(count)]


def assert_equal(batch: Batch, other: Batch) -> None:
    assert batch.keys() == other.keys()
    for name, entry in batch.items():
        np.testing.assert_array_equal(entry, other[name])


def test_importing_this_room_does_not_import_grain() -> None:
    """Which every start of the program would wait for."""
    program = "import sys, perceptual_jax.training.photos; sys.exit('grain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestSource:
    def test_a_folder_is_searched_with_its_subfolders(self, tmp_path: Path) -> None:
        names = ["b/2.JPG", "b.tiff", "a/1.webp", "a/c/3.png", "0.jpeg"]
        ignored = ["notes.md", "a/list", ".thumbnails/4.png", "a/._1.webp"]
        for number, name in enumerate(names + ignored):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(scene(number))
        found = photos.source(tmp_path)
        assert [found.name(i) for i in range(len(found))] == [
            str(tmp_path / name)
            for name in ["0.jpeg", "a/1.webp", "a/c/3.png", "b/2.JPG", "b.tiff"]
        ]
        assert numbers(found) == [4, 2, 3, 0, 1]
        assert found[3] == scene(0)
        with pytest.raises(IndexError):
            found[5]
        with pytest.raises(IndexError):
            found.read(5, short_side=SHORT_SIDE)

    def test_a_list_is_relative_to_its_folder(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        folder_of_scenes(tmp_path / "photos", 4)
        absolute = tmp_path / "photos" / "003.png"
        lines = ["# the best", "", "photos/002.png", f"  {absolute}", "photos/000.png", ""]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        assert numbers(photos.source(str(tmp_path / "list.txt"))) == [2, 3, 0]

    @pytest.mark.parametrize("pattern", ["**/*.png", "**", "d*/**/b.*", "?.png"])
    def test_a_pattern_of_folders(self, pattern: str, tmp_path: Path) -> None:
        names = ["a.png", "deep/b.png", "deep/er/b.png", ".cache/c.png", "deep/._b.png"]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        found = photos.source(f"{tmp_path}/{pattern}")
        wanted = {"d*/**/b.*": names[1:3], "?.png": names[:1]}.get(pattern, names[:3])
        assert [found.name(i) for i in range(len(found))] == [str(tmp_path / x) for x in wanted]

    def test_a_pattern(self, tmp_path: Path) -> None:
        folder_of_scenes(tmp_path, 12)
        assert numbers(photos.source(tmp_path / "01?.p*")) == [10, 11]

    def test_a_pattern_of_folders_finds_nothing_that_is_hidden(self, tmp_path: Path) -> None:
        names = ["0.png", "a/1.png", "a/b/2.JPG", "a/b/3.md", "a/._4.png", ".c/5.png", "a[1].png"]
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(scene(number))
        (tmp_path / "a" / "above").symlink_to("..")
        (tmp_path / "folder.png").mkdir()
        assert numbers(photos.source(tmp_path / "**" / "*.png")) == [0, 1, 6]
        assert numbers(photos.source(tmp_path / "**")) == [0, 1, 2, 6]
        assert numbers(photos.source(tmp_path / "*" / "*.png")) == [1]
        assert numbers(photos.source(tmp_path / ".c" / "*.png")) == [5]
        assert numbers(photos.source(tmp_path / "[0-9].png")) == [0]
        assert numbers(photos.source(tmp_path / "a[1].png")) == [6]

    @pytest.mark.skipif(sys.platform == "win32", reason="it has no named pipes")
    def test_nothing_is_read_forever_and_no_photo_twice(self, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        folder_of_scenes(folder, 2)
        os.mkfifo(folder / "pipe.png")
        (folder / "zeros.png").symlink_to("/dev/zero")
        (folder / "around.png").symlink_to("around.png")
        (folder / "again.png").symlink_to("000.png")
        (folder / "above").symlink_to("..")
        (folder / "here").symlink_to(folder)
        (tmp_path / "zeros.txt").symlink_to("/dev/zero")
        with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(folder):
            bound.bind("socket.png")
            for place in (folder, folder / "*.png", folder / "*" / "*.png", [folder, folder]):
                assert sorted(numbers(photos.source(place))) == [0, 1]
        for path in (folder / "zeros.png", tmp_path / "zeros.txt"):
            with pytest.raises(FileError, match=rf"{path} is a device or a socket: give a folder"):
                photos.source(path)

    def test_pictures_of_every_suffix_are_counted(self, tmp_path: Path) -> None:
        """And named, where they cannot be read."""
        for number, suffix in enumerate(["avif", "heic", "JFIF"]):
            (tmp_path / f"a.{suffix}").write_bytes(scene(number))
        (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheix\0\0\0\0mif1heix" + bytes(99))
        found = photos.source(tmp_path)
        assert numbers(found) == [2, 0, 1, 2]
        (reason,) = found.skipped.values()
        assert "b.heic" in reason

    def test_shards_in_a_folder_or_by_themselves(self, tmp_path: Path) -> None:
        write_shard(tmp_path / "b.array_record", [scene(0), scene(1)])
        write_shard(tmp_path / "a.arrayrecord", [scene(2)])
        found = photos.source(tmp_path)
        assert numbers(found) == [2, 0, 1]
        assert found[1] == scene(0)
        assert numbers(photos.source(tmp_path / "b.array_record")) == [0, 1]
        assert numbers(photos.source(tmp_path / "*.array_record")) == [0, 1]

    def test_a_sequence_keeps_its_order(self, tmp_path: Path) -> None:
        for name in ("b", "a"):
            (tmp_path / name).mkdir()
        folder_of_scenes(tmp_path / "b", 2)
        (tmp_path / "a" / "x.png").write_bytes(scene(7))
        assert numbers(photos.source([tmp_path / "b", tmp_path / "a" / "x.png"])) == [0, 1, 7]

    def test_a_bucket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Bucket(MemoryFileSystem):
            store: dict[str, Any] = {}  # noqa: RUF012 (not that of the class it extends)

            @classmethod
            def _strip_protocol(cls, path: Any) -> str:
                return str(super()._strip_protocol(str(path).removeprefix("gs://")))

        bucket = Bucket(skip_instance_cache=True)
        monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: bucket)
        for number, name in enumerate(["photos/b.png", "photos/a/c.png", "other/d.png"]):
            bucket.pipe_file(f"gs://bucket/{name}", scene(number))
        bucket.pipe_file("gs://bucket/list.txt", b"photos/b.png\r\n'gs://bucket/other/d.png' \n#")
        found = photos.source("gs://bucket/photos")
        assert found.name(0) == "gs://bucket/photos/a/c.png"
        assert numbers(found) == [1, 0]
        assert numbers(photos.source("gs://bucket/list.txt")) == [0, 2]
        assert numbers(photos.source("gs://bucket/photos/*.png")) == [0]
        assert found.fingerprint() != photos.source("gs://bucket/list.txt").fingerprint()

    def test_a_bucket_that_cannot_be_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(path: object) -> None:
            raise ImportError("Please install gcsfs to access Google Storage")

        monkeypatch.setattr(backend.fsspec_backend, "fs", fail)
        with pytest.raises(FileError, match=r"gs://bucket/photos.*pip install gcsfs"):
            photos.source("gs://bucket/photos")

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("nowhere", "there is no .*nowhere"),
            ("nowhere.txt", "there is no .*nowhere.txt"),
            ("empty", r"no picture in .*empty.*\.jpg.*\.array_record"),
            ("empty/*.png", "no photos in .*empty"),
            ("notes.md", "no photos in .*notes.md"),
            ("comments.txt", "no photos in .*comments.txt"),
            ("mixed", "pictures beside ArrayRecord shards"),
            ("damaged.array_record", "cannot open .*damaged.array_record"),
            ("none.array_record", "no photos in .*none.array_record"),
            ("part", "part holds 1 of 2 shards"),
        ],
    )
    def test_mistakes_are_errors(self, tmp_path: Path, place: str, message: str) -> None:
        for folder in ("empty", "mixed", "part"):
            (tmp_path / folder).mkdir()
        (tmp_path / "notes.md").write_text("photos/1.jpg")
        (tmp_path / "comments.txt").write_text("# 1.jpg")
        (tmp_path / "damaged.array_record").write_bytes(b"damaged" * 100)
        (tmp_path / "mixed" / "0.png").write_bytes(scene(0))
        write_shard(tmp_path / "mixed" / "1.array_record", [scene(1)])
        write_shard(tmp_path / "part" / "photos-00000-of-00002.array_record", [scene(0)])
        write_shard(tmp_path / "none.array_record", [])
        with pytest.raises(FileError, match=message):
            photos.source(tmp_path / place)

    def test_one_shard_of_a_set_is_enough_by_its_own_path(self, tmp_path: Path) -> None:
        path = tmp_path / "photos-00000-of-00002.array_record"
        write_shard(path, [scene(0)])
        assert numbers(photos.source(path)) == [0]

    def test_nothing_at_all(self) -> None:
        with pytest.raises(FileError, match="give a folder"):
            photos.source([])


class TestLists:
    @pytest.mark.parametrize(
        "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-16-be-bom"]
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_may_be_written_by_any_program(self, tmp_path: Path, encoding: str, end: str) -> None:
        for number, name in enumerate(["Grüße\u2028.png", "b.png"]):
            (tmp_path / name).write_bytes(scene(number))
        text = end.join(["b.png", "Grüße\u2028.png", ""])
        if encoding == "utf-16-be-bom":
            encoding, text = "utf-16-be", f"\ufeff{text}"
        (tmp_path / "list.txt").write_bytes(text.encode(encoding))
        assert numbers(photos.source(tmp_path / "list.txt")) == [1, 0]

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ('"a b.png"', "a b.png"),
            ("'a b.png'", "a b.png"),
            ("  a.png\t", "a.png"),
            ('" a.png"', " a.png"),
            ("~/a.png", "home/a.png"),
            ("'~/a.png'", "home/a.png"),
            ("~copy.png", "~copy.png"),
            (" a.png", " a.png"),
            ('"a.png"', '"a.png"'),
            ("#1.png", "#1.png"),
            ("'.png", "'.png"),
        ],
    )
    def test_lines_may_be_dressed_but_an_existing_file_wins(
        self, tmp_path: Path, line: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(scene(3))
        (tmp_path / "list.txt").write_text(f"# the best\n\n{line}\n  \n#gone.png")
        found = photos.source(tmp_path / "list.txt")
        assert found.name(0) == str(tmp_path / name)
        assert numbers(found) == [3]

    def test_of_names_that_are_no_text(self, tmp_path: Path) -> None:
        name = os.fsdecode(b"\xff.png")
        try:
            (tmp_path / name).write_bytes(scene(1))
        except OSError:
            pytest.skip("the file system has none")
        (tmp_path / "list.txt").write_bytes(b"\xff.png\n")
        found = photos.source(tmp_path / "list.txt")
        assert numbers(found) == [1]
        assert found.fingerprint()["bytes"] == len(scene(1))

    @pytest.mark.skipif(sys.platform == "win32", reason="it has no named pipes")
    def test_what_is_no_photo_is_left_out_and_named(self, tmp_path: Path) -> None:
        folder_of_scenes(tmp_path, 1)
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "loop.png").symlink_to("loop.png")
        names = ["pipe.png", "/dev/zero", ".", "loop.png", "999.png", "x" * 300, "000.png"]
        (tmp_path / "list.txt").write_text("\n".join([*names, *names]))
        found = photos.source(tmp_path / "list.txt")
        assert numbers(found) == [0] * len(names)
        reasons = list(found.skipped.values())
        assert len(reasons) == len(names) - 1
        for name, reason in zip(names, reasons, strict=False):
            assert str(tmp_path / name) in reason
        assert all("no regular file" in reason for reason in reasons[:3])
        assert found.fingerprint()["bytes"] == len(scene(0))

    @pytest.mark.skipif(sys.platform == "win32", reason="it has no named pipes")
    def test_may_come_through_a_pipe(self, tmp_path: Path) -> None:
        folder_of_scenes(tmp_path, 2)
        read, write = os.pipe()
        os.write(write, b"001.png\n000.png\n")
        os.close(write)
        with contextlib.chdir(tmp_path):
            assert numbers(photos.source(f"/dev/fd/{read}")) == [1, 0]
        os.close(read)

    @pytest.mark.parametrize(
        "content", [scene(0), b"\x1f\x8b\x08 packed", b"photo_a.png\0photo_b.png\0"]
    )
    def test_that_are_no_text_are_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(FileError, match=r"list.txt is no list of photos: .*UTF-8 or UTF-16$"):
            photos.source(tmp_path / "list.txt")

    def test_without_an_end_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(photos, "_MAX_LIST_BYTES", 5)
        (tmp_path / "list.txt").write_text("a.png\n")
        with pytest.raises(FileError, match=r"list.txt is no list of photos"):
            photos.source(tmp_path / "list.txt")


class TestFingerprint:
    def test_is_that_of_the_same_photos_in_any_place(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            folder_of_scenes(tmp_path / name, 3)
        found = photos.source(tmp_path / "a").fingerprint()
        assert found == photos.source(tmp_path / "b").fingerprint()
        assert (found["count"], found["bytes"]) == (3, sum(len(scene(i)) for i in range(3)))
        with contextlib.chdir(tmp_path):
            assert found == photos.source("a").fingerprint()

    @pytest.mark.parametrize("change", ["more", "fewer", "longer", "other", "renamed"])
    def test_tells_when_they_changed(self, tmp_path: Path, change: str) -> None:
        folder_of_scenes(tmp_path, 3)
        before = photos.source(tmp_path).fingerprint()
        last = tmp_path / "002.png"
        if change == "more":
            (tmp_path / "003.png").write_bytes(scene(3))
        elif change == "fewer":
            last.unlink()
        elif change == "longer":
            last.write_bytes(scene(2) + b"\0")
        elif change == "other":
            last.write_bytes(scene(2)[:-1] + b"\0")
        else:
            last.rename(tmp_path / "003.png")
        assert photos.source(tmp_path).fingerprint() != before

    def test_of_shards(self, tmp_path: Path) -> None:
        write_shard(tmp_path / "a.array_record", [scene(0), scene(1)])
        before = photos.source(tmp_path).fingerprint()
        assert before["count"] == 2
        write_shard(tmp_path / "a.array_record", [scene(0), scene(2)])
        assert photos.source(tmp_path).fingerprint() != before


BAD = {
    "cut short": scene(0)[:-40],
    "no picture": b"a thousand words",
    "empty": b"",
}


class TestBadPhotos:
    @pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
    def test_are_replaced_by_the_next_and_named_once(
        self, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder_of_scenes(tmp_path, 5)
        for name in ("001.png", "002.png", "004.png"):
            (tmp_path / name).write_bytes(content)
        found = photos.source(tmp_path)
        assert len(found) == 5
        assert found.skipped == {}
        for _ in range(2):
            assert numbers(found) == [0, 3, 3, 3, 0]
        bad = [str(tmp_path / name) for name in ("001.png", "002.png", "004.png")]
        assert list(found.skipped) == bad
        assert len(caplog.records) == 3
        for name, record in zip(bad, caplog.records, strict=True):
            assert record.levelno == logging.WARNING
            assert found.skipped[name] in record.getMessage()
            assert name in record.getMessage()

    def test_too_small_to_learn_from(self, tmp_path: Path) -> None:
        folder_of_scenes(tmp_path, 2)
        Image.new("RGB", (15, 40)).save(tmp_path / "000.png")
        Image.new("RGB", (16, 40), (1, 2, 3)).save(tmp_path / "001.png")
        found = photos.source(tmp_path)
        assert numbers(found) == [3, 3]
        assert "15x40" in found.skipped[str(tmp_path / "000.png")]

    def test_missing_from_a_list(self, tmp_path: Path) -> None:
        folder_of_scenes(tmp_path, 1)
        (tmp_path / "list.txt").write_text("999.png\n000.png")
        found = photos.source(tmp_path / "list.txt")
        assert numbers(found) == [0, 0]
        assert "No such file" in found.skipped[str(tmp_path / "999.png")]

    def test_errors_of_storage(self) -> None:
        def content(index: int) -> bytes:
            if index == 1:
                raise RuntimeError("checksum mismatch")
            return scene(index)

        found = photos.Photos(3, content, lambda index: f"record {index}")
        assert numbers(found) == [0, 2, 2]
        assert found.skipped == {
            "record 1": "record 1 cannot be read (checksum mismatch): check what holds it"
        }

    def test_none_is_good(self, tmp_path: Path) -> None:
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_bytes(b"a thousand words")
        found = photos.source(tmp_path)
        with pytest.raises(FileError, match=r"none of the 2 photos can be used: .*b\.png"):
            found.read_or_next(1, short_side=SHORT_SIDE)
        with pytest.raises(FileError, match="none of the 2 photos can be used"):
            next(batches(found, num_threads=2))


def ramp_file(path: Path) -> None:
    """180 pixels each way, brighter by 255/179 with each column."""
    ramp = np.rint(np.linspace(0, 255, 180)).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (180, 1))] * 3, axis=-1)).save(path)


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> photos.Photos:
    return photos.source(folder_of_scenes(tmp_path_factory.mktemp("ten"), 10))


class TestBatches:
    def test_what_is_in_one(self, ten: photos.Photos) -> None:
        endless = batches(ten)
        for first in (0, 4, 8):
            batch = next(endless)
            assert batch.keys() == {"photos", "index"}
            assert batch["photos"].shape == (4, CROP, CROP, 3)
            assert batch["photos"].dtype == np.uint8
            assert batch["index"].dtype == np.int64
            np.testing.assert_array_equal(batch["index"], first + np.arange(4))

    def test_each_epoch_has_every_photo_once_in_an_order_of_its_own(
        self, ten: photos.Photos
    ) -> None:
        order = [crop.number for crop in crops(ten, 40)]
        epochs = [order[first : first + 10] for first in range(0, 40, 10)]
        for epoch in epochs:
            assert sorted(epoch) == list(range(10))
        assert len({tuple(epoch) for epoch in epochs}) == 4
        assert list(range(10)) not in epochs

    def test_crops_are_anywhere_and_half_are_mirrored(self, ten: photos.Photos) -> None:
        found = crops(ten, 400)
        # Rows 0 to 2, columns 0 to 5. 400 examples of each chance: 6 standard deviations.
        assert {crop.top for crop in found} == {0, 1, 2}
        assert {crop.left for crop in found} == {0, 1, 2, 3, 4, 5}
        for top, count in Counter(crop.top for crop in found).items():
            assert abs(count - 400 / 3) < 6 * (400 * 2 / 9) ** 0.5, top
        assert abs(sum(crop.mirrored for crop in found) - 200) < 6 * 100**0.5

    def test_a_photo_is_cropped_anew_in_each_epoch(self, ten: photos.Photos) -> None:
        of_one_photo = [crop for crop in crops(ten, 200) if crop.number == 3]
        assert len(of_one_photo) == 20
        assert len(set(of_one_photo)) > 10

    def test_without_flips_the_crops_are_the_same(self, ten: photos.Photos) -> None:
        flipped, plain = crops(ten, 30), crops(ten, 30, flip=False)
        assert plain == [crop._replace(mirrored=False) for crop in flipped]

    def test_photos_are_resized_to_an_eighth_more_than_the_crop(self, tmp_path: Path) -> None:
        ramp_file(tmp_path / "a.png")
        for crop in (32, 160, 320):
            options = {"crop": crop, "batch_size": 1}
            photo = next(batches(photos.source(tmp_path), **options))["photos"][0]
            assert photo.shape == (crop, crop, 3)
            assert abs(int(photo[0, 0, 0]) - int(photo[0, -1, 0])) == pytest.approx(
                (crop - 1) * 255 / 179 * 180 / (crop * 9 / 8), abs=2
            )

    @pytest.mark.parametrize(
        ("short_side", "shrunk"), [(32, 180 / 32), (60, 3.0), (180, 1.0), (400, 1.0)]
    )
    def test_larger_photos_are_reduced_to_the_short_side_and_none_is_enlarged(
        self, tmp_path: Path, short_side: int, shrunk: float
    ) -> None:
        ramp_file(tmp_path / "a.png")
        endless = batches(photos.source(tmp_path), crop=32, short_side=short_side, batch_size=1)
        photo = next(endless)["photos"][0]
        assert photo.shape == (32, 32, 3)
        assert abs(int(photo[0, 0, 0]) - int(photo[0, -1, 0])) == pytest.approx(
            31 * 255 / 179 * shrunk, abs=2
        )

    def test_smaller_photos_stay_as_they_are(self, ten: photos.Photos) -> None:
        """To the pixel, and crops are from all over them."""
        found = crops(ten, 60, short_side=40)
        assert {crop.top for crop in found} == {0, 1, 2}
        assert {crop.left for crop in found} == {0, 1, 2, 3, 4, 5}
        assert {crop.number for crop in found} == set(range(10))

    def test_photos_smaller_than_the_crop_are_skipped(self, tmp_path: Path) -> None:
        """Which are large enough where photos are enlarged; those of just its size stay."""
        folder_of_scenes(tmp_path, 3)
        Image.new("RGB", (SHORT_SIDE - 1, 40)).save(tmp_path / "001.png")
        source = photos.source(tmp_path)
        options = {"crop": SHORT_SIDE, "batch_size": 3}
        next(batches(source, **options))
        assert source.skipped == {}
        batch = next(batches(source, short_side=40, **options))
        # Scene 2 is there for itself, and in the place of the one that was left out.
        assert sorted(batch["photos"][:, 0, 0, 2]) == [0, 2, 2]
        (name, reason), *others = source.skipped.items()
        assert (name, others) == (str(tmp_path / "001.png"), [])
        assert f"is too small, {SHORT_SIDE - 1}x40" in reason

    def test_parts_are_crops_of_one_photo_in_a_row(self, ten: photos.Photos) -> None:
        """In an axis of their own; photos come in the order that they have without."""
        endless = batches(ten, batch_size=6, parts=3)
        order: list[int] = []
        for first in (0, 6, 12, 18, 24):
            batch = next(endless)
            assert batch["photos"].shape == (2, 3, CROP, CROP, 3)
            np.testing.assert_array_equal(
                batch["index"], first + np.arange(6, dtype=np.int64).reshape(2, 3)
            )
            for of_one in batch["photos"]:
                found = [crop_of(photo) for photo in of_one]
                (number,) = {crop.number for crop in found}
                order.append(number)
        assert order == [crop.number for crop in crops(ten, 10)]

    def test_parts_differ_and_have_the_entries_of_their_numbers(self, ten: photos.Photos) -> None:
        """As crops by themselves have."""

        def transform(photo: np.ndarray, number: int) -> dict[str, np.ndarray]:
            return {"small": photo[::4, ::4], "number": np.asarray(number)}

        batch = next(batches(ten, batch_size=8, parts=8, transform=transform))
        np.testing.assert_array_equal(batch["number"], batch["index"])
        np.testing.assert_array_equal(batch["small"], batch["photos"][:, :, ::4, ::4])
        assert len({crop_of(photo) for photo in batch["photos"][0]}) > 4

    def test_parts_go_on_where_they_were_in_any_number_of_processes(
        self, ten: photos.Photos
    ) -> None:
        alone: Any = batches(ten, batch_size=8, parts=2)
        for _ in range(3):
            next(alone)
        processes: list[Any] = [
            batches(ten, batch_size=4, parts=2, process_index=index, process_count=2)
            for index in range(2)
        ]
        for process in processes:
            process.set_state(alone.get_state())
        for _ in range(4):
            shares = [next(process) for process in processes]
            joined = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
            assert_equal(joined, next(alone))

    def test_a_photo_may_have_a_size_by_its_number(self, tmp_path: Path) -> None:
        """Of a ramp of 180 pixels: the larger it is made, the less of it a crop shows."""
        ramp_file(tmp_path / "a.png")
        asked: list[int] = []

        def side_of(number: int) -> int:
            asked.append(number)
            return 40 if number < 2 else 400

        options = {"crop": 32, "batch_size": 4, "parts": 2, "side_of": side_of}
        batch = next(batches(photos.source(tmp_path), **options))
        assert asked == [0, 2]
        for of_one, side in zip(batch["photos"].astype(int), (40, 400), strict=True):
            for photo in of_one:
                shown = abs(photo[0, 0, 0] - photo[0, -1, 0])
                assert shown == pytest.approx(31 * 255 / 179 * 180 / side, abs=2)

    @pytest.mark.parametrize("num_threads", [1, 3])
    def test_threads_change_nothing(self, ten: photos.Photos, num_threads: int) -> None:
        alone, together = batches(ten), batches(ten, num_threads=num_threads)
        for _ in range(8):
            assert_equal(next(together), next(alone))

    def test_the_seed_changes_everything(self, ten: photos.Photos) -> None:
        assert crops(ten, 20) == crops(ten, 20)
        other = crops(ten, 20, seed=1)
        assert [crop.number for crop in other] != [crop.number for crop in crops(ten, 20)]
        assert [crop[1:] for crop in other] != [crop[1:] for crop in crops(ten, 20)]

    @pytest.mark.parametrize(("count", "batch_size"), [(2, 3), (3, 2)])
    def test_processes_share_the_batches_of_one(
        self, ten: photos.Photos, count: int, batch_size: int
    ) -> None:
        alone = batches(ten, batch_size=count * batch_size)
        processes = [
            batches(ten, batch_size=batch_size, process_index=index, process_count=count)
            for index in range(count)
        ]
        for _ in range(5):
            parts = [next(process) for process in processes]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            assert_equal(joined, next(alone))

    @pytest.mark.parametrize("num_threads", [0, 2])
    @pytest.mark.parametrize("taken", [0, 1, 7])
    def test_go_on_where_they_were(self, ten: photos.Photos, num_threads: int, taken: int) -> None:
        endless: Any = batches(ten, num_threads=num_threads)
        for _ in range(taken):
            next(endless)
        state = endless.get_state()
        expected = [next(endless) for _ in range(5)]
        fresh: Any = batches(ten, num_threads=num_threads)
        next(fresh)
        fresh.set_state(state)
        for batch in expected:
            assert_equal(next(fresh), batch)

    def test_the_position_is_the_same_in_all_processes(self, ten: photos.Photos) -> None:
        """So that a run may go on with another number of them."""
        options = {"batch_size": 2, "process_count": 3}
        states = []
        for process_index in range(3):
            endless: Any = batches(ten, process_index=process_index, **options)
            for _ in range(4):
                next(endless)
            states.append(endless.get_state())
        assert states[0] == states[1] == states[2]
        alone: Any = batches(ten, batch_size=6)
        alone.set_state(states[0])
        np.testing.assert_array_equal(next(alone)["index"], 24 + np.arange(6))

    @pytest.mark.parametrize("short_side", [None, 40])
    def test_a_transform_adds_entries(self, ten: photos.Photos, short_side: int | None) -> None:
        """Of the crop that is in the batch, mirrored where that is, and its running number."""

        def transform(photo: np.ndarray, number: int) -> dict[str, np.ndarray]:
            assert photo.shape == (CROP, CROP, 3)
            assert photo.dtype == np.uint8
            return {"small": photo[::4, ::4], "number": np.asarray(number)}

        batch = next(batches(ten, short_side=short_side, transform=transform))
        assert batch.keys() == {"photos", "index", "small", "number"}
        np.testing.assert_array_equal(batch["number"], batch["index"])
        assert {crop_of(photo).mirrored for photo in batch["photos"]} == {False, True}
        np.testing.assert_array_equal(batch["small"], batch["photos"][:, ::4, ::4])

    @pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (1, 3), (2, 7), (3, 1)])
    def test_fewer_photos_than_a_batch(self, tmp_path: Path, count: int, batch_size: int) -> None:
        source = photos.source(folder_of_scenes(tmp_path, count))
        examples = [
            crop_of(photo).number
            for batch in itertools.islice(batches(source, batch_size=batch_size), count)
            for photo in batch["photos"]
        ]
        assert Counter(examples) == dict.fromkeys(range(count), batch_size)

    def test_bad_photos_do_not_change_the_others(self, tmp_path: Path) -> None:
        source = photos.source(folder_of_scenes(tmp_path, 6))
        before = crops(source, 18)
        (tmp_path / "003.png").write_bytes(b"a thousand words")
        after = crops(photos.source(tmp_path), 18)
        assert after == [
            crop._replace(number=4 if crop.number == 3 else crop.number) for crop in before
        ]

    def test_from_shards_as_from_files(self, tmp_path: Path, ten: photos.Photos) -> None:
        for shard in range(2):
            write_shard(
                tmp_path / f"{shard}.array_record", [scene(5 * shard + i) for i in range(5)]
            )
        shards, files = batches(photos.source(tmp_path), num_threads=2), batches(ten)
        for _ in range(5):
            assert_equal(next(shards), next(files))

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 0},
            {"parts": 0},
            {"parts": 3},
            {"crop": 0},
            {"short_side": CROP - 1},
            {"seed": -1},
            {"num_threads": -1},
            {"prefetch": -1},
            {"process_index": 2, "process_count": 2},
            {"process_index": -1},
        ],
    )
    def test_refuses_numbers_out_of_range(
        self, ten: photos.Photos, options: dict[str, int]
    ) -> None:
        with pytest.raises(ValueError, match=r"must|no process|do not fit"):
            batches(ten, **options)
