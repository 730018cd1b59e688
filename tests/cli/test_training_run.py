"""A training run in its folder: shown, kept, stopped and gone on with, bit for bit.

What is trained is one number, towards the numbers of its photos.
"""

import json
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import training
from perceptual_jax.cli import training_run
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.training_run import Options, Result
from perceptual_jax.training.step import TrainConfig
from tests.signals import stop_after

pytestmark = pytest.mark.usefixtures("compiled_quickly", "training_steps")

STEPS = 12
RECIPE = TrainConfig(steps=STEPS, learning_rate=0.1)
SETTINGS = {"style": ["wave"], "steps": STEPS, "data": None}


class Batches(Iterator[dict[str, np.ndarray]]):
    """Two photos of one number each, and where it is among them, as Grain's iterator has it."""

    def __init__(self) -> None:
        self.taken = 0

    def __next__(self) -> dict[str, np.ndarray]:
        self.taken += 1
        return {"photos": np.random.default_rng(self.taken).normal(size=2).astype(np.float32)}

    def get_state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.taken = state["taken"]


def loss(variables: Any, batch: Any, constants: Any) -> Any:
    away = jnp.square(variables["params"]["x"] - batch["photos"])
    terms = {"content/a": away, "content/b": 2 * away, "style/a": jnp.full(2, constants)}
    return sum(terms.values()), terms, {}


