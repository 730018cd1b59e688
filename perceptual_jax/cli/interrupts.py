"""Ctrl-C, SIGTERM and SIGHUP, which lose nothing."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


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
    with contextlib.ExitStack() as stack:
        for number in numbers:
            before = signal.signal(number, interrupts.handle)
            stack.callback(signal.signal, number, before)
        yield interrupts
