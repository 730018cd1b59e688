"""Draws docs/images/page.jpg: the built page, on a desk and on a phone.

python web/screenshot.py
"""

import io
import shutil
import threading
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from perceptual_jax.cli.modes import serve

ROOT = Path(__file__).resolve().parent.parent

# Width and height, colours, and what is chosen.
VIEWS = [((1280, 800), "light", "Starry night"), ((390, 800), "dark", "Wave")]
_GAP = 24


def main() -> None:
    shots = []
    with serve.make_server(ROOT / "web" / "dist", 0) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for (width, height), scheme, style in VIEWS:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.set_default_timeout(300_000)
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.get_by_role("button", name=style).click()
            page.locator("#frame[data-pictures]").wait_for()
            page.evaluate("document.activeElement.blur()")
            shot = Image.open(io.BytesIO(page.screenshot()))
            shots.append(
                np.pad(
                    np.asarray(shot.convert("RGB")),
                    [(0, 0), (0, _GAP), (0, 0)],
                    constant_values=255,
                )
            )
        browser.close()
        server.shutdown()
    together = np.concatenate(shots, axis=1)[:, :-_GAP]
    Image.fromarray(together).save(ROOT / "docs" / "images" / "page.jpg", quality=82)


if __name__ == "__main__":
    main()
