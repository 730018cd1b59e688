"""The terminal: a progress bar for long work, and Ctrl-C that loses nothing."""

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

_BAR = "{{desc}} {{percentage:3.0f}}%|{{bar:20}}| {{elapsed}}<{remaining}{{postfix}}"


class Interrupts:
    """Whether the person, or the machine's owner, has asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def ask(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the first signal asks, a second one stops at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended."""
        return 0 if self.signal is None else 128 + self.signal


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Within it, Ctrl-C and SIGTERM only set the flag that it gives, to be looked at in a loop."""
    interrupts = Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupts.ask) for number in numbers]
    try:
        yield interrupts
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class ProgressBar:
    """A bar whose length is work, and whose text tells the iteration and the terms.

    Iterations at different sizes take different times, so the time left follows from work, say
    iterations times pixels.  In a file or a pipe, where a line cannot be redrawn, it writes a
    line now and then.  What is logged meanwhile gets lines of its own.
    """

    def __init__(self, total_work: float, done: float = 0) -> None:
        self._logging = contextlib.ExitStack()
        self._logging.enter_context(logging_redirect_tqdm([logging.getLogger(__package__)]))
        self._compiled: tuple[float, float] | None = None
        self._bar: Any = tqdm.tqdm(
            desc="starting",
            total=total_work,
            initial=done,
            bar_format=_BAR.format(remaining="?"),
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
            dynamic_ncols=True,
        )

    def update(self, work: float, description: str, terms: dict[str, float]) -> None:
        """Moves the bar by `work`, and shows the terms beside it.

        The first work waits for the compiler, so the time left follows from what comes after it.
        """
        now, done = time.monotonic(), self._bar.n + work
        if self._compiled is None:
            self._compiled = now, done
        elif done > self._compiled[1]:
            pace = (now - self._compiled[0]) / (done - self._compiled[1])
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
