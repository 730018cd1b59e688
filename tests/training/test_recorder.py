"""The run folder: what it holds, when, and what it says if it cannot be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceptual_jax.io import images, storage
from perceptual_jax.io.storage import FileError
from perceptual_jax.training.recorder import RunFolder


def line(step: int, total: float = 3.0, **terms: float) -> dict[str, Any]:
    return {"step": step, "total": total, "terms": terms or {"content": 1.0, "style": 2.0}}


def lines_in(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(entry) for entry in text.splitlines()]


def test_holds_the_settings(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a" / "b", {"steps": 3, "style": ["Müller"], "path": Path("x")}).close()
    text = (tmp_path / "a" / "b" / "config.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"steps": 3, "style": ["Müller"], "path": "x"}
    assert text.count("\n") > 3  # For people to read.


def test_a_measurement_is_on_disk_at_once(tmp_path: Path) -> None:
    """A run that is killed has lost none."""
    run = RunFolder(tmp_path, {}, plot=False)
    run.record([line(0), line(1, 2.0)])
    found = lines_in(tmp_path)
    assert [(x["step"], x["total"], x["terms"]) for x in found] == [
        (0, 3.0, {"content": 1.0, "style": 2.0}),
        (1, 2.0, {"content": 1.0, "style": 2.0}),
    ]
    run.record([line(2)])
    assert len(lines_in(tmp_path)) == 3
    run.close()


def test_each_has_the_time_of_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_600_000_000.0004)
    run = RunFolder(tmp_path, {})
    run.record([line(0)])
    run.close()
    assert lines_in(tmp_path)[0]["time"] == 1_600_000_000.0


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    """JSON has no NaN: strict readers would refuse all of the file."""
    run = RunFolder(tmp_path, {})
    run.record([line(0, float("nan"), content=float("inf"), style=1.0)])
    run.close()
    (found,) = lines_in(tmp_path)
    assert found["total"] is None
    assert found["terms"] == {"content": None, "style": 1.0}


def test_a_folder_in_a_bucket_is_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gone on with from there, on a machine that has nothing of it."""
    monkeypatch.setattr(storage, "is_remote", lambda place: True)
    bucket = tmp_path / "bucket"
    run = RunFolder(bucket, {"steps": 9})
    run.record([line(1), line(2)])
    assert not bucket.exists()
    run.publish()
    assert [found["step"] for found in lines_in(bucket)] == [1, 2]
    run.close()
    again = RunFolder(bucket, {"steps": 9}, resume_step=1)
    again.record([line(2, 5.0)])
    again.close()
    assert [found["total"] for found in lines_in(bucket)] == [3.0, 5.0]
    assert (bucket / "terms.png").exists()


def test_only_what_is_new_is_put_into_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long run has hundreds of previews."""
    put: list[str] = []
    monkeypatch.setattr(storage, "is_remote", lambda place: True)
    monkeypatch.setattr(storage, "put", lambda file, place: put.append(Path(place).name))
    run = RunFolder(tmp_path / "bucket", {}, plot=False)
    run.record([line(1)])
    run.publish()
    assert sorted(put) == ["config.json", "metrics.jsonl"]
    put.clear()
    run.record([line(2)])
    run.publish()
    assert put == ["metrics.jsonl"]
    folder = run.folder
    run.close()
    assert put == ["metrics.jsonl"]
    assert not folder.exists()


def test_what_is_recorded_is_not_changed(tmp_path: Path) -> None:
    metrics = line(0)
    run = RunFolder(tmp_path, {})
    run.record([metrics])
    run.close()
    assert metrics == line(0)


def test_the_terms_are_drawn_at_the_end(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    run.record([line(step, 10.0 / (step + 1)) for step in range(5)])
    assert not (tmp_path / "terms.png").exists()
    run.close()
    drawn = images.read(tmp_path / "terms.png")
    assert drawn.shape == (500, 800, 3)
    assert (drawn == 0).all(axis=-1).any()  # The total's line is black.


@pytest.mark.parametrize("total", [0.0, float("inf"), float("nan")])
def test_what_a_logarithm_cannot_show_is_left_out_of_the_drawing(
    tmp_path: Path, total: float
) -> None:
    """A photo's own content loss is 0, and a run that broke ends with NaN."""
    run = RunFolder(tmp_path, {})
    run.record([line(0, content=0.0, range=0.0), line(1, total, content=total, range=0.0)])
    run.close()
    assert np.isfinite(images.read(tmp_path / "terms.png")).all()


def test_a_drawing_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room for a figure")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with RunFolder(tmp_path, {}) as run:
        run.record([line(0), line(1)])
    assert len(lines_in(tmp_path)) == 2
    assert caplog.messages == ["the terms cannot be drawn: no room for a figure"]


