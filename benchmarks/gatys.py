"""Measures `--mode=gatys` beside a PyTorch program that minimises the same objective.

    python benchmarks/gatys.py --torch-python=path/to/python --what=speed,memory,curves

Both run as whole processes, one after the other, on the same pixels.  Prints a Markdown table for
each part, and writes it with all measurements and pictures to `--output`.  README.md beside this
file says what is measured.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import report
from programs import ROOT, Judge, Run, prepare, run_ours, run_peer
from report import Part

OURS, PEER = "perceptual_jax", "PyTorch"
PEER_IN_RANGE = "PyTorch, pixels kept in range"


def measure_speed(arguments: argparse.Namespace, folder: Path) -> Part:
    """The same number of iterations at one size, from the photo."""
    rows, results = [], {}
    for size in arguments.sizes:
        inputs = prepare(arguments.content, arguments.style, size, folder / str(size))
        runs: dict[str, list[Run]] = {"cold": [], "warm": [], "peer": []}
        for _ in range(arguments.repeat):
            with tempfile.TemporaryDirectory() as cache:
                for kind in ("cold", "warm"):
                    runs[kind].append(run_ours(inputs, steps=arguments.steps, cache=Path(cache)))
            runs["peer"].append(
                run_peer(inputs, steps=arguments.steps, python=arguments.torch_python)
            )
        best = {kind: min(found, key=lambda run: run.seconds) for kind, found in runs.items()}
        peer = best["peer"]
        judge = Judge(inputs)
        judge.check(peer)
        written = {kind: judge.written(run) for kind, run in best.items()}
        names = {"cold": f"{OURS}, first run", "warm": f"{OURS}, later runs", "peer": PEER}
        for kind, run in best.items():
            rows.append(
                f"| {size} | {names[kind]} | {_ratio(run.seconds, peer.seconds, '.1f')} "
                f"| {run.first_seconds:.1f} | {_ratio(run.objective, peer.objective, '.4g')} "
                f"| {_ratio(written[kind], written['peer'], '.4g')} |"
            )
        results[str(size)] = {
            kind: {
                "seconds": [run.seconds for run in runs[kind]],
                "first_iteration_seconds": [run.first_seconds for run in runs[kind]],
                "objective": run.objective,
                "objective_of_written_picture": written[kind],
                "evaluations": run.evaluations,
            }
            for kind, run in best.items()
        }
    head = [
        f"{arguments.steps} iterations of L-BFGS, best of {arguments.repeat}; "
        f"in brackets relative to {PEER}.",
        "",
        "| pixels | program | seconds | to the first evaluation | objective "
        "| of the written picture |",
        "|---|---|---|---|---|---|",
    ]
    return Part("\n".join(head + rows), results)


def measure_memory(arguments: argparse.Namespace, folder: Path) -> Part:
    """The peak of resident memory, once L-BFGS has filled its memory."""
    steps = arguments.memory_steps
    rows, results = [], {}
    for size in arguments.memory_sizes:
        inputs = prepare(arguments.content, arguments.style, size, folder / str(size))
        with tempfile.TemporaryDirectory() as cache:
            ours = run_ours(inputs, steps=steps, cache=Path(cache)).process.peak_bytes
        peer = run_peer(inputs, steps=steps, python=arguments.torch_python).process.peak_bytes
        rows.append(f"| {size} | {ours / 1e6:.0f} | {peer / 1e6:.0f} | {ours / peer:.2f} |")
        results[str(size)] = {"ours_bytes": ours, "peer_bytes": peer}
    head = [
        f"Peak memory of the whole process over {steps} iterations, MB.",
        "",
        f"| pixels | {OURS} | {PEER} | ratio |",
        "|---|---|---|---|",
    ]
    return Part("\n".join(head + rows), results)


def measure_curves(arguments: argparse.Namespace, folder: Path) -> Part:
    """How the objective falls by default, from coarse to fine, beside the peers'."""
    inputs = prepare(arguments.content, arguments.style, arguments.curve_size, folder)
    with tempfile.TemporaryDirectory() as cache:
        ours = run_ours(inputs, steps=arguments.our_steps, cache=Path(cache), num_scales=0)
    judge = Judge(inputs)
    steps, python = arguments.peer_steps, arguments.torch_python
    peers = {}
    for name, in_range in ((PEER, False), (PEER_IN_RANGE, True)):
        peers[name] = run_peer(inputs, steps=steps, python=python, in_range=in_range)
        judge.check(peers[name])

    reference = peers[PEER]
    runs = {OURS: ours, **peers}
    written = {name: judge.written(run) for name, run in runs.items()}
    marks = (written[PEER], ours.objective)
    rows, results = [], {}
    for name, run in runs.items():
        # The plain peer's pixels leave their range: on the way its objective is of no picture.
        reached = [None if run is reference else seconds_until(run, mark) for mark in marks]
        iterations = f"{arguments.our_steps} at each scale" if run is ours else str(steps)
        rows.append(
            f"| {name} | {iterations} | {_ratio(run.seconds, reference.seconds, '.1f')} "
            f"| {_ratio(run.objective, reference.objective, '.4g')} "
            f"| {_ratio(written[name], written[PEER], '.4g')} | "
            + " | ".join("" if seconds is None else f"{seconds:.1f}" for seconds in reached)
            + " |"
        )
        results[name] = {
            "seconds": run.seconds,
            "objective_of_written_picture": written[name],
            "seconds_until_objective_of_peers_picture": reached[0],
            "seconds_until_our_last_objective": reached[1],
            "evaluations": run.evaluations,
        }
    draw_curves({f"{OURS}, at the finest of its scales": ours, **peers}, folder / "curves.png")
    head = [
        f"At {arguments.curve_size} pixels; in brackets relative to {PEER}.",
        "",
        "| program | iterations | seconds | objective | objective of the written picture "
        f"| seconds until {marks[0]:.4g}, {PEER}'s picture | until {marks[1]:.4g}, our last |",
        "|---|---|---|---|---|---|---|",
    ]
    return Part("\n".join(head + rows), results)


