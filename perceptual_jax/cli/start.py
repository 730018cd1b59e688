"""The start of the program, which Ctrl-C ends in a line even while it is being imported."""

import os
import signal
from types import FrameType


def run() -> None:
    """Entry point of `run.py` and of the installed command."""
    # In the background of a shell it is ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    from perceptual_jax.cli import main

    main.run()


def _stop(number: int, frame: FrameType | None) -> None:
    """For all that loses nothing; work that does handles signals by `interrupts.interruptible`.

    An exception would come out of a module that is being imported as another one.
    """
    os.write(2, b"interrupted\n")
    os._exit(128 + number)
