"""Downloads from a server on this machine that cuts connections, refuses, and ignores ranges."""

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained import download, tensorfile
from perceptual_jax.pretrained.download import DownloadError

CONTENT = np.random.default_rng(0).bytes(1_000_000)


class Server(ThreadingHTTPServer):
    """Serves one file at every address, with the faults that a test asks for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.etag = '"one"'
        self.ranges = True
        self.tells_size = True
        self.statuses: list[int] = []  # Answers to the next requests, before it serves again.
        self.cuts: list[int] = []  # After how many bytes of the body the next answers break off.
        self.requests: list[dict[str, str]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/vgg-{sha256(self.content)[:8]}.pth"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        body, size = server.content, len(server.content)
        requested = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if requested and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start, last = map(int, requested.groups())
            body = body[start : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{size}")
        else:
            self.send_response(200)
        if server.tells_size:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if len(body) > 100_000 and server.cuts:
            body = body[: server.cuts.pop(0)]
        try:
            for position in range(0, len(body), 10_000):
                self.wfile.write(body[position : position + 10_000])
                server.sent += len(body[position : position + 10_000])
        except OSError:
            pass  # The client has what it wanted and hung up.

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 5)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


class TestFile:
    def test_arrives_whole(self, server: Server, path: Path) -> None:
        download.fetch_file(server.url, path, sha256_prefix=sha256(CONTENT)[:8])
        assert path.read_bytes() == CONTENT
        assert names(path.parent) == ["file"]

    def test_continues_after_cuts(self, server: Server, path: Path) -> None:
        server.cuts = [300_000, 0, 300_000]
        download.fetch_file(server.url, path)
        assert path.read_bytes() == CONTENT
        assert server.sent < 1.1 * len(CONTENT)

    def test_continues_in_another_run(self, server: Server, path: Path) -> None:
        server.cuts = [600_000, *[0] * download.ATTEMPTS]
        with pytest.raises(DownloadError, match=r"the connection was cut \(4 attempts\)"):
            download.fetch_file(server.url, path)
        assert not path.exists()
        server.sent, server.cuts = 0, []
        download.fetch_file(server.url, path, sha256_prefix=sha256(CONTENT))
        assert path.read_bytes() == CONTENT
        assert server.sent < 450_000
        assert server.requests[-1]["If-Range"] == '"one"'

    def test_a_part_of_another_version_is_not_continued(self, server: Server, path: Path) -> None:
        server.cuts = [600_000, *[0] * download.ATTEMPTS]
        with pytest.raises(DownloadError):
            download.fetch_file(server.url, path)
        server.content, server.etag, server.cuts = CONTENT[::-1], '"two"', []
        download.fetch_file(server.url, path)
        assert path.read_bytes() == CONTENT[::-1]
        assert names(path.parent) == ["file"]

    def test_a_file_that_changes_meanwhile_is_refused(self, server: Server, path: Path) -> None:
        remote = download._Remote(server.url)
        remote.read(0, 1)
        server.etag = '"two"'
        with pytest.raises(DownloadError, match="changed while it was fetched"):
            remote.read(1, 2)
        assert len(server.requests) == 2  # It is not tried again.

    @pytest.mark.parametrize("etag", ['"one"', 'W/"one"', ""])
    def test_a_server_without_ranges(self, server: Server, path: Path, etag: str) -> None:
        server.ranges, server.etag, server.cuts = False, etag, [300_000, 500_000]
        download.fetch_file(server.url, path)
        assert path.read_bytes() == CONTENT

    def test_a_server_that_never_gets_further_is_given_up(self, server: Server, path: Path) -> None:
        server.ranges, server.cuts = False, [300_000] * 50
        with pytest.raises(DownloadError, match="cut"):
            download.fetch_file(server.url, path)

    def test_damaged_bytes_are_not_kept(self, server: Server, path: Path) -> None:
        url = server.url
        server.content = b"?" + CONTENT[1:]
        with pytest.raises(DownloadError, match="damaged"):
            download.fetch_file(url, path, sha256_prefix=sha256(CONTENT)[:8])
        assert names(path.parent) == []

    @pytest.mark.parametrize("status", [500, 503, 429])
    def test_passing_failures_are_tried_again(
        self, server: Server, path: Path, status: int
    ) -> None:
        server.statuses = [status] * (download.ATTEMPTS - 1)
        download.fetch_file(server.url, path)
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize("status", [403, 404])
    def test_refusals_are_final(self, server: Server, path: Path, status: int) -> None:
        server.statuses = [status] * 10
        with pytest.raises(DownloadError, match=f"{re.escape(server.url)}: HTTP {status}"):
            download.fetch_file(server.url, path)
        assert len(server.requests) == 1

    def test_lasting_failures_are_given_up(self, server: Server, path: Path) -> None:
        server.statuses = [500] * 10
        with pytest.raises(DownloadError, match=r"HTTP 500 .*\(4 attempts\)"):
            download.fetch_file(server.url, path)
        assert len(server.requests) == download.ATTEMPTS

    def test_a_server_that_does_not_tell_the_size(self, server: Server, path: Path) -> None:
        server.ranges = server.tells_size = False
        with pytest.raises(DownloadError, match="the server does not say how large it is"):
            download.fetch_file(server.url, path)

    def test_nobody_listens(self, server: Server, path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(DownloadError, match=f"http://127.0.0.1:{port}/x: "):
            download.fetch_file(f"http://127.0.0.1:{port}/x", path)

    def test_without_a_network_it_does_not_wait(
        self, server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_such_name(*_: Any) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
        monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waited"))
        with pytest.raises(DownloadError, match="Name or service not known"):
            download.fetch_file("http://weights.invalid/x", path)

    def test_a_full_disk_is_no_download_error(self, server: Server, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            download.fetch_file(server.url, tmp_path / "missing" / "file")

    def test_a_download_error_is_a_file_error(self) -> None:
        """One `except` is enough where it does not matter whether the file is local."""
        assert issubclass(DownloadError, FileError)


class TestTensors:
    @pytest.fixture
    def tensors(self, server: Server) -> dict[str, np.ndarray]:
        random = np.random.default_rng(1)
        tensors = {
            "features.0.bias": random.normal(size=64),
            "features.0.weight": random.normal(size=(64, 300)),
            "classifier.weight": random.normal(size=(100, 1000)),
            "features.2.weight": random.normal(size=(100, 900)),
        }
        tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        entries = {name: ("F32", t.shape, t.nbytes) for name, t in tensors.items()}
        server.content = tensorfile.header(entries, {"format": "pt"})
        server.content += b"".join(tensor.tobytes() for tensor in tensors.values())
        return tensors

    def check(self, path: Path, tensors: dict[str, np.ndarray]) -> None:
        found = safetensors.numpy.load_file(path)
        assert set(found) == {name for name in tensors if name.startswith("features.")}
        for name, tensor in found.items():
            np.testing.assert_array_equal(tensor, tensors[name])
        assert names(path.parent) == ["file"]

    def fetch(self, server: Server, path: Path) -> None:
        download.fetch_tensors(server.url, path, lambda name: name.startswith("features."))

    def test_only_the_wanted_bytes_travel(
        self, server: Server, path: Path, tensors: dict[str, np.ndarray]
    ) -> None:
        self.fetch(server, path)
        self.check(path, tensors)
        assert server.sent < len(server.content) - tensors["classifier.weight"].nbytes + 100
        # The length of the header, the header, and two runs: the first two tensors touch.
        assert len(server.requests) == 4

    def test_continues_after_cuts_in_another_run(
        self, server: Server, path: Path, tensors: dict[str, np.ndarray]
    ) -> None:
        # The second run of tensors is the long one, and the one that breaks.
        server.cuts = [200_000, *[0] * download.ATTEMPTS]
        with pytest.raises(DownloadError):
            self.fetch(server, path)
        server.sent, server.cuts = 0, []
        self.fetch(server, path)
        self.check(path, tensors)
        assert server.sent < 200_000

    def test_a_server_without_ranges(
        self, server: Server, path: Path, tensors: dict[str, np.ndarray]
    ) -> None:
        server.ranges = False
        self.fetch(server, path)
        self.check(path, tensors)

    @pytest.mark.parametrize(
        "content",
        [
            b"<html>not found</html>" * 10,
            (20).to_bytes(8, "little") + b"no JSON whatsoever, ...",
            tensorfile.header({})[:8] + b"[]" + b" " * 100,
            (30).to_bytes(8, "little") + b'{"features.0.weight": {}}     ',
        ],
    )
    def test_something_else_is_refused(self, server: Server, path: Path, content: bytes) -> None:
        server.content = content
        with pytest.raises(DownloadError, match="is not a safetensors file"):
            self.fetch(server, path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with download.file_lock(tmp_path / "lock"):
            order.append("second")

    with download.file_lock(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PERCEPTUAL_JAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert download.cache_folder() == tmp_path / ".cache" / "perceptual_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert download.cache_folder() == Path("/caches/perceptual_jax")
    monkeypatch.setenv("PERCEPTUAL_JAX_CACHE", "~/mine")
    assert download.cache_folder() == tmp_path / "mine"


def test_cache_folder_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PERCEPTUAL_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(FileError, match=r"no home folder .* set PERCEPTUAL_JAX_CACHE"):
        download.cache_folder()
