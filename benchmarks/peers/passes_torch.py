"""One pass of a network in PyTorch and ONNX Runtime: what its programs share.

With `--photo` and `--output` they make one picture, in PyTorch.  Without, they wait for requests, a
line of JSON each, `{"engine": ..., "photo": ..., "calls": ..., "output": ...}`, where the photo is
an `.npy` file, `(H, W, 3)` in [0, 1].  The answer has the `seconds` of each call of the network
alone, after a first one whose picture goes to `output`.  The first line that they print names the
engines: PyTorch in both layouts, and ONNX Runtime where that and what exports to it are installed;
the network that it runs is left beside the photo, as an `.onnx` file for photos of that size.

Needs torch, numpy, pillow and safetensors.  Imports nothing of the project it is compared with.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pictures
import torch
from networks_torch import LAYOUTS
from safetensors import safe_open

ONNX_RUNTIME = "ONNX Runtime"


class Clipped(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, photos):
        return self.network(photos).clamp(0, 1)


def argument_parser(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--network", required=True)
    parser.add_argument("--photo")
    parser.add_argument("--output")
    return parser


def read(path):
    """The tensors of a network file by their names, and its metadata."""
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata()


def run(build, arguments):
    """Does what the arguments ask for; `build` makes the network for a key of LAYOUTS."""

    def load(layout):
        return Clipped(build(layout)).eval().requires_grad_(False)

    torch.set_num_threads(os.cpu_count())
    with torch.inference_mode():
        if arguments.photo:
            photo = torch.from_numpy(pictures.read(arguments.photo))
            pictures.write(arguments.output, load("channels_last")(photo).numpy())
            return
        server = Server(load)
        print(json.dumps(server.engines()), flush=True)
        for line in sys.stdin:
            print(json.dumps(server.answer(**json.loads(line))), flush=True)


class Server:
    def __init__(self, load):
        self.load = load
        self.calls = {}

    def engines(self):
        found = list(LAYOUTS)
        if all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "onnxscript"))):
            found.append(ONNX_RUNTIME)
        return found

    def call(self, engine, photo):
        """A function without arguments that makes the picture, ready to be timed."""
        if (engine, photo) not in self.calls:
            array = np.load(photo).transpose(2, 0, 1)[None].copy()
            photos = torch.from_numpy(array)
            if engine == ONNX_RUNTIME:
                path = Path(photo).with_suffix(".onnx")
                network, photos = exported(self.load("channels_first"), photos, path), array
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


def exported(network, photos, path):
    """A function of photos as an array, run by ONNX Runtime from the file that this writes."""
    import passes_onnx

    with contextlib.redirect_stdout(sys.stderr):  # The other one carries answers.
        torch.onnx.export(network, (photos,), path, input_names=["photos"])
    return passes_onnx.load(path)
