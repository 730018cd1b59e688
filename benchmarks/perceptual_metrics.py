"""Measures LPIPS and DISTS beside the packages of their authors in PyTorch.

    python benchmarks/perceptual_metrics.py --torch-python=peer/bin/python \
        --networks=networks.safetensors

Prints a Markdown table, and writes it with all measurements to `--output`.  README.md beside this
file says what is measured, and perceptual_pairs.py what the peer needs.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import beside_peers
import jax
import numpy as np
import perceptual_pairs
import report
from peer_process import Peer
from report import Part
from safetensors.numpy import load_file
from trained import ROOT, square

from perceptual_jax import metrics
from perceptual_jax.io import resources
from perceptual_jax.pretrained import metrics as pretrained

OURS = "perceptual_jax"
LAYOUTS = ("channels_first", "channels_last")
METRICS = ("lpips_alex", "lpips_vgg", "dists")

# What the values of the two may differ by.
TOLERANCE = 1e-4


def photos(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy squares of the examples, and the squares, `(batch, size, size, 3)`."""
    files = [resources.picture(name, "content") for name in resources.example_names("content")]
    references = np.stack([square(files[i % len(files)], size) for i in range(batch)])
    noise = np.random.default_rng(0).normal(size=references.shape) * 0.05
    return np.clip(references + noise, 0, 1).astype(np.float32), references


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds of every call, by metric and program; raises unless all give the same values."""
    pictures = photos(arguments.size, arguments.batch)
    files = {}
    for name, values in zip(("images", "references"), pictures, strict=True):
        files[name] = str(folder / f"{name}.npy")
        np.save(files[name], np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
    on_device = jax.device_put(pictures)
    output = folder / "values.npy"
    found: dict[str, dict[str, list[float]]] = {}
    with (
        contextlib.closing(
            Peer(
                [arguments.torch_python, perceptual_pairs.PEER, f"--networks={arguments.networks}"]
            )
        ) as peer,
        perceptual_pairs.vgg16_file(load_file(arguments.networks)) as vgg16,
    ):
        for metric in arguments.metrics:
            params = jax.device_put(load(metric, vgg16))
            compute = jax.jit(metrics.dists if metric == "dists" else metrics.lpips)

            def call(compute: Any = compute, params: Any = params) -> Any:
                return jax.block_until_ready(compute(params, *on_device))

            ours = np.asarray(call())
            seconds = found[metric] = {OURS: [], **{f"PyTorch, {name}": [] for name in LAYOUTS}}
            for _ in range(arguments.repeat):
                seconds[OURS] += beside_peers.timed(call, arguments.calls)
                for layout in LAYOUTS:
                    request = {"metric": metric, "layout": layout, "output": str(output), **files}
                    answer = peer.ask(calls=arguments.calls, **request)
                    seconds[f"PyTorch, {layout}"] += answer["seconds"]
                    difference = float(np.abs(np.load(output).reshape(ours.shape) - ours).max())
                    if difference > TOLERANCE:
                        raise RuntimeError(f"{metric} of PyTorch is up to {difference:.2g} off")
    return found


def load(metric: str, vgg16: Path) -> Any:
    if metric == "dists":
        return pretrained.load_dists(vgg=vgg16)
    return pretrained.load_lpips(metric.removeprefix("lpips_"), vgg=vgg16)


def table(arguments: argparse.Namespace, found: dict[str, dict[str, list[float]]]) -> str:
    head = [
        f"{arguments.batch} pairs of {arguments.size} pixels; best of "
        f"{arguments.repeat * arguments.calls} calls, interleaved.",
        "",
        "| metric | program | seconds | times ours |",
        "|---|---|---|---|",
    ]
    rows = [
        f"| {metric} | {name} | {min(seconds):.4g} | {min(seconds) / min(of[OURS]):.3g} |"
        for metric, of in found.items()
        for name, seconds in of.items()
    ]
    return "\n".join(head + rows)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--torch-python", required=True, help="a Python with the packages")
    add("--networks", type=Path, required=True, help="torchvision's networks")
    add("--metrics", type=report.some_of(METRICS), default=list(METRICS), help="with commas")
    add("--size", type=int, default=256, help="side of the square pictures")
    add("--batch", type=int, default=8, help="pairs at a time")
    add("--repeat", type=int, default=5, help="turns of each program")
    add("--calls", type=int, default=3, help="calls in a turn, of all of which the best counts")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse(sys.argv[1:])
    where = report.machine(arguments.torch_python)
    with tempfile.TemporaryDirectory() as name:
        found = measure(arguments, Path(name))
    target = arguments.output / "perceptual_metrics"
    part = Part(table(arguments, found), found)
    report.publish(target, "seconds", part, where=where, settings=vars(arguments))


if __name__ == "__main__":
    main()
