"""Writes what the page cannot make by itself into web/networks and web/pictures.

    python web/prepare.py

The graphs of the networks, without their weights, which stay in weights/networks; thumbnails of
the paintings; and the picture that the page shows first, which is not computed there.
"""

from pathlib import Path

import numpy as np
import onnx

from perceptual_jax import load_network, models
from perceptual_jax.export.onnx_graph import to_onnx
from perceptual_jax.io import images, resources
from perceptual_jax.models import stylization

WEB = Path(__file__).resolve().parent

# By the name of a graph: its network, and where the statistics of its normalisations come from.
GRAPHS = {
    "styles": ("styles", "each"),
    "styles-statistics": ("styles", "together"),
    "styles-tile": ("styles", "given"),
    "superres": ("superres-x4-feature", "each"),
}

# As src/main.js names them, and the defaults of the page, which are those of `--mode=stylize`.
PHOTO, STYLE, SIDE = "chelsea", "starry_night", 960
STROKES, MARGIN = 0.45, 16

THUMBNAIL = 144


def graph(name: str) -> onnx.ModelProto:
    """One of `GRAPHS`, as it is in web/networks."""
    network, statistics = GRAPHS[name]
    file = resources.folder("weights") / "networks" / f"{network}.safetensors"
    return to_onnx(load_network(network), statistics=statistics, weights_file=file)


def example() -> tuple[np.ndarray, np.ndarray]:
    """The photo, at a size that the page computes at once, and the photo painted."""
    photo = images.read(resources.picture(PHOTO, "content"))
    enlarger, trained = load_network("superres-x4-feature"), load_network("styles")
    tiles = models.enlarge_tiles(enlarger.variables, photo, network=enlarger.network)
    height, width = photo.shape[:2]
    photo = images.fit(models.assemble(tiles, (4 * height, 4 * width, 3)), SIDE)
    weights = trained.style_weights({STYLE: 1.0}, stroke_size=STROKES * SIDE)
    varied = models.vary(photo, stroke_size=STROKES * SIDE)
    varied = np.pad(varied, [(MARGIN, MARGIN)] * 2 + [(0, 0)], mode="reflect")
    painted = stylization.stylize_batch(
        trained.variables, varied, network=trained.network, style_weights=weights
    )
    return photo, np.asarray(painted)[MARGIN:-MARGIN, MARGIN:-MARGIN]


def thumbnail(style: str) -> np.ndarray:
    """The middle of a painting, as a square."""
    painting = images.read(resources.picture(style, "styles"))
    height, width = painting.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images.fit(painting[top : top + side, left : left + side], THUMBNAIL)


def main() -> None:
    for name in GRAPHS:
        path = WEB / "networks" / f"{name}.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(graph(name).SerializeToString())
    photo, painted = example()
    images.write(WEB / "pictures" / "example.jpg", photo, quality=90)
    images.write(WEB / "pictures" / "example-painted.jpg", painted, quality=90)
    for style in load_network("styles").styles:
        path = WEB / "pictures" / "styles" / f"{style}.jpg"
        images.write(path, thumbnail(style), quality=85)


if __name__ == "__main__":
    main()
