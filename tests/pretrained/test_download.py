"""Downloads from a server on this machine that cuts connections, refuses, and ignores ranges."""

import contextlib
import hashlib
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained import download
from perceptual_jax.pretrained.download import DownloadError

CONTENT = np.random.default_rng(0).bytes(1_000_000)


class Server(ThreadingHTTPServer):
    """Serves one file at every address, with the faults that a test asks for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.ranges = True
        self.tells_size = True
        self.redirect = ""  # Where every request is sent to.
        self.drips: tuple[str, bytes] | None = None  # Where, and what, it sends without an end.
        self.statuses: list[int] = []  # Answers to the next requests, before it serves again.
        self.cuts: list[int] = []  # After how many bytes of the body the next answers break off.
        self.requests: list[dict[str, str]] = []
        self.stopping = threading.Event()
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
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        if server.drips:
            self.drip(*server.drips)
            return
        body, size = server.content, len(server.content)
        requested = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if requested and server.ranges:
            start, last = map(int, requested.groups())
            body = body[start : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{size}")
        else:
            self.send_response(200)
        if server.tells_size:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if len(body) > 100_000 and server.cuts:
            body = body[: server.cuts.pop(0)]
        try:
            for position in range(0, len(body), 10_000):
                self.wfile.write(body[position : position + 10_000])
                server.sent += len(body[position : position + 10_000])
        except OSError:
            pass  # The client has what it wanted and hung up.

    def drip(self, where: str, what: bytes) -> None:
        """Sends the same for ever, in the header or in the body, until the client hangs up."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if where == "body" else b"X: "))
        with contextlib.suppress(OSError):
            while not self.server.stopping.wait(0.02):
                self.wfile.write(what)

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
        running.stopping.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(url: str, path: Path, content: bytes = CONTENT) -> None:
    download.fetch_file(url, path, size=len(content), sha256=sha256(content))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


