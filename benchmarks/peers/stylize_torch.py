"""Stylises photos with a network file of ours in PyTorch: the peer of `--mode=stylize`.

    python benchmarks/peers/stylize_torch.py --network=network.safetensors --style=wave \
        --photo=photo.png --output=picture.png

Without `--photo` it waits for requests; passes_torch.py says which, and what it needs.
"""

import json

import passes_torch
from networks_torch import StyleNetwork


def parse(description):
    """The arguments, and a function that makes the network for a key of LAYOUTS."""
    parser = passes_torch.argument_parser(description)
    parser.add_argument("--style", required=True)
    arguments = parser.parse_args()
    weights, metadata = passes_torch.read(arguments.network)
    row = json.loads(metadata["styles"]).index(arguments.style)
    return arguments, lambda layout: StyleNetwork(weights, row, layout)


def main():
    arguments, build = parse(__doc__.splitlines()[0])
    passes_torch.run(build, arguments)


if __name__ == "__main__":
    main()
