"""Every style of a network on four photos, small and in parts of full size.

    python benchmarks/sheet.py
    python benchmarks/sheet.py --paintings=examples/styles/poppies.jpg,examples/styles/the_kiss.jpg

Draws two sheets for the eye, or one of paintings without a network; README.md beside this file says
more.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from trained import ROOT

from perceptual_jax import models
from perceptual_jax.io import image_grid, images, resources
from perceptual_jax.pretrained.networks import load_network

# Of a cell of the first sheet, and of the second.
_SMALL, _PART = 180, (270, 380)

# Of the photos that are painted without a network, and as they are shown.
_PAINTED, _SHOWN, _ITERATIONS = 512, 280, 20

# The part of each photo that is shown at its full size: its middle, from the top and left.
_MIDDLES = {
    "astronaut": (0.27, 0.45),
    "chelsea": (0.42, 0.55),
    "coffee": (0.5, 0.5),
    "rocket": (0.6, 0.5),
}


def photo_at(name: str, side: int) -> np.ndarray:
    """A photo of examples/content, enlarged by the network for that, which keeps its edges."""
    photo = images.read(resources.picture(name, "content"))
    enlarger = load_network("superres-x4-pixel")
    parts = models.enlarge_tiles(enlarger.variables, photo, network=enlarger.network)
    shape = (4 * photo.shape[0], 4 * photo.shape[1], 3)
    return images.fit(models.assemble(parts, shape), side)


def part_of(picture: np.ndarray, middle: tuple[float, float]) -> np.ndarray:
    """`_PART` of a picture, around a place given in shares of its sides."""
    place = []
    for length, side, share in zip(picture.shape[:2], _PART, middle, strict=True):
        start = min(max(round(share * length - side / 2), 0), length - side)
        place.append(slice(start, start + side))
    return picture[tuple(place)]


def painted(folder: Path, name: str, *flags: str) -> dict[str, np.ndarray]:
    """What the program makes of the photos in a folder, by their names."""
    photos, target = folder / "photos", folder / name
    command: list[str | Path] = [sys.executable, ROOT / "run.py", "--mode=stylize", *flags]
    command += [f"--input={photos}", f"--output={target}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {path.stem: images.read(target / path.name) for path in sorted(photos.iterdir())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="styles", help="a file, or a shipped network")
    parser.add_argument("--paintings", default="", help="files, without a network, with commas")
    parser.add_argument("--size", type=int, default=1024, help="long side of the photos, in pixels")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    arguments = parser.parse_args()
    if arguments.paintings:
        _draw_paintings(arguments)
        return
    network = load_network(arguments.network)
    rows: list[list[np.ndarray]] = []
    parts: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for photo in _MIDDLES:
            images.write(folder / "photos" / f"{photo}.png", photo_at(photo, arguments.size))
        for index, style in enumerate(network.styles):
            flags = [f"--network={arguments.network}", f"--style={style}"]
            pictures = painted(folder, style, *flags)
            cells = [images.read(resources.picture(style, "styles")), *pictures.values()]
            rows.append([images.fit(cell, _SMALL) for cell in cells])
            photo = list(_MIDDLES)[index % len(_MIDDLES)]
            parts.append(part_of(pictures[photo], _MIDDLES[photo]))
    labels = [style.replace("_", "\n") for style in network.styles]
    columns = ["painting", *_MIDDLES]
    sheet = image_grid.draw(rows, row_labels=labels, column_labels=columns)
    for name, picture in (("styles", sheet), ("strokes", _in_columns(parts, network.styles, 3))):
        images.write(arguments.output / f"{name}.jpg", picture, quality=85)


def _draw_paintings(arguments: argparse.Namespace) -> None:
    """Two photos in every painting, repainted and refined."""
    rows: list[list[np.ndarray]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for photo in ("astronaut", "coffee"):
            picture = images.fit(images.read(resources.picture(photo, "content")), _PAINTED)
            images.write(folder / "photos" / f"{photo}.png", picture)
        for index, painting in enumerate(arguments.paintings.split(",")):
            by_pass, refined = (
                painted(folder, f"{index}-{count}", f"--style={painting}", f"--refine={count}")
                for count in (0, _ITERATIONS)
            )
            cells = [images.fit(images.read(painting), _SHOWN)]
            for photo, picture in by_pass.items():
                cells += [images.fit(each, _SHOWN) for each in (picture, refined[photo])]
            rows.append(cells)
    columns = ["painting", *(["repainted", f"--refine={_ITERATIONS}"] * 2)]
    images.write(
        arguments.output / "any-painting.jpg",
        image_grid.draw(rows, column_labels=columns),
        quality=85,
    )


def _in_columns(cells: Sequence[np.ndarray], labels: Sequence[str], count: int) -> np.ndarray:
    starts = range(0, len(cells), count)
    return image_grid.draw(
        [cells[start : start + count] for start in starts],
        captions=[labels[start : start + count] for start in starts],
    )


if __name__ == "__main__":
    main()
