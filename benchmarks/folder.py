"""Measures folders of photos of many sizes beside folders of equal ones, and ONNX Runtime.

    python benchmarks/folder.py --torch-python=path/to/python --what=stylize,superres

Prints a Markdown table for each part, and writes it with all measurements to `--output`.  README.md
beside this file says what is measured.
"""

import argparse
import functools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import beside_peers
import numpy as np
import report
import trained
import whole_process
from beside_peers import ONNX_RUNTIME, Command
from report import Part
from trained import ROOT
from whole_process import Measured

from perceptual_jax.io import images, resources

PEERS = ROOT / "benchmarks" / "peers"

# In the time of a style network's pass x4 enlarges pictures with so many times fewer pixels.
SMALLER = {"stylize": 1, "superres": 4}


def folders(arguments: argparse.Namespace, folder: Path, smaller: int) -> dict[str, Path]:
    """A folder of equal photos and one of as many sizes as photos, with as many pixels in all."""
    low, high = arguments.sides
    side = np.random.default_rng(0).uniform(low, high, (arguments.count, 2)) / smaller
    mixed = np.rint(side).astype(int).tolist()
    width = round((sum(height * width for height, width in mixed) / len(mixed) * 4 / 3) ** 0.5)
    equal = [[round(width * 3 / 4), width]] * len(mixed)
    photo = images.read(resources.picture(arguments.photo, "content"))
    found = {"equal": equal, "mixed": mixed}
    for name, sizes in found.items():
        for index, size in enumerate(sizes):
            images.write(folder / name / f"{index:03d}.png", images.resize(photo, tuple(size)))
    return {name: folder / name for name in found}


def measure(mode: str, arguments: argparse.Namespace, _: None, folder: Path) -> Part:
    """Whole processes, from the command to the last picture."""
    output = folder / "pictures"
    ours = functools.partial(_ours, mode, arguments, output=output)
    peer = _exported(arguments, folder) if mode == "stylize" and arguments.torch_python else None
    found: dict[str, list[Measured]] = {}
    for name, photos in folders(arguments, folder, SMALLER[mode]).items():
        commands = {f"perceptual_jax, {name}": ours(photos)}
        if peer:
            program: Command = [arguments.torch_python, PEERS / "folder_onnx.py"]
            options = [f"--network={peer}", f"--input={photos}", f"--output={output}"]
            commands[f"{ONNX_RUNTIME}, {name}"] = [*program, *options]
        for program_name, command in commands.items():
            for _repeat in range(arguments.repeat):
                with tempfile.TemporaryDirectory() as cache:
                    environment = whole_process.environment(Path(cache))
                    measured = whole_process.run(
                        command, log=folder / "log.txt", environment=environment
                    )
                found.setdefault(program_name, []).append(measured)
    return _part(arguments, mode, found)


def _ours(mode: str, arguments: argparse.Namespace, photos: Path, *, output: Path) -> Command:
    options = [f"--mode={mode}", f"--input={photos}", f"--output={output}"]
    if mode == "stylize":
        options.append(f"--style={arguments.style}")
    return [sys.executable, ROOT / "run.py", *options]


def _exported(arguments: argparse.Namespace, folder: Path) -> Path:
    network = beside_peers.network_file(
        trained.load(arguments.network).alone(arguments.style), folder
    )
    exported = folder / "network.onnx"
    command: Command = [arguments.torch_python, PEERS / "export_onnx.py", f"--network={network}"]
    command += [f"--style={arguments.style}", f"--output={exported}"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return exported


def _part(arguments: argparse.Namespace, mode: str, found: dict[str, list[Measured]]) -> Part:
    equal = min(run.seconds for run in found["perceptual_jax, equal"])
    head = [
        f"`--mode={mode}`, {arguments.count} photos with sides of {arguments.sides[0]} to "
        f"{arguments.sides[1]} pixels divided by {SMALLER[mode]}; whole processes, nothing "
        f"compiled before, best of {arguments.repeat}.",
        "",
        "| program, sizes | seconds | of ours, equal | peak memory, MB |",
        "|---|---|---|---|",
    ]
    rows = []
    for name, runs in found.items():
        seconds = min(run.seconds for run in runs)
        peak = min(run.peak_bytes for run in runs) / 1e6
        rows.append(f"| {name} | {seconds:.1f} | {seconds / equal:.2f} | {peak:.0f} |")
    results = {name: [run._asdict() for run in runs] for name, runs in found.items()}
    return Part("\n".join(head + rows), results)


PARTS = {mode: functools.partial(measure, mode) for mode in SMALLER}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--torch-python", help="a Python with torch, onnx, onnxscript, onnxruntime, safetensors")
    add("--what", type=report.some_of(PARTS), default=list(PARTS), help="parts, with commas")
    add("--network", default="styles", help="of stylize: a file, or the name of a shipped network")
    add("--style", default="wave", help="one of its styles")
    add("--photo", default="astronaut", help="a file, or an example's name")
    add("--count", type=int, default=40, help="photos in a folder")
    add("--sides", type=report.integers, default=[400, 1000], help="least and largest, in pixels")
    add("--repeat", type=int, default=1, help="runs of each program")
    add("--output", type=lambda text: Path(text).resolve(), default=ROOT / "benchmarks" / "results")
    return parser.parse_args(argv)


def main() -> None:
    beside_peers.measure("folder", PARTS, parse(sys.argv[1:]), None)


if __name__ == "__main__":
    main()
