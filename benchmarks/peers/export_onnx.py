"""Exports a style of a network file of ours to ONNX, for photos of any height and width.

    python benchmarks/peers/export_onnx.py --network=network.safetensors --style=wave \
        --output=network.onnx

Needs torch, onnx, onnxscript and safetensors.  Imports nothing of the project.
"""

import json

import passes_torch
import torch
from networks_torch import StyleNetwork


def main():
    parser = passes_torch.argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--style", required=True)
    arguments = parser.parse_args()
    weights, metadata = passes_torch.read(arguments.network)
    row = json.loads(metadata["styles"]).index(arguments.style)
    network = StyleNetwork(weights, row, "channels_first")
    network = passes_torch.Clipped(network).eval().requires_grad_(False)
    sides = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    photos = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        torch.onnx.export(
            network,
            (photos,),
            arguments.output,
            input_names=["photos"],
            dynamic_shapes=(sides,),
        )


if __name__ == "__main__":
    main()
