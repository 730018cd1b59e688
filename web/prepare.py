"""Writes what the page cannot make by itself into web/networks and web/pictures.

    python web/prepare.py

The graphs of the networks, without their weights, which stay in weights/networks.
"""

from pathlib import Path

import onnx

from perceptual_jax import load_network
from perceptual_jax.export.onnx_graph import to_onnx
from perceptual_jax.io import resources

WEB = Path(__file__).resolve().parent

# By the name of a graph: its network, and where the statistics of its normalisations come from.
GRAPHS = {
    "styles": ("styles", "each"),
    "styles-statistics": ("styles", "together"),
    "styles-tile": ("styles", "given"),
    "superres": ("superres-x4-feature", "each"),
}


def graph(name: str) -> onnx.ModelProto:
    """One of `GRAPHS`, as it is in web/networks."""
    network, statistics = GRAPHS[name]
    file = resources.folder("weights") / "networks" / f"{network}.safetensors"
    return to_onnx(load_network(network), statistics=statistics, weights_file=file)


def main() -> None:
    for name in GRAPHS:
        path = WEB / "networks" / f"{name}.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(graph(name).SerializeToString())


if __name__ == "__main__":
    main()