def run(folder: Path, *, constant: float = 1.0, previews: Any = None, **options: Any) -> Result:
    options = {"checkpoint_every": 5, "preview_every": 0, "plot": False, **options}

    def preview(variables: Any, path: Path) -> None:
        assert previews is not None
        previews.append((path.relative_to(folder), variables))

    return training_run.run(
        loss,
        RECIPE,
        variables={"params": {"x": np.array([3.0, -2.0], np.float32)}},
        batches=Batches(),
        constants=np.float32(constant),
        settings=SETTINGS,
        options=Options(workdir=str(folder), **options),
        preview=preview,
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


class TestRun:
    def test_gives_the_averaged_variables(self, whole: tuple[Path, Result]) -> None:
        state = training.start(
            {"params": {"x": np.array([3.0, -2.0], np.float32)}}, RECIPE, training.data_mesh()
        )
        reports = training.train(
            loss, RECIPE, state, Batches(), np.float32(1.0), training.data_mesh()
        )
        *_, last = reports
        result = whole[1]
        np.testing.assert_array_equal(
            result.variables["params"]["x"], last.state.ema["params"]["x"]
        )
        assert isinstance(result.variables["params"]["x"], np.ndarray)
        assert (result.step, result.steps, result.exit_code) == (STEPS, STEPS, 0)

    def test_keeps_what_was_asked_and_measured(self, whole: tuple[Path, Result]) -> None:
        folder, _ = whole
        assert json.loads((folder / "config.json").read_text()) == SETTINGS
        lines = metrics(folder)
        assert [line["step"] for line in lines][-1] == STEPS
        assert {5, 10} <= {line["step"] for line in lines}
        for line in lines:
            assert set(line["terms"]) == {"content/a", "content/b", "style/a"}
            assert line["total"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
            assert line["skipped"] == 0
            assert line["photos_per_second"] > 0
        assert list((folder / "tensorboard").iterdir())

    def test_keeps_checkpoints_at_the_steps_asked_for_and_the_last(
        self, whole: tuple[Path, Result]
    ) -> None:
        assert kept(whole[0]) == [5, 10, 12]

    def test_without_such_steps_keeps_the_last(self, tmp_path: Path) -> None:
        run(tmp_path, checkpoint_every=0)
        assert kept(tmp_path) == [STEPS]

    def test_shows_the_average_at_the_steps_asked_for(
        self, tmp_path: Path, whole: tuple[Path, Result]
    ) -> None:
        previews: list[Any] = []
        result = run(tmp_path, previews=previews, preview_every=4)
        assert [path for path, _ in previews] == [
            Path("previews", f"{step:06d}.png") for step in (4, 8, 12)
        ]
        np.testing.assert_array_equal(
            previews[-1][1]["params"]["x"], result.variables["params"]["x"]
        )
        # Reports at other steps change nothing.
        np.testing.assert_array_equal(
            result.variables["params"]["x"], whole[1].variables["params"]["x"]
        )

    def test_tells_the_terms_by_kind(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(tmp_path)
        shown = capsys.readouterr().err
        last = metrics(tmp_path)[-1]
        content = last["terms"]["content/a"] + last["terms"]["content/b"]
        assert f"step {STEPS} " in shown
        assert f"content {content:.3g}  style 1" in shown
        assert "skipped" not in shown

    def test_draws_the_terms_if_asked(self, tmp_path: Path) -> None:
        run(tmp_path, plot=True)
        assert (tmp_path / "terms.png").exists()


class TestResume:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
    def test_a_run_that_was_asked_to_stop_goes_on_as_if_it_had_not(
        self,
        tmp_path: Path,
        whole: tuple[Path, Result],
        number: signal.Signals,
        code: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patch:
            stop_after(5, number, patch)
            stopped = run(tmp_path)
        assert (stopped.step, stopped.exit_code) == (5, code)
        assert kept(tmp_path) == [5]
        result = run(tmp_path)
        assert (result.step, result.exit_code) == (STEPS, 0)
        found, expected = (x.variables["params"]["x"] for x in (result, whole[1]))
        assert found.tobytes() == expected.tobytes()

    def test_saves_where_it_was_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also between the steps at which it would."""
        stop_after(1, signal.SIGTERM, monkeypatch)
        result = run(tmp_path, preview_every=3, checkpoint_every=0, previews=[])
        assert 1 <= result.step <= 3
        assert kept(tmp_path) == [result.step]

    def test_what_was_measured_after_the_checkpoint_is_measured_again(
        self, tmp_path: Path, whole: tuple[Path, Result]
    ) -> None:
        """As after a kill: steps 6 to 9 were made, and written down, and are lost."""
        run(tmp_path)
        for step in (10, 12):
            shutil.rmtree(tmp_path / "checkpoints" / str(step))
        before = [line for line in metrics(tmp_path) if line["step"] <= 5]
        assert run(tmp_path).variables["params"]["x"].tobytes() == (
            whole[1].variables["params"]["x"].tobytes()
        )
        lines = metrics(tmp_path)
        assert lines[: len(before)] == before
        steps = [line["step"] for line in lines]
        assert steps == sorted(set(steps))
        assert steps[-1] == STEPS

    def test_a_finished_run_does_nothing(self, tmp_path: Path) -> None:
        first = run(tmp_path)
        before = metrics(tmp_path)
        again = run(tmp_path)
        assert (again.step, again.exit_code) == (STEPS, 0)
        np.testing.assert_array_equal(
            again.variables["params"]["x"], first.variables["params"]["x"]
        )
        assert metrics(tmp_path) == before
        assert kept(tmp_path) == [5, 10, 12]


class TestNonFinite:
    def test_ends_the_run_and_keeps_what_was_good(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(training, "PATIENCE", 3)
        with pytest.raises(training.NonFiniteError, match="the term style/a was not finite"):
            run(tmp_path, constant=np.nan, preview_every=1, previews=[])
        assert [line["skipped"] for line in metrics(tmp_path)] == [1, 2, 3]


class TestCheckSettings:
    def test_any_may_begin_a_run_and_nothing_is_made(self, tmp_path: Path) -> None:
        training_run.check_settings(str(tmp_path / "new"), SETTINGS)
        assert not list(tmp_path.iterdir())

    def test_the_same_may_go_on(self, whole: tuple[Path, Result]) -> None:
        training_run.check_settings(str(whole[0]), {**SETTINGS, "style": ("wave",)})

    def test_all_that_changed_are_told(self, whole: tuple[Path, Result]) -> None:
        changed = {"style": ["wave", "the_kiss"], "steps": STEPS, "data": "photos"}
        with pytest.raises((UserError, OSError)) as caught:
            training_run.check_settings(str(whole[0]), changed)
        message = str(caught.value)
        assert f"the run in {whole[0]} was begun with other settings" in message
        assert "--style was wave, now wave,the_kiss" in message
        assert "--data was not given, now photos" in message
        assert "--steps" not in message

    def test_one_that_is_new_in_the_program_is_no_change(self, whole: tuple[Path, Result]) -> None:
        training_run.check_settings(str(whole[0]), {**SETTINGS, "strength": 1.0})
