"""Enlarge pictures four or eight times with a trained network (Johnson et al. 2016).

--input is a photo, a folder of photos, or - for a picture from standard input.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from perceptual_jax import __version__, models
from perceptual_jax.cli import batch, flags, superres_flags
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.interrupts import Interrupts
from perceptual_jax.io import images
from perceptual_jax.io.images import Picture
from perceptual_jax.models import super_resolution, tiling
from perceptual_jax.pretrained.networks import TrainedNetwork


def define_flags(define: flags.Flags) -> None:
    define.group("Pictures")
    define.string(
        "input",
        "chelsea",
        "The picture: a file, the name of one in examples/content, a folder of pictures, or - for "
        "standard input.",
    )
    define.string(
        "output",
        None,
        "The picture to write, format by suffix, or - for PNG on standard output; for a folder of "
        "pictures a folder. By default INPUT-xFACTOR.png here, or - for -.",
    )
    define.group("Super-resolution")
    superres_flags.define_factor(define)
    define.string(
        "network",
        "feature",
        "feature, trained to look right; pixel, trained for the least difference of pixels; or a "
        "file of --mode=train_superres.",
    )
    define.boolean(
        "match_histogram",
        False,
        "Give every colour channel the distribution of values that it has in the input, as in the "
        "paper.",
    )
    define.group("What else")
    define.integer(
        "tile_size",
        super_resolution.TILE,
        "Largest side that is enlarged at once, in pixels of the input: larger pictures are done "
        "in tiles, in as much memory as one takes.",
        least=32,
    )
    flags.inference(define)


def main(values: Any) -> int:
    superres_flags.check_factor(values)
    trained = superres_flags.load_network(values.network, values.factor)
    trained = dataclasses.replace(
        trained,
        network=trained.network.clone(dtype=values.dtype),
        variables=jax.device_put(trained.variables),
    )
    with usage_errors():
        tiling.tiles((1, 1), trained.network, values.tile_size)
    settings = {
        "program": f"perceptual_jax {__version__}",
        "mode": "superres",
        **flags.as_dict(values),
    }
    job = batch.Job(
        apply=functools.partial(_apply, values, trained),
        label=f"x{values.factor}",
        settings=settings,
        batch_size=flags.batch_size_of(values),
        largest_side=values.tile_size,
        prepare=functools.partial(_check_size, values.factor),
    )
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
    pictures: Sequence[Picture],
    interrupts: Interrupts,
) -> list[Picture] | None:
    """The results for pictures of one size, or None if it was interrupted."""
    small = [picture.rgb for picture in pictures]
    with usage_errors():
        if len(small) == 1:
            results = [_in_tiles(values, trained, small[0], interrupts)]
            if interrupts:
                return None
        else:
            enlarged = super_resolution.enlarge_batch(
                trained.variables, np.stack(small), network=trained.network
            )
            results = list(np.asarray(enlarged))
    return [
        _finish(values, picture, result) for picture, result in zip(pictures, results, strict=True)
    ]


def _in_tiles(
    values: Any, trained: TrainedNetwork, image: np.ndarray, interrupts: Interrupts
) -> np.ndarray:
    """The enlarged picture; if it is interrupted, a part of it."""
    height, width = image.shape[:2]
    tiles = models.enlarge_tiles(
        trained.variables, image, network=trained.network, tile=values.tile_size
    )
    count = len(tiling.tiles((height, width), trained.network, values.tile_size))
    shape = (values.factor * height, values.factor * width, 3)
    return models.assemble(batch.with_progress(tiles, count, interrupts), shape)


def _finish(values: Any, picture: Picture, enlarged: np.ndarray) -> Picture:
    rgb = models.match_input(enlarged, picture.rgb, match_histogram=values.match_histogram)
    alpha = picture.alpha
    if alpha is not None:
        alpha = images.resize(alpha, rgb.shape[:2])
    return dataclasses.replace(picture, rgb=rgb, alpha=alpha)
