"""Enlarge pictures four or eight times with a trained network (Johnson et al. 2016).

--input is a photo, a folder of photos, or - for a picture from standard input.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from perceptual_jax import __version__, color
from perceptual_jax.cli import batch as batch_lib
from perceptual_jax.cli import console, flags, superres_flags
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.io import images
from perceptual_jax.io.images import Picture
from perceptual_jax.models import super_resolution
from perceptual_jax.models.networks import SuperResolutionNetwork
from perceptual_jax.pretrained import networks as pretrained_networks

# What the colours of a grey picture, read as RGB, may differ by.
_GREY = 1e-4


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
        256,
        "Largest side that is enlarged at once, in pixels of the input: larger pictures are done "
        "in tiles, in as much memory as one takes.",
        least=32,
    )
    flags.inference(define)


def main(values: Any) -> int:
    superres_flags.check_factor(values)
    trained = pretrained_networks.load_superres(values.network, values.factor)
    network = trained.network.clone(dtype=values.dtype)
    with usage_errors():
        super_resolution.tiles_of((1, 1), network, values.tile_size)
    settings = {
        "program": f"perceptual_jax {__version__}",
        "mode": "superres",
        **flags.as_dict(values),
    }
    work = batch_lib.Job(
        apply=functools.partial(_apply, values, network, jax.device_put(trained.variables)),
        label=f"x{values.factor}",
        settings=settings,
        batch_size=flags.batch_size_of(values),
        largest_side=values.tile_size,
        prepare=functools.partial(_checked, values.factor),
    )
    return batch_lib.run(work, values.input, values.output)


def _checked(factor: int, picture: Picture) -> Picture:
    height, width = (factor * side for side in picture.rgb.shape[:2])
    if height * width > images.MAX_PIXELS:
        raise UserError(
            f"the result would have {width}x{height} pixels, more than {images.MAX_PIXELS} in all: "
            "cut the picture, or make it smaller"
        )
    return picture


def _apply(
    values: Any,
    network: SuperResolutionNetwork,
    variables: Any,
    pictures: Sequence[Picture],
    interrupts: console.Interrupts,
) -> list[Picture] | None:
    """What is made of pictures of one size, or None if it was interrupted."""
    with usage_errors():
        if len(pictures) > 1:
            batch = np.stack([picture.rgb for picture in pictures])
            results = super_resolution.enlarge_batch(variables, batch, network=network)
            enlarged = [np.asarray(result) for result in results]
        else:
            result = _in_tiles(values, network, variables, pictures[0].rgb, interrupts)
            if result is None:
                return None
            enlarged = [result]
    return [
        _finished(values, picture, result)
        for picture, result in zip(pictures, enlarged, strict=True)
    ]


def _in_tiles(
    values: Any,
    network: SuperResolutionNetwork,
    variables: Any,
    picture: np.ndarray,
    interrupts: console.Interrupts,
) -> np.ndarray | None:
    height, width = (network.factor * side for side in picture.shape[:2])
    result = np.empty((height, width, 3), np.float32)
    count = len(super_resolution.tiles_of(picture.shape[:2], network, values.tile_size))
    tiles = super_resolution.enlarge_tiles(
        variables, picture, network=network, tile=values.tile_size
    )
    for tile in batch_lib.with_progress(tiles, count, interrupts):
        result[tile.place] = tile.pixels
    return None if interrupts else result


def _finished(values: Any, picture: Picture, result: np.ndarray) -> Picture:
    """With the input's colours, if asked for, and its transparency; a grey one stays grey."""
    rgb = picture.rgb
    if values.match_histogram:
        result = np.array(jax.jit(color.match_histogram)(result, rgb))
    if np.max(np.abs(rgb - rgb[..., :1])) < _GREY:
        result = np.broadcast_to(result.mean(axis=-1, keepdims=True), result.shape)
    alpha = picture.alpha
    if alpha is not None:
        alpha = images.resize(alpha, result.shape[:2])
    return dataclasses.replace(picture, rgb=result, alpha=alpha)
