"""Open the page that stylises photos in the browser, from this computer.

The page is built once, in a checkout: `npm ci && npm run build` in the folder web. Photos stay in
the browser: this program only sends the page's own files, and to this computer alone.
"""

import contextlib
import functools
import http.server
import signal
import sys
import webbrowser
from pathlib import Path
from typing import Any

from perceptual_jax.cli import flags
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.messages import say
from perceptual_jax.io import resources

_HOST = "127.0.0.1"

# What browsers insist on; a system may know something else.
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}

_NOT_BUILT = (
    "the page is not built: in the folder web of a checkout of the repository, run "
    "`npm ci` and `npm run build` (Node 20.11 or newer)"
)


def define_flags(define: flags.Flags) -> None:
    define.group("Page")
    define.integer("port", 8000, "Of this computer; 0 for any that is free.")
    define.boolean("open", True, "Open the browser, too.")


def main(values: Any) -> None:
    folder = resources.folder("weights").parent / "web" / "dist"
    if not (folder / "index.html").is_file():
        raise UserError(_NOT_BUILT)
    try:
        server = make_server(folder, values.port)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--port={values.port} cannot be used ({error}): give another, or 0 for any"
        ) from error
    address = f"http://{_HOST}:{server.server_port}/"
    # Ctrl-C is how this ends.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with server, contextlib.suppress(KeyboardInterrupt):
        say(f"{address} shows the page; Ctrl-C ends it")
        if values.open:
            webbrowser.open(address)
        server.serve_forever()


def make_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the page's files, for this computer alone."""
    return _Server((_HOST, port), functools.partial(_Handler, directory=str(folder)))


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that has left wants no more of a file.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def guess_type(self, path: Any) -> str:
        return _TYPES.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        # With these a page may share memory between threads.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of every file that is sent."""
