"""A training run as a person meets it: resumed, checkpointed, shown, and stopped without loss.

Everything is kept in one run folder, which is also where a run goes on when it is started again.
At the end the network is written to a file of its own.
"""

import dataclasses
import json
import logging
import math
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import __version__, training
from perceptual_jax.cli import console
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.io import storage
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained.networks import TrainedNetwork
from perceptual_jax.training.checkpoints import Checkpoints
from perceptual_jax.training.recorder import RunFolder
from perceptual_jax.training.train_losses import Loss

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run does beside training.

    Attributes:
      workdir: its folder.
      checkpoint_every: steps between checkpoints.
      preview_every: steps between previews; 0 for none.
      plot: whether the terms are drawn at the end.
    """

    workdir: str
    checkpoint_every: int
    preview_every: int
    plot: bool = True


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
      variables: the averaged ones, on the host.
      step: steps done, in all.
      steps: steps asked for.
      exit_code: for the shell.
    """

    variables: Any
    step: int
    steps: int
    exit_code: int


def check_settings(workdir: str, settings: Mapping[str, Any]) -> None:
    """Refuses to go on with a run under other settings than those that it was begun with.

    Args:
      workdir: its folder; nothing is made where there is none.
      settings: what would now decide the result, by the names of the flags.

    Raises:
      UserError: they differ from those; names every one that does.
    """
    # Only here: importing it takes as long as starting the program.
    from etils import epath

    if not _in_any_process((epath.Path(workdir).expanduser() / "checkpoints").exists()):
        return
    # Nothing may be cleared away: the run may be going on in another terminal.
    with Checkpoints(workdir, only_read=True) as checkpoints:
        before = checkpoints.settings() or {}
    now = json.loads(json.dumps(settings))
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed:
        flags = ", ".join(
            f"--{name} was {_as_given(before[name])}, now {_as_given(now[name])}"
            for name in changed
        )
        raise UserError(
            f"the run in {workdir} was begun with other settings ({flags}): give these again to go "
            "on with it, or another --workdir to begin anew"
        )


def _as_given(value: Any) -> str:
    """The value of a flag as a person writes it."""
    if value is None:
        return "not given"
    return ",".join(value) if isinstance(value, list) else str(value)


def run_to_file(
    loss: Loss,
    config: training.TrainConfig,
    began: TrainedNetwork,
    *,
    output: str,
    store: str,
    batches: Any,
    constants: Any,
    options: Options,
    preview: Callable[[Any, Path], None],
) -> int:
    """Trains in a run folder, from where it was left, and writes the network to a file.

    Args:
      loss: what is minimised.
      config: how.
      began: what the run begins with; its settings are those that decide the result.
      output: the file, here or in a bucket.
      store: dtype of the network's variables in it.
      batches, constants, options, preview: see `run`.

    Returns:
      The exit code for the shell.

    Raises:
      UserError: the training broke down, or the folder or file cannot be written.
    """
    try:
        result = run(
            loss,
            config,
            variables=began.variables,
            batches=batches,
            constants=constants,
            settings=began.settings,
            options=options,
            preview=preview,
        )
    except training.NonFiniteError as error:
        raise UserError(str(error)) from error
    if jax.process_index() == 0:
        told = {"program": f"perceptual_jax {__version__}", **_without_folders(began.settings)}
        trained = dataclasses.replace(
            began, variables=result.variables, settings={**told, "steps": result.step}
        )
        _write(output, trained, store)
        styles = f"{', '.join(began.styles)}; " if began.styles else ""
        print(f"{output}: {styles}{result.step} of {result.steps} steps")
        if result.step < result.steps:
            folder = options.workdir
            print(f"Stopped early. The same command with --workdir={folder} goes on from there.")
    return result.exit_code


