"""A browser that drives the built page; where either is missing, tests of the page are skipped."""

import contextlib
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perceptual_jax.cli.modes import serve

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "web" / "dist"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Milliseconds; of cores that others use as well.
PATIENCE = 900_000


def browser_program() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = browser_program()
    if program is None:
        pytest.skip(f"there is no {BROWSERS[0]}")
    if not (BUILT / "index.html").exists():
        pytest.skip("the page is not built: npm ci && npm run build in web/")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


@contextlib.contextmanager
def serving(server: Any) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with serving(serve.make_server(BUILT, 0)) as address:
        yield address


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a browser of its own; errors in the page are errors of the test."""
    with contextlib.ExitStack() as stack:
        errors: list[str] = []

        def opened(address: str, **options: Any) -> Any:
            context = browser.new_context(accept_downloads=True, **options)
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(address)
            return page

        yield opened
        assert not errors


def wait_for_picture(page: Any, number: int = 1) -> None:
    """Until the page has shown as many results."""
    page.locator(f"#frame[data-pictures='{number}']").wait_for()


def open_photo(page: Any, content: bytes, name: str = "photo.png") -> None:
    mime = "image/png" if name.endswith("png") else "image/jpeg"
    page.set_input_files("#file", {"name": name, "mimeType": mime, "buffer": content})


def downloaded(page: Any) -> np.ndarray:
    """What the page writes, `(H, W, 3)` uint8."""
    with page.expect_download() as download:
        page.click("#download")
    with Image.open(download.value.path()) as image:
        return np.array(image.convert("RGB"))


def encoded(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format, **options)
    return content.getvalue()
