"""Measures the networks in a browser, beside ONNX Runtime and perceptual_jax on the same pixels.

    python benchmarks/browser.py --what=pass,parity

Prints a Markdown table for each part, and writes it with all measurements to `--output`.  Needs the
built page (web/), the extras [test] and [web], and chromium.
"""

import argparse
import base64
import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
import report
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout that this is in.

from perceptual_jax import load_network
from perceptual_jax.cli.modes import serve
from perceptual_jax.io import images, resources
from perceptual_jax.models import stylization, super_resolution

PAGE = Path(__file__).resolve().parent.parent / "web" / "dist"
STYLE, STROKES = "starry_night", 512.0

# Of the browser, without anything that is not the page's.
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Calls a network several times, and tells how long each took.
_CALL = """
async ({ name, text, shape, mix, strokes, calls }) => {
  const networks = await import(`${location.href}src/networks.js`);
  await networks.start('wasm');
  const inputs = mix ? networks.styleInput(mix, strokes) : {};
  const pixels = new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const seconds = [];
  let result;
  for (let call = 0; call < calls; call++) {
    const began = performance.now();
    result = await networks.run(name, pixels, shape, inputs);
    seconds.push((performance.now() - began) / 1000);
  }
  const bytes = new Uint8Array(result.data.buffer, result.data.byteOffset, result.data.byteLength);
  let found = '';
  for (let at = 0; at < bytes.length; at += 32768) {
    found += String.fromCharCode(...bytes.subarray(at, at + 32768));
  }
  return { seconds, dims: [...result.dims].map(Number), text: btoa(found) };
}
"""

Program = Callable[[np.ndarray, int], tuple[list[float], np.ndarray]]


@contextlib.contextmanager
def programs(kind: str) -> Iterator[dict[str, Program]]:
    """What computes images `(N, H, W, 3)` some times: seconds of each, and the last pictures."""
    trained = load_network("styles" if kind == "style" else "superres-x4-feature")
    variables = jax.device_put(trained.variables)
    extra: dict[str, Any] = {}
    if kind == "style":
        weights = trained.style_weights({STYLE: 1.0}, stroke_size=STROKES)
        extra = {"style_weights": weights}
    apply = stylization.stylize_batch if kind == "style" else super_resolution.enlarge_batch
    graph = "styles" if kind == "style" else "superres"
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(PAGE / "networks" / f"{graph}.onnx", settings)

    def ours(array: np.ndarray, calls: int) -> tuple[list[float], np.ndarray]:
        return timed(
            lambda: np.asarray(apply(variables, array, network=trained.network, **extra)), calls
        )

    def onnx_runtime(array: np.ndarray, calls: int) -> tuple[list[float], np.ndarray]:
        return timed(lambda: session.run(None, {"images": array, **extra})[0], calls)

    with in_browser() as page:

        def browser(array: np.ndarray, calls: int) -> tuple[list[float], np.ndarray]:
            options = {
                "name": graph,
                "text": base64.b64encode(array.tobytes()).decode(),
                "shape": array.shape[:3],
                "mix": {STYLE: 1} if kind == "style" else None,
                "strokes": STROKES,
                "calls": calls,
            }
            found = page.evaluate(_CALL, options)
            pixels = np.frombuffer(base64.b64decode(found["text"]), np.float32)
            return found["seconds"], pixels.reshape(found["dims"])

        yield {"perceptual_jax": ours, "ONNX Runtime": onnx_runtime, "browser": browser}


def timed(call: Callable[[], np.ndarray], calls: int) -> tuple[list[float], np.ndarray]:
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return seconds, result


@contextlib.contextmanager
def in_browser() -> Iterator[Any]:
    """The page, isolated, so that WebAssembly may have threads: as many as there are cores."""
    with serve.make_server(PAGE, 0) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        yield page
        browser.close()
        server.shutdown()


def photo(width: int, height: int) -> np.ndarray:
    found = images.read(resources.picture("coffee", "content"))
    return images.resize(found, (height, width))[None]


def measure_pass(arguments: argparse.Namespace) -> report.Part:
    """The style network alone, on pixels that are there; the best call counts."""
    found: dict[int, dict[str, list[float]]] = {}
    with programs("style") as applied:
        for size in arguments.sizes:
            found[size] = {name: [] for name in applied}
            for _ in range(arguments.repeat):
                for name, program in applied.items():
                    # The first call compiles.
                    found[size][name] += program(photo(size, size), arguments.calls + 1)[0][1:]
    lines = [f"| pixels | {' | '.join(f'{name}, s' for name in applied)} |", "|---|---|---|---|"]
    for size, seconds in found.items():
        best = [f"{min(each):.2f}" for each in seconds.values()]
        lines.append(f"| {size} | {' | '.join(best)} |")
    heading = f"Best of {arguments.repeat * arguments.calls} calls, two threads:\n\n"
    return report.Part(heading + "\n".join(lines), found)


def measure_parity(arguments: argparse.Namespace) -> report.Part:
    """The largest differences from our pictures, in levels of 255."""
    sizes = {
        "style": [(512, 512), (1024, 1024), (333, 217), (61, 40), (5, 5)],
        "superres": [(256, 256), (123, 77), (5, 5)],
    }
    lines = ["| network | pixels | ONNX Runtime | browser |", "|---|---|---|---|"]
    found = []
    for kind, of_kind in sizes.items():
        with programs(kind) as applied:
            for width, height in of_kind:
                array = photo(width, height)
                results = {name: program(array, 1)[1] for name, program in applied.items()}
                wanted = results.pop("perceptual_jax")
                levels = [255 * float(np.abs(each - wanted).max()) for each in results.values()]
                found.append((kind, width, height, levels))
                cells = " | ".join(f"{level:.4f}" for level in levels)
                lines.append(f"| {kind} | {width}x{height} | {cells} |")
    heading = "Largest difference from perceptual_jax, in levels of 255:\n\n"
    return report.Part(heading + "\n".join(lines), found)


PARTS = {"pass": measure_pass, "parity": measure_parity}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--what", type=report.some_of(PARTS), default=list(PARTS), help=", ".join(PARTS))
    add("--sizes", type=report.integers, default=[512, 1024], help="pass: sides, in pixels")
    add("--repeat", type=int, default=2, help="pass: turns of each program")
    add("--calls", type=int, default=2, help="pass: calls in a turn")
    add("--output", type=Path, default=Path("benchmarks/results/browser"), help="folder")
    arguments = parser.parse_args()
    for part in arguments.what:
        report.publish(
            arguments.output / part,
            part,
            PARTS[part](arguments),
            where=report.machine() | {"onnxruntime": onnxruntime.__version__},
            settings=vars(arguments),
        )


if __name__ == "__main__":
    main()
