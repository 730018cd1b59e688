"""How many iterations of the optimiser one pass of a network is worth, on photos it has not seen.

    python benchmarks/loss_against_time.py --photos=FOLDER --style=wave,the_kiss --size=256

The figure of Johnson et al. 2016 (section 4.1): the objective that the network was trained for, of
its picture, beside that of pictures whose pixels are optimised for the same objective.  Prints a
line of JSON for each photo and a Markdown table, and writes both with the figures to `--output`.
README.md beside this file says what is measured.
"""

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
import trained
from report import Part
from trained import ROOT, Subject

from perceptual_jax import objective, synthesis
from perceptual_jax.objective import Objective, Targets
from perceptual_jax.pretrained.vgg import load_vgg
from perceptual_jax.synthesis import Optimizer

# Iterations after which the optimiser's objective is told.
MARKS = (10, 20, 50, 100, 200, 500)

# The optimiser is held in the range of pixels, as the paper's is by projection: it too is judged by
# what can be written. Without, its clipped pictures are 19 to 90% worse after 100 iterations; of
# 0.1, 0.3, 1, 3 and 10 this gives the best ones.
RANGE_WEIGHT = 0.1

Line = dict[str, Any]


class Judge:
    """One objective for all pictures: that of the networks' training, of pixels as written."""

    def __init__(self, aim: Objective, vgg: str) -> None:
        self.aim = aim
        self.params = synthesis.freeze(load_vgg(vgg), aim)
        self._targets = jax.jit(objective.targets, static_argnums=0)

        @jax.jit
        def total(params: Any, image: jax.Array, targets: Targets) -> jax.Array:
            return objective.evaluate(aim, params, jnp.clip(image, 0.0, 1.0), targets)[0]

        self._total = total

    def style_targets(self, painting: np.ndarray) -> Targets:
        return self._targets(self.aim, self.params, styles=[painting])

    def with_photo(self, style_targets: Targets, photo: np.ndarray) -> Targets:
        content = self._targets(self.aim, self.params, content=photo).content
        return style_targets._replace(content=content)

    def objective_of(self, image: Any, targets: Targets) -> float:
        return float(self._total(self.params, image, targets))

    def optimised(
        self, image: np.ndarray, targets: Targets, iterations: int, optimizer: Optimizer
    ) -> list[float]:
        """The objective of the best picture after 0, 1, ... iterations from an image."""
        weight = max(self.aim.term_weights().get("range", 0.0), RANGE_WEIGHT)
        held = dataclasses.replace(self.aim, range_weight=weight)
        reports = synthesis.run(
            held,
            self.params,
            image[None],
            targets,
            steps=iterations,
            optimizer=optimizer,
            seconds_per_report=0.0,
        )
        found = (self.objective_of(report.best[0], targets) for report in reports)
        return list(itertools.accumulate(found, min))


def compare(
    subjects: Sequence[Subject], styles: Sequence[str], photos: Sequence[Path], arguments: Any
) -> tuple[list[Line], dict[str, dict[str, list[float]]]]:
    """A line for every network, style and photo, and the optimiser's curves by style and photo."""
    judge = Judge(subjects[0].aim, subjects[0].trained.settings["vgg"])
    optimizer = Optimizer() if arguments.preconditioned else Optimizer(low_frequency_gain=0.0)
    lines: list[Line] = []
    curves: dict[str, dict[str, list[float]]] = {style: {} for style in styles}
    for style in styles:
        style_targets = judge.style_targets(subjects[0].painting(style))
        for path in photos:
            photo = trained.square(path, arguments.size)
            targets = judge.with_photo(style_targets, photo)
            noise = synthesis.white_noise(photo.shape, seed=0)
            start = noise if arguments.init == "noise" else photo
            curve = judge.optimised(start, targets, arguments.iterations, optimizer)
            curves[style][path.name] = curve
            for subject in subjects:
                reached = judge.objective_of(subject.stylize(photo, style), targets)
                line = {
                    "photo": path.name,
                    "size": arguments.size,
                    "style": style,
                    "network": subject.name,
                    "steps": subject.trained.steps,
                    "objective": reached,
                    **equivalent(curve, reached),
                    "optimiser": {str(mark): curve[mark] for mark in MARKS if mark < len(curve)},
                }
                print(json.dumps(line), flush=True)
                lines.append(line)
    return lines, curves


def equivalent(curve: Sequence[float], reached: float) -> dict[str, int | None]:
    """The first iteration at which the optimiser is no worse, or that there is none yet."""
    for iteration, value in enumerate(curve):
        if value <= reached:
            return {"equivalent_iterations": iteration}
    return {"equivalent_iterations": None, "more_than": len(curve) - 1}


def iterations_of(lines: Sequence[Line]) -> list[float]:
    """Equivalent iterations, in order; infinite where the optimiser has not got there."""
    found = (line["equivalent_iterations"] for line in lines)
    return sorted(math.inf if value is None else value for value in found)


