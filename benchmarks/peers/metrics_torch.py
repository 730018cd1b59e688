"""LPIPS and DISTS by their authors' packages in PyTorch: the peer of `perceptual_jax.metrics`.

    python benchmarks/peers/metrics_torch.py --networks=networks.safetensors

The file has the features of torchvision's networks, `alexnet/features.0.weight` and so on, which
the packages would have fetched.  It waits for requests, a line of JSON each, `{"metric": one of
METRICS, "layout": ..., "images": ..., "references": ..., "calls": ..., "output": ...}`, where
pictures are `.npy` files, `(N, 3, H, W)` in [0, 1].  The answer has the `seconds` of each call,
after a first one whose values go to `output`.  The first line that it prints has versions.

Needs torch, torchvision, safetensors, lpips 0.1.4 and DISTS_pytorch 0.1.  Imports nothing of the
project it is compared with.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

import DISTS_pytorch
import lpips
import numpy as np
import torch
import torchvision
from safetensors.torch import load_file

METRICS = ("lpips_alex", "lpips_vgg", "lpips_alex_map", "dists")
LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}
PACKAGES = ("torch", "torchvision", "lpips", "DISTS_pytorch")
# Taken before the packages are given others in their place.
MAKERS = {
    name: functools.partial(getattr(torchvision.models, name), weights=None)
    for name in ("alexnet", "vgg16")
}


class Metrics:
    def __init__(self, networks):
        self.tensors = load_file(networks)
        for name in MAKERS:
            # The packages ask torchvision for a network with its weights, which are fetched.
            setattr(torchvision.models, name, functools.partial(self.network, name))

    def network(self, name, pretrained=True):
        network = MAKERS[name]()
        state = {
            key.removeprefix(f"{name}/features."): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(f"{name}/")
        }
        network.features.load_state_dict(state)
        return network

    @functools.cache  # noqa: B019 (there is one)
    def metric(self, name, layout):
        """A function of two batches in [0, 1]."""
        if name == "dists":
            network = DISTS_pytorch.DISTS(load_weights=False)
            weights = torch.load(Path(DISTS_pytorch.__file__).with_name("weights.pt"), "cpu")
            network.alpha.data, network.beta.data = weights["alpha"], weights["beta"]
            call = network
        else:
            kind, spatial = name.split("_")[1], name.endswith("_map")
            network = lpips.LPIPS(net=kind, spatial=spatial, verbose=False)
            call = functools.partial(network, normalize=True)
        network.eval().requires_grad_(False).to(memory_format=LAYOUTS[layout])
        return call

    def answer(self, metric, images, references, layout="channels_first", calls=0, output=None):
        call = self.metric(metric, layout)
        pair = [
            torch.from_numpy(np.load(path)).contiguous(memory_format=LAYOUTS[layout])
            for path in (images, references)
        ]
        values = call(*pair)
        if output:
            np.save(output, values.numpy())
        seconds = []
        for _ in range(calls):
            began = time.perf_counter()
            call(*pair)
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", required=True)
    metrics = Metrics(parser.parse_args().networks)
    torch.set_num_threads(os.cpu_count())
    print(json.dumps({name: importlib.metadata.version(name) for name in PACKAGES}), flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            print(json.dumps(metrics.answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
