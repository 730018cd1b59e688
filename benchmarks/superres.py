"""Measures one pass of a network for super-resolution beside PyTorch and ONNX Runtime.

    python benchmarks/superres.py --torch-python=path/to/python --what=pass,process

Prints a Markdown table for each part, and writes it with all measurements to `--output`.  README.md
beside this file says what is measured.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import beside_peers
import jax
from beside_peers import ONNX_PEER, ONNX_RUNTIME, Command
from peer_process import Peer
from report import Part
from trained import ROOT

from perceptual_jax.cli.errors import UserError
from perceptual_jax.io import images
from perceptual_jax.models import networks, super_resolution
from perceptual_jax.models.networks import SuperResolutionNetwork
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained.networks import TrainedNetwork

PEER = ROOT / "benchmarks" / "peers" / "superres_torch.py"


def measure_pass(arguments: argparse.Namespace, subject: TrainedNetwork, folder: Path) -> Part:
    """The network alone, in processes that have loaded and compiled all."""
    variables = jax.device_put(subject.variables)

    def ours(photo: jax.Array) -> jax.Array:
        batch = photo[None]
        return super_resolution.enlarge_batch(variables, batch, network=subject.network)[0]

    network = beside_peers.network_file(subject, folder)
    with contextlib.closing(Peer(peer_command(arguments, network))) as peer:
        passes = {
            size: beside_peers.passes(
                arguments, ours, peer, beside_peers.photo(arguments, size), folder
            )
            for size in arguments.sizes
        }
    return Part(beside_peers.passes_table(arguments, passes), passes)


def measure_process(arguments: argparse.Namespace, subject: TrainedNetwork, folder: Path) -> Part:
    """From the command to the picture in a file."""
    network = beside_peers.network_file(subject, folder)
    peer = peer_command(arguments, network)
    exported = beside_peers.exported_networks(arguments, peer, folder)
    found = {}
    for size in arguments.sizes:
        photo, picture = folder / f"{size}.png", folder / "picture.png"
        images.write(photo, beside_peers.photo(arguments, size))
        run: Command = [
            sys.executable,
            ROOT / "run.py",
            "--mode=superres",
            f"--factor={subject.network.factor}",
            f"--network={network}",
            f"--input={photo}",
            f"--output={picture}",
        ]
        ours = {
            "perceptual_jax, default tiles": run,
            "perceptual_jax, one tile": [*run, f"--tile_size={size}"],
        }
        programs = {"PyTorch": (PEER, network)}
        if size in exported:
            programs[ONNX_RUNTIME] = ONNX_PEER, exported[size]
        peers = {
            name: [
                arguments.torch_python,
                program,
                f"--network={file}",
                f"--photo={photo}",
                f"--output={picture}",
            ]
            for name, (program, file) in programs.items()
        }
        found[size] = beside_peers.processes(arguments, ours, peers, folder)
    return beside_peers.processes_part(arguments, found)


def peer_command(arguments: argparse.Namespace, network: Path) -> Command:
    return [arguments.torch_python, PEER, f"--network={network}"]


def load(name_or_path: str) -> TrainedNetwork:
    """Raises `UserError` unless it is a network that the peer has too."""
    found = pretrained_networks.load_network(name_or_path)
    network = found.network
    if not isinstance(network, SuperResolutionNetwork):
        raise UserError(f"{name_or_path} is no network for super-resolution")
    known = SuperResolutionNetwork(
        factor=network.factor, width=network.width, residual_blocks=network.residual_blocks
    )
    if networks.describe(network) != networks.describe(known):
        raise UserError(f"{name_or_path} does not have the default architecture, as the peer has")
    return found


PARTS = {"pass": measure_pass, "process": measure_process}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    return beside_peers.argument_parser(
        (__doc__ or "").splitlines()[0], PARTS, network="superres-x4-feature", sizes=[512]
    ).parse_args(argv)


def main() -> None:
    arguments = parse(sys.argv[1:])
    beside_peers.measure("superres", PARTS, arguments, load(arguments.network))


if __name__ == "__main__":
    main()
