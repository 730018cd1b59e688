"""Files and folders on a disk or in a bucket (`gs://...`): finding, copying and replacing them."""

import collections
import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".avif", ".heic", ".heif"),
)


class FileError(OSError):
    """A file or folder that cannot be used: one line that names it and says what to do."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path with a `~` at its start expanded, unless there is a file of that name.

    So `~copy.png`, as editors name what they set aside, is a file even where no user is called so.
    """
    path = Path(path)
    with contextlib.suppress(RuntimeError):  # There is no such user, or none has a home.
        return path if os.path.lexists(path) else path.expanduser()
    return path


def any_path(path: str | os.PathLike[str]) -> Path:
    """A path on a disk, see `local_path`, or an `etils.epath.Path` in a bucket."""
    if not is_remote(path):
        return local_path(path)
    # Only here: it is slow to import, and of use to few.
    from etils import epath

    bucket: Path = epath.Path(path)
    return bucket


def pictures_in(
    folder: Path, *, exclude: Path | None = None, suffixes: Sequence[str] = PICTURE_SUFFIXES
) -> list[Path]:
    """The pictures in a folder and its subfolders, by their suffix, sorted by path.

    Files and folders whose name begins with a dot are passed over, and so is what is neither a
    regular file nor a folder.  Links are followed, but every folder is read only once.

    Args:
      folder: in a bucket an `etils.epath.Path`, and so are the results.
      exclude: a folder or a picture to pass over, such as that of earlier results.
      suffixes: those of a picture, in lower case.

    Returns:
      Paths that begin with that of `folder`.

    Raises:
      FileError: `folder` is no folder, it or one in it cannot be opened, or there is no picture.
    """
    if not folder.is_dir():
        raise FileError(f"{folder} is not a folder: check the path")
    found = []
    excluded = None if exclude is None else _real(exclude)
    seen = {excluded}
    waiting = collections.deque([folder])
    while waiting:
        current = waiting.popleft()
        if _real(current) in seen:
            continue
        seen.add(_real(current))
        with access(str(current)):
            for path in current.iterdir():
                if path.name.startswith("."):
                    continue
                # In a bucket all files are regular, and it takes a while to ask for each.
                if path.suffix.lower() in suffixes and (is_remote(path) or path.is_file()):
                    if excluded is None or _real(path) != excluded:
                        found.append(path)
                elif path.is_dir():
                    # Links come last, so that a folder is found by its own path if possible.
                    is_link = Path(os.fspath(path)).is_symlink()
                    waiting.insert(len(waiting) if is_link else 0, path)
    if not found:
        raise FileError(f"there is no picture in {folder}: it needs {', '.join(suffixes)} files")
    return sorted(found)


def _real(path: os.PathLike[str]) -> Path:
    return Path(os.fspath(path)).resolve()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a new file to write, which replaces `path` at the end of the `with` block.

    So a reader sees the old file or the whole new one, and an error leaves the old one as it was.
    Missing folders are made.

    Raises:
      FileError: it cannot be written.
    """
    with _temporary_beside(path) as file:
        yield file
        file.replace(path)


def check_writable(path: Path) -> None:
    """Raises `FileError` if `atomic_write` could not write `path`.

    Missing folders are made; no file is left behind.
    """
    with _temporary_beside(path):
        pass


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """A new empty file in the folder of `path`, which is removed if it is still there."""
    # Not by `tempfile`, whose files only their owner may read.
    file = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file.touch(exist_ok=False)
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"cannot write {path} ({reason}): choose another place") from error


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[bool]:
    """Whether this program has a folder, which is made, for itself until the end of the `with`.

    The system lets go of the lock however a program ends.  Where there are none, in a bucket, on
    Windows and on some network file systems, and where none can be written, it is always true.
    """
    with contextlib.ExitStack() as stack:
        alone = True
        if not is_remote(folder):
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((folder / ".lock").open("a"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    alone = False
        yield alone


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a bucket, of which the system's own functions know nothing."""
    return "://" in os.fspath(path)


def put(file: Path, path: str) -> None:
    """Copies a local file into a bucket; raises `FileError` if it cannot."""
    # Only here: it is slow to import, and of use to few.
    from etils import epath

    with access(path):
        target = epath.Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())


def get(path: str, file: Path) -> None:
    """Copies a file in a bucket, if it is there, to a local one; `FileError` if that fails."""
    from etils import epath

    with access(path):
        source = epath.Path(path)
        if source.exists():
            file.write_bytes(source.read_bytes())


@contextlib.contextmanager
def access(path: str) -> Iterator[None]:
    """Turns whatever storage raises into a `FileError` about this path."""
    try:
        yield
    except FileError:
        raise
    except ImportError as error:
        raise FileError(f"cannot open {path}: {error} (pip install gcsfs for gs://)") from error
    except Exception as error:
        # Each kind of storage has errors of its own.
        raise FileError(
            f"cannot open {path} ({error}): check the path, and your rights to it"
        ) from error
