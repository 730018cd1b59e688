"""The error that a person at the command line can mend."""

import contextlib
import re
from collections.abc import Iterator


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
    return re.sub(r"^\[\w+ -?\d+\] ", "", " ".join(str(error).split()))
