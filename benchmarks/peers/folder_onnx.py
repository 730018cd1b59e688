"""Makes pictures of a folder with a network that was exported to ONNX, in ONNX Runtime.

    python benchmarks/peers/folder_onnx.py --network=network.onnx --input=photos --output=pictures

The network takes photos of any height and width, as `export_onnx.py` writes it.  Needs onnxruntime,
numpy and pillow.  Imports nothing of the project it is compared with.
"""

import argparse
from pathlib import Path

import numpy as np
import passes_onnx
import pictures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("network", "input", "output"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    network, output = passes_onnx.load(arguments.network), Path(arguments.output)
    output.mkdir(exist_ok=True)
    for path in sorted(Path(arguments.input).iterdir()):
        photo = np.ascontiguousarray(pictures.read(path))
        height, width = photo.shape[2:]
        pictures.write(output / path.name, network(photo)[:, :, :height, :width])


if __name__ == "__main__":
    main()
