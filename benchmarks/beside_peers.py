"""One pass of a network beside its peers, as calls and as whole processes."""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import report
import trained
import whole_process
from peer_process import Peer
from report import Part
from trained import ROOT
from whole_process import Measured

from perceptual_jax.io import resources
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained.networks import TrainedNetwork

OURS = "perceptual_jax, one pass"
ONNX_RUNTIME = "ONNX Runtime"
ONNX_PEER = ROOT / "benchmarks" / "peers" / "passes_onnx.py"

# What all may differ by at any pixel, in [0, 1]: a quarter of a level of 8 bits.
TOLERANCE = 1e-3

Command = list[str | Path]


def argument_parser(
    description: str, parts: Iterable[str], *, network: str, sizes: list[int]
) -> argparse.ArgumentParser:
    """The flags of every such benchmark, with these defaults."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--torch-python", required=True, help="a Python with torch, numpy, pillow, safetensors")
    add("--what", type=report.some_of(parts), default=list(parts), help="parts, with commas")
    add("--network", default=network, help="a file, or the name of a shipped network")
    add("--photo", default="astronaut", help="a file, or an example's name")
    add(
        "--sizes",
        type=report.integers,
        default=sizes,
        help="sides of the square photo, with commas",
    )
    add("--repeat", type=int, default=5, help="turns of each program")
    add(
        "--calls",
        type=int,
        default=3,
        help="pass: calls in a turn, of all of which the best counts",
    )
    add(
        "--output",
        type=lambda text: Path(text).resolve(),
        default=ROOT / "benchmarks" / "results",
    )
    return parser


def measure(
    program: str,
    parts: Mapping[str, Callable[[argparse.Namespace, Any, Path], Part]],
    arguments: argparse.Namespace,
    subject: Any,
) -> None:
    """Publishes the parts that were asked for; each gets a folder of its own, for a while."""
    where = report.machine(arguments.torch_python)
    for name in arguments.what:
        with tempfile.TemporaryDirectory() as folder:
            part = parts[name](arguments, subject, Path(folder))
        target = arguments.output / f"{program}-{name}"
        report.publish(target, name, part, where=where, settings=vars(arguments))


def photo(arguments: argparse.Namespace, size: int) -> np.ndarray:
    return trained.square(resources.picture(arguments.photo, "content"), size)


def network_file(network: TrainedNetwork, folder: Path) -> Path:
    """The network as a file that peers read."""
    path = folder / "network.safetensors"
    pretrained_networks.save(path, network, dtype="float32")
    return path


def passes(
    arguments: argparse.Namespace,
    ours: Callable[[jax.Array], jax.Array],
    peer: Peer,
    photo: np.ndarray,
    folder: Path,
) -> dict[str, list[float]]:
    """Seconds of every call, by program; raises unless all give the same picture."""
    on_device = jax.device_put(photo)

    def call() -> jax.Array:
        return jax.block_until_ready(ours(on_device))

    picture = np.asarray(call())
    given, output = folder / f"{len(photo)}.npy", folder / "picture.npy"
    np.save(given, photo)
    names = {
        engine: engine if engine == ONNX_RUNTIME else f"PyTorch, {engine}"
        for engine in peer.greeting
    }
    seconds: dict[str, list[float]] = {OURS: [], **{name: [] for name in names.values()}}
    for _ in range(arguments.repeat):
        seconds[OURS] += timed(call, arguments.calls)
        for engine, name in names.items():
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


def passes_table(
    arguments: argparse.Namespace,
    passes: Mapping[int, Mapping[str, Sequence[float]]],
    *,
    remark: str = "",
) -> str:
    """Of seconds by size and program."""
    head = [
        f"Best of {arguments.repeat * arguments.calls} calls, interleaved{remark}.",
        "",
        "| pixels | program | seconds | times ours |",
        "|---|---|---|---|",
    ]
    rows = [
        f"| {size} | {name} | {min(seconds):.4g} | {min(seconds) / min(found[OURS]):.3g} |"
        for size, found in passes.items()
        for name, seconds in found.items()
    ]
    return "\n".join(head + rows)


def exported_networks(
    arguments: argparse.Namespace, peer: Command, folder: Path
) -> dict[int, Path]:
    """Files for `ONNX_PEER` by size, which the peer of that command exports; none if it cannot."""
    with contextlib.closing(Peer(peer)) as exporter:
        if ONNX_RUNTIME not in exporter.greeting:
            return {}
        paths = {size: folder / f"{size}.onnx" for size in arguments.sizes}
        for size, path in paths.items():
            given = path.with_suffix(".npy")
            np.save(given, photo(arguments, size))
            exporter.ask(engine=ONNX_RUNTIME, photo=str(given), calls=0)
    return paths


def processes(
    arguments: argparse.Namespace,
    ours: Mapping[str, Command],
    peers: Mapping[str, Command],
    folder: Path,
) -> dict[str, list[Measured]]:
    """Every run of these programs as processes, by name.

    Ours run twice in a turn: with an empty cache of compiled programs, and with what the first run
    has left there.
    """
    found: dict[str, list[Measured]] = {}
    for _ in range(arguments.repeat):
        for name, command in {**ours, **peers}.items():
            runs = [f"{name}, first run", f"{name}, later runs"] if name in ours else [name]
            with tempfile.TemporaryDirectory() as cache:
                environment = whole_process.environment(Path(cache))
                for run in runs:
                    measured = whole_process.run(
                        command, log=folder / "log.txt", environment=environment
                    )
                    found.setdefault(run, []).append(measured)
    return found


def processes_part(
    arguments: argparse.Namespace, found: Mapping[int, Mapping[str, Sequence[Measured]]]
) -> Part:
    """Of what `processes` gives, by size."""
    head = [
        f"Whole processes, best of {arguments.repeat}.",
        "",
        "| pixels | program | seconds | peak memory, MB |",
        "|---|---|---|---|",
    ]
    rows = []
    for size, runs in found.items():
        for name, measured in runs.items():
            seconds = min(run.seconds for run in measured)
            peak = min(run.peak_bytes for run in measured)
            rows.append(f"| {size} | {name} | {seconds:.2f} | {peak / 1e6:.0f} |")
    results = {
        str(size): {name: [run._asdict() for run in measured] for name, measured in runs.items()}
        for size, runs in found.items()
    }
    return Part("\n".join(head + rows), results)
