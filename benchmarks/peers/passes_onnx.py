"""Makes a picture with a network that was exported to ONNX, in ONNX Runtime.

    python benchmarks/peers/passes_onnx.py --network=network.onnx --photo=photo.png \
        --output=picture.png

Needs onnxruntime, numpy and pillow.  Imports nothing of the project it is compared with.
"""

import argparse
import os

import numpy as np
import onnxruntime
import pictures


def load(path):
    """A function of photos, a contiguous array `(N, 3, H, W)`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda photos: session.run(None, {"photos": photos})[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("network", "photo", "output"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    photo = np.ascontiguousarray(pictures.read(arguments.photo))
    pictures.write(arguments.output, load(arguments.network)(photo))


if __name__ == "__main__":
    main()
