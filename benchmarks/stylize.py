"""Measures one pass of a network beside the optimiser that it replaces, and beside PyTorch.

    python benchmarks/stylize.py --torch-python=path/to/python --what=pass,process

Prints a Markdown table for each part, and writes it with all measurements to `--output`.  README.md
beside this file says what is measured.
"""

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import report
import trained
import whole_process
from peer_process import Peer
from report import Part
from trained import ROOT, Subject

from perceptual_jax import objective, synthesis
from perceptual_jax.io import images, network_files, resources, weights

OURS, OPTIMISER = "perceptual_jax, one pass", "perceptual_jax, optimiser"

# What both may differ by at any pixel, in [0, 1]: a quarter of a level of 8 bits.
TOLERANCE = 1e-3

PEER = ROOT / "benchmarks" / "peers" / "stylize_torch.py"

# How often the optimiser is timed, over as many iterations as one dispatch makes.
DISPATCHES = 2


def measure_pass(arguments: argparse.Namespace, subject: Subject, folder: Path) -> Part:
    """The network alone, in processes that have loaded and compiled all."""
    rows, results = [], {}
    command = [arguments.torch_python, PEER, f"--network={_file(arguments, folder)}"]
    with contextlib.closing(Peer([*command, f"--style={arguments.style}"])) as peer:
        for size in arguments.sizes:
            photo = trained.square(resources.picture(arguments.photo, "content"), size)
            seconds = passes(arguments, subject, peer, photo, folder)
            iteration = iteration_seconds(arguments, subject, photo)
            best = {name: min(found) for name, found in seconds.items()}
            optimiser = f"{OPTIMISER}, {arguments.iterations} iterations"
            best[optimiser] = arguments.iterations * iteration
            rows += [
                f"| {size} | {name} | {found:.4g} | {found / best[OURS]:.3g} |"
                for name, found in best.items()
            ]
            results[str(size)] = {"passes": seconds, "optimiser_iteration": iteration}
    head = [
        f"Best of {arguments.repeat * arguments.calls} calls, interleaved; the optimiser's time is "
        f"that of {synthesis.MAX_PER_DISPATCH} iterations, multiplied.",
        "",
        "| pixels | program | seconds | times ours |",
        "|---|---|---|---|",
    ]
    return Part("\n".join(head + rows), results)


def passes(
    arguments: argparse.Namespace, subject: Subject, peer: Peer, photo: np.ndarray, folder: Path
) -> dict[str, list[float]]:
    """Seconds of every call, by program; raises unless all give the same picture."""
    on_device = jax.device_put(photo)

    def ours() -> jax.Array:
        return jax.block_until_ready(subject.stylize(on_device, arguments.style))

    picture = np.asarray(ours())
    given = folder / f"photo-{len(photo)}.npy"
    np.save(given, photo)
    names = {engine: f"PyTorch, {engine}" for engine in peer.greeting if engine != "ONNX Runtime"}
    names |= {engine: engine for engine in peer.greeting if engine not in names}
    seconds: dict[str, list[float]] = {OURS: [], **{name: [] for name in names.values()}}
    for _ in range(arguments.repeat):
        seconds[OURS] += timed(ours, arguments.calls)
        for engine, name in names.items():
            output = folder / "picture.npy"
            request = {"engine": engine, "photo": str(given), "output": str(output)}
            seconds[name] += peer.ask(calls=arguments.calls, **request)["seconds"]
            difference = float(np.abs(np.load(output) - picture).max())
            if difference > TOLERANCE:
                raise RuntimeError(f"{name} gives another picture: up to {difference:.2g} off")
    return seconds


