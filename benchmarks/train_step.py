"""Measures a step of training a style network beside PyTorch.

    python benchmarks/train_step.py --torch-python=path/to/python

Both train the same network from the same weights on the same photos, in turns.  Prints a Markdown
table, and writes it with all measurements to `--output`.  README.md beside this file says what is
measured.
"""

import argparse
import contextlib
import dataclasses
import functools
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
from trained import ROOT

from perceptual_jax import training
from perceptual_jax.cli import memory
from perceptual_jax.io import images, resources
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.objective import JOHNSON
from perceptual_jax.ops import backend
from perceptual_jax.pretrained.networks import TrainedNetwork, save
from perceptual_jax.pretrained.vgg import load_vgg
from perceptual_jax.training import train_losses

OURS = "perceptual_jax"
PEER = ROOT / "benchmarks" / "peers" / "train_step_torch.py"
LAYOUTS = ("channels_last", "channels_first")

# Adam, the plain mean and no average of the weights: what the paper trains with.
CONFIG = training.TrainConfig(
    steps=10_000, learning_rate=1e-3, schedule="constant", loss_mean="linear", ema_decay=0.0
)

# What the losses may differ by: before the first step, and after it, when rounding has grown. In
# bfloat16 only before: Adam's first step is as long for a gradient that is 0 but for rounding, as
# that of a bias before a normalisation, as for any other.
TOLERANCES: dict[str, tuple[float, ...]] = {"float32": (1e-3, 3e-2), "bfloat16": (2e-2,)}


def measure(arguments: argparse.Namespace, folder: Path) -> Part:
    network = StyleNetwork(dtype=arguments.dtype)
    example = np.zeros((1, 64, 64, 3), np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), example)
    paths = trained.photos_in(resources.folder("examples") / "sample_photos")
    squares = [trained.square(path, arguments.size) for path in paths[: arguments.batch]]
    photos = np.rint(255 * np.stack(squares)).astype(np.uint8)
    painting = images.read(resources.picture(arguments.style, "styles"))
    painting = images.resize(painting, images.size_for(painting.shape[:2], arguments.style_size))

    ours = our_steps(network, variables, photos, painting)
    command = peer_command(arguments, network, variables, photos, painting, folder)
    with contextlib.ExitStack() as stack:
        programs = {OURS: ours}
        for layout in LAYOUTS:
            peer = stack.enter_context(contextlib.closing(Peer([*command, f"--layout={layout}"])))
            programs[f"PyTorch, {layout}"] = functools.partial(_ask, peer)
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        losses: dict[str, list[float]] = {name: [] for name in programs}
        peaks: dict[str, int] = {}
        for _ in range(arguments.repeat):
            for name, steps_of in programs.items():
                answer = steps_of(arguments.steps)
                # The first one of a turn finds the machine as another program has left it.
                seconds[name] += answer["seconds"][1:]
                losses[name] += answer["losses"]
                peaks[name] = answer["peak_bytes"]
    check(losses, TOLERANCES[arguments.dtype])

    best = {name: min(found) for name, found in seconds.items()}
    head = [
        f"A step of {arguments.batch} photos of {arguments.size}x{arguments.size} pixels in "
        f"{arguments.dtype}, best of {len(seconds[OURS])}, interleaved.",
        "",
        "| program | seconds | times ours | peak memory, MB |",
        "|---|---|---|---|",
    ]
    rows = [
        f"| {name} | {found:.3f} | {found / best[OURS]:.2f} | {peaks[name] / 1e6:.0f} |"
        for name, found in best.items()
    ]
    return Part("\n".join(head + rows), {"seconds": seconds, "losses": losses, "peak_bytes": peaks})


def _ask(peer: Peer, steps: int) -> Any:
    return peer.ask(steps=steps)


