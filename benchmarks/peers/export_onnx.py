"""Exports a style of a network file of ours to ONNX, for photos of any height and width.

    python benchmarks/peers/export_onnx.py --network=network.safetensors --style=wave \
        --output=network.onnx

Needs torch, onnx, onnxscript and safetensors.  Imports nothing of the project.
"""

import passes_torch
import stylize_torch
import torch


def main():
    arguments, build = stylize_torch.parse(__doc__.splitlines()[0])
    network = passes_torch.Clipped(build("channels_first")).eval().requires_grad_(False)
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
