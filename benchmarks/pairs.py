"""Twelve photos in the style of twelve paintings, by moments and by Gram matrices, in one sheet.

    python benchmarks/pairs.py

For the eye alone: docs/gatys.md shows the sheet. README.md beside this file says more.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from perceptual_jax.io import image_grid, images, resources

ROOT = Path(__file__).resolve().parent.parent

PAIRS = {
    "rocket": "kazusa_sea_route",
    "astronaut": "cafe_terrace",
    "chelsea": "road_to_tarascon",
    "coffee": "poppies",
    "friends_by_aitzol_berasategi": "church_at_auvers",
    "life_by_aitzol_berasategi": "night_cafe",
    "picosdeeuropa_by_aitzol_berasategi": "ryogoku_bridge",
    "sunset_by_aitzol_berasategi": "starry_night",
    "dragonfly_by_bolly": "composition_viii",
    "wine_by_jakkub_mede": "the_kiss",
    "picture_1a_by_freespace": "village_street",
    "bridge_by_sander_klootwijk": "wave",
}
# The last is what `--mode=gatys` did before it had another.
PRESETS = {"wasserstein": (), "gatys2015": ("--preset=gatys2015", "--margin=0")}


def photo(name: str) -> Path:
    kind = "sample_photos" if "_by_" in name else "content"
    return resources.folder("examples") / kind / f"{name}.jpg"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image_size", type=int, default=384, help="long side, in pixels")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "pairs")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for content, style in PAIRS.items():
        painting = images.read(resources.picture(style, "styles"))
        row = [images.fit(painting, options.image_size * 2 // 3)]
        for preset, flags in PRESETS.items():
            path = options.output / f"{content}-{style}-{preset}.png"
            if not path.exists():
                command = [sys.executable, "run.py", "--mode=gatys", *flags]
                command += [f"--content={photo(content)}", f"--style={style}", f"--output={path}"]
                command += [f"--image_size={options.image_size}"]
                subprocess.run(command, check=True, cwd=ROOT)
            row.append(images.read(path))
        rows.append(row)
    # Two pairs in a row.
    half = (len(rows) + 1) // 2
    sheet = [rows[i] + (rows[i + half] if i + half < len(rows) else []) for i in range(half)]
    titles = ["painting", "by default", "gatys2015"]
    images.write(options.output / "pairs.jpg", image_grid.draw(sheet, column_labels=2 * titles))
    print(options.output / "pairs.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
