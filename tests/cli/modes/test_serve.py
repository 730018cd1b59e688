"""`--mode=serve`: the page's files, to this computer alone."""

import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from perceptual_jax.cli import main
from perceptual_jax.cli.modes import serve
from perceptual_jax.io import resources

Captured = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[3]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    page = tmp_path / "page"
    page.mkdir()
    for name in ("index.html", "page.mjs", "run.wasm", "net.onnx", "app.webmanifest"):
        (page / name).write_text(name)
    (tmp_path / "secret").write_text("secret")
    with serve.make_server(page, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html"),
        ("page.mjs", "text/javascript"),
        ("run.wasm", "application/wasm"),
        ("net.onnx", "application/octet-stream"),
        ("app.webmanifest", "application/manifest+json"),
    ],
)
def test_files_have_the_kind_and_headers_that_browsers_need(
    address: str, name: str, kind: str
) -> None:
    with urllib.request.urlopen(address + name) as answer:
        assert answer.headers.get_content_type() == kind
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert answer.read().decode() == (name or "index.html")


def test_nothing_beside_the_page_is_sent(address: str) -> None:
    for path in ("../secret", "%2e%2e/secret", "x/../../secret"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + path)


def test_a_page_that_is_not_built_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    monkeypatch.setattr(resources, "folder", lambda name: tmp_path / name)
    assert main.main(["run.py", "--mode=serve"]) == 2
    line = capsys.readouterr().err
    assert "the page is not built" in line
    assert "npm ci" in line
    assert "npm run build" in line


def test_a_port_that_is_taken_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "web" / "dist").mkdir(parents=True)
    (tmp_path / "web" / "dist" / "index.html").write_text("page")
    monkeypatch.setattr(resources, "folder", lambda name: tmp_path / name)
    with serve.make_server(tmp_path, 0) as other:
        assert main.main(["run.py", "--mode=serve", f"--port={other.server_port}"]) == 2
    assert f"--port={other.server_port} cannot be used" in capsys.readouterr().err


@pytest.mark.skipif(
    not (ROOT / "web" / "dist" / "index.html").exists(), reason="the page is not built"
)
def test_ctrl_c_ends_it_quietly() -> None:
    command = [sys.executable, str(ROOT / "run.py"), "--mode=serve", "--noopen", "--port=0"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line.startswith("http://127.0.0.1:")
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=30) == ("", "")
    assert program.returncode == 0
