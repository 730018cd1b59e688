"""Enlarge pictures four or eight times with a trained network (Johnson et al. 2016).

--input is a photo, a folder of photos, or - for a picture from standard input.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from perceptual_jax import models
from perceptual_jax.cli import batch, flags
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.interrupts import Interrupts
from perceptual_jax.io import images
from perceptual_jax.io.images import Picture
from perceptual_jax.models import super_resolution
from perceptual_jax.models.tiling import Frames
from perceptual_jax.pretrained.networks import TrainedNetwork, load_superres


def define_flags(define: flags.Flags) -> None:
    flags.input_and_output(define, "chelsea", "xFACTOR")
    define.group("Super-resolution")
    flags.factor(define)
    define.string(
        "network",
        "feature",
        "feature, trained to look right; pixel, trained for the least difference of pixels; or a "
        "file of --mode=train_superres.",
    )
    define.boolean(
        "match_histogram", False, "Give channels their distribution in the input, as in the paper."
    )
    define.group("What else")
    define.integer(
        "tile_size",
        super_resolution.TILE,
        "Side of the tiles in which larger pictures are enlarged, in pixels of the input.",
        least=32,
    )
    flags.inference(define)


def main(values: Any) -> int:
    trained = batch.prepared(load_superres(values.network, values.factor), values)
    job = batch.Job(
        apply=functools.partial(
            _apply, values, trained, batch.frames_for(values.input, trained.network)
        ),
        label=f"x{values.factor}",
        settings=flags.record("superres", values),
        batch_size=flags.batch_size_of(values),
        largest_side=values.tile_size,
        prepare=functools.partial(_check_size, values.factor),
        scale=values.factor,
    )
    flags.say_examples(values, "input")
    return batch.run(job, values.input, values.output)


def _check_size(factor: int, picture: Picture) -> Picture:
    height, width = (factor * side for side in picture.rgb.shape[:2])
    if height * width > images.MAX_PIXELS:
        raise UserError(
            f"the result would have {width}x{height} pixels, more than {images.MAX_PIXELS} in all: "
            "cut the picture, or make it smaller"
        )
    return picture


def _apply(
    values: Any,
    trained: TrainedNetwork,
    frames: Frames | None,
    pictures: Sequence[Picture],
    interrupts: Interrupts,
) -> list[Picture]:
    results = batch.results(
        [picture.rgb for picture in pictures],
        interrupts,
        trained,
        values.tile_size,
        frames=frames,
        at_once=super_resolution.enlarge_batch,
        in_tiles=models.enlarge_tiles,
        scale=values.factor,
    )
    # There are no results if it was interrupted.
    pairs = zip(pictures, results, strict=False)
    return [_finish(values, picture, result) for picture, result in pairs]


def _finish(values: Any, picture: Picture, enlarged: np.ndarray) -> Picture:
    rgb = models.match_input(enlarged, picture.rgb, match_histogram=values.match_histogram)
    alpha = picture.alpha
    return Picture(rgb, None if alpha is None else images.resize(alpha, rgb.shape[:2]))
