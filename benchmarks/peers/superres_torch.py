"""Enlarges photos with a network file of ours in PyTorch: the peer of `--mode=superres`.

    python benchmarks/peers/superres_torch.py --network=network.safetensors \
        --photo=photo.png --output=picture.png

Without `--photo` it waits for requests; passes_torch.py says which, and what it needs.
"""

import passes_torch
from networks_torch import SuperResolutionNetwork


def main():
    arguments = passes_torch.argument_parser(__doc__.splitlines()[0]).parse_args()
    weights, _ = passes_torch.read(arguments.network)
    passes_torch.run(lambda layout: SuperResolutionNetwork(weights, layout), arguments)


if __name__ == "__main__":
    main()
