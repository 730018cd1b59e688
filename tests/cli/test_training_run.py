"""A training run in its folder: shown, kept, stopped and resumed, bit for bit.

What is trained is one number, towards the numbers of its photos.
"""

import json
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import training
from perceptual_jax.cli import training_flags, training_run
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.training_flags import RunOptions
from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained.networks import TrainedNetwork
from perceptual_jax.training import photos, recorder
from perceptual_jax.training import step as training_step
from perceptual_jax.training.checkpoints import Checkpoints
from perceptual_jax.training.step import TrainConfig
from tests.cli.modes.runs import contents
from tests.signals import stop_after

pytestmark = pytest.mark.usefixtures("compiled_quickly", "training_steps")

STEPS = 12
CONFIG = TrainConfig(steps=STEPS, learning_rate=0.1)
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


class Result(NamedTuple):
    x: np.ndarray
    step: int
    exit_code: int


def run(
    folder: Path,
    *,
    constant: float = 1.0,
    previews: Any = None,
    written: list[Any] | None = None,
    **options: Any,
) -> Result:
    options = {"checkpoint_every": 5, "preview_every": 0, "plot": False, **options}
    written = [] if written is None else written

    def preview(variables: Any, path: Path) -> None:
        previews.append((path.relative_to(folder), variables))

    def write(variables: Any, step: int) -> None:
        written.extend([variables, step])

    task = training_run.Task(
        network=TrainedNetwork(
            network=None,
            variables={"params": {"x": np.array([3.0, -2.0], np.float32)}},
            styles=(),
            settings={},
        ),
        loss=loss,
        constants=np.float32(constant),
        preview=preview,
    )
    run_options = RunOptions(workdir=str(folder), **options)
    code = training_run.run(task, CONFIG, Batches(), SETTINGS, run_options, write)
    variables, step = written
    return Result(variables["params"]["x"], step, code)


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
            {"params": {"x": np.array([3.0, -2.0], np.float32)}}, CONFIG, training.data_mesh()
        )
        reports = training.train(
            loss, CONFIG, state, Batches(), np.float32(1.0), training.data_mesh()
        )
        *_, last = reports
        result = whole[1]
        np.testing.assert_array_equal(result.x, last.state.ema["params"]["x"])
        assert isinstance(result.x, np.ndarray)
        assert (result.step, result.exit_code) == (STEPS, 0)

    def test_keeps_the_settings_and_what_was_measured(self, whole: tuple[Path, Result]) -> None:
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

    def test_keeps_checkpoints_at_every_so_many_steps_and_the_last(
        self, whole: tuple[Path, Result]
    ) -> None:
        assert kept(whole[0]) == [5, 10, 12]

    def test_without_such_steps_keeps_the_last(self, tmp_path: Path) -> None:
        run(tmp_path, checkpoint_every=0)
        assert kept(tmp_path) == [STEPS]

    def test_shows_the_average_at_every_so_many_steps(
        self, tmp_path: Path, whole: tuple[Path, Result]
    ) -> None:
        previews: list[Any] = []
        result = run(tmp_path, previews=previews, preview_every=4)
        assert [path for path, _ in previews] == [
            Path("previews", f"{step:06d}.png") for step in (4, 8, 12)
        ]
        np.testing.assert_array_equal(previews[-1][1]["params"]["x"], result.x)
        # Reports at other steps change nothing.
        np.testing.assert_array_equal(result.x, whole[1].x)

    def test_shows_it_early_at_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training_flags, "FIRST_PREVIEW", 3)
        previews: list[Any] = []
        for folder, every in (("seldom", 10), ("often", 2), ("never", 0)):
            run(tmp_path / folder, previews=previews, preview_every=every)
        assert [int(path.stem) for path, _ in previews] == [3, 10, 2, 4, 6, 8, 10, 12]

    def test_a_preview_that_fails_ends_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, whole: tuple[Path, Result]
    ) -> None:
        result = run(tmp_path, previews=None, preview_every=12)
        assert result.x.tobytes() == whole[1].x.tobytes()
        assert caplog.messages[-1].startswith(f"no preview {tmp_path / 'previews' / '000012.png'}:")

    def test_shows_the_terms_by_kind(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(tmp_path)
        shown = capsys.readouterr().err
        last = metrics(tmp_path)[-1]
        content = last["terms"]["content/a"] + last["terms"]["content/b"]
        assert f"step {STEPS} " in shown
        assert f"content {content:.3g}  style 1" in shown
        assert "skipped" not in shown

    def test_draws_the_terms_after_the_result_was_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(recorder, "_plot", interrupted)
        written: list[Any] = []
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, plot=True, written=written)
        assert written[1] == STEPS


