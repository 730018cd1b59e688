"""A training run: resumed, checkpointed, shown, and stopped without loss.

Everything is kept in one run folder, from which a run goes on when it is started again.
"""

import contextlib
import dataclasses
import json
import logging
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from perceptual_jax import training
from perceptual_jax.cli import console, memory, training_flags, training_network
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.interrupts import interruptible
from perceptual_jax.cli.messages import say
from perceptual_jax.cli.training_flags import RunOptions, TrainSettings
from perceptual_jax.io import resources, storage
from perceptual_jax.objective import JOHNSON
from perceptual_jax.pretrained.networks import TrainedNetwork
from perceptual_jax.training import photos
from perceptual_jax.training.checkpoints import Checkpoints, of_all_processes
from perceptual_jax.training.recorder import RunFolder
from perceptual_jax.training.train_losses import Loss

_log = logging.getLogger(__name__)

# Settings of older runs, by the names that they have today.
_RENAMED = {"average_decay": "ema_decay"}
# And what they were before there was a setting for it.
_ADDED = {"preset": "johnson2016", "style_statistics": "gram", "variation": 0.0, "parts": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a mode trains, and for what.

    Attributes:
      network: what the run begins with; its settings are those beside the flags.
      loss, constants: what is minimised, and the arrays that it takes.
      preview: writes a picture of what some variables do to a path.
      batch_options: for `photos.batches`.
    """

    network: TrainedNetwork
    loss: Loss
    constants: Any
    preview: Callable[[Any, Path], None]
    batch_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def main(
    values: Any,
    accelerator: TrainSettings,
    cpu: TrainSettings,
    *,
    name: str,
    begin: Callable[[Any, TrainSettings], Task],
    parts: int = 1,
    recorded: Mapping[str, Any] = MappingProxyType({}),
    **changes: Any,
) -> int:
    """Trains a network as the flags say: the `main` of a mode, which gives the exit code.

    Args:
      accelerator, cpu: the defaults of the mode.
      name: of the run folder, if the flags give none.
      begin: makes the task of the mode.
      parts: crops of each photo, see `photos.batches`.
      recorded: settings in the place of those of flags that were not given.
      **changes: to the configuration.
    """
    memory.keep()
    training_flags.join_processes(values)
    config = training_flags.config_of(values, accelerator, cpu, parts=parts, **changes)
    options = training_flags.options_of(values, name)
    settings = training_flags.settings_of(values, config) | dict(recorded)
    begun = check_resumable(options, settings)
    source = find_photos(config.data)
    settings["photos"] = check_photos(source, begun, options)
    task = begin(values, config)
    settings |= task.network.settings
    with usage_errors():
        batches = photos.batches(
            source,
            batch_size=config.batch_size // jax.process_count(),
            crop=config.image_size,
            parts=parts,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **task.batch_options,
        )

    def write(variables: Any, step: int) -> None:
        trained = dataclasses.replace(task.network, variables=variables, settings=settings)
        training_network.write(trained, options, step=step, steps=config.steps)

    code = run(task, config, iter(batches), settings, options, write)
    if source.skipped and jax.process_index() == 0:
        say(f"{len(source.skipped)} of the {len(source)} photos could not be used")
    return code


@contextlib.contextmanager
def alone_in(workdir: str) -> Iterator[None]:
    """Keeps other programs out of the run folder, or raises `UserError` if there is one in it."""
    lock = storage.lock(storage.any_path(workdir))
    with lock if jax.process_index() == 0 else contextlib.nullcontext(True) as alone:
        if _in_any_process(not alone):
            raise UserError(
                f"another program is training in --workdir={workdir}: wait for its end, or give "
                "another --workdir"
            )
        yield


def check_resumable(options: RunOptions, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that the run in the folder was begun with, if there is one.

    Makes no folder where there is none.

    Raises:
      UserError: they are others, which are named; or another program is training there.
    """
    workdir = str(options.workdir)
    if not _in_any_process(storage.any_path(workdir).is_dir()):
        return {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone_in(workdir))
        if not _in_any_process((storage.any_path(workdir) / "checkpoints").exists()):
            return {}
        # Only to read, until the run goes on.
        checkpoints = stack.enter_context(Checkpoints(workdir, only_read=True))
        saved = checkpoints.settings() or {}
    with usage_errors():
        before, now = _comparable(saved), _comparable(json.loads(json.dumps(settings)))
    changes = ", ".join(
        f"--{name} was {_as_flag(before[name])}, now {_as_flag(now[name])}"
        for name in now
        if name in before and before[name] != now[name]
    )
    if changes:
        raise UserError(
            f"the run in {workdir} was begun with other settings ({changes}): give these again to "
            "go on with it, or another --workdir to begin anew"
        )
    return saved


def check_photos(
    source: photos.Photos, begun: Mapping[str, Any], options: RunOptions
) -> dict[str, Any]:
    """The fingerprint of the photos, which is kept with the settings.

    Raises:
      UserError: they changed since the run began, or the processes find different ones.
    """
    now = source.fingerprint()
    if len(set(of_all_processes(json.dumps(now)))) > 1:
        raise UserError("the processes find different photos: --data has to be the same for all")
    if begun.get("photos", now) != now:
        then = begun["photos"]
        change = f"{_amount(then)} then, {_amount(now)} now"
        if _amount(then) == _amount(now):
            change = f"as many as before, {_amount(now)}, but with other names or contents"
        change = f"the photos changed since the run in {options.workdir} began ({change})"
        if not options.allow_changed_photos:
            raise UserError(
                f"{change}: put them back to go on with it, give --allow_changed_photos to go on "
                "with those of now, or another --workdir to begin anew"
            )
        _log.warning("%s: it goes on with those of now", change)
    return now


def _amount(fingerprint: Mapping[str, Any]) -> str:
    # Of photos in a bucket only the number is known.
    size = f" of {fingerprint['bytes']:,} bytes" if fingerprint["bytes"] else ""
    return f"{fingerprint['count']}{size}"


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by today's names, with no total variation where it is that of none given.

    Older runs have its number in either case, and none of what was added since.
    """
    found = {_RENAMED.get(name, name): value for name, value in settings.items()}
    if found:
        found = {**_ADDED, **found}
    if "tv_weight" in found:
        others = {name: found[name] for name in ("content_weight", "style_weight")}
        weights = dataclasses.replace(JOHNSON, **others).term_weights()
        if found["tv_weight"] == weights.get("total_variation", 0.0):
            found["tv_weight"] = None
    return found


def _as_flag(value: Any) -> str:
    """The value of a flag as a person writes it."""
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def find_photos(data: str | None) -> photos.Photos:
    """The photos of `--data`, or the sample photos, with a line that says what these are."""
    if data:
        return photos.source(data)
    found = photos.source(resources.folder("examples") / "sample_photos")
    say(
        f"Training on the {len(found)} sample photos of examples/. With thousands (--data=FOLDER) "
        "a network treats photos of every kind well; Johnson et al. 2016 took 80,000."
    )
    return found


def run(
    task: Task,
    config: training.TrainConfig,
    batches: Any,
    settings: Mapping[str, Any],
    options: RunOptions,
    write: Callable[[Any, int], None],
) -> int:
    """Trains in a run folder, from where it was left, and gives the exit code.

    Args:
      batches: iterator over this process's batches, with `get_state` and `set_state`.
      settings: what decides the result; kept with every checkpoint.
      write: gets the averaged variables and the number of steps in the end, in one process.

    Raises:
      UserError: the training broke down.
      FileError: the folder cannot be used.
    """
    mesh = training.data_mesh()
    first, alone = jax.process_index() == 0, jax.process_count() == 1
    workdir = str(options.workdir)
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(interruptible())
        stack.enter_context(alone_in(workdir))

        # The state: of the newest checkpoint, else of the variables that the task begins with.
        checkpoints = stack.enter_context(Checkpoints(workdir))
        state = training.start(task.network.variables, config, mesh)
        if restored := checkpoints.latest(state):
            _log.info("going on from step %d", restored.step)
            state = restored.state
            batches.set_state(restored.position)
        step = saved = int(state.step)
        folder = None
        if first:
            folder = stack.enter_context(
                RunFolder(workdir, settings, plot=options.plot, resume_step=step, tensorboard=True)
            )

        # Several processes have to stop, save and report at the same steps.
        periods = [options.checkpoint_every, 0 if alone else 10]
        reports = training.train(
            task.loss,
            config,
            state,
            batches,
            training.replicate(task.constants, mesh),
            mesh,
            seconds_per_report=1.0 if alone else math.inf,
            report_at=lambda step: (
                any(_is_due(period, step) for period in periods) or _is_shown(options, step)
            ),
        )

        # The loop.
        bar = console.ProgressBar(config.steps, done=step) if first else None
        try:
            with bar or contextlib.nullcontext():
                for report in reports:
                    moved, step, state = report.step - step, report.step, report.state
                    if folder and bar:
                        _show(bar, folder, report, moved)
                    if _is_due(options.checkpoint_every, step):
                        checkpoints.save(step, state, batches.get_state(), settings)
                        saved = step
                        if folder:
                            folder.publish()
                    if folder and _is_shown(options, step):
                        _preview(task, state.ema, folder.preview_path(step))
                    if _in_any_process(bool(interrupts)):
                        break
        except training.NonFiniteError as error:
            raise UserError(
                f"{error}, and begin anew with another --learning_rate and --workdir"
            ) from error

        # The result comes before the drawing, which the folder makes when it is closed.
        try:
            if step > saved:
                checkpoints.save(step, state, batches.get_state(), settings)
            checkpoints.wait()
        finally:  # The network may have a place where a checkpoint has none.
            if first:
                write(jax.device_get(state.ema), step)
        # A machine that is taken away sends SIGTERM, and a run that was saved has done its part.
        return 0 if interrupts.signal == signal.SIGTERM else interrupts.exit_code


def _is_due(period: int, step: int) -> bool:
    return period > 0 and step % period == 0


def _is_shown(options: RunOptions, step: int) -> bool:
    """Whether there is a preview of a step: an early one, then in turn."""
    every = options.preview_every
    return _is_due(every, step) or 0 < step == min(every, training_flags.FIRST_PREVIEW)


def _show(bar: console.ProgressBar, folder: RunFolder, report: training.Report, moved: int) -> None:
    terms = {"loss": report.total, "photos/s": report.photos_per_second}
    if report.skipped:
        terms["skipped"] = report.skipped
    for name, value in report.terms.items():
        kind = name.split("/")[0]
        terms[kind] = terms.get(kind, 0.0) + value
    bar.update(moved, f"step {report.step}", terms)
    line = {**vars(report), "photos_per_second": round(report.photos_per_second, 2)}
    del line["state"]
    folder.record([line])


def _preview(task: Task, variables: Any, path: Path) -> None:
    try:
        task.preview(jax.device_get(variables), path)
    except Exception as error:  # No training may end for a picture of it.
        _log.warning("no preview %s: %s", path, error)


def _in_any_process(condition: bool) -> bool:
    """Whether it holds in any of the processes; all have to call it."""
    return any(of_all_processes("yes" if condition else ""))
