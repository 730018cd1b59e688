"""Stylises photos with a network file of ours in PyTorch: the peer of `--mode=stylize`.

    python benchmarks/peers/stylize_torch.py --network=network.safetensors --style=wave \
        --photo=photo.png --output=picture.png

Without `--photo` it waits for requests; passes_torch.py says which, and what it needs.
"""

import json

import passes_torch
from networks_torch import StyleNetwork


def main():
    parser = passes_torch.argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--style", required=True)
    arguments = parser.parse_args()
    weights, metadata = passes_torch.read(arguments.network)
    row = json.loads(metadata["styles"]).index(arguments.style)
    passes_torch.run(lambda layout: StyleNetwork(weights, row, layout), arguments)


if __name__ == "__main__":
    main()
