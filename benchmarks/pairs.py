"""Moments beside Gram matrices: twelve photos in the style of twelve paintings, and the time taken.

    python benchmarks/pairs.py

Prints a Markdown table and draws a sheet for the eye; README.md beside this file says more.
"""

import argparse
import functools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import objective, synthesis
from perceptual_jax.io import image_grid, images, resources
from perceptual_jax.pretrained.vgg import load_vgg

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


def photo_of(name: str) -> Path:
    kind = "sample_photos" if "_by_" in name else "content"
    return resources.folder("examples") / kind / f"{name}.jpg"


def _moved(move: Any, constants: Any, state: synthesis.State, iterations: int) -> Any:
    return move(state, *constants, iterations)


def seconds_per_iteration(size: int, *, iterations: int = 4, rounds: int = 5) -> dict[str, float]:
    """Of each preset at a long side of `size` pixels: the best of some rounds, taken in turn."""
    params, optimizer = load_vgg(), synthesis.Optimizer()
    content, style = next(iter(PAIRS.items()))
    photo = images.fit(images.read(photo_of(content)), size)
    painting = images.fit(images.read(resources.picture(style, "styles")), size)
    moves, states = {}, {}
    for name in PRESETS:
        of_preset = objective.PRESETS[name]
        compute = jax.jit(functools.partial(objective.targets, of_preset))
        targets = compute(params, content=photo, styles=[painting])
        weights = {key: np.full(1, x, np.float32) for key, x in of_preset.term_weights().items()}
        constants = (synthesis.freeze(params, of_preset), targets, weights)
        move = functools.partial(synthesis.advance, objective=of_preset, optimizer=optimizer)
        moves[name] = functools.partial(_moved, move, constants)
        states[name] = synthesis.init(photo[None], optimizer)
    found = dict.fromkeys(PRESETS, float("inf"))
    for number in range(1 + rounds):
        for name, move in moves.items():
            began = time.perf_counter()
            states[name] = jax.block_until_ready(move(states[name], iterations)[0])
            if number:  # The first compiles.
                found[name] = min(found[name], (time.perf_counter() - began) / iterations)
    return found


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image_size", type=int, default=384, help="long side, in pixels")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "pairs")
    parser.add_argument("--speed_size", type=int, default=512, help="long side for the table")
    options = parser.parse_args(argv)
    seconds = seconds_per_iteration(options.speed_size)
    print(
        f"| preset | seconds per iteration at {options.speed_size} pixels | ratio |\n|---|---|---|"
    )
    for name, found in seconds.items():
        print(f"| {name} | {found:.3f} | {found / seconds['gatys2015']:.2f} |")
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for content, style in PAIRS.items():
        painting = images.read(resources.picture(style, "styles"))
        row = [images.fit(painting, options.image_size * 2 // 3)]
        for preset, flags in PRESETS.items():
            path = options.output / f"{content}-{style}-{preset}.png"
            if not path.exists():
                command = [sys.executable, "run.py", "--mode=gatys", *flags]
                command += [
                    f"--content={photo_of(content)}",
                    f"--style={style}",
                    f"--output={path}",
                ]
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
