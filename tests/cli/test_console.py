"""The terminal: a bar that shows what is going on."""

import itertools
import logging

import pytest

from perceptual_jax.cli import console, messages


class TestProgressBar:
    def test_ends_with_the_last_update(self, capsys: pytest.CaptureFixture[str]) -> None:
        with console.ProgressBar(total_work=200.0) as bar:
            bar.update(50.0, "64x48 iteration 1/4", {"total": 1234.5678, "content": 0.0012345})
            bar.update(150.0, "64x48 iteration 4/4", {"total": 2.0, "content": 1.0})
        captured = capsys.readouterr()
        assert captured.out == ""  # For results, which a pipe may want.
        last = captured.err.rstrip().splitlines()[-1].rsplit("\r", maxsplit=1)[-1]
        assert "64x48 iteration 4/4" in last
        assert "100%" in last
        assert "total 2  content 1" in last

    def test_numbers_are_short(self, capsys: pytest.CaptureFixture[str]) -> None:
        with console.ProgressBar(total_work=4.0) as bar:
            bar.update(1.0, "iteration 1/4", {"total": 1234567.0, "content": 0.0012345})
        assert " 25%|" in (shown := capsys.readouterr().err)
        assert "total 1.23e+06  content 0.00123" in shown

    def test_the_time_left_does_not_count_the_compiler(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A minute for the first step, a second for each of the others, of which two are left."""
        seconds = itertools.chain([60.0], itertools.count(61.0))
        monkeypatch.setattr("time.monotonic", lambda: next(seconds))
        with console.ProgressBar(total_work=5.0) as bar:
            bar.update(1.0, "step 1", {})
            assert "<?" in capsys.readouterr().err
            bar.update(1.0, "step 2", {})
            bar.update(1.0, "step 3", {})
        assert "<00:02" in capsys.readouterr().err

    def test_what_is_logged_has_a_line_of_its_own(self, capsys: pytest.CaptureFixture[str]) -> None:
        with console.ProgressBar(total_work=4.0):
            logging.getLogger("perceptual_jax.io.photos").warning("skipped: a.jpg")
        assert "skipped: a.jpg" in [
            line.rsplit("\r", maxsplit=1)[-1].strip()
            for line in capsys.readouterr().err.splitlines()
        ]
        assert logging.getLogger("perceptual_jax").handlers == []

    def test_shows_no_command_to_the_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        messages.set_up_logging()
        with console.ProgressBar(total_work=4.0) as bar:
            logging.getLogger("perceptual_jax.io.photos").warning("skipped: \x1bc.jpg")
            bar.update(4.0, "\x1b[2J.jpg", {})
        shown = capsys.readouterr().err
        assert r"skipped: \x1bc.jpg" in shown
        assert r"\x1b[2J.jpg 100%" in shown
        assert "\x1b[2J" not in shown

    def test_goes_on_where_work_was_left(self, capsys: pytest.CaptureFixture[str]) -> None:
        with console.ProgressBar(total_work=200.0, done=100.0) as bar:
            bar.update(50.0, "step 15", {"total": 1.0})
        shown = capsys.readouterr().err
        assert " 50%|" in shown
        assert " 75%|" in shown

    def test_a_file_is_not_filled_with_redrawn_lines(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A log of an hour's work should be readable."""
        with console.ProgressBar(total_work=1000.0) as bar:
            for step in range(1000):
                bar.update(1.0, f"iteration {step}", {"total": 1.0})
        assert capsys.readouterr().err.count("iteration") < 5

    def test_the_work_goes_on_when_nobody_reads_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As when a terminal is closed, or by `2>&1 | head -1`."""

        def fail(text: str) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr("sys.stderr.write", fail)
        with console.ProgressBar(total_work=2.0) as bar:
            bar.update(1.0, "step 1", {})
            logging.getLogger("perceptual_jax.training.photos").warning("skipped: a.jpg")
            bar.update(1.0, "step 2", {})

    def test_is_closed_after_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> None:
            with console.ProgressBar(total_work=2.0) as bar:
                bar.update(1.0, "step 1", {})
                raise ArithmeticError

        with pytest.raises(ArithmeticError):
            fail()
        assert "step 1  50%" in capsys.readouterr().err.splitlines()[-1]
        assert logging.getLogger("perceptual_jax").handlers == []