def our_steps(
    network: StyleNetwork, variables: Any, photos: np.ndarray, painting: np.ndarray
) -> Callable[[int], dict[str, Any]]:
    """A function that goes on training for so many steps, and answers as the peer does."""
    mesh = training.data_mesh()
    state = training.start(variables, CONFIG, mesh)
    objective = dataclasses.replace(JOHNSON, dtype=network.dtype)
    constants = train_losses.style_constants(objective, load_vgg("vgg16"), [painting])
    constants = training.replicate(constants, mesh)
    batch = training.shard_batch({"photos": photos, "index": np.arange(len(photos))}, mesh)
    step = training.make_step(train_losses.style_loss(network, objective), CONFIG)

    def steps(count: int) -> dict[str, Any]:
        nonlocal state
        found: dict[str, Any] = {"seconds": [], "losses": []}
        for _ in range(count):
            began = time.perf_counter()
            state, metrics = step(state, batch, constants)
            jax.block_until_ready(state)
            found["seconds"].append(time.perf_counter() - began)
            found["losses"].append(float(metrics["total"]))
        return {**found, "peak_bytes": whole_process.own_peak_bytes()}

    return steps


def peer_command(
    arguments: argparse.Namespace,
    network: StyleNetwork,
    variables: Any,
    photos: np.ndarray,
    painting: np.ndarray,
    folder: Path,
) -> list[str | Path]:
    """Of the peer, for which everything is put into files."""
    first = TrainedNetwork(network=network, variables=variables, styles=("style",), settings={})
    save(folder / "network.safetensors", first, dtype="float32")
    np.save(folder / "photos.npy", photos)
    np.save(folder / "painting.npy", painting)
    return [
        arguments.torch_python,
        PEER,
        f"--vgg={resources.folder('weights') / 'vgg16.safetensors'}",
        f"--network={folder / 'network.safetensors'}",
        f"--photos={folder / 'photos.npy'}",
        f"--painting={folder / 'painting.npy'}",
        f"--dtype={arguments.dtype}",
        f"--learning-rate={CONFIG.learning_rate}",
        f"--content-weight={JOHNSON.content_weight}",
        f"--style-weight={JOHNSON.style_weight}",
        f"--tv-weight={JOHNSON.term_weights()['total_variation']}",
    ]


def check(losses: dict[str, list[float]], tolerances: Sequence[float]) -> None:
    """Raises unless all begin with the same loss, and their first step leads to the same."""
    for name, found in losses.items():
        for index, tolerance in enumerate(tolerances):
            ours = losses[OURS][index]
            if abs(found[index] / ours - 1) > tolerance:
                raise RuntimeError(
                    f"{name} trains something else: after {index} steps its loss is "
                    f"{found[index]:.6g}, ours {ours:.6g}"
                )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--torch-python", required=True, help="a Python with torch, numpy, safetensors")
    add("--style", default="wave", help="painting, a file or an example's name")
    add("--style-size", type=int, default=384, help="long side of the painting, in pixels")
    add("--size", type=int, default=256, help="side of the photos, in pixels")
    add("--batch", type=int, default=4, help="photos in a step")
    add("--dtype", default="float32", choices=sorted(TOLERANCES), help="of all convolutions")
    add("--repeat", type=int, default=4, help="turns of each program")
    add("--steps", type=int, default=4, help="in a turn, of which the first is not counted")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args(argv)
    if arguments.steps < 2:
        parser.error("--steps must be at least 2")
    arguments.output = arguments.output.resolve()
    return arguments


def main() -> None:
    memory.keep()  # As the modes that train do.
    arguments = parse(sys.argv[1:])
    if arguments.dtype == "bfloat16":
        backend.use_matrix_units()
    where = report.machine(arguments.torch_python)
    with tempfile.TemporaryDirectory() as folder:
        part = measure(arguments, Path(folder))
    target = arguments.output / "train-step"
    report.publish(target, "step", part, where=where, settings=vars(arguments))


if __name__ == "__main__":
    main()
