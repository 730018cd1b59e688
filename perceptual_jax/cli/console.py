"""The terminal: a progress bar for long work."""

import contextlib
import sys
import time
from typing import Any

import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from tqdm.utils import ObjectWrapper

from perceptual_jax.cli import messages

_BAR = "{{desc}} {{percentage:3.0f}}%|{{bar:20}}| {{elapsed}}<{remaining}{{postfix}}"


class _Stderr(ObjectWrapper):
    """Standard error, without its errors: work goes on when its terminal or pipe is closed."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._wrapped.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._wrapped.flush()

    # tqdm clears the bars of the stream that a log message goes to.
    def __eq__(self, other: object) -> bool:
        return bool(self._wrapped == other)


class ProgressBar(contextlib.ExitStack):
    """Shows how much of the work is done and the values of the terms, until its `with` ends.

    Iterations at different sizes take different times, so the time left follows from an amount of
    work, such as iterations times pixels. In a file or a pipe, where a line cannot be redrawn, it
    writes a line now and then. Log messages get lines of their own.

    Args:
      total_work: all of the work, in any unit.
      done: how much an earlier run has done.
      description: what is done before the first update.
    """

    def __init__(
        self, total_work: float, done: float = 0, *, description: str = "compiling"
    ) -> None:
        super().__init__()
        self.enter_context(logging_redirect_tqdm())
        self._first: tuple[float, float] | None = None
        bar: Any = tqdm.tqdm(
            desc=description,
            total=total_work,
            initial=done,
            bar_format=_BAR.format(remaining="?"),
            file=_Stderr(sys.stderr),
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
            dynamic_ncols=True,
        )
        self._bar = self.enter_context(bar)
        self.callback(bar.refresh)  # Callbacks come in reverse: before it is closed.

    def update(self, work: float, description: str, terms: dict[str, float]) -> None:
        """Adds to the work that is done, and replaces the text and the terms.

        The first piece of work includes compiling, so the time left follows from the later ones.
        """
        now, done = time.monotonic(), self._bar.n + work
        if self._first is None:
            self._first = now, done
        elif done > self._first[1]:
            pace = (now - self._first[0]) / (done - self._first[1])
            left = tqdm.tqdm.format_interval(pace * max(0.0, self._bar.total - done))
            self._bar.bar_format = _BAR.format(remaining=left)
        self._bar.set_description_str(messages.printable(description), refresh=False)
        shown = "  ".join(f"{name} {value:.3g}" for name, value in terms.items())
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(work)
