"""Iterations of the optimiser from what a pass has made: `--refine` of `--mode=stylize`."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from perceptual_jax import synthesis
from perceptual_jax.cli import console, memory
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.interrupts import Interrupts
from perceptual_jax.io import images, resources
from perceptual_jax.io.storage import FileError
from perceptual_jax.objective import WASSERSTEIN
from perceptual_jax.pretrained.vgg import load_vgg


class Refinement:
    """VGG and the paintings of some styles, read once for all pictures.

    Raises:
      UserError: a network was trained for one of the styles, and its painting is not at hand.
    """

    def __init__(self, styles: Iterable[str], iterations: int) -> None:
        self._iterations = iterations
        self._params = synthesis.freeze(load_vgg("vgg16"), WASSERSTEIN)
        self._paintings = {style: _painting(style) for style in styles}

    def check_memory(self, height_width: tuple[int, int]) -> None:
        """Raises `UserError` if a picture does not fit while it is optimised."""
        optimizer, margin = synthesis.Optimizer(), synthesis.MARGIN
        memory.check(
            WASSERSTEIN, self._params, height_width, optimizer=optimizer, margin=margin, unless=""
        )

    def __call__(
        self,
        photo: np.ndarray,
        result: np.ndarray,
        mix: Mapping[str, float],
        stroke_size: float,
        interrupts: Interrupts,
    ) -> np.ndarray:
        """A result `(H, W, 3)` for a photo after the iterations, fewer if it is interrupted."""
        side = round(stroke_size)
        reports = synthesis.refine(
            WASSERSTEIN,
            self._params,
            photo,
            [images.fit(self._paintings[style], side) for style in mix],
            result,
            steps=self._iterations,
            style_weights=list(mix.values()),
        )
        # In the time of evaluations at the full size, one at half of it takes a quarter.
        pixels = math.prod(photo.shape[:2])
        with console.ProgressBar((1 + 1 / 4 + 1 / 16) * (self._iterations + 1)) as bar:
            for report in reports:
                height, width = report.best.shape[1:3]
                if (height, width) == photo.shape[:2]:
                    result = np.array(report.best[0])
                bar.update(
                    report.trace.totals.shape[1] * height * width / pixels,
                    f"{width}x{height} iteration {report.step}",
                    report.trace.summary(),
                )
                if interrupts:
                    break
        return np.clip(result, 0.0, 1.0)


def _painting(style: str) -> np.ndarray:
    try:
        return images.read(resources.picture(style, "styles"))
    except FileError as error:
        raise UserError(
            f"--refine needs the painting of {style}, and a network does not hold it: give its "
            "file with --style"
        ) from error