def seconds_until(run: Run, objective: float) -> float | None:
    """Until an evaluation gave no more than `objective`."""
    return next((found.seconds for found in run.evaluations if found.objective <= objective), None)


def draw_curves(runs: dict[str, Run], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, run in runs.items():
        seconds = [found.seconds for found in run.evaluations]
        axes.plot(seconds, [found.objective for found in run.evaluations], label=name)
        axes.axhline(run.objective, color="grey", linestyle=":", linewidth=1.0)
    axes.set_yscale("log")
    axes.set_xlim(left=0.0)
    # Without a line search an early step can lead far up, and would flatten all the rest.
    axes.set_ylim(top=3 * runs[PEER].evaluations[0].objective)
    axes.set_xlabel("seconds since the program was started")
    axes.set_ylabel("objective")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _ratio(value: float, reference: float, form: str) -> str:
    """The value, and in brackets relative to the reference, unless it is the reference."""
    if value == reference:
        return f"{value:{form}}"
    return f"{value:{form}} ({value / reference:.2f})"


PARTS = {"speed": measure_speed, "memory": measure_memory, "curves": measure_curves}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--torch-python", required=True, help="a Python with torch, numpy, pillow, safetensors")
    add("--what", type=report.some_of(PARTS), default=list(PARTS), help="parts, with commas")
    add("--content", default="chelsea", help="photo, a file or an example's name")
    add("--style", default="starry_night", help="painting, a file or an example's name")
    add(
        "--sizes",
        type=report.integers,
        default=[256],
        help="speed: long sides in pixels, with commas",
    )
    add("--steps", type=int, default=100, help="speed: iterations")
    add("--repeat", type=int, default=2, help="speed: runs of each, of which the best counts")
    add("--memory-sizes", type=report.integers, default=[256, 512, 1024], help="memory: long sides")
    add("--memory-steps", type=int, default=55, help="memory: iterations, more than ours remember")
    add("--curve-size", type=int, default=512, help="curves: long side")
    add("--our-steps", type=int, default=225, help="curves: our iterations at each scale")
    add("--peer-steps", type=int, default=500, help="curves: the peer's iterations")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args(argv)
    arguments.output = arguments.output.resolve()
    return arguments


def main() -> None:
    arguments = parse(sys.argv[1:])
    where = report.machine(arguments.torch_python)
    for name in arguments.what:
        folder = arguments.output / f"gatys-{name}"
        part = PARTS[name](arguments, folder)
        report.publish(folder, name, part, where=where, settings=vars(arguments))


if __name__ == "__main__":
    main()
