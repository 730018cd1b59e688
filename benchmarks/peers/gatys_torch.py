"""Gatys et al. 2015 in PyTorch, as a whole program: the peer of `--mode=gatys`.

    python benchmarks/peers/gatys_torch.py --weights=weights/vgg16.safetensors \
        --content=content.png --style=style.png --output=picture.png --steps=100

Pictures are taken at the size that they have.  Prints a JSON line for every evaluation of the
objective, with the time of day, and writes the picture: PNG, and beside it the pixels on the scale
of 0..255 before clipping as `.npy`.  With `--range-weight` it also minimises that many times the
summed squares of how far pixels lie outside of 0..255, which is not printed.

Needs torch, numpy, pillow and safetensors.  Imports nothing of the project it is compared with.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
from networks_torch import LAYOUTS, POOLINGS, VGG
from PIL import Image
from safetensors.numpy import load_file

CONTENT_LAYER = "conv4_2"
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
LAYERS = {CONTENT_LAYER, *STYLE_LAYERS}


def gram(features):
    """`F F^T / M` of one image, (C, C)."""
    flat = features[0].permute(1, 2, 0).flatten(0, 1)
    return flat.T @ flat / len(flat)


def read(path, mean):
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
    return (torch.from_numpy(pixels).permute(2, 0, 1) - mean)[None].contiguous()


def outside(pixels):
    """The summed squares of how far pixels lie outside of 0..255."""
    return (pixels - pixels.clamp(0, 255)).square().sum()


def log(evaluation, objective):
    line = {"evaluation": evaluation, "objective": objective, "time": time.time()}
    print(json.dumps(line), flush=True)


def stylise(network, content, style, mean, arguments):
    """The pixels after `steps` iterations of L-BFGS from the content, less the mean."""
    with torch.no_grad():
        content_target = network(content, LAYERS)[CONTENT_LAYER]
        found = network(style, LAYERS)
        style_targets = {name: gram(found[name]) for name in STYLE_LAYERS}
        del found

    def objective(pixels):
        found = network(pixels, LAYERS)
        difference = found[CONTENT_LAYER] - content_target
        total = arguments.content_weight * 0.5 * difference.square().sum()
        for name in STYLE_LAYERS:
            difference = gram(found[name]) - style_targets[name]
            loss = difference.square().sum() / (4 * len(difference) ** 2)
            total = total + arguments.style_weight / len(STYLE_LAYERS) * loss
        return total

    pixels = content.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [pixels],
        lr=1,
        max_iter=arguments.steps,
        max_eval=arguments.steps + 1,
        tolerance_grad=0,
        tolerance_change=0,
        history_size=100,
    )
    evaluations = 0

    def closure():
        nonlocal evaluations
        optimizer.zero_grad()
        total = objective(pixels)
        log(evaluations, total.item())
        if arguments.range_weight:
            total = total + arguments.range_weight * outside(pixels + mean)
        total.backward()
        evaluations += 1
        return total

    optimizer.step(closure)
    # The optimiser does not evaluate where its last iteration has led.
    with torch.no_grad():
        log(evaluations, objective(pixels).item())
    return pixels.detach()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--content", type=Path, required=True)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pooling", choices=POOLINGS, default="avg")
    parser.add_argument("--content-weight", type=float, default=1.0)
    parser.add_argument("--style-weight", type=float, default=1e3)
    parser.add_argument("--range-weight", type=float, default=0.0)
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="channels_last", help="of features in memory"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())

    weights = load_file(arguments.weights)
    # The file's mean is for pixels in [0, 1]; its deviation of 1/255 leaves 0..255 as they are.
    mean = torch.from_numpy(255 * weights["normalization/mean"]).reshape(3, 1, 1)
    network = VGG(weights, arguments.pooling, arguments.layout)
    content, style = read(arguments.content, mean), read(arguments.style, mean)
    pixels = stylise(network, content, style, mean, arguments) + mean

    picture = pixels[0].permute(1, 2, 0).numpy()
    np.save(arguments.output.with_suffix(".npy"), picture)
    Image.fromarray(np.rint(picture.clip(0, 255)).astype(np.uint8)).save(arguments.output)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak_bytes / 1e6:.0f} MB, torch {torch.__version__}")


if __name__ == "__main__":
    main()
