"""--mode=prepare_data: a folder of photos into shards."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image

from perceptual_jax.cli import main
from perceptual_jax.io import images, storage
from perceptual_jax.training import photos

Captured = pytest.CaptureFixture[str]


def prepare(*arguments: object) -> int:
    return main.main(["run.py", "--mode=prepare_data", *map(str, arguments)])


def write_photos(folder: Path, count: int) -> Path:
    """Grey photos of 48x64, each a little lighter than the one before."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (64, 48), (10 * number,) * 3).save(folder / f"{number:02d}.png")
    return folder


def greys(folder: Path, *, short_side: int = 48) -> list[int]:
    source = photos.source(folder)
    return [int(source.read(i, short_side=short_side).mean()) for i in range(len(source))]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_packs_every_photo_in_order(tmp_path: Path, capsys: Captured) -> None:
    folder = write_photos(tmp_path / "in", 7)
    output = tmp_path / "some" / "where"
    assert prepare(f"--input={folder}", f"--output={output}", "--photos_per_shard=3") == 0
    assert names(output) == [f"photos-0000{i}-of-00003.array_record" for i in range(3)]
    assert greys(output) == [0, 10, 20, 30, 40, 50, 60]
    assert "photos 7, skipped 0, shards 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [((90, 120), 48, (48, 64)), ((120, 90), 48, (64, 48)), ((40, 60), 48, (40, 60))],
)
def test_reduces_to_the_short_side_and_enlarges_nothing(
    tmp_path: Path, size: tuple[int, int], image_size: int, expected: tuple[int, int]
) -> None:
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(ramp).save(tmp_path / "in" / "a.png")
    output = tmp_path / "out"
    assert (
        prepare(f"--input={tmp_path / 'in'}", f"--output={output}", f"--image_size={image_size}")
        == 0
    )
    content = photos.source(output)[0]
    (tmp_path / "packed.jpg").write_bytes(content)
    packed = images.read(tmp_path / "packed.jpg")
    assert packed.shape == (*expected, 3)
    original = images.read(tmp_path / "in" / "a.png")
    np.testing.assert_allclose(packed, images.resize(original, expected), atol=0.03)
    with Image.open(tmp_path / "packed.jpg") as image:
        assert image.format == "JPEG"


def test_quality_is_that_of_the_jpegs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "a.png")
    for quality in (30, 95):
        arguments = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / str(quality)}"]
        assert prepare(*arguments, f"--quality={quality}") == 0
    small, large = (len(photos.source(tmp_path / quality)[0]) for quality in ("30", "95"))
    assert 2 * small < large


def test_any_number_of_workers_makes_the_same_shards(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "in", 9)
    made = []
    for workers in (1, 2, 5):
        output = tmp_path / f"out{workers}"
        arguments = [f"--input={folder}", f"--output={output}", f"--workers={workers}"]
        assert prepare(*arguments, "--photos_per_shard=4") == 0
        made.append([(path.name, path.read_bytes()) for path in sorted(output.iterdir())])
    assert made[0] == made[1] == made[2]


def test_bad_photos_are_named_and_left_out(tmp_path: Path, capsys: Captured) -> None:
    folder = write_photos(tmp_path / "in", 5)
    (folder / "01.png").write_bytes((folder / "01.png").read_bytes()[:-30])
    (folder / "02.png").write_text("a thousand words")
    (folder / "04.png").unlink()
    (folder / "04.png").mkdir()  # A folder, whatever its name: it is searched, and not counted.
    output = tmp_path / "out"
    assert prepare(f"--input={folder}", f"--output={output}", "--photos_per_shard=2") == 0
    assert greys(output) == [0, 30]
    out, err = capsys.readouterr()
    assert "photos 2, skipped 2, shards 1" in out
    named = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert all(f"/{number}.png" in line for number, line in zip(("01", "02"), named, strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="it has no named pipes")
def test_a_list_of_windows_with_what_is_no_photo(tmp_path: Path, capsys: Captured) -> None:
    write_photos(tmp_path / "in", 3)
    os.mkfifo(tmp_path / "pipe.png")
    lines = ["in/02.png", "pipe.png", '"in/00.png"', "gone.png", "in/02.png"]
    (tmp_path / "list.txt").write_text("\r\n".join(lines), encoding="utf-16", newline="")
    output = tmp_path / "out"
    assert prepare(f"--input={tmp_path / 'list.txt'}", f"--output={output}") == 0
    assert greys(output) == [20, 0]
    out, err = capsys.readouterr()
    assert "photos 2, skipped 2, shards 1" in out
    named = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert [name in line for name, line in zip(("pipe", "gone"), named, strict=True)] == [
        True,
        True,
    ]


def test_shards_can_be_packed_again(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "in", 4)
    assert prepare(f"--input={folder}", f"--output={tmp_path / 'one'}") == 0
    arguments = [f"--input={tmp_path / 'one'}", f"--output={tmp_path / 'two'}", "--image_size=24"]
    assert prepare(*arguments, "--photos_per_shard=1") == 0
    assert greys(tmp_path / "two", short_side=24) == [0, 10, 20, 30]


def test_ctrl_c_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    folder = write_photos(tmp_path / "in", 8)
    encode = images.encode_jpeg
    encoded: list[Any] = []

    def interrupted(photo: np.ndarray, *, quality: int) -> bytes:
        encoded.append(photo)
        if len(encoded) == 6:
            signal.raise_signal(signal.SIGINT)
        return encode(photo, quality=quality)

    monkeypatch.setattr(images, "encode_jpeg", interrupted)
    output = tmp_path / "out"
    arguments = [f"--input={folder}", f"--output={output}", "--workers=1"]
    assert prepare(*arguments, "--photos_per_shard=2") == 130
    assert names(output) == []
    assert "interrupted" in capsys.readouterr().err


def test_an_error_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_photos(tmp_path / "in", 8)

    def fail(photo: np.ndarray, *, quality: int) -> bytes:
        raise ArithmeticError

    monkeypatch.setattr(images, "encode_jpeg", fail)
    with pytest.raises(ArithmeticError):
        prepare(f"--input={folder}", f"--output={tmp_path / 'out'}")
    assert names(tmp_path / "out") == []


def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    class FullDisk:
        def __init__(self, path: str, options: str) -> None:
            Path(path).touch()

        def write(self, record: bytes) -> None:
            raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", FullDisk)
    folder = write_photos(tmp_path / "in", 2)
    assert prepare(f"--input={folder}", f"--output={tmp_path / 'out'}") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert names(tmp_path / "out") == []


def test_a_bucket_gets_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_photos(tmp_path / "in", 3)
    # The way to a bucket, without one: shards are made on this machine and copied.
    monkeypatch.setattr(storage, "is_remote", lambda path: True)
    assert prepare(f"--input={folder}", f"--output={tmp_path / 'out'}", "--photos_per_shard=2") == 0
    assert names(tmp_path / "out") == [f"photos-0000{i}-of-00002.array_record" for i in range(2)]
    assert greys(tmp_path / "out") == [0, 10, 20]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--input"),
        (["--input=in"], "--output"),
        (["--input=nowhere", "--output=out"], "nowhere"),
        (["--input=in", "--output=out", "--quality=101"], "--quality=101"),
        (["--input=in", "--output=in/00.png"], "in/00.png"),
        (["--input=in", "--output=old"], "error: old has shards already"),
        (["--input=bad", "--output=out"], "none of the 1 photos"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "in", 1)
    for folder, name in (("old", "a.array_record"), ("bad", "a.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    assert prepare(*arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.rglob("photos-*"))
