"""Downloads that resume after a cut connection, in this run or a later one.

Bytes are collected in `NAME.IDENTITY.part` beside the file, which is renamed when it is complete.
IDENTITY is a digest of the address, size and ETag of the remote file, so a part is only continued
with bytes of the same file.
"""

import contextlib
import hashlib
import http.client
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from perceptual_jax.io.storage import FileError, local_path
from perceptual_jax.pretrained import tensorfile

# Failures in a row before it stops trying.  The pause doubles after each.
ATTEMPTS = 4
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0

_CHUNK = 1 << 18
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_LARGEST_HEADER = 100_000_000  # The safetensors library's own limit.


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


def fetch_file(url: str, path: Path, *, sha256_prefix: str = "") -> None:
    """Fetches the file at `url` to `path`.

    Args:
      url: an http or https address.
      path: the file to make; its folder must exist.
      sha256_prefix: hexadecimal digits with which the SHA-256 of the file must start.

    Raises:
      DownloadError: the address cannot be reached, refuses, or gives another file.
      OSError: the disk is full or not writable.
    """
    remote = _Remote(url)
    remote.read(0, 1)
    if remote.size is None:
        raise DownloadError(f"{url}: the server does not say how large it is")
    part = _collect(remote, [(0, remote.size)], path)
    found = sha256(part)
    if not found.startswith(sha256_prefix):
        part.unlink()
        raise DownloadError(
            f"{url} gave a damaged file: its SHA-256 starts with "
            f"{found[: len(sha256_prefix)]}, expected {sha256_prefix}"
        )
    part.replace(path)


def fetch_tensors(url: str, path: Path, wanted: Callable[[str], bool]) -> None:
    """As `fetch_file`, but only the `wanted` tensors of a safetensors file, by range requests."""
    remote = _Remote(url)
    length = int.from_bytes(remote.read(0, 8), "little")
    if length > _LARGEST_HEADER:
        raise DownloadError(f"{url} is not a safetensors file")
    try:
        description = json.loads(remote.read(8, 8 + length))
        description.pop("__metadata__", None)
        chosen = sorted(
            (*about["data_offsets"], about["dtype"], about["shape"], name)
            for name, about in description.items()
            if wanted(name)
        )
        header = tensorfile.header(
            {name: (dtype, shape, end - begin) for begin, end, dtype, shape, name in chosen}
        )
        spans = _merged([(8 + length + begin, 8 + length + end) for begin, end, *_ in chosen])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DownloadError(f"{url} is not a safetensors file: {error}") from error
    _collect(remote, spans, path, header).replace(path)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, so that processes started together fetch a file only once."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes may then both fetch, into the same part.
        yield
        return
    with path.open("w") as file:
        # Some network file systems have no locks; fetching twice is better than not at all.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Remote:
    """A file on a server, which must not change while parts of it are fetched."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reached = False
        self.size: int | None = None
        self.etag = ""

    @property
    def identity(self) -> str:
        return hashlib.sha256(f"{self.url} {self.size} {self.etag}".encode()).hexdigest()[:16]

    def read(self, start: int, stop: int) -> bytes:
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`; it connects again when the connection is cut."""
        failures = 0
        while start < stop:
            problem = "the connection was cut"
            try:
                with urllib.request.urlopen(
                    self._request(start, stop), timeout=TIMEOUT_SECONDS
                ) as response:
                    self._check_identity(response, start)
                    # A server without range requests sends the file from its beginning.
                    place = start if response.status == 206 else 0
                    while place < stop and (chunk := response.read(min(_CHUNK, stop - place))):
                        new = chunk[max(start - place, 0) :]
                        place += len(chunk)
                        if new:
                            start, failures = place, 0
                            yield new
                if start == stop:
                    return
            except DownloadError:
                raise
            except urllib.error.HTTPError as error:
                error.close()
                problem = f"HTTP {error.code} {error.reason}"
                if error.code not in _TEMPORARY:
                    raise DownloadError(f"{self.url}: {problem}") from error
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                problem = str(reason) or type(reason).__name__
                if isinstance(reason, socket.gaierror) and not self.reached:
                    # There is no network: waiting would not help.
                    raise DownloadError(f"{self.url}: {problem}") from error
            failures += 1
            if failures == ATTEMPTS:
                raise DownloadError(f"{self.url}: {problem} ({ATTEMPTS} attempts)")
            time.sleep(PAUSE_SECONDS * 2 ** (failures - 1))

    def _request(self, start: int, stop: int) -> urllib.request.Request:
        # Some servers refuse Python's own name.
        headers = {"User-Agent": "perceptual_jax", "Range": f"bytes={start}-{stop - 1}"}
        if self.etag.startswith('"'):  # A weak tag does not promise the same bytes.
            headers["If-Range"] = self.etag
        return urllib.request.Request(self.url, headers=headers)

    def _check_identity(self, response: http.client.HTTPResponse, start: int) -> None:
        """Keeps the size and ETag of the first response, and compares those of later ones."""
        etag = response.headers.get("ETag", "")
        if response.status == 206:
            span, _, total = response.headers.get("Content-Range", "").partition("/")
            if not span.startswith(f"bytes {start}-"):
                raise DownloadError(f"{self.url} sent another range than the requested one")
        else:
            total = response.headers.get("Content-Length", "")
        size = int(total) if total.isdecimal() else None
        if self.reached and (size, etag) != (self.size, self.etag):
            raise DownloadError(f"{self.url} changed while it was fetched; try again")
        self.reached, self.size, self.etag = True, size, etag


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in their order, where neighbours that touch are joined."""
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def _collect(
    remote: _Remote, spans: list[tuple[int, int]], path: Path, prefix: bytes = b""
) -> Path:
    """Appends the missing spans of a remote file to its part, and returns that when complete."""
    part = path.with_name(f"{path.name}.{remote.identity}.part")
    for other in path.parent.glob(f"{path.name}.*.part"):
        if other != part:
            other.unlink()
    total = len(prefix) + sum(stop - start for start, stop in spans)
    with part.open("a+b") as file:
        file.seek(0)
        if file.read(len(prefix)) != prefix or file.seek(0, os.SEEK_END) > total:
            file.truncate(0)
            file.write(prefix)
        have = file.seek(0, os.SEEK_END)
        with tqdm(
            desc=path.name, total=total, initial=have, unit="B", unit_scale=True, disable=None
        ) as bar:
            have -= len(prefix)
            for start, stop in spans:
                skipped = min(have, stop - start)
                have -= skipped
                for chunk in remote.stream(start + skipped, stop):
                    file.write(chunk)
                    bar.update(len(chunk))
    return part


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
