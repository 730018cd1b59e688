"""How many iterations of the optimiser a repainted photo is worth.

    python benchmarks/any_painting.py --photos=FOLDER --paintings=FOLDER --size=256 --refine=20
    python benchmarks/any_painting.py --what=pass --size=512

`--mode=stylize --style=PICTURE` beside `--mode=gatys`: the objective that both are after, of the
picture that is made of the painting's patches, and of that picture after some more iterations, as
`--refine` makes it, beside that of pictures optimised from the photo.  `--what=pass` times it
beside a pass of the shipped network, and of the decoder.  Prints a line of JSON for each pair and a
Markdown table, and writes both to `--output`.  README.md beside this file says what is measured.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import report
import trained
from loss_against_time import Judge, equivalent
from report import Part
from trained import ROOT

from perceptual_jax import models, synthesis, vgg
from perceptual_jax.io import images, resources
from perceptual_jax.models import patches, stylization, universal
from perceptual_jax.models.networks import TRANSPORTED, UniversalNetwork
from perceptual_jax.objective import WASSERSTEIN
from perceptual_jax.pretrained.networks import load_network
from perceptual_jax.pretrained.vgg import load_vgg
from perceptual_jax.synthesis import Optimizer

Line = dict[str, Any]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--what", choices=("pairs", "pass"), default="pairs")
    add("--photos", type=Path, help="a folder of photos, for pairs")
    add("--paintings", type=Path, help="a folder of paintings, for pairs")
    add("--size", type=int, default=256, help="side of the square pictures, in pixels")
    add("--iterations", type=int, default=100, help="of the optimiser from the photo")
    add("--refine", type=int, default=20, help="of the optimiser from the picture of the pass")
    add("--limit", type=int, default=None, help="take only so many of each, the first by name")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args(argv)
    if arguments.what == "pairs" and not (arguments.photos and arguments.paintings):
        parser.error("pairs need --photos and --paintings")
    arguments.output = arguments.output.resolve()
    return arguments


def compare(arguments: Any) -> list[Line]:
    """A line for every photo and painting."""
    judge = Judge(WASSERSTEIN, "vgg16")
    params = vgg.freeze(load_vgg("vgg16"), [patches.LAYER])
    photos, paintings = (
        [(path.stem, trained.square(path, arguments.size)) for path in trained.photos_in(folder)]
        for folder in (arguments.photos, arguments.paintings)
    )
    lines = []
    for painting_name, painting in paintings[: arguments.limit]:
        style_targets = judge.style_targets(painting)
        for photo_name, photo in photos[: arguments.limit]:
            targets = judge.with_photo(style_targets, photo)
            made = models.repaint(params, photo, [painting])
            curve = judge.optimised(photo, targets, arguments.iterations, Optimizer())
            reached = judge.objective_of(made, targets)
            # Without a margin, as the pictures beside it are optimised.
            options: Any = {"steps": arguments.refine, "margin": 0}
            *_, last = synthesis.refine(
                WASSERSTEIN, judge.params, photo, [painting], made, **options
            )
            refined = judge.objective_of(last.best[0], targets)
            line = {
                "photo": photo_name,
                "painting": painting_name,
                "objective": {"photo": curve[0], "repainted": reached, "refined": refined},
                "repainted": equivalent(curve, reached),
                "refined": equivalent(curve, refined),
            }
            print(json.dumps(line), flush=True)
            lines.append(line)
    return lines


def seconds_of_pass(size: int, *, calls: int = 6) -> dict[str, float]:
    """Of a pass of the shipped network, of the decoder, and of patches, the best of each."""
    photo = images.resize(images.read(resources.picture("chelsea", "content")), (size, size))
    painting = images.fit(images.read(resources.picture("wave", "styles")), 256)
    trained = load_network("styles")
    params = jax.device_put(vgg.freeze(load_vgg("vgg16"), TRANSPORTED))
    moments = [universal.style_moments(params, painting)]
    decoder = load_network("decoder").variables
    weights = trained.style_weights({"wave": 1.0})
    networks = {
        "network": (trained.variables, trained.network, weights),
        "decoder": (universal.variables(params, decoder, moments), UniversalNetwork(), None),
    }
    placed = {name: jax.device_put(variables) for name, (variables, *_) in networks.items()}

    def stylized(name: str) -> Any:
        if name == "patches":
            return models.repaint(params, photo, [painting])
        _, network, style_weights = networks[name]
        return stylization.stylize_batch(
            placed[name], photo[None], network=network, style_weights=style_weights
        )

    found = dict.fromkeys((*networks, "patches"), math.inf)
    for call in range(calls + 1):
        for name in found:
            began = time.perf_counter()
            jax.block_until_ready(stylized(name))
            if call:  # The first one compiles.
                found[name] = min(found[name], time.perf_counter() - began)
    return found


def table(lines: list[Line], arguments: Any) -> str:
    """Median, least and most over the pairs, of what each kind of picture is worth."""
    kinds = {"repainted": "repainted", "refined": f"and --refine={arguments.refine}"}
    rows = ["| | iterations from the photo, median | least | most |", "|---|---|---|---|"]
    for kind, title in kinds.items():
        found = [line[kind]["equivalent_iterations"] for line in lines]
        worth = sorted(float("inf") if value is None else value for value in found)
        middle = statistics.median(worth)
        rows.append(f"| {title} | {middle:g} | {worth[0]:g} | {worth[-1]:g} |")
    return "\n".join(rows).replace("inf", f"more than {arguments.iterations}")


def main() -> None:
    arguments = parse(sys.argv[1:])
    folder = arguments.output / f"any-painting-{arguments.size}"
    if arguments.what == "pass":
        found = seconds_of_pass(arguments.size)
        lines = ["| | s | of the network's |", "|---|---|---|"]
        for name, seconds in found.items():
            lines.append(f"| {name} | {seconds:.3f} | {seconds / found['network']:.2f} |")
        part = Part("\n".join(lines), found)
        report.publish(folder, "pass", part, where=report.machine(), settings=vars(arguments))
        return
    pairs = compare(arguments)
    head = f"{len(pairs)} pairs of {arguments.size}x{arguments.size} pixels."
    part = Part(f"{head}\n\n{table(pairs, arguments)}", {"lines": pairs})
    report.publish(folder, "pairs", part, where=report.machine(), settings=vars(arguments))


if __name__ == "__main__":
    main()
