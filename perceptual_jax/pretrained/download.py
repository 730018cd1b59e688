"""Downloads of files of known size and SHA-256, which resume after a cut connection, in this run or
a later one.

Bytes are collected in `NAME.DIGEST.part` beside the file, which is renamed when it is complete and
checked.  The folder may be shared, and the server anyone's: links are not followed, and what is
sent slowly, or without end, ends with an error.
"""

import contextlib
import hashlib
import http.client
import os
import queue
import socket
import stat
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from perceptual_jax.io.storage import FileError, local_path

# Failures in a row before it stops trying.  The pause doubles after each.
ATTEMPTS = 4
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0

# What has to arrive in each window of time.  A file of half a gigabyte takes 15 hours at this rate.
WINDOW_SECONDS = 60.0
LEAST_BYTES_PER_SECOND = 10_000

_CHUNK = 1 << 18
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(FileError):
    """An address that could not be fetched: one line that names it and says why."""


def cache_folder() -> Path:
    """`$PERCEPTUAL_JAX_CACHE`, or `perceptual_jax` in the user's cache folder.

    Raises:
      FileError: the user has no home.
    """
    if chosen := os.environ.get("PERCEPTUAL_JAX_CACHE"):
        return local_path(chosen)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise FileError(
            "there is no home folder to keep files in: set PERCEPTUAL_JAX_CACHE to a folder"
        ) from error
    return caches / "perceptual_jax"


def fetch_file(url: str, path: Path, *, size: int, sha256: str) -> None:
    """Fetches the file at `url` to `path`.

    Args:
      url: an http or https address.
      path: the file to make; its folder must exist.
      size: of the file, in bytes; no more are taken.
      sha256: its SHA-256, in hexadecimal digits.

    Raises:
      DownloadError: the address cannot be reached, refuses, is too slow, or gives another file.
      FileError: something that is no plain file is where the part should be.
      OSError: the disk is full or not writable.
    """
    part = path.with_name(f"{path.name}.{sha256[:16]}.part")
    for other in path.parent.glob(f"{path.name}.*.part"):
        if other != part:
            other.unlink()
    with _open(part, os.O_RDWR) as file:
        have = file.seek(0, os.SEEK_END)
        if have > size:
            have = file.truncate(0)
        with tqdm(
            desc=path.name, total=size, initial=have, unit="B", unit_scale=True, disable=None
        ) as bar:
            for place, chunk in _in_time(url, _pieces(url, have, size)):
                file.seek(place)
                file.write(chunk)
                bar.update(place + len(chunk) - bar.n)
    if (found := digest(part)) != sha256:
        part.unlink()
        raise DownloadError(f"{url} gave a damaged file: its SHA-256 is {found}, not {sha256}")
    part.replace(path)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, so that processes started together fetch a file only once."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes may then both fetch, into the same part.
        yield
        return
    with _open(path, os.O_RDONLY) as file:
        # Some network file systems have no locks; fetching twice is better than not at all.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open(path: Path, flags: int) -> BinaryIO:
    """A plain file, made if it is not there; whoever may write into its folder may not redirect us.

    Raises:
      FileError: it is a link, of whichever kind, or no regular file.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # Each is unknown to some system.
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags | os.O_CREAT, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise FileError(f"{path} is a link, which is not followed: remove it") from error
        raise
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(descriptor)
        raise FileError(f"{path} is a link, or no regular file: remove it")
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb")


def _in_time(url: str, pieces: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The pieces, fetched by a thread, so that no server can hold its caller by sending slowly.

    A timeout of a connection starts anew with every byte, and a header may have many.
    """
    arrived: queue.Queue[Any] = queue.Queue(maxsize=8)

    def fetch() -> None:
        try:
            for piece in pieces:
                arrived.put(piece)
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=fetch, daemon=True).start()
    end, received = time.monotonic() + WINDOW_SECONDS, 0
    while True:
        try:
            piece = arrived.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            if received < LEAST_BYTES_PER_SECOND * WINDOW_SECONDS:
                raise DownloadError(
                    f"{url}: {received} bytes came in {WINDOW_SECONDS:.0f} s, which is too slow"
                ) from None
            end, received = time.monotonic() + WINDOW_SECONDS, 0
            continue
        if piece is None:
            return
        if isinstance(piece, BaseException):
            raise piece
        received += len(piece[1])
        yield piece


def _pieces(url: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """A file of `size` bytes from `start` on: pieces, each with its place in the file.

    It connects again when the connection is cut.
    """
    opener = urllib.request.build_opener(_Redirects)
    failures, reached = 0, False
    while start < size:
        problem = "the connection was cut"
        # Some servers refuse Python's own name.
        headers = {"User-Agent": "perceptual_jax", "Range": f"bytes={start}-{size - 1}"}
        request = urllib.request.Request(url, headers=headers)
        try:
            with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                reached = True
                # A server without range requests sends the file from its beginning.
                place = start if response.status == 206 else 0
                while place < size and (chunk := response.read1(min(_CHUNK, size - place))):
                    yield place, chunk
                    place += len(chunk)
                    if place > start:
                        start, failures = place, 0
            if start == size:
                return
        except urllib.error.HTTPError as error:
            error.close()
            # In our own words: those of the server may be anything.
            problem = f"HTTP {error.code} {http.client.responses.get(error.code, '')}"
            if error.code // 100 == 3:
                problem += ", a redirect that is not followed"
            if error.code not in _TEMPORARY:
                raise DownloadError(f"{url}: {problem}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            problem = str(reason) or type(reason).__name__
            if isinstance(reason, socket.gaierror) and not reached:
                # There is no network: waiting would not help.
                raise DownloadError(f"{url}: {problem}") from error
        failures += 1
        if failures == ATTEMPTS:
            raise DownloadError(f"{url}: {problem} ({ATTEMPTS} attempts)")
        time.sleep(PAUSE_SECONDS * 2 ** (failures - 1))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to the same scheme or to https, and no other."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in (req.type, "https"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