def test_is_closed_at_the_end_of_its_context(tmp_path: Path) -> None:
    """Also by an error, which goes on."""

    def broken() -> None:
        with RunFolder(tmp_path, {}) as run:
            run.record([line(0), line(1)])
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        broken()
    assert (tmp_path / "terms.png").exists()


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_point_is_not_drawn(tmp_path: Path, count: int) -> None:
    run = RunFolder(tmp_path, {})
    run.record([line(0)] * count)
    run.close()
    assert not (tmp_path / "terms.png").exists()


def test_may_do_without_the_drawing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {}, plot=False)
    run.record([line(0), line(1)])
    run.close()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["config.json", "metrics.jsonl"]


def test_a_folder_that_holds_a_run_is_begun_anew(tmp_path: Path) -> None:
    for steps in (5, 2):
        run = RunFolder(tmp_path, {"steps": steps}, plot=False)
        run.record([line(step) for step in range(steps)])
        run.close()
    assert len(lines_in(tmp_path)) == 2
    assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 2}


def test_previews_sort_by_iteration(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    paths = [run.preview_path(step) for step in (9, 80, 1000)]
    run.close()
    assert paths == sorted(paths)
    assert paths[1] == tmp_path / "previews" / "000080.png"


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FileError, match=r"cannot write to .*taken: File exists"):
        RunFolder(tmp_path / "taken", {})
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it has no full device")
def test_a_full_disk_is_told_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path, {}, tensorboard=True)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    for step in range(1, 4):
        run.record([line(step)])
    run.close()
    (message,) = caplog.messages
    assert "cannot be kept" in message
    assert "No space left on device" in message
    assert (tmp_path / "terms.png").exists()


def test_a_bucket_that_fails_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put: list[str] = []

    def fail(file: Path, path: str) -> None:
        raise FileError("cannot open gs://bucket")

    run = RunFolder("gs://bucket/run", {}, plot=False)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", fail)
        run.publish()
    assert caplog.messages == ["cannot open gs://bucket"]
    monkeypatch.setattr(storage, "put", lambda file, path: put.append(path))
    run.close()
    assert sorted(put) == ["gs://bucket/run/config.json", "gs://bucket/run/metrics.jsonl"]


class TestGoingOn:
    @pytest.fixture
    def begun(self, tmp_path: Path) -> Path:
        """A run of which five steps were measured."""
        run = RunFolder(tmp_path, {"steps": 9})
        run.record([line(step) for step in range(1, 6)])
        run.close()
        return tmp_path

    def test_keeps_what_was_measured_up_to_there(self, begun: Path) -> None:
        before = lines_in(begun)
        run = RunFolder(begun, {"steps": 9}, resume_step=3)
        assert lines_in(begun) == before[:3]
        run.record([line(4, 1.0)])
        run.close()
        assert [(x["step"], x["total"]) for x in lines_in(begun)] == [
            (1, 3.0),
            (2, 3.0),
            (3, 3.0),
            (4, 1.0),
        ]

    def test_draws_the_whole(self, begun: Path) -> None:
        (begun / "terms.png").unlink()
        RunFolder(begun, {}, resume_step=5).close()
        assert (begun / "terms.png").exists()

    def test_a_line_that_a_kill_cut_off_is_left_out(self, begun: Path) -> None:
        path = begun / "metrics.jsonl"
        path.write_text(path.read_text()[:-20])
        RunFolder(begun, {}, resume_step=5).close()
        assert [x["step"] for x in lines_in(begun)] == [1, 2, 3, 4]

    def test_lines_that_are_damaged_are_left_out(self, begun: Path) -> None:
        before = lines_in(begun)
        with (begun / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 1}\n[]\n7\n{"step": "1", "total": 1, "terms": {}}\n\xff\0\n')
        RunFolder(begun, {}, resume_step=max(line["step"] for line in before)).close()
        assert lines_in(begun) == before

    def test_of_a_folder_without_metrics_begins_them(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, {}, resume_step=3)
        run.record([line(4)])
        run.close()
        assert [x["step"] for x in lines_in(tmp_path)] == [4]

    def test_a_kill_while_it_begins_loses_nothing(
        self, begun: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Old lines are in place until the new file is whole."""
        before = lines_in(begun)

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            RunFolder(begun, {}, resume_step=3)
        assert lines_in(begun) == before


def test_tensorboard_has_every_term(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {}, plot=False, tensorboard=True)
    run.record([line(1), line(2, 2.0)])
    run.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    for name in (b"total", b"content", b"style"):
        assert content.count(name) == 2
