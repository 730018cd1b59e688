"""Pictures of a folder, in batches of equal size; one that fails does not end the others.

What a person sees of it is in the tests of the modes that use it.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perceptual_jax.cli import batch
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.interrupts import Interrupts, interruptible
from perceptual_jax.io import images
from perceptual_jax.io.images import Picture
from perceptual_jax.io.storage import FileError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of three, two and one pixels' height, in the order of their names."""
    monkeypatch.chdir(tmp_path)
    for index, height in enumerate([3, 3, 3, 2, 2, 3]):
        images.write(f"in/{index}.png", np.full((height, 4, 3), index / 10, np.float32))


def run(apply: Any, **options: Any) -> int:
    job = batch.Job(apply=apply, label="same", settings={}, **options)
    return batch.run(job, "in", "out")


def written() -> list[str]:
    return sorted(path.name for path in Path("out").glob("*"))


@pytest.mark.parametrize(
    ("batch_size", "largest_side", "groups"),
    [
        (1, 4, [[3], [3], [3], [2], [2], [3]]),
        (2, 4, [[3, 3], [3], [2, 2], [3]]),
        (9, 4, [[3, 3, 3], [2, 2], [3]]),
        (9, 3, [[3], [3], [3], [2], [2], [3]]),
    ],
)
def test_neighbours_of_equal_size_are_done_at_once(
    batch_size: int, largest_side: int, groups: list[list[int]]
) -> None:
    found = []

    def apply(pictures: Sequence[Picture], interrupts: Any) -> list[Picture]:
        found.append([len(picture.rgb) for picture in pictures])
        return list(pictures)

    assert run(apply, batch_size=batch_size, largest_side=largest_side) == 0
    assert found == groups
    for index in range(6):
        np.testing.assert_array_equal(
            images.read(f"out/{index}.png"), images.read(f"in/{index}.png")
        )


def test_a_group_that_fails_is_left_out_and_the_others_are_done(capsys: Captured) -> None:
    def apply(pictures: Sequence[Picture], interrupts: Any) -> list[Picture]:
        if len(pictures[0].rgb) == 2:
            raise UserError("too low")
        return list(pictures)

    assert run(apply, batch_size=2) == 1
    assert written() == ["0.png", "1.png", "2.png", "5.png"]
    captured = capsys.readouterr()
    assert captured.out == "out: 4 of 6 pictures\n"
    told = [line for line in captured.err.splitlines() if line.startswith("left out")]
    assert told == [f"left out: {Path('in') / name}: too low" for name in ("3.png", "4.png")]


def test_preparing_one_may_fail_too(capsys: Captured) -> None:
    def prepare(picture: Picture) -> Picture:
        if len(picture.rgb) == 3:
            raise UserError("too high")
        return picture

    assert run(lambda pictures, interrupts: list(pictures), prepare=prepare) == 1
    assert written() == ["3.png", "4.png"]
    assert f"left out: {Path('in/0.png')}: too high" in capsys.readouterr().err


def test_results_of_pictures_of_one_name_are_all_kept() -> None:
    """Of a format that is read only, beside a PNG."""
    for name in ("0.gif", "other.gif", "twice.gif", "twice.webp"):
        Image.new("RGB", (5, 7), "white").save(f"in/{name}")
    assert run(lambda pictures, interrupts: list(pictures)) == 0
    assert [name for name in written() if name.startswith(("0", "o", "t"))] == [
        "0.gif.png",
        "0.png",
        "other.png",
        "twice.gif.png",
        "twice.webp",
    ]
    assert images.read("out/0.png").shape == (3, 4, 3)
    assert images.read("out/0.gif.png").shape == (7, 5, 3)


def test_a_size_that_the_format_cannot_hold_is_told_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "_LARGEST_SIDES", {"WEBP": 11})
    worked = []

    def apply(pictures: Sequence[Picture], interrupts: Any) -> list[Picture]:
        worked.append(len(pictures))
        return list(pictures)

    for scale, output, code in ((2, "out.webp", 0), (3, "out.png", 0), (3, "out.webp", None)):
        job = batch.Job(apply=apply, label="same", settings={}, scale=scale)
        if code is None:
            with pytest.raises(FileError, match=r"WEBP holds 11 .* has 12x9: choose .*\.png"):
                batch.run(job, "in/0.png", output)
        else:
            assert batch.run(job, "in/0.png", output) == code
    assert worked == [1, 1]