def timed(call: Callable[[], Any], calls: int) -> list[float]:
    """Seconds of each call, after a first one: another program has just had the machine."""
    call()
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def iteration_seconds(arguments: argparse.Namespace, subject: Subject, photo: np.ndarray) -> float:
    """Of the optimiser, for the objective of the network's training, after the first ones."""
    params = synthesis.prepared(weights.load(subject.settings["vgg"]))
    targets = jax.jit(objective.targets, static_argnums=0)(
        subject.aim, params, content=photo, styles=[subject.painting(arguments.style)]
    )
    reports = synthesis.run(
        subject.aim,
        params,
        photo[None],
        targets,
        steps=1 + DISPATCHES * synthesis.MAX_PER_DISPATCH,
        seconds_per_report=1e9,
    )
    ends = [(found.step, time.perf_counter()) for found in reports]
    # The first report is of the photo itself, and spent compiling; up to the second, one iteration
    # is made to see how long it takes.
    return min(
        (end - began) / (after - before)
        for (before, began), (after, end) in itertools.pairwise(ends[1:])
    )


def measure_process(arguments: argparse.Namespace, subject: Subject, folder: Path) -> Part:
    """From the command to the picture in a file."""
    network = _file(arguments, folder)
    rows, results = [], {}
    for size in arguments.sizes:
        photo, picture, log = (
            folder / f"{size}{ending}" for ending in (".png", "-picture.png", ".log")
        )
        images.write(photo, trained.square(resources.picture(arguments.photo, "content"), size))
        options = [f"--network={network}", f"--style={arguments.style}", f"--output={picture}"]
        ours: list[str | Path] = [
            sys.executable,
            ROOT / "run.py",
            "--mode=stylize",
            f"--input={photo}",
            *options,
        ]
        peer = [arguments.torch_python, PEER, f"--photo={photo}", *options]
        commands: dict[str, list[str | Path]] = {"first": ours, "later": ours, "peer": peer}
        runs: dict[str, list[whole_process.Measured]] = {kind: [] for kind in commands}
        for _ in range(arguments.repeat):
            with tempfile.TemporaryDirectory() as cache:
                environment = whole_process.environment(Path(cache))
                for kind, command in commands.items():
                    runs[kind].append(whole_process.run(command, log=log, environment=environment))
        names = {"first": "perceptual_jax, first run", "later": "perceptual_jax, later runs"}
        for kind, measured in runs.items():
            seconds = min(run.seconds for run in measured)
            peak = min(run.peak_bytes for run in measured)
            rows.append(
                f"| {size} | {names.get(kind, 'PyTorch')} | {seconds:.2f} | {peak / 1e6:.0f} |"
            )
        results[str(size)] = {
            kind: [run._asdict() for run in measured] for kind, measured in runs.items()
        }
    head = [
        f"Whole processes, best of {arguments.repeat}.",
        "",
        "| pixels | program | seconds | peak memory, MB |",
        "|---|---|---|---|",
    ]
    return Part("\n".join(head + rows), results)


def _file(arguments: argparse.Namespace, folder: Path) -> Path:
    """The network as a file, whether it was a file's name or a shipped network's."""
    path = folder / "network.safetensors"
    network_files.save(path, network_files.load(arguments.network), dtype="float32")
    return path


PARTS = {"pass": measure_pass, "process": measure_process}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--torch-python", required=True, help="a Python with torch, numpy, pillow, safetensors")
    add("--what", type=report.some_of(PARTS), default=list(PARTS), help="parts, with commas")
    add("--network", default="styles", help="a file, or the name of a shipped network")
    add("--style", default="wave", help="one of the network's styles")
    add("--photo", default="astronaut", help="a file, or an example's name")
    add(
        "--sizes",
        type=report.integers,
        default=[256, 512, 1024],
        help="sides of the square picture, with commas",
    )
    add("--repeat", type=int, default=5, help="turns of each program")
    add(
        "--calls",
        type=int,
        default=3,
        help="pass: calls in a turn, of all of which the best counts",
    )
    add("--iterations", type=int, default=500, help="pass: for which the optimiser's time is told")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args(argv)
    arguments.output = arguments.output.resolve()
    return arguments


def main() -> None:
    arguments = parse(sys.argv[1:])
    subject = trained.load(arguments.network)
    where = report.machine(arguments.torch_python)
    for name in arguments.what:
        with tempfile.TemporaryDirectory() as folder:
            part = PARTS[name](arguments, subject, Path(folder))
        target = arguments.output / f"stylize-{name}"
        report.publish(target, name, part, where=where, settings=vars(arguments))


if __name__ == "__main__":
    main()
