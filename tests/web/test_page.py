"""The page in a real browser, beside the command line on the same photos."""

import functools
import http.server
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perceptual_jax import load_network, models
from perceptual_jax.cli import main
from perceptual_jax.cli.modes import serve
from perceptual_jax.io import images, resources
from tests.web.conftest import (
    BUILT,
    downloaded,
    encoded,
    open_photo,
    serving,
    wait_for_picture,
)

OpenPage = Callable[..., Any]

# Of a photo's 256; ONNX Runtime adds up in another order.
LEVELS = 2


@functools.cache
def photo(width: int, height: int) -> np.ndarray:
    """The cat with a sky in its corner, `(height, width, 3)` uint8."""
    cat = images.read(resources.picture("chelsea", "content"))
    pixels = images.eight_bits(images.resize(cat, (height, width)))
    pixels[: height // 3, : width // 3] = (120, 160, 210)
    return pixels


def of_command_line(pixels: np.ndarray, folder: Path, *flags: str) -> np.ndarray:
    (folder / "photo.png").write_bytes(encoded(pixels))
    output = folder / "result.png"
    arguments = ["run.py", f"--input={folder / 'photo.png'}", f"--output={output}", *flags]
    assert main.main(arguments) == 0
    return images.eight_bits(images.read(output))


def largest_difference(found: np.ndarray, wanted: np.ndarray) -> int:
    assert found.shape == wanted.shape
    return int(np.abs(found.astype(int) - wanted).max())


class TestPictures:
    def test_in_a_style(self, open_page: OpenPage, address: str, tmp_path: Path) -> None:
        page = open_page(address)
        open_photo(page, encoded(photo(330, 250)))
        wait_for_picture(page)
        wanted = of_command_line(
            photo(330, 250), tmp_path, "--mode=stylize", "--style=starry_night"
        )
        assert largest_difference(downloaded(page), wanted) <= LEVELS

        # All that can be set, one after the other: a few pixels are enough.
        page.get_by_role("button", name="Mix").click()
        page.get_by_role("button", name="Wave").click()
        page.get_by_role("slider", name="Starry night").fill("100")
        page.get_by_role("slider", name="Strokes").fill("120")
        page.get_by_text("More").click()
        page.get_by_role("slider", name="Variation").fill("20")
        page.get_by_role("slider", name="Strength").fill("70")
        for colors in ("luminance", "histogram"):
            page.locator(f"[value={colors}] + span").click()
            wanted = of_command_line(
                photo(330, 250),
                tmp_path,
                "--mode=stylize",
                "--style=starry_night:1,wave:0.5",
                "--stroke_size=120%",
                "--variation=0.2",
                "--strength=0.7",
                f"--keep_colors={colors}",
            )
            assert largest_difference(downloaded(page), wanted) <= LEVELS

    def test_four_times_larger(self, open_page: OpenPage, address: str, tmp_path: Path) -> None:
        page = open_page(address)
        open_photo(page, encoded(photo(61, 40)))
        wait_for_picture(page)
        page.get_by_role("button", name="No painting").click()
        page.get_by_label("4 times larger").check()
        wanted = of_command_line(photo(61, 40), tmp_path, "--mode=superres")
        assert largest_difference(downloaded(page), wanted) <= LEVELS

    def test_in_tiles(self, open_page: OpenPage, address: str, tmp_path: Path) -> None:
        page = open_page(address)
        open_photo(page, encoded(photo(1300, 120)))
        page.locator("#progress", has_text="Painting").wait_for()
        page.locator("#size").select_option("1300")
        wanted = of_command_line(
            photo(1300, 120), tmp_path, "--mode=stylize", "--style=starry_night"
        )
        assert largest_difference(downloaded(page), wanted) <= LEVELS

    def test_of_twelve_megapixels(self, open_page: OpenPage, address: str) -> None:
        """Two tiles beside ours, which share the statistics of the whole; takes minutes."""
        pixels = photo(4000, 3000)
        page = open_page(address)
        open_photo(page, encoded(pixels, compress_level=1))
        page.locator("#progress", has_text="Painting").wait_for()
        page.locator("#size").select_option("4000")
        page.locator("#progress", has_text=re.compile(r"part 3 of 21")).wait_for()
        # The page is alive meanwhile.
        page.locator("#divider").press("End")
        assert page.locator("#divider").input_value() == "100"
        wait_for_picture(page)
        found = downloaded(page)
        assert found.shape == (3000, 4000, 3)

        network = load_network("styles")
        varied = models.vary(pixels / np.float32(255), stroke_size=1024)
        varied = np.pad(varied, [(16, 16)] * 2 + [(0, 0)], mode="reflect")
        tiles = models.stylize_tiles(
            network.variables,
            varied,
            network=network.network,
            style_weights=network.style_weights({"starry_night": 1.0}, stroke_size=1024),
        )
        whole = np.full(varied.shape, np.nan, np.float32)
        whole[16:-16, 16:-16] = found
        for tile in (next(tiles), next(tiles)):
            difference = np.abs(whole[tile.place] - 255 * tile.pixels)
            assert np.nanmax(difference) <= LEVELS

    def test_are_upright(self, open_page: OpenPage, address: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # Turned by a quarter.
        page = open_page(address)
        open_photo(page, encoded(photo(60, 40), "JPEG", exif=exif), "turned.jpg")
        wait_for_picture(page)
        assert downloaded(page).shape == (60, 40, 3)

    def test_may_be_jpeg_files(self, open_page: OpenPage, address: str) -> None:
        page = open_page(address)
        open_photo(page, encoded(photo(60, 40)))
        wait_for_picture(page)
        page.locator("#kind").select_option("JPEG")
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "photo-starry_night.jpg"
        assert Path(download.value.path()).read_bytes()[:2] == b"\xff\xd8"


def test_a_damaged_file_gives_a_sentence(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    open_photo(page, encoded(photo(60, 40))[:200])
    sentence = page.get_by_role("alert")
    sentence.wait_for()
    assert "cannot be read: it is damaged" in sentence.inner_text()
    # What was there can still be used.
    assert page.locator("#size option").all_inner_texts() == ["640 × 426", "960 × 639, full"]
    open_photo(page, encoded(photo(60, 40)))
    wait_for_picture(page)
    assert not sentence.is_visible()


def test_work_can_be_cancelled(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    open_photo(page, encoded(photo(960, 700)))
    page.locator("#progress", has_text="Painting").wait_for()
    page.get_by_role("button", name="Cancel").click()
    assert not page.locator("#status").is_visible()
    open_photo(page, encoded(photo(60, 40)))
    wait_for_picture(page)
    assert downloaded(page).shape == (40, 60, 3)


def test_it_works_without_a_network(open_page: OpenPage) -> None:
    with serving(serve.make_server(BUILT, 0)) as address:
        page = open_page(address)
        page.locator("[data-offline=true]").wait_for()
    page.reload()
    page.get_by_role("button", name="Wave").click()
    wait_for_picture(page)


def test_a_server_without_our_headers_gets_threads_too(open_page: OpenPage) -> None:
    handler = functools.partial(_Quiet, directory=str(BUILT))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        page = open_page(address)
        page.wait_for_event("load")  # It loads itself once more.
        page.locator("[data-offline=true]").wait_for()
        assert page.evaluate("crossOriginIsolated")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_divider_moves_by_keys(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    divider = page.get_by_role("slider", name=re.compile("Before and after"))
    divider.focus()
    for key, value, clip in (
        ("Home", "0", "100%"),
        ("ArrowRight", "0.5", "99.5%"),
        ("End", "100", "0%"),
    ):
        page.keyboard.press(key)
        assert divider.input_value() == value
        style = page.evaluate("getComputedStyle(document.querySelector('#before')).clipPath")
        assert style.split()[1].rstrip(")") in (clip, clip.rstrip("%") + "px")


def test_everything_is_named_and_reached_by_keys(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("(e => e.name || e.ariaLabel || e.innerText)(document.activeElement)")
        )
    for name in ("Open a photo", "Mix", "Wave", "strength", "colors", "size", "Download"):
        assert name in reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(
    open_page: OpenPage, address: str, scheme: str
) -> None:
    page = open_page(
        address, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    level = int(re.findall(r"\d+", background)[0])
    assert level > 200 if scheme == "light" else level < 50


def test_nothing_is_sent_anywhere_else(open_page: OpenPage, address: str) -> None:
    page = open_page("about:blank")
    requests: list[Any] = []
    page.on("request", lambda request: requests.append(request))
    page.goto(address)
    open_photo(page, encoded(photo(60, 40)))
    wait_for_picture(page)
    assert requests
    for request in requests:
        assert request.url.startswith((address, "blob:", "data:"))
        assert request.method == "GET"