def test_in_a_folder_what_its_format_cannot_hold_is_written_as_png(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(images, "_LARGEST_SIDES", {"JPEG": 4})
    for name, width in (("wide.jpg", 5), ("wide.bmp", 5), ("strip.jpg", 6), ("small.jpg", 4)):
        images.write(f"in/{name}.png", np.ones((3, width, 3), np.float32))
        Path(f"in/{name}.png").rename(f"in/{name}")
    assert run(lambda pictures, interrupts: list(pictures)) == 0
    assert [name for name in written() if not name[0].isdigit()] == [
        "small.jpg",
        "strip.png",
        "wide.bmp",
        "wide.jpg.png",
    ]
    assert capsys.readouterr().out == (
        "out: 10 of 10 pictures, 2 as .png, since their own formats cannot hold them\n"
    )


def test_a_signal_ends_it_after_the_group_at_work(capsys: Captured) -> None:
    def apply(pictures: Sequence[Picture], interrupts: Any) -> list[Picture]:
        signal.raise_signal(signal.SIGINT)
        return list(pictures)

    assert run(apply, batch_size=2) == 130
    assert written() == ["0.png", "1.png"]
    assert "out: 2 of 6 pictures" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_interrupted_without_a_result_writes_nothing(
    number: signal.Signals, capsys: Captured
) -> None:
    job = batch.Job(
        apply=lambda pictures, interrupts: signal.raise_signal(number), label="none", settings={}
    )
    assert batch.run(job, "in/0.png", None) == 128 + number
    assert capsys.readouterr().err == "compiling for 4x3\ninterrupted\n"
    assert list(Path().glob("*.png")) == []


def test_the_folder_itself_is_not_written_to() -> None:
    job = batch.Job(apply=lambda pictures, _: list(pictures), label="same", settings={})
    with pytest.raises(UserError, match="--output=in/ is --input"):
        batch.run(job, "in", "in/")


def test_what_an_earlier_run_has_written_into_it_is_not_done_again(capsys: Captured) -> None:
    job = batch.Job(apply=lambda pictures, _: list(pictures), label="same", settings={})
    for _ in range(2):
        assert batch.run(job, "in", "in/done") == 0
        assert "6 of 6 pictures" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_to_is_told_before_the_work() -> None:
    Path("out").write_text("a file", encoding="utf-8")

    def apply(pictures: Sequence[Picture], interrupts: Any) -> list[Picture]:
        raise AssertionError("worked in vain")

    with pytest.raises(FileError, match="out"):
        run(apply)


def test_a_disk_that_is_full_is_told_for_each_result(capsys: Captured) -> None:
    def apply(pictures: Sequence[Picture], interrupts: Any) -> list[Picture]:
        raise OSError(28, "No space left on device")

    assert run(apply) == 2
    assert f"left out: {Path('in/0.png')}: No space left on device\n" in capsys.readouterr().err


def test_results_of_pipes_have_names_of_their_own(tmp_path: Path) -> None:
    os.mkfifo("63")
    os.mkfifo("camera.jpg")
    names = [batch.stem_of(name) for name in ("-", "/dev/stdin", "63", "camera.jpg", "in/0.png")]
    assert names == ["stdin", "stdin", "stdin", "camera", "0"]


def test_standard_streams_that_are_closed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(UserError, match="standard input is closed"):
        batch.read("-")
    with pytest.raises(UserError, match="standard output is closed"):
        batch.output_of("in/0.png", "-", "same")


class TestWithProgress:
    def test_gives_the_tiles_under_a_bar(self, capsys: Captured) -> None:
        tiles = batch.with_progress(["a", "b", "c"], 3, Interrupts())
        assert list(tiles) == ["a", "b", "c"]
        assert "tile 3 of 3 100%" in capsys.readouterr().err

    def test_of_one_tile_shows_none(self, capsys: Captured) -> None:
        assert list(batch.with_progress(["a"], 1, Interrupts())) == ["a"]
        assert capsys.readouterr().err == ""

    def test_ends_after_the_tile_at_which_it_is_interrupted(self) -> None:
        found = []
        with interruptible() as interrupts:
            for tile in batch.with_progress(["a", "b", "c"], 3, interrupts):
                found.append(tile)
                if tile == "b":
                    signal.raise_signal(signal.SIGINT)
        assert found == ["a", "b"]