class TestResume:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 129)]
    )
    def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(
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
        assert result.x.tobytes() == whole[1].x.tobytes()

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
        assert run(tmp_path).x.tobytes() == whole[1].x.tobytes()
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
        np.testing.assert_array_equal(again.x, first.x)
        assert metrics(tmp_path) == before
        assert kept(tmp_path) == [5, 10, 12]

    def test_a_folder_of_an_older_run_whose_average_had_another_name(
        self, tmp_path: Path, whole: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class OldState(NamedTuple):
            step: Any
            variables: Any
            optimizer: Any
            average: Any
            skipped: Any
            failing: Any

        save = Checkpoints.save

        def save_as_before(self: Checkpoints, step: int, state: Any, *rest: Any) -> None:
            save(self, step, OldState(*state), *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_as_before)
            stop_after(5, signal.SIGINT, patch)
            assert run(tmp_path).step == 5
        assert run(tmp_path).x.tobytes() == whole[1].x.tobytes()


class TestFullDisk:
    def test_without_room_for_the_last_checkpoint_the_network_is_written(
        self, tmp_path: Path, whole: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = Checkpoints.save

        def save_but_the_last(self: Checkpoints, step: int, *rest: Any) -> None:
            if step == STEPS:
                raise FileError("no room")
            save(self, step, *rest)

        written: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_but_the_last)
            with pytest.raises(FileError, match="no room"):
                run(tmp_path, written=written)
        variables, step = written
        assert step == STEPS
        assert variables["params"]["x"].tobytes() == whole[1].x.tobytes()
        assert kept(tmp_path) == [5, 10]
        assert run(tmp_path).x.tobytes() == whole[1].x.tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such locks")
class TestAlone:
    def test_a_second_program_is_refused_before_it_touches_anything(
        self, whole: tuple[Path, Result]
    ) -> None:
        folder = whole[0]
        before = contents(folder)
        with training_run.alone_in(str(folder)):
            for go_on in (
                lambda: run(folder),
                lambda: training_run.check_resumable(RunOptions(workdir=str(folder)), SETTINGS),
            ):
                with pytest.raises(UserError, match=rf"another program is .*--workdir={folder}: w"):
                    go_on()
        assert contents(folder) == before
        assert run(folder).step == STEPS


class TestNonFinite:
    def test_ends_the_run_and_keeps_what_was_good(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(training_step, "PATIENCE", 3)
        with pytest.raises(
            UserError, match=r"the term style/a was not finite .*another --learning_rate and --work"
        ):
            run(tmp_path, constant=np.nan, preview_every=1, previews=[])
        assert [line["skipped"] for line in metrics(tmp_path)] == [1, 2, 3]


class TestFolder:
    def test_of_another_network_is_refused(self, whole: tuple[Path, Result]) -> None:
        task = training_run.Task(
            network=TrainedNetwork(
                network=None,
                variables={"params": {"x": np.zeros(3, np.float32)}},
                styles=(),
                settings={},
            ),
            loss=loss,
            constants=np.float32(1.0),
            preview=lambda *_: None,
        )
        options = RunOptions(workdir=str(whole[0]), plot=False)
        with pytest.raises(FileError, match=r"^checkpoint 12 in .* of another network"):
            training_run.run(task, CONFIG, Batches(), SETTINGS, options, lambda *_: None)


class TestCheckResumable:
    def check(self, folder: Path, settings: Mapping[str, Any]) -> None:
        training_run.check_resumable(RunOptions(workdir=str(folder)), settings)

    def test_any_settings_may_begin_a_run_and_nothing_is_made(self, tmp_path: Path) -> None:
        self.check(tmp_path / "new", SETTINGS)
        assert not list(tmp_path.iterdir())

    def test_the_same_may_go_on(self, whole: tuple[Path, Result]) -> None:
        self.check(whole[0], {**SETTINGS, "style": ("wave",)})

    def test_all_that_changed_are_named(self, whole: tuple[Path, Result]) -> None:
        changed = {"style": ["wave", "the_kiss"], "steps": STEPS, "data": "photos"}
        with pytest.raises(UserError) as caught:
            self.check(whole[0], changed)
        message = str(caught.value)
        assert f"the run in {whole[0]} was begun with other settings" in message
        assert "--style was wave, now wave,the_kiss" in message
        assert "--data was not given, now photos" in message
        assert "--steps" not in message

    def test_one_that_is_new_in_the_program_is_no_change(self, whole: tuple[Path, Result]) -> None:
        self.check(whole[0], {**SETTINGS, "strength": 1.0})

    def test_one_that_had_another_name_is_compared(self, tmp_path: Path) -> None:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, {"x": jnp.zeros(1)}, {}, {"average_decay": 0.999})
        self.check(tmp_path, {"ema_decay": 0.999})
        with pytest.raises(UserError, match=r"--ema_decay was 0\.999, now 0\.9"):
            self.check(tmp_path, {"ema_decay": 0.9})

    def test_one_that_was_added_is_what_older_runs_did_without_it(self, tmp_path: Path) -> None:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, {"x": jnp.zeros(1)}, {}, {"seed": 1})
        self.check(tmp_path, {"seed": 1, "variation": 0.0, "preset": "johnson2016", "parts": 1})
        with pytest.raises(UserError, match=r"--variation was 0\.0, now 1\.0"):
            self.check(tmp_path, {"seed": 1, "variation": 1.0})

    def test_a_total_variation_that_was_not_given_is_that_of_older_runs(
        self, tmp_path: Path
    ) -> None:
        """They recorded the default of that time, 1e-6, in any case."""
        weights = {"content_weight": 1.0, "style_weight": 5.0}
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, {"x": jnp.zeros(1)}, {}, {**weights, "tv_weight": 1e-6})
        self.check(tmp_path, {**weights, "tv_weight": None})
        self.check(tmp_path, {**weights, "tv_weight": 1e-6})
        with pytest.raises(UserError, match=r"--tv_weight was not given, now 1e-05"):
            self.check(tmp_path, {**weights, "tv_weight": 1e-5})