def table(lines: Sequence[Line], iterations: int) -> str:
    marks = [mark for mark in MARKS if mark <= iterations]

    def shown(value: float) -> str:
        return f"more than {iterations}" if value == math.inf else f"{value:g}"

    columns = [
        "network",
        "steps",
        "style",
        "photos",
        "equivalent iterations, median (range)",
        "objective",
        *(f"optimiser's after {mark}" for mark in marks),
    ]
    rows = [columns, ["---"] * len(columns)]
    styles = list(dict.fromkeys(line["style"] for line in lines))
    groups = {style: [style] for style in styles}
    if len(styles) > 1:
        groups["all"] = styles
    for name in dict.fromkeys(line["network"] for line in lines):
        for label, group in groups.items():
            chosen = [line for line in lines if line["network"] == name and line["style"] in group]
            found = iterations_of(chosen)
            means = [
                statistics.fmean(line["objective"] for line in chosen),
                *(
                    statistics.fmean(line["optimiser"][str(mark)] for line in chosen)
                    for mark in marks
                ),
            ]
            rows.append(
                [
                    Path(name).name,
                    str(chosen[0]["steps"]),
                    label,
                    str(len(chosen)),
                    f"{shown(statistics.median(found))} ({shown(found[0])} to {shown(found[-1])})",
                    *(f"{mean:.4g}" for mean in means),
                ]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw_curves(
    lines: Sequence[Line], curves: dict[str, dict[str, list[float]]], path: Path
) -> None:
    """A panel for each style, with the network that was trained longest."""
    from matplotlib.figure import Figure

    longest = max(lines, key=lambda line: line["steps"])["network"]
    columns = math.ceil(math.sqrt(len(curves)))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(1.5 + 4.5 * columns, 1.0 + 3.5 * rows), layout="constrained")
    for index, (style, of_photos) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, columns, index)
        optimised = np.array(list(of_photos.values()))
        axes.plot(optimised.T, color="tab:blue", linewidth=0.7, alpha=0.4)
        axes.plot(optimised.mean(axis=0), color="tab:blue", linewidth=2.5, label="optimiser, mean")
        reached = [
            line["objective"]
            for line in lines
            if line["style"] == style and line["network"] == longest
        ]
        for value in reached:
            axes.axhline(value, color="tab:orange", linewidth=0.7, alpha=0.4)
        axes.axhline(
            statistics.fmean(reached), color="tab:orange", linewidth=2.5, label="network, mean"
        )
        axes.set_yscale("log")
        axes.set_xlim(0, optimised.shape[1] - 1)
        axes.set_title(style)
        axes.set_xlabel("iterations")
        axes.set_ylabel("objective")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.savefig(path, dpi=120)


def draw_steps(lines: Sequence[Line], iterations: int, path: Path) -> None:
    """What more training brings: equivalent iterations of every network, over its steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for style in dict.fromkeys(line["style"] for line in lines):
        of_style = [line for line in lines if line["style"] == style]
        steps = sorted({line["steps"] for line in of_style})
        found = [
            iterations_of([line for line in of_style if line["steps"] == step]) for step in steps
        ]
        medians = [min(statistics.median(values), iterations) for values in found]
        axes.plot(steps, medians, marker="o", label=style)
    axes.set_xlabel("training steps")
    axes.set_ylabel(f"equivalent iterations, median ({iterations}: that or more)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="a folder of photos")
    add("--style", default="", help="the network's styles, with commas; all if not given")
    add("--size", type=int, default=256, help="side of the square pictures, in pixels")
    add("--stroke_size", type=int, help="in pixels; by default the middle one")
    add("--network", default="styles", help="files, or names of shipped networks, with commas")
    add("--iterations", type=int, default=100, help="of the optimiser")
    add("--init", choices=("content", "noise"), default="content", help="of the optimiser")
    add("--preconditioned", action="store_true", help="the optimiser as --mode=gatys has it")
    add("--limit", type=int, default=None, help="take only so many photos, the first by name")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args(argv)
    arguments.output = arguments.output.resolve()
    return arguments


def main() -> None:
    arguments = parse(sys.argv[1:])
    names = arguments.network.split(",")
    subjects = [trained.load(name, stroke_size=arguments.stroke_size) for name in names]
    first = subjects[0]
    for subject in subjects:
        # What is judged is clipped: how much pixels out of range counted is no matter.
        aim = dataclasses.replace(subject.aim, range_weight=first.aim.range_weight)
        told = [(x.trained.settings["vgg"], x.stroke_size) for x in (subject, first)]
        if aim != first.aim or told[0] != told[1]:
            sys.exit(f"{subject.name} was trained for another objective than {first.name}")
    styles = arguments.style.split(",") if arguments.style else list(first.trained.styles)
    for subject, style in itertools.product(subjects, styles):
        subject.style_weights(style)  # Raises now, and not after an hour, if it does not have it.
    photos = trained.photos_in(arguments.photos)[: arguments.limit]
    if not photos:
        sys.exit(f"there are no photos in {arguments.photos}")

    lines, curves = compare(subjects, styles, photos, arguments)
    folder = arguments.output / f"loss-against-time-{arguments.size}-{arguments.init}"
    head = (
        f"{len(photos)} photos of {arguments.size}x{arguments.size} pixels; objectives are means "
        "over them."
    )
    part = Part(
        f"{head}\n\n{table(lines, arguments.iterations)}", {"lines": lines, "curves": curves}
    )
    report.publish(folder, "photos", part, where=report.machine(), settings=vars(arguments))
    draw_curves(lines, curves, folder / "curves.png")
    if len(subjects) > 1:
        draw_steps(lines, arguments.iterations, folder / "steps.png")


if __name__ == "__main__":
    main()
