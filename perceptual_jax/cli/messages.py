"""Lines for a terminal, to which no name of a file is a command."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator

from perceptual_jax.io.storage import FileError

# Control characters, marks that turn the direction of writing, and bytes that are no UTF-8.
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Control characters as escapes: a file may be called `a\x1b[2J.png`, or in many lines."""
    return _NOT_TEXT.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def say(line: str, *, aside: bool = False) -> None:
    """Prints one line at once: a result, or what stands aside from results on standard error."""
    if aside:
        with contextlib.suppress(OSError):  # There is nobody to tell.
            print(printable(line), file=sys.stderr, flush=True)
    else:
        show(printable(line))


def show(text: str) -> None:
    """Prints lines of our own."""
    with standard_output():
        print(text, flush=True)


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """Says of errors that they are those of standard output, but for a reader who has left."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"cannot write to standard output ({error.strerror})") from error


def set_up_logging() -> None:
    """Lets messages stand alone, on standard error.

    Else a library sets up its own, which repeats every warning with the name of its module.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(handlers=[handler])


class Formatter(logging.Formatter):
    """For log messages, which name files as well."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))
