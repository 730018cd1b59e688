"""Measures one pass of a network beside the optimiser that it replaces, and beside PyTorch.

    python benchmarks/stylize.py --torch-python=path/to/python --what=pass,process

Prints a Markdown table for each part, and writes it with all measurements to `--output`.  README.md
beside this file says what is measured.
"""

import argparse
import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import beside_peers
import jax
import numpy as np
import trained
from beside_peers import ONNX_PEER, ONNX_RUNTIME, Command
from peer_process import Peer
from report import Part
from trained import ROOT, Subject

from perceptual_jax import objective, synthesis
from perceptual_jax.io import images
from perceptual_jax.pretrained import vgg as pretrained_vgg

PEER = ROOT / "benchmarks" / "peers" / "stylize_torch.py"

# How often the optimiser is timed, over as many iterations as one dispatch makes.
DISPATCHES = 2


def measure_pass(arguments: argparse.Namespace, subject: Subject, folder: Path) -> Part:
    """The network alone, in processes that have loaded and compiled all."""
    network = beside_peers.network_file(subject.alone(arguments.style), folder)
    ours = functools.partial(subject.stylize, style=arguments.style)
    optimiser = f"perceptual_jax, optimiser, {arguments.iterations} iterations"
    passes, results = {}, {}
    command = [arguments.torch_python, PEER, *options_of(arguments, network)]
    with contextlib.closing(Peer(command)) as peer:
        for size in arguments.sizes:
            photo = beside_peers.photo(arguments, size)
            seconds = beside_peers.passes(arguments, ours, peer, photo, folder)
            iteration = iteration_seconds(arguments, subject, photo)
            passes[size] = {**seconds, optimiser: [arguments.iterations * iteration]}
            results[str(size)] = {"passes": seconds, "optimiser_iteration": iteration}
    remark = (
        f"; the optimiser's time is that of {synthesis.MAX_PER_DISPATCH} iterations, multiplied"
    )
    return Part(beside_peers.passes_table(arguments, passes, remark=remark), results)


def iteration_seconds(arguments: argparse.Namespace, subject: Subject, photo: np.ndarray) -> float:
    """Of the optimiser, for the objective of the network's training, after the first ones."""
    params = synthesis.freeze(pretrained_vgg.load_vgg(subject.trained.settings["vgg"]), subject.aim)
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
    network = beside_peers.network_file(subject.alone(arguments.style), folder)
    of_network = options_of(arguments, network)
    exporter: Command = [arguments.torch_python, PEER, *of_network]
    exported = beside_peers.exported_networks(arguments, exporter, folder)
    found = {}
    for size in arguments.sizes:
        photo, picture = folder / f"{size}.png", folder / "picture.png"
        images.write(photo, beside_peers.photo(arguments, size))
        output = f"--output={picture}"
        run: Command = [
            sys.executable,
            ROOT / "run.py",
            "--mode=stylize",
            f"--input={photo}",
            *of_network,
            output,
        ]
        python, given = arguments.torch_python, f"--photo={photo}"
        peers: dict[str, Command] = {"PyTorch": [python, PEER, given, *of_network, output]}
        if size in exported:
            file = f"--network={exported[size]}"
            peers[ONNX_RUNTIME] = [python, ONNX_PEER, given, file, output]
        found[size] = beside_peers.processes(arguments, {"perceptual_jax": run}, peers, folder)
    return beside_peers.processes_part(arguments, found)


def options_of(arguments: argparse.Namespace, network: Path) -> list[str]:
    """Of ours and of the peer, which call them alike."""
    return [f"--network={network}", f"--style={arguments.style}"]


PARTS = {"pass": measure_pass, "process": measure_process}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = beside_peers.argument_parser(
        (__doc__ or "").splitlines()[0], PARTS, network="styles", sizes=[256, 512, 1024]
    )
    add = parser.add_argument
    add("--style", default="wave", help="one of the network's styles")
    add("--iterations", type=int, default=500, help="pass: for which the optimiser's time is told")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse(sys.argv[1:])
    beside_peers.measure("stylize", PARTS, arguments, trained.load(arguments.network))


if __name__ == "__main__":
    main()
