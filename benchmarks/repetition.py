"""How much stylised skies repeat themselves, with and without variation.

    python benchmarks/repetition.py

Prints a Markdown table; README.md beside this file says what is measured.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import report
import trained

from perceptual_jax.io import images
from perceptual_jax.models import vary

# Lags of this many pixels are those of a pattern that is seen as one.
_LAGS = (5, 40)
_WINDOW = 128


def sky(height: int, width: int) -> np.ndarray:
    """A smooth sky of 8 bits with faint clouds, `(H, W, 3)`."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    base = np.array([0.45, 0.62, 0.88]) + np.array([0.35, 0.22, -0.08]) * rows
    random, clouds = np.random.default_rng(5), np.zeros((height, width), np.float32)
    for count in (3, 5, 8):
        grid = random.random((count, count + 1), np.float32)
        clouds += images.resize(grid, (height, width)) / count
    picture = base + 0.25 * (clouds - clouds.mean())[..., None]
    return images.eight_bits(picture).astype(np.float32) / 255


def repetition(picture: np.ndarray) -> float:
    """The largest autocorrelation of the luma at the lags, the median over windows of a picture."""
    luma = picture @ np.array([0.299, 0.587, 0.114])
    taper = np.outer(np.hanning(_WINDOW), np.hanning(_WINDOW))
    y, x = np.mgrid[-_WINDOW // 2 : _WINDOW // 2, -_WINDOW // 2 : _WINDOW // 2]
    ring = (_LAGS[0] <= np.hypot(y, x)) & (np.hypot(y, x) <= _LAGS[1])
    own = _autocorrelation(taper)
    found = []
    for top in range(0, luma.shape[0] - _WINDOW + 1, _WINDOW // 2):
        for left in range(0, luma.shape[1] - _WINDOW + 1, _WINDOW // 2):
            window = luma[top : top + _WINDOW, left : left + _WINDOW]
            detail = window - images.resize(images.resize(window, (8, 8)), window.shape)
            detail = (detail - detail.mean()) * taper
            # Divided by the taper's own, which falls with the lag.
            ratio = _autocorrelation(detail) / np.maximum(own, 0.05)
            found.append(ratio[ring].max())
    return float(np.median(found))


def _autocorrelation(values: np.ndarray) -> np.ndarray:
    """By lag, from minus half of the side on; 1 at lag 0."""
    power = np.abs(np.fft.fft2(values, (2 * _WINDOW, 2 * _WINDOW))) ** 2
    half = slice(_WINDOW // 2, 3 * _WINDOW // 2)
    whole = np.fft.fftshift(np.fft.ifft2(power).real)[half, half]
    return whole / max(float(whole.max()), 1e-12)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--network", default="styles", help="a file, or the name of a shipped network")
    add("--stroke_size", type=int, help="in pixels; by default the middle one")
    add("--variation", default="0,0.5,1", help="amounts, with commas")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse(sys.argv[1:])
    amounts = [float(text) for text in arguments.variation.split(",")]
    subject = trained.load(arguments.network, stroke_size=arguments.stroke_size)
    photo = sky(768, 1024)
    print(f"{report.heading(report.machine())}.\n")
    print("| style | " + " | ".join(f"{amount:g}" for amount in amounts) + " | the painting |")
    print("|---" * (len(amounts) + 2) + "|")
    for style in subject.trained.styles:
        found = []
        for amount in amounts:
            varied = vary(photo, amount=amount, stroke_size=subject.stroke_size)
            found.append(repetition(np.asarray(subject.stylize(varied, style))))
        found.append(repetition(subject.painting(style)))
        print(f"| {style} | " + " | ".join(f"{value:.2f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main()