def _without_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Files by their names: a network travels, and where things lay here concerns nobody there."""

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(part) for part in value]
        return Path(value).name if isinstance(value, str) else value

    return {key: name(value) for key, value in settings.items()}


def _write(output: str, trained: TrainedNetwork, dtype: str) -> None:
    with usage_errors(), tempfile.TemporaryDirectory() as folder:
        remote = storage.is_remote(output)
        file = Path(folder) / "network" if remote else Path(output).expanduser()
        try:
            pretrained_networks.save(file, trained, dtype=dtype)
        except OSError as error:
            raise UserError(
                f"{error}; the same command with another --output writes it from the checkpoint"
            ) from error
        if remote:
            storage.put(file, output)


def run(
    loss: Loss,
    config: training.TrainConfig,
    *,
    variables: Any,
    batches: Any,
    constants: Any,
    settings: Mapping[str, Any],
    options: Options,
    preview: Callable[[Any, Path], None],
) -> Result:
    """Trains in a run folder, from where it was left.

    Args:
      loss: what is minimised.
      config: how.
      variables: the network's, for a run that begins.
      batches: iterator over this process's batches, with `get_state` and `set_state`.
      constants: for the loss.
      settings: what decides the result, kept with every checkpoint.
      options: what else is done.
      preview: writes a picture of what the averaged variables do to a path.

    Raises:
      training.NonFiniteError: see `training.train`.
      UserError: the folder cannot be used.
    """
    mesh = training.data_mesh()
    first = jax.process_index() == 0
    with Checkpoints(options.workdir) as checkpoints, console.interruptible() as interrupts:
        state, position = _resumed(checkpoints, variables, config, mesh)
        begun = int(state.step)
        if position is not None:
            batches.set_state(position)
        record, bar = None, None
        if first:
            record = RunFolder(
                options.workdir, settings, plot=options.plot, resume_step=begun, tensorboard=True
            )
            bar = console.ProgressBar(config.steps, done=begun)

        def save(state: training.TrainState, step: int) -> None:
            checkpoints.save(step, state, batches.get_state(), settings)

        # Several processes have to stop, save and look at the clock at the same steps.
        alone = jax.process_count() == 1
        every = [options.checkpoint_every, options.preview_every, 0 if alone else 10]

        def is_milestone(step: int) -> bool:
            return any(number and step % number == 0 for number in every)

        step, average, saved = begun, state.ema, begun
        try:
            for report in training.train(
                loss,
                config,
                state,
                batches,
                training.replicate(constants, mesh),
                mesh,
                seconds_per_report=1.0 if alone else math.inf,
                report_at=is_milestone,
            ):
                moved, step, average = report.step - step, report.step, report.state.ema
                if bar and record:
                    _show(bar, record, report, moved)
                if options.checkpoint_every and step % options.checkpoint_every == 0:
                    save(report.state, step)
                    saved = step
                    if record:
                        record.publish()
                if record and options.preview_every and step % options.preview_every == 0:
                    preview(jax.device_get(average), record.preview_path(step))
                # All of them have to leave the loop at the same step.
                if _in_any_process(bool(interrupts)):
                    break
            if step > saved:
                save(report.state, step)
        finally:
            if bar and record:
                bar.close()
                record.close()
        checkpoints.wait()
        return Result(
            variables=jax.device_get(average),
            step=step,
            steps=config.steps,
            exit_code=_exit_code(interrupts),
        )


def _resumed(
    checkpoints: Checkpoints, variables: Any, config: training.TrainConfig, mesh: Any
) -> tuple[training.TrainState, Any]:
    """The state to go on from and the position of the input, None for its beginning."""
    state = training.start(variables, config, mesh)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    restored = checkpoints.latest(abstract)
    if restored is None:
        return state, None
    _log.info("going on from step %d", restored.step)
    return restored.state, restored.position


def _show(bar: console.ProgressBar, record: RunFolder, report: training.Report, moved: int) -> None:
    terms = {"loss": report.total, "photos/s": report.photos_per_second}
    if report.skipped:
        terms["skipped"] = report.skipped
    for name, value in report.terms.items():
        kind = name.split("/")[0]
        terms[kind] = terms.get(kind, 0.0) + value
    bar.update(moved, f"step {report.step}", terms)
    record.record(
        [
            {
                "step": report.step,
                "total": report.total,
                "terms": report.terms,
                "photos_per_second": round(report.photos_per_second, 2),
                "skipped": report.skipped,
            }
        ]
    )


def _in_any_process(condition: bool) -> bool:
    """Whether it holds in any of the processes, which all ask at the same time."""
    if jax.process_count() == 1:
        return condition
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(condition))))


def _exit_code(interrupts: console.Interrupts) -> int:
    """A machine that is taken away sends SIGTERM, and a run that was saved has done its part."""
    return 0 if interrupts.signal == signal.SIGTERM else interrupts.exit_code
