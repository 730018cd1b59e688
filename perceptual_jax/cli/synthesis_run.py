"""Optimising pixels as a person meets it: shown, recorded, previewed, and stopped without loss."""

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perceptual_jax import synthesis
from perceptual_jax.cli import console
from perceptual_jax.cli.errors import UserError, message
from perceptual_jax.cli.interrupts import interruptible
from perceptual_jax.cli.messages import say
from perceptual_jax.training.recorder import RunFolder

_log = logging.getLogger(__name__)


def run(
    reports: Iterable[synthesis.Report],
    stages: Sequence[tuple[tuple[int, int], int]],
    *,
    output: Path,
    write: Callable[[Path, np.ndarray, int], None],
    settings: Mapping[str, Any],
    advice: str,
    workdir: str | None = None,
    preview_every: int = 0,
    plot: bool = True,
) -> int:
    """Optimises images until the end or a signal, writes the best ones, returns the exit code.

    No failure of the run folder ends it: what is asked for is the picture.  Where that cannot be
    written, it is kept in a folder for temporary files.

    Args:
      reports: of `synthesis.run` or `synthesis.transfer`, which compute as this iterates.
      stages: `((height, width), steps)` of every stage.
      output: the file.
      write: given a path, images `(B, H, W, 3)` and the number of iterations, writes the file.
      settings: for the run folder.
      advice: printed after a signal: how to go on.
      workdir, preview_every, plot: the flags of `flags.run_folder`.

    Raises:
      UserError: the objective became infinite or NaN; the last good picture is written before.
        Or the file could not be written.
    """
    began = time.monotonic()
    best, iterations, stopped, failure = None, 0, 0, None
    with contextlib.ExitStack() as stack:
        # Closed last: it draws a plot, and by then the picture is written.
        record = stack.enter_context(_run_folder(workdir, settings, plot)) if workdir else None
        preview_every = 0 if workdir and not record else preview_every
        interrupts = stack.enter_context(interruptible())
        work = sum(math.prod(size) * (steps + 1) for size, steps in stages)
        try:
            with console.ProgressBar(work) as bar:
                for report in reports:
                    # A copy: the next dispatch takes the array.
                    best, before = np.array(report.best), iterations
                    iterations = report.step + sum(steps for _, steps in stages[: report.stage])
                    stopped = int(np.sum(~np.isfinite(report.trace.totals[:, -1])))
                    bar.update(
                        math.prod(best.shape[1:3]) * report.trace.totals.shape[1],
                        f"{_size(best)} iteration {report.step}/{report.steps}",
                        report.trace.summary(),
                    )
                    try:
                        if record:
                            record.record(_metrics(report, best, iterations))
                        if preview_every and iterations // preview_every > before // preview_every:
                            preview = output.with_stem(f"{output.stem}-{iterations:06d}")
                            path = record.preview_path(iterations) if record else preview
                            write(path, best, iterations)
                    except Exception as error:  # The picture matters more: the run goes on.
                        record, preview_every = None, 0
                        _log.warning("no metrics and previews from here on: %s", error)
                    if interrupts:
                        break
        except synthesis.NonFiniteError as error:
            failure = error
        except BaseException:
            # The memory is too small for the next stage, say, or a second signal stops it.
            if best is not None:
                _write(write, output, best, iterations)
            raise
        if best is None:
            raise UserError("no picture was made")
        _write(write, output, best, iterations)
        seconds = time.monotonic() - began
        say(f"{output}: {_size(best)}, {iterations} iterations, {seconds:.0f} s")
        if 0 < stopped < len(best):
            say(
                f"{stopped} of the {len(best)} pictures went no further, as their objective was "
                "no longer finite: lower --learning_rate"
            )
    if failure:
        raise UserError(f"{failure} (--learning_rate); {output} is the picture before that")
    if interrupts and iterations < sum(steps for _, steps in stages):
        (height, width), _ = stages[-1]
        finest = best.shape[1:3] == (height, width)
        say(f"Stopped early{'' if finest else f', before {width}x{height}'}. {advice}")
    return interrupts.exit_code


@contextlib.contextmanager
def _run_folder(
    workdir: str, settings: Mapping[str, Any], plot: bool
) -> Iterator[RunFolder | None]:
    """The run folder, or none if it cannot be made; whatever fails is told in a line."""
    try:
        folder = RunFolder(workdir, settings, plot=plot)
    except OSError as error:
        _log.warning("no run folder, the picture alone: %s", message(error))
        yield None
        return
    try:
        yield folder
    finally:
        try:
            folder.close()
        except Exception as error:
            _log.warning("the run folder is not complete: %s", error)


def _write(
    write: Callable[[Path, np.ndarray, int], None], output: Path, best: np.ndarray, iterations: int
) -> None:
    """Writes the result, elsewhere if its own place was lost meanwhile: a disk can be full."""
    try:
        write(output, best, iterations)
    except OSError as error:
        # PNG holds what another format may not.
        kept = Path(tempfile.mkdtemp(prefix="perceptual_jax-"), output.stem).with_suffix(".png")
        write(kept, best, iterations)
        raise UserError(f"{message(error)}; the picture is kept in {kept}") from error


def _size(images: np.ndarray) -> str:
    count, height, width, _ = images.shape
    return f"{width}x{height}" if count == 1 else f"{count} pictures of {width}x{height}"


def _metrics(report: synthesis.Report, best: np.ndarray, iterations: int) -> list[dict[str, Any]]:
    """A line for every evaluation of a report, of which the last came after `iterations`."""
    records = report.trace.records()
    return [
        {
            "step": iterations - len(records) + index,
            "scale": report.stage,
            "height": best.shape[1],
            "width": best.shape[2],
            **values,
        }
        for index, values in enumerate(records, start=1)
    ]
