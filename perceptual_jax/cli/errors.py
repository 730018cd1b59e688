"""The error that a person at the command line can mend, and pictures that are left out for one."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from perceptual_jax.cli.messages import printable, say


class UserError(Exception):
    """A mistake in flags or files: one line that says what is wrong, and what to do about it.

    The command line prints it without a traceback and exits with code 2. A `ValueError`, which
    functions of the library raise for wrong arguments, is a mistake of the program, unless it
    comes from within `usage_errors`.
    """


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turns a `ValueError` into a `UserError`: for calls whose arguments come from flags."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def message(error: Exception) -> str:
    """What an error says, in one line: `No space left on device: 'x.png'` without its number."""
    return printable(re.sub(r"^\[\w+ -?\d+\] ", "", " ".join(str(error).split())))


@contextlib.contextmanager
def leaving_out(failed: list[str], *paths: str | Path) -> Iterator[None]:
    """Adds what is wrong with the pictures that it is about to `failed`, and goes on."""
    try:
        yield
    except (UserError, OSError) as error:
        text = message(error)
        names = [printable(str(path)) for path in paths]
        failed += [text if name in text else f"{name}: {text}" for name in names]


def report_left_out(failed: Sequence[str], done: object) -> int:
    """Names the pictures that were left out; the exit code is 2 where no other was `done`."""
    for line in failed:
        say(f"left out: {line}", aside=True)
    if not failed:
        return 0
    return 1 if done else 2
