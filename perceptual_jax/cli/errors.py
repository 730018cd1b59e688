"""The one error that a person at the command line can mend."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A mistake in what was asked, told in one line: what is wrong, and what to do next.

    The command line prints it without a traceback and exits with code 2.  It is not a
    `ValueError`: functions of the library raise that for arguments that no caller should pass.
    """


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Within it, a `ValueError` is the user's: for arguments that come straight from flags."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
