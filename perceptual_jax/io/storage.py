"""Places on a disk or in a bucket (`gs://...`): telling them apart, and their errors."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class FileError(OSError):
    """A file, folder or place that cannot be used as asked: what is wrong with it, and what to do.

    One line, which names the file and no flag.
    """


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Whether a place is in a bucket, of which the system's own functions know nothing."""
    return "://" in os.fspath(place)


def put(file: Path, place: str) -> None:
    """Copies a file of this machine to a place in a bucket.

    Raises:
      FileError: it cannot be written.
    """
    # Only here: it is slow to import, and of use to few.
    from etils import epath

    with access(place):
        target = epath.Path(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())


def get(place: str, file: Path) -> None:
    """Copies from a bucket to a file of this machine what is there; else does nothing.

    Raises:
      FileError: it cannot be read.
    """
    from etils import epath

    with access(place):
        source = epath.Path(place)
        if source.exists():
            file.write_bytes(source.read_bytes())


@contextlib.contextmanager
def access(place: str) -> Iterator[None]:
    """Within it, whatever storage raises becomes a `FileError` about this place."""
    try:
        yield
    except FileError:
        raise
    except ImportError as error:
        raise FileError(f"cannot open {place}: {error} (pip install gcsfs for gs://)") from error
    except Exception as error:
        # Each kind of storage has errors of its own.
        raise FileError(
            f"cannot open {place} ({error}): check the path, and your rights to it"
        ) from error
