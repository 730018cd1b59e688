"""Trains a style network in PyTorch on one batch of photos: the peer of `--mode=train_transform`.

    python benchmarks/peers/train_step_torch.py --vgg=weights/vgg16.safetensors \
        --network=network.safetensors --photos=photos.npy --painting=painting.npy

Johnson et al. 2016, as their released program has it.  Photos are `(N, H, W, 3)` of 8 bits, the
painting `(H, W, 3)` in [0, 1].  It waits for requests, a line of JSON each, `{"steps": ...}`,
and answers with the `seconds` and `losses` of each step and the `peak_bytes` of the process so far.
The first line that it prints is the name of the layout.

Needs torch, numpy and safetensors.  Imports nothing of the project it is compared with.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from networks_torch import LAYOUTS, VGG, StyleNetwork
from safetensors.numpy import load_file

CONTENT_LAYER = "relu3_3"
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")


def grams(features):
    """`F F^T / (C H W)` of each image, (N, C, C)."""
    flat = features.permute(0, 2, 3, 1).flatten(1, 2)
    return flat.transpose(1, 2) @ flat / flat[0].numel()


def peak_bytes():
    """Of resident memory; not by `getrusage`, which counts the parent at the start as well."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


class Trainer:
    def __init__(self, arguments, layout):
        vgg_weights = load_file(arguments.vgg)
        self.mean = torch.from_numpy(255 * vgg_weights["normalization/mean"]).reshape(3, 1, 1)
        self.vgg = VGG(vgg_weights, "max", layout)
        self.network = StyleNetwork(load_file(arguments.network), 0, layout)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=arguments.learning_rate)
        self.arguments = arguments
        self.photos = torch.from_numpy(np.load(arguments.photos)).permute(0, 3, 1, 2)
        self.photos = self.photos.contiguous(memory_format=LAYOUTS[layout])
        painting = torch.from_numpy(np.load(arguments.painting)).permute(2, 0, 1)[None]
        with torch.no_grad():
            found = self.features(painting, STYLE_LAYERS)
            self.style = {layer: grams(found[layer]) for layer in STYLE_LAYERS}

    def autocast(self):
        """bfloat16 within networks alone, if at all: losses are float32, as ours."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.arguments.dtype == "bfloat16")

    def features(self, images, layers):
        with self.autocast():
            found = self.vgg(255 * images - self.mean, layers)
        return {layer: values.float() for layer, values in found.items()}

    def loss(self, photos):
        with self.autocast():
            pictures = self.network(photos)
        pictures = pictures.float()
        with torch.no_grad():
            content = self.features(photos, (CONTENT_LAYER,))[CONTENT_LAYER]
        found = self.features(pictures, STYLE_LAYERS)
        difference = (found[CONTENT_LAYER] - content).square()
        totals = self.arguments.content_weight * difference.mean(dim=(1, 2, 3))
        for layer in STYLE_LAYERS:
            difference = (grams(found[layer]) - self.style[layer]).square()
            totals = totals + self.arguments.style_weight * difference.mean(dim=(1, 2))
        vertical = (pictures[:, :, 1:] - pictures[:, :, :-1]).square().sum(dim=(1, 2, 3))
        horizontal = (pictures[..., 1:] - pictures[..., :-1]).square().sum(dim=(1, 2, 3))
        variation = 0.5 * 255**2 * (vertical + horizontal)
        return (totals + self.arguments.tv_weight * variation).mean()

    def step(self):
        self.optimizer.zero_grad()
        loss = self.loss(self.photos.float() / 255)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("vgg", "network", "photos", "painting"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--layout", required=True, choices=list(LAYOUTS))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--content-weight", type=float, default=1.0)
    parser.add_argument("--style-weight", type=float, default=5.0)
    parser.add_argument("--tv-weight", type=float, default=1e-6)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())

    trainer = Trainer(arguments, arguments.layout)
    print(json.dumps(arguments.layout), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        seconds, losses = [], []
        for _ in range(request["steps"]):
            began = time.perf_counter()
            losses.append(trainer.step())
            seconds.append(time.perf_counter() - began)
        answer = {"seconds": seconds, "losses": losses, "peak_bytes": peak_bytes()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
