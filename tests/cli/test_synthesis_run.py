"""A run of pixels: what is shown and kept of it, and that its picture is never lost.

The reports are made up here: nothing is optimised.
"""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.cli import synthesis_run
from perceptual_jax.cli.errors import UserError
from perceptual_jax.synthesis import NonFiniteError, Report, Trace
from perceptual_jax.training import recorder

Captured = pytest.CaptureFixture[str]

# Two stages of three iterations.
STAGES = [((4, 6), 3), ((8, 12), 3)]
OUTPUT = Path("out.txt")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(stage: int, step: int, evaluations: int = 1, images: int = 1) -> Report:
    """Every pixel of the best image, and every total, says how many iterations were made."""
    made = 3 * stage + step
    totals = np.broadcast_to(np.arange(made - evaluations + 1.0, made + 1), (images, evaluations))
    best = jnp.full((images, *STAGES[stage][0], 3), float(made))
    return Report(step, 3, Trace(totals, {"style/conv1_1": totals}), best, stage)


def whole() -> Iterator[Report]:
    for stage in (0, 1):
        yield report(stage, 0)
        yield report(stage, 1)
        yield report(stage, 3, evaluations=2)


def write(path: Path, images: np.ndarray, iterations: int) -> None:
    """In place of a picture: its size, its pixels' value and the iterations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{images.shape[1:3]} {images.min():g} {iterations}")


def run(reports: Any, **options: Any) -> int:
    return synthesis_run.run(
        reports,
        STAGES,
        output=OUTPUT,
        write=write,
        settings={"mode": "test"},
        advice="Give it back.",
        **options,
    )


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run", "metrics.jsonl").read_text().splitlines()]


class TestResult:
    def test_is_the_last_best_image(self, capsys: Captured) -> None:
        assert run(whole()) == 0
        assert OUTPUT.read_text() == "(8, 12) 6 6"
        assert re.fullmatch(r"out.txt: 12x8, 6 iterations, \d+ s\n", capsys.readouterr().out)

    def test_is_said_to_be_of_several_pictures(self, capsys: Captured) -> None:
        run(iter([report(0, 0, images=5)]))
        captured = capsys.readouterr()
        assert captured.out.startswith("out.txt: 5 pictures of 6x4, 0 iterations, ")
        assert "5 pictures of 6x4 iteration 0/3" in captured.err

    def test_the_bar_is_full_at_the_end(self, capsys: Captured) -> None:
        run(whole())
        last = capsys.readouterr().err.rstrip().split("\r")[-1]
        assert "12x8 iteration 3/3" in last
        assert "100%" in last
        assert "total 6  style 6" in last


class TestRunFolder:
    def test_has_a_line_for_every_evaluation(self) -> None:
        run(whole(), workdir="run")
        assert [line["step"] for line in lines()] == [0, 1, 2, 3, 3, 4, 5, 6]
        assert [line["total"] for line in lines()] == [0, 1, 2, 3, 3, 4, 5, 6]
        assert [line["scale"] for line in lines()] == [0] * 4 + [1] * 4
        assert [(line["width"], line["height"]) for line in lines()] == [(6, 4)] * 4 + [(12, 8)] * 4
        assert lines()[-1]["terms"] == {"style/conv1_1": 6.0}
        assert json.loads(Path("run", "config.json").read_text()) == {"mode": "test"}

    def test_has_previews(self) -> None:
        """Every two iterations, or at the next report."""
        run(whole(), workdir="run", preview_every=2)
        found = {path.name: path.read_text() for path in Path("run", "previews").iterdir()}
        assert found == {
            "000003.png": "(4, 6) 3 3",
            "000004.png": "(8, 12) 4 4",
            "000006.png": "(8, 12) 6 6",
        }

    def test_without_one_previews_lie_beside_the_result(self, folder: Path) -> None:
        run(whole(), preview_every=5)
        assert {path.name for path in folder.iterdir()} == {"out.txt", "out-000006.txt"}


class TestSafety:
    @pytest.mark.parametrize(
        ("method", "told"),
        [
            ("_plot", "the terms cannot be drawn: no room"),
            ("RunFolder.publish", "the run folder is not complete: no room"),
        ],
    )
    def test_the_result_is_written_before_the_plot(
        self,
        method: str,
        told: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        written = []

        def fail(*arguments: Any) -> None:
            written.append(OUTPUT.read_text())
            raise OSError("no room")

        monkeypatch.setattr(f"{recorder.__name__}.{method}", fail)
        assert run(whole(), workdir="run") == 0
        assert written == ["(8, 12) 6 6"]
        assert caplog.messages == [told]

    def test_a_run_folder_that_cannot_be_made_ends_nothing(
        self, caplog: pytest.LogCaptureFixture, folder: Path
    ) -> None:
        Path("run").write_text("a file, not a folder")
        assert run(whole(), workdir="run", preview_every=1) == 0
        assert OUTPUT.read_text() == "(8, 12) 6 6"
        assert {path.name for path in folder.iterdir()} == {"out.txt", "run"}
        assert caplog.messages == [
            "no run folder, the picture alone: cannot write to run: File exists"
        ]

    def test_a_disk_that_is_full_in_the_run_folder_ends_nothing(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        def fail(*arguments: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(recorder.RunFolder, "record", fail)
        assert run(whole(), workdir="run", plot=False) == 0
        assert OUTPUT.read_text() == "(8, 12) 6 6"
        assert capsys.readouterr().err.count("No space left on device") == 1

    def test_a_result_whose_place_is_lost_is_kept_elsewhere(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        OUTPUT.mkdir()
        with pytest.raises(UserError, match=r"Is a directory.*; the picture is kept in ") as raised:
            run(whole())
        kept = Path(str(raised.value).split(" kept in ")[1])
        assert kept.name == "out.png"
        assert kept.read_text() == "(8, 12) 6 6"

    @pytest.mark.parametrize("name", ["previews", "out-000003.txt"])
    def test_previews_that_cannot_be_written_end_nothing(
        self, name: str, capsys: Captured, folder: Path
    ) -> None:
        workdir = "run" if name == "previews" else None
        if workdir:
            (folder / "run").mkdir()
            (folder / "run" / "previews").write_text("a file, not a folder")
        else:
            (folder / name).mkdir()
        assert run(whole(), workdir=workdir, preview_every=1, plot=False) == 0
        assert OUTPUT.read_text() == "(8, 12) 6 6"
        assert capsys.readouterr().err.count("no metrics and previews from here on") == 1

    def test_an_error_on_the_way_leaves_the_best_so_far(self) -> None:
        """Memory is full at the finer size, say."""

        def reports() -> Iterator[Report]:
            yield report(0, 3)
            raise RuntimeError("RESOURCE_EXHAUSTED")

        with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
            run(reports())
        assert OUTPUT.read_text() == "(4, 6) 3 3"

    def test_what_is_no_longer_finite_leaves_the_best_so_far(self) -> None:
        def reports() -> Iterator[Report]:
            yield report(0, 1)
            raise NonFiniteError("the term x was no longer finite")

        with pytest.raises(UserError, match=r"the term x .* out.txt is the picture before that"):
            run(reports())
        assert OUTPUT.read_text() == "(4, 6) 1 1"

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_leaves_the_best_so_far(
        self, number: signal.Signals, code: int, capsys: Captured
    ) -> None:
        def reports() -> Iterator[Report]:
            yield report(0, 0)
            signal.raise_signal(number)
            yield report(0, 1)
            raise AssertionError("the run goes on")

        assert run(reports()) == code
        assert OUTPUT.read_text() == "(4, 6) 1 1"
        assert "Stopped early, before 12x8. Give it back." in capsys.readouterr().out

    def test_a_second_signal_stops_at_once_and_leaves_it_too(self) -> None:
        """As while the next size is compiled."""

        def reports() -> Iterator[Report]:
            yield report(0, 1)
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            run(reports())
        assert OUTPUT.read_text() == "(4, 6) 1 1"

    def test_a_signal_at_the_finest_size(self, capsys: Captured) -> None:
        def reports() -> Iterator[Report]:
            yield report(1, 1)
            signal.raise_signal(signal.SIGINT)
            yield report(1, 2)

        assert run(reports()) == 130
        assert "Stopped early. Give it back." in capsys.readouterr().out
