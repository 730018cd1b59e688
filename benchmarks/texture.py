"""Measures how sharp enlarged pictures are, and what patterns a network draws into them.

    python benchmarks/texture.py --data=Set5/ --network=pixel,feature

Prints a Markdown table, means over the pictures of a folder.  README.md beside this file says what
is measured.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import trained

from perceptual_jax import metrics
from perceptual_jax.io import images
from perceptual_jax.models import networks, super_resolution
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.training import degradation

# Cycles per 32 pixels of the stripes, which the loss at relu2_2 brings: 0.31 to 0.44 per pixel.
_WINDOW, _STRIPES = 32, slice(10, 14)


def sharpness(luma: np.ndarray) -> float:
    """The mean absolute Laplacian."""
    inside = 4 * luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float(np.mean(np.abs(inside - around)))


def grid(luma: np.ndarray, period: int) -> float:
    """The largest over the smallest mean step between neighbours, by their place in a period."""
    ratios = []
    for lines in (luma, luma.T):
        steps = np.abs(np.diff(lines, axis=1))
        means = [steps[:, place::period].mean() for place in range(period)]
        ratios.append(max(means) / min(means))
    return float(np.mean(ratios))


def stripes(luma: np.ndarray, truth: np.ndarray) -> float:
    """The energy of stripes along the axes, over the photo's, in its flatter half."""
    places = [
        np.s_[top : top + _WINDOW, left : left + _WINDOW]
        for top in range(0, luma.shape[0] - _WINDOW + 1, _WINDOW // 2)
        for left in range(0, luma.shape[1] - _WINDOW + 1, _WINDOW // 2)
    ]
    places.sort(key=lambda place: float(truth[place].std()))
    flatter = places[: len(places) // 2]
    energies = [sum(_stripe_energy(image[place]) for place in flatter) for image in (luma, truth)]
    return energies[0] / energies[1]


def _stripe_energy(window: np.ndarray) -> float:
    """At the frequencies of the stripes along one axis, and next to none along the other."""
    taper = np.outer(np.hanning(_WINDOW), np.hanning(_WINDOW))
    energy = np.abs(np.fft.fft2((window - window.mean()) * taper)) ** 2
    low = np.r_[-2:3]
    return float(energy[low, _STRIPES].sum() + energy[_STRIPES, low].sum())


def slope(luma: np.ndarray, truth: np.ndarray) -> float:
    """The mean gradient where the photo's is among its largest 5%, over the photo's."""
    ours, theirs = (
        np.hypot(np.diff(image, axis=0)[:, :-1], np.diff(image, axis=1)[:-1])
        for image in (luma, truth)
    )
    edges = theirs >= np.quantile(theirs, 0.95)
    return float(ours[edges].mean() / theirs[edges].mean())


def measure(
    photo: np.ndarray, found: pretrained_networks.TrainedNetwork | None, factor: int
) -> list[float]:
    """The four numbers for one photo of 8 bits, enlarged by a network, or by bicubic."""
    small = degradation.degrade(photo, factor) / np.float32(255)
    if found is None:
        large = networks.bicubic(jnp.asarray(small[None]), factor)[0]
    else:
        large = super_resolution.enlarge_batch(found.variables, small[None], network=found.network)[
            0
        ]
    luma, truth = (
        np.asarray(metrics.luma(image))[..., 0] for image in (large, photo / np.float32(255))
    )
    return [
        sharpness(luma) / sharpness(truth),
        grid(luma, factor),
        stripes(luma, truth),
        slope(luma, truth),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--network", default="pixel,feature", help="names or files, with commas")
    parser.add_argument("--factor", type=int, default=4, choices=networks.FACTORS)
    arguments = parser.parse_args()
    photos = []
    for path in trained.photos_in(arguments.data):
        picture = images.read(path)
        height, width = (side // 8 * 8 for side in picture.shape[:2])
        photos.append(images.eight_bits(picture[:height, :width]))
    print("| | sharpness | grid | stripes | slope |\n|---|---|---|---|---|")
    for name in ["bicubic", *arguments.network.split(",")]:
        found = (
            None if name == "bicubic" else pretrained_networks.load_superres(name, arguments.factor)
        )
        means = np.mean([measure(photo, found, arguments.factor) for photo in photos], axis=0)
        print(f"| {name} | {means[0]:.0%} | {means[1]:.2f} | {means[2]:.2f} | {means[3]:.2f} |")


if __name__ == "__main__":
    main()
