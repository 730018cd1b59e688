"""Stylises photos with a network file of ours in PyTorch: the peer of `--mode=stylize`.

    python benchmarks/peers/stylize_torch.py --network=network.safetensors --style=wave \
        --photo=photo.png --output=picture.png

Without `--photo` it waits for requests, a line of JSON each, `{"engine": ..., "photo": ...,
"calls": ..., "output": ...}`, where the photo is an `.npy` file, `(H, W, 3)` in [0, 1].  The answer
has the `seconds` of each call of the network alone, after a first one whose picture goes to
`output`.  The first line that it prints names its engines: PyTorch in both layouts, and ONNX
Runtime where that and what exports to it are installed.

Needs torch, numpy, pillow and safetensors.  Imports nothing of the project it is compared with.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from networks_torch import LAYOUTS, StyleNetwork
from PIL import Image
from safetensors import safe_open

ONNX_RUNTIME = "ONNX Runtime"


class Clipped(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, photos):
        return self.network(photos).clamp(0, 1)


def load(path, style, layout):
    """The network of one style, without gradients."""
    with safe_open(path, "numpy") as file:
        row = json.loads(file.metadata()["styles"]).index(style)
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Clipped(StyleNetwork(weights, row, layout)).eval().requires_grad_(False)


def exported(network, photos):
    """A function of photos `(N, 3, H, W)` as an array, run by ONNX Runtime."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        with contextlib.redirect_stdout(sys.stderr):  # The other one carries answers.
            torch.onnx.export(network, (photos,), path, input_names=["photos"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda array: session.run(None, {"photos": array})[0]


class Server:
    def __init__(self, network, style):
        self.load = functools.partial(load, network, style)
        self.calls = {}

    def engines(self):
        found = list(LAYOUTS)
        if all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "onnxscript"))):
            found.append(ONNX_RUNTIME)
        return found

    def call(self, engine, photo):
        """A function without arguments that stylises the photo, ready to be timed."""
        if (engine, photo) not in self.calls:
            array = np.load(photo).transpose(2, 0, 1)[None].copy()
            photos = torch.from_numpy(array)
            if engine == ONNX_RUNTIME:
                network, photos = exported(self.load("channels_first"), photos), array
            else:
                network = self.load(engine)
                photos = photos.contiguous(memory_format=LAYOUTS[engine])
            self.calls[engine, photo] = functools.partial(network, photos)
        return self.calls[engine, photo]

    def answer(self, engine, photo, calls, output=None):
        call = self.call(engine, photo)
        picture = np.asarray(call())[0].transpose(1, 2, 0)
        if output:
            np.save(output, picture)
        seconds = []
        for _ in range(calls):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--style", required=True)
    parser.add_argument("--photo")
    parser.add_argument("--output")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    with torch.inference_mode():
        if arguments.photo:
            photo = np.asarray(Image.open(arguments.photo).convert("RGB"), dtype=np.float32) / 255
            network = load(arguments.network, arguments.style, "channels_last")
            picture = network(torch.from_numpy(photo).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
            Image.fromarray(np.rint(255 * picture.numpy()).astype(np.uint8)).save(arguments.output)
            return
        server = Server(arguments.network, arguments.style)
        print(json.dumps(server.engines()), flush=True)
        for line in sys.stdin:
            print(json.dumps(server.answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
