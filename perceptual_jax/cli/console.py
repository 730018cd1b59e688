"""The terminal: a progress bar for long work, and signals that lose nothing."""

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from tqdm.utils import ObjectWrapper

_BAR = "{{desc}} {{percentage:3.0f}}%|{{bar:20}}| {{elapsed}}<{remaining}{{postfix}}"


class Interrupts:
    """Which signal, if any, has requested an early end."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the first signal is a request, a second one stops at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended."""
        return 0 if self.signal is None else 128 + self.signal


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Within it, Ctrl-C, SIGTERM and SIGHUP only set the object that it gives.

    A loop looks at that after every step, saves what it has, and ends.
    """
    interrupts = Interrupts()
    numbers = [signal.SIGINT, signal.SIGTERM]
    # `nohup` starts a program with SIGHUP ignored; Windows has no such signal.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, interrupts.handle) for number in numbers]
    try:
        yield interrupts
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


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


class ProgressBar:
    """A context manager that shows how much of the work is done, and the values of the terms.

    Iterations at different sizes take different times, so the time left follows from an amount of
    work, such as iterations times pixels. In a file or a pipe, where a line cannot be redrawn, it
    writes a line now and then. Log messages get lines of their own.

    Args:
      total_work: all of the work, in any unit.
      done: how much an earlier run has done.
    """

    def __init__(self, total_work: float, done: float = 0) -> None:
        self._logging = contextlib.ExitStack()
        package = __name__.partition(".")[0]
        self._logging.enter_context(logging_redirect_tqdm([logging.getLogger(package)]))
        self._first: tuple[float, float] | None = None
        self._bar: Any = tqdm.tqdm(
            desc="starting",
            total=total_work,
            initial=done,
            bar_format=_BAR.format(remaining="?"),
            file=_Stderr(sys.stderr),
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

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
        self._bar.set_description_str(description, refresh=False)
        shown = "  ".join(f"{name} {value:.3g}" for name, value in terms.items())
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(work)

    def close(self) -> None:
        self._bar.refresh()
        self._bar.close()
        self._logging.close()
