"""Optimising pixels as a person meets it: shown, recorded, previewed, and stopped without loss."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perceptual_jax import synthesis
from perceptual_jax.cli import console
from perceptual_jax.cli.errors import UserError
from perceptual_jax.training.recorder import RunFolder

_log = logging.getLogger(__name__)

Stages = Sequence[tuple[tuple[int, int], int]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run does beside its picture.

    Attributes:
      workdir: a folder for settings, metrics and previews; None for none.
      preview_every: iterations between previews; 0 for none.
      plot: whether the terms are drawn at the end.
    """

    workdir: str | None = None
    preview_every: int = 0
    plot: bool = True


def run(
    reports: Iterable[synthesis.Report],
    stages: Stages,
    *,
    output: Path,
    write: Callable[[Path, np.ndarray, int], None],
    settings: Mapping[str, Any],
    advice: str,
    options: Options,
) -> int:
    """Optimises images to the end, or until a signal, and writes the best ones to a file.

    Args:
      reports: of `synthesis.run` or `synthesis.transfer`, which compute as this iterates.
      stages: `((height, width), steps)` of every stage.
      output: the file.
      write: given a path, images `(B, H, W, 3)` and the number of iterations, writes the file.
      settings: for the run folder.
      advice: printed after a signal: how to go on.
      options: what else is done.

    Returns:
      The exit code for the shell.

    Raises:
      UserError: the objective became infinite or NaN; the last good picture is written before.
    """
    began = time.monotonic()
    best, iterations, failure = None, 0, None
    with contextlib.ExitStack() as stack:
        # Closed last: it draws a plot, and by then the picture is written.
        record = None
        if options.workdir:
            folder = RunFolder(options.workdir, settings, plot=options.plot)
            record = stack.enter_context(contextlib.closing(folder))
        extras = _Extras(record, options.preview_every, output, write)
        interrupts = stack.enter_context(console.interruptible())
        work = sum(math.prod(size) * (steps + 1) for size, steps in stages)
        try:
            with contextlib.closing(console.ProgressBar(work)) as bar:
                for report in reports:
                    # A copy: the next dispatch takes the array.
                    best, before = np.array(report.best), iterations
                    iterations = report.step + sum(steps for _, steps in stages[: report.stage])
                    bar.update(
                        math.prod(best.shape[1:3]) * report.trace.totals.shape[1],
                        f"{_size(best)} iteration {report.step}/{report.steps}",
                        report.trace.summary(),
                    )
                    extras.keep(report, best, before, iterations)
                    if interrupts:
                        break
        except synthesis.NonFiniteError as error:
            failure = error
        except Exception:
            # Such as an accelerator's memory that is full at a finer stage.
            if best is not None:
                write(output, best, iterations)
            raise
        if best is None:
            raise UserError("no picture was made")
        write(output, best, iterations)
        seconds = time.monotonic() - began
        print(f"{output}: {_size(best)}, {iterations} iterations, {seconds:.0f} s")
    if failure:
        raise UserError(f"{failure} (--learning_rate); {output} is the picture before that")
    if interrupts and iterations < sum(steps for _, steps in stages):
        (height, width), _ = stages[-1]
        finest = best.shape[1:3] == (height, width)
        print(f"Stopped early{'' if finest else f', before {width}x{height}'}. {advice}")
    return interrupts.exit_code


def _size(images: np.ndarray) -> str:
    count, height, width, _ = images.shape
    return f"{width}x{height}" if count == 1 else f"{count} pictures of {width}x{height}"


class _Extras:
    """Metrics and previews: the first that cannot be written is the last, and the run goes on."""

    def __init__(
        self,
        record: RunFolder | None,
        preview_every: int,
        output: Path,
        write: Callable[[Path, np.ndarray, int], None],
    ) -> None:
        self._record, self._preview_every = record, preview_every
        self._output, self._write = output, write
        self._failed = False

    def keep(
        self, report: synthesis.Report, best: np.ndarray, before: int, iterations: int
    ) -> None:
        """What a report adds, that took the iterations from `before` to `iterations`."""
        if self._failed:
            return
        try:
            if self._record:
                self._record.record(_metrics(report, best, iterations))
            every = self._preview_every
            if every and iterations // every > before // every:
                self._write(self._preview_path(iterations), best, iterations)
        except OSError as error:
            self._failed = True
            _log.warning("no metrics and previews from here on: %s", error)

    def _preview_path(self, iterations: int) -> Path:
        if self._record:
            return self._record.preview_path(iterations)
        return self._output.with_name(f"{self._output.stem}-{iterations:06d}{self._output.suffix}")


def _metrics(
    report: synthesis.Report, best: np.ndarray, iterations: int
) -> list[dict[str, Any]]:
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