class TestFile:
    def test_arrives_whole(self, server: Server, path: Path) -> None:
        fetch(server.url, path)
        assert path.read_bytes() == CONTENT
        assert names(path.parent) == ["file"]

    def test_continues_after_cuts(self, server: Server, path: Path) -> None:
        server.cuts = [300_000, 0, 300_000]
        fetch(server.url, path)
        assert path.read_bytes() == CONTENT
        assert server.sent < 1.1 * len(CONTENT)

    def test_continues_in_another_run(self, server: Server, path: Path) -> None:
        server.cuts = [600_000, *[0] * download.ATTEMPTS]
        with pytest.raises(DownloadError, match=r"the connection was cut \(4 attempts\)"):
            fetch(server.url, path)
        assert not path.exists()
        server.sent, server.cuts = 0, []
        fetch(server.url, path)
        assert path.read_bytes() == CONTENT
        assert server.sent < 450_000

    def test_a_part_of_another_file_is_not_continued(self, server: Server, path: Path) -> None:
        server.cuts = [600_000, *[0] * download.ATTEMPTS]
        with pytest.raises(DownloadError):
            fetch(server.url, path)
        server.content, server.cuts = CONTENT[::-1], []
        fetch(server.url, path, CONTENT[::-1])
        assert path.read_bytes() == CONTENT[::-1]
        assert names(path.parent) == ["file"]

    def test_a_part_that_is_longer_than_the_file_is_begun_anew(
        self, server: Server, path: Path
    ) -> None:
        path.with_name(f"file.{sha256(CONTENT)[:16]}.part").write_bytes(CONTENT + b"?")
        fetch(server.url, path)
        assert path.read_bytes() == CONTENT

    def test_a_server_without_ranges(self, server: Server, path: Path) -> None:
        server.ranges, server.tells_size, server.cuts = False, False, [300_000, 500_000]
        fetch(server.url, path)
        assert path.read_bytes() == CONTENT

    def test_a_server_that_never_gets_further_is_given_up(self, server: Server, path: Path) -> None:
        server.ranges, server.cuts = False, [300_000] * 50
        with pytest.raises(DownloadError, match="cut"):
            fetch(server.url, path)

    @pytest.mark.parametrize("served", [b"?" + CONTENT[1:], CONTENT[:-1] + b"?", CONTENT[::-1]])
    def test_another_file_is_not_kept(self, server: Server, path: Path, served: bytes) -> None:
        """One byte is enough, and so is a part that was damaged on the disk."""
        server.content = served
        with pytest.raises(DownloadError, match="damaged file: its SHA-256 is"):
            fetch(server.url, path)
        assert names(path.parent) == []

    @pytest.mark.parametrize("ranges", [True, False])
    def test_no_more_than_the_size_is_taken(self, server: Server, path: Path, ranges: bool) -> None:
        server.content, server.ranges = CONTENT + bytes(10_000_000), ranges
        fetch(server.url, path)
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize("status", [500, 503, 429])
    def test_passing_failures_are_tried_again(
        self, server: Server, path: Path, status: int
    ) -> None:
        server.statuses = [status] * (download.ATTEMPTS - 1)
        fetch(server.url, path)
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize("status", [403, 404])
    def test_refusals_are_final(self, server: Server, path: Path, status: int) -> None:
        server.statuses = [status] * 10
        with pytest.raises(DownloadError, match=f"{re.escape(server.url)}: HTTP {status}"):
            fetch(server.url, path)
        assert len(server.requests) == 1

    def test_lasting_failures_are_given_up(self, server: Server, path: Path) -> None:
        server.statuses = [500] * 10
        with pytest.raises(DownloadError, match=r"HTTP 500 .*\(4 attempts\)"):
            fetch(server.url, path)
        assert len(server.requests) == download.ATTEMPTS

    def test_nobody_listens(self, server: Server, path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(DownloadError, match=f"http://127.0.0.1:{port}/x: "):
            fetch(f"http://127.0.0.1:{port}/x", path)

    def test_without_a_network_it_does_not_wait(
        self, server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_such_name(*_: Any) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
        monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waited"))
        with pytest.raises(DownloadError, match="Name or service not known"):
            fetch("http://weights.invalid/x", path)

    def test_a_full_disk_is_no_download_error(self, server: Server, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            fetch(server.url, tmp_path / "missing" / "file")

    def test_a_download_error_is_a_file_error(self) -> None:
        """One `except` is enough where it does not matter whether the file is local."""
        assert issubclass(DownloadError, FileError)


class TestServersThatMeanHarm:
    @pytest.mark.parametrize("where", ["header", "body"])
    def test_a_byte_now_and_then_ends_in_time(
        self, server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        """Each byte comes long before the connection would time out."""
        monkeypatch.setattr(download, "WINDOW_SECONDS", 0.3)
        server.drips = (where, b"x")
        with pytest.raises(DownloadError, match=r"\d+ bytes came in 0 s, which is too slow"):
            fetch(server.url, path)

    def test_a_byte_for_each_connection_ends_in_time(
        self, server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "WINDOW_SECONDS", 0.3)
        monkeypatch.setattr(download, "PAUSE_SECONDS", 0.05)
        server.cuts = [1] * len(CONTENT)
        with pytest.raises(DownloadError, match="too slow"):
            fetch(server.url, path)

    def test_sending_without_an_end_does(self, server: Server, path: Path) -> None:
        server.drips = ("body", bytes(100_000))
        with pytest.raises(DownloadError, match="gave a damaged file"):
            fetch(server.url, path)

    def test_what_is_slow_but_steady_is_waited_for(
        self, server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Over many windows, each of which brings enough: here nothing, as a test has no pace."""
        monkeypatch.setattr(download, "WINDOW_SECONDS", 0.01)
        monkeypatch.setattr(download, "LEAST_BYTES_PER_SECOND", 0)
        server.drips = ("body", b"x" * 100)
        fetch(server.url, path, b"x" * 3000)
        assert path.read_bytes() == b"x" * 3000

    @pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
    def test_a_redirect_to_another_scheme_is_refused(
        self, server: Server, path: Path, scheme: str
    ) -> None:
        secret = path.with_name("secret")
        secret.write_bytes(CONTENT)
        server.redirect = f"{scheme}://localhost{secret}"
        with pytest.raises(DownloadError, match="HTTP 302 Found, a redirect that is not followed"):
            fetch(server.url, path)
        assert not path.exists()
        assert len(server.requests) == 1

    def test_nor_from_https_to_http(self) -> None:
        def redirect(url: str, target: str) -> Any:
            request = urllib.request.Request(url)
            return download._Redirects().redirect_request(request, None, 302, "", {}, target)

        for url, target in (("http://a/x", "http://b/x"), ("http://a/x", "https://b/x")):
            assert redirect(url, target).full_url == target
        with pytest.raises(urllib.error.HTTPError):
            redirect("https://a/x", "http://b/x")


class TestPlantedLinks:
    """In a cache folder that others may write into, such as one in /tmp."""

    @pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard"])
    def test_a_part_that_is_one_is_not_written_through(
        self, server: Server, path: Path, kind: str
    ) -> None:
        victim, part = path.with_name("victim"), path.with_name(f"file.{sha256(CONTENT)[:16]}.part")
        if kind != "dangling":
            victim.write_bytes(b"precious")
        part.hardlink_to(victim) if kind == "hard" else part.symlink_to(victim)
        with pytest.raises(FileError, match=r"part is a link, .*: remove it"):
            fetch(server.url, path)
        assert victim.read_bytes() == b"precious" if kind != "dangling" else not victim.exists()

    @pytest.mark.parametrize("kind", ["symbolic", "dangling", "pipe"])
    def test_a_lock_that_is_one_is_refused(self, tmp_path: Path, kind: str) -> None:
        """A pipe, on which opening would wait for a reader, too."""
        victim, lock = tmp_path / "victim", tmp_path / "lock"
        if kind == "pipe":
            os.mkfifo(lock)
        else:
            lock.symlink_to(victim)
        if kind == "symbolic":
            victim.write_bytes(b"precious")
        with pytest.raises(FileError, match="remove it"), download.file_lock(lock):
            pass
        assert victim.read_bytes() == b"precious" if kind == "symbolic" else not victim.exists()

    def test_the_file_itself_is_replaced(self, server: Server, path: Path) -> None:
        victim = path.with_name("victim")
        victim.write_bytes(b"precious")
        path.symlink_to(victim)
        fetch(server.url, path)
        assert (path.read_bytes(), path.is_symlink()) == (CONTENT, False)
        assert victim.read_bytes() == b"precious"


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