class TestCheckPhotos:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_bytes(b"1234")
        return tmp_path

    def check(self, data: Path, begun: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return training_run.check_photos(
            photos.source(data), begun, RunOptions(workdir="run", **options)
        )

    def test_the_same_may_go_on_and_older_runs_did_not_know(self, data: Path) -> None:
        found = self.check(data, {})
        assert found == photos.source(data).fingerprint()
        assert self.check(data, {"photos": json.loads(json.dumps(found))}) == found

    def test_what_changed_is_told_with_what_to_do(
        self, data: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        begun = {"photos": self.check(data, {})}
        (data / "c.png").write_bytes(b"12")
        change = (
            "the photos changed since the run in run began (2 of 8 bytes then, 3 of 10 bytes now)"
        )
        with pytest.raises(UserError) as caught:
            self.check(data, begun)
        assert str(caught.value).startswith(
            f"{change}: put them back to go on with it, give --allow"
        )
        assert not caplog.messages
        now = self.check(data, begun, allow_changed_photos=True)
        assert now == photos.source(data).fingerprint()
        assert caplog.messages == [f"{change}: it goes on with those of now"]

    def test_so_are_others_of_the_same_sizes(self, data: Path) -> None:
        begun = {"photos": self.check(data, {})}
        (data / "b.png").write_bytes(b"1235")
        with pytest.raises(
            UserError, match=r"as many as before, 2 of 8 bytes, but with other names"
        ):
            self.check(data, begun)


class TestPhotos:
    def test_by_default_are_the_samples_with_a_line_that_says_so(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = training_run.find_photos(None)
        samples = list((resources.folder("examples") / "sample_photos").glob("*.jpg"))
        assert len(found) == len(samples) > 50
        out = capsys.readouterr().out
        assert out.startswith(f"Training on the {len(samples)} sample photos of examples/.")
        assert "--data=FOLDER" in out
        assert out.count("\n") == 1

    def test_of_a_folder_print_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        folder = resources.folder("examples") / "content"
        assert len(training_run.find_photos(str(folder))) == 4
        assert capsys.readouterr().out == ""
