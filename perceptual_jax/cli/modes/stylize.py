"""Stylise pictures of any size in one pass, in a trained style or that of any painting.

A style that was trained is painted by a network of Johnson et al. 2016, that of any other painting
with patches of it, which takes longer. --input is a photo, a folder of photos, or - for a picture
from standard input. The styles that are shipped are shown by --list, and on your own photo by
--sheet.
"""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import models
from perceptual_jax.cli import batch, console, flags, memory, style_source
from perceptual_jax.cli.errors import UserError, leaving_out, report_left_out
from perceptual_jax.cli.interrupts import Interrupts, interruptible
from perceptual_jax.cli.messages import say, show
from perceptual_jax.cli.refinement import Refinement
from perceptual_jax.cli.style_source import StyleSource
from perceptual_jax.io import image_grid, images
from perceptual_jax.io.images import Picture
from perceptual_jax.io.storage import local_path, pictures_in
from perceptual_jax.models import stylization
from perceptual_jax.pretrained.networks import load_network, shipped

_log = logging.getLogger(__name__)

_SHEET_SIDE = 320

# Of the strokes, as a share of the long side: the network's range is that of photos of 600 to 2300
# pixels.
_STROKE_SHARE = 0.45

# From this size on the largest stroke hardly shows in the whole picture.
_FINE_PIXELS = 12_000_000

# Rows of a result that are blended with the photo at once.
_ROWS = 256


def define_flags(define: flags.Flags) -> None:
    flags.input_and_output(define, "rocket", "STYLE")
    define.integer(
        "image_size",
        None,
        "Long side of the result, in pixels, by default that of the photo.",
        least=16,
    )
    define.group("Style")
    define.list(
        "style",
        None,
        "A style of the network, or a picture of any painting (me.jpg), which needs no training; "
        "or several to be mixed (wave:0.7,starry_night:0.3), with --content_mask one for each "
        "region. By default the network's first.",
    )
    define.string(
        "network",
        None,
        "A trained network: a file of --mode=train_transform, a .pth of PyTorch's example "
        "fast_neural_style, or a shipped one; or a decoder of --mode=train_decoder (decoder is "
        "shipped), a network for any painting. By default the shipped one that has the styles, or "
        "else none: paintings are taken apart themselves.",
    )
    define.string(
        "stroke_size",
        f"{_STROKE_SHARE:.0%}",
        "Size of the strokes: that of the painting that they are in, its long side in pixels "
        "(512), or in percent of the picture's, so that a photo looks alike at every size. As "
        "far as the network knows it: the shipped one 256 to 1024 pixels, without one 64 to 4096.",
    )
    define.float("strength", 1.0, "From 0, the photo, to 1, the full style.")
    define.integer(
        "refine",
        0,
        "Iterations of the optimiser of --mode=gatys from there, at a quarter and half the size "
        "and then at the full one, which brings out the painting; each takes the time of one to "
        "three passes.",
        least=0,
    )
    define.float(
        "variation",
        None,
        "Grey noise where the photo is flat, such as in a sky, from 0, none, to 1: without it a "
        "network draws one fine pattern there, with it strokes and clouds of all sizes. By default "
        f"{style_source.VARIATION}, with a decoder {style_source.VARIATION_OF_DECODER}, without a "
        "network none.",
    )
    define.enum(
        "keep_colors",
        "none",
        flags.KEEP_COLORS,
        "Keep the photo's colours: luminance takes the style's light and dark alone; histogram "
        "gives the result the photo's mean and covariance of colours.",
    )
    define.list(
        "content_mask",
        None,
        "For each style a picture that is white where it applies; where none does, the photo "
        "stays. One fewer than styles leaves the rest of the photo to the last.",
    )
    define.group("What else")
    define.boolean("list", False, "Show the shipped styles, and do nothing else.")
    define.boolean(
        "sheet", False, "Write one picture with the photo, or all of a folder, in every style."
    )
    define.integer(
        "tile_size",
        stylization.TILE,
        "Side of the tiles in which larger pictures are computed, in pixels, a multiple of 4. They "
        "take the memory of a picture of 1536 pixels, or less if the side is below 512.",
        least=128,
    )
    flags.inference(define)


def main(values: Any) -> int | None:
    if values.list:
        show(_list_of_styles())
        return None
    for name in ("strength", "variation"):
        if (value := getattr(values, name) or 0.0) > 1:
            raise UserError(f"--{name}={value} must be between 0 and 1")
    styles = flags.weighted_names(values.style) if values.style else []
    source = style_source.find(values, list(dict.fromkeys(name for name, _ in styles)))
    mixes = _mixes(values, styles or [(source.styles[0], 1.0)])
    _stroke_size(values, source, 1)  # Raises now if it is none.
    refinement = _refinement(values, source, mixes)
    settings = {**flags.record("stylize", values), "styles_of_network": source.titles}
    flags.say_examples(values, "input")
    if values.sheet:
        return _write_sheet(values, source, refinement, settings)
    whole = bool(values.content_mask) or values.keep_colors != "none"
    titles = zip(source.styles, source.titles, strict=True)
    used = [title for name, title in titles if any(mix.get(name) for mix in mixes)]
    job = batch.Job(
        apply=functools.partial(_apply, values, source, refinement, mixes),
        label="-".join(used),
        settings=settings,
        batch_size=1 if whole else flags.batch_size_of(values),
        largest_side=values.tile_size,
        prepare=functools.partial(_resize, values, source, refinement, warned=set()),
    )
    return batch.run(job, values.input, values.output)


def _list_of_styles() -> str:
    networks = {name: load_network(name).styles for name in shipped("style")}
    lines = [f"{style:24} (--network={name})" for name in networks for style in networks[name]]
    return "\n".join(lines) or style_source.NONE_SHIPPED


def _mixes(values: Any, styles: Sequence[tuple[str, float]]) -> list[dict[str, float]]:
    """How much of each style a region has; without masks there is one, the whole picture."""
    if not values.content_mask:
        return [flags.mixed(styles)]
    if values.sheet:
        raise UserError("--sheet shows every style on all of a photo: leave out --content_mask")
    flags.check_content_masks(values, len(styles), "styles")
    if len({weight for _, weight in styles}) > 1:
        raise UserError(
            "--content_mask says how much of each style there is where: leave out the weights "
            f"of --style={','.join(values.style)}"
        )
    return [{name: 1.0} for name, _ in styles]


def _refinement(
    values: Any, source: StyleSource, mixes: Sequence[Mapping[str, float]]
) -> Refinement | None:
    """What `--refine` needs, if it is asked for."""
    if not values.refine:
        return None
    if values.content_mask:
        raise UserError("--refine is for whole pictures: leave out --content_mask")
    return Refinement(source.styles if values.sheet else mixes[0], values.refine)


def _stroke_size(values: Any, source: StyleSource, long_side: int) -> float | None:
    """The size of the strokes in a picture, in pixels, of those that the network has."""
    text = values.stroke_size.strip()
    try:
        wanted = float(text.removesuffix("%"))
        if not 0 < wanted < math.inf:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--stroke_size={text} is no size: give pixels (512) or a share of the picture (45%)"
        ) from None
    if not source.stroke_sizes:
        if values["stroke_size"].using_default_value:
            return None
        raise UserError(
            f"--stroke_size={text}: the strokes of this network have one size; one that was "
            "trained with several paintings' sizes (--style_size=256,512,1024) has more"
        )
    pixels = wanted / 100 * long_side if text.endswith("%") else wanted
    return min(max(pixels, source.stroke_sizes[0]), source.stroke_sizes[-1])


def _resize(
    values: Any,
    source: StyleSource,
    refinement: Refinement | None,
    picture: Picture,
    *,
    warned: set[str],
) -> Picture:
    """A picture at its size, checked; of the first that is very large it warns."""
    long_side = values.image_size or max(picture.rgb.shape[:2])
    height, width = images.size_for(picture.rgb.shape[:2], long_side)
    memory.check_picture((height, width))
    if refinement:
        refinement.check_memory((height, width))
    largest = max(source.stroke_sizes, default=0)
    fine = height * width >= _FINE_PIXELS and largest < _STROKE_SHARE * max(height, width)
    if fine and not warned:
        warned.add("strokes")
        _log.warning(
            "at %dx%d pixels strokes are a hair's breadth: --image_size=2300, say, makes them "
            "larger",
            width,
            height,
        )
    return picture.fit(long_side) if values.image_size else picture


def _apply(
    values: Any,
    source: StyleSource,
    refinement: Refinement | None,
    mixes: Sequence[Mapping[str, float]],
    pictures: Sequence[Picture],
    interrupts: Interrupts,
) -> list[Picture]:
    """The results for pictures of one size, none if it was interrupted."""
    long_side = max(pictures[0].rgb.shape[:2])
    stroke_size = _stroke_size(values, source, long_side)
    photos = [picture.rgb for picture in pictures]
    results = source.paint(photos, mixes, stroke_size, interrupts)
    finished = []
    for picture, result in zip(pictures, results, strict=False):
        if refinement:
            size = stroke_size or _STROKE_SHARE * long_side
            result = refinement(picture.rgb, result, mixes[0], size, interrupts)
        finished.append(dataclasses.replace(picture, rgb=_blend(values, result, picture.rgb)))
    return finished


def _blend(values: Any, result: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Blends a result with its photo, in place, since JAX would hold several copies of both."""
    options = {"keep_colors": values.keep_colors, "strength": values.strength}
    if options != {"keep_colors": "none", "strength": 1}:
        # The histogram is that of the whole picture.
        rows = len(photo) if values.keep_colors == "histogram" else _ROWS
        for top in range(0, len(photo), rows):
            part = slice(top, top + rows)
            result[part] = _blend_with_photo(result[part], photo[part], **options)
    return result


_blend_with_photo = jax.jit(models.blend_with_photo, static_argnames=("keep_colors", "strength"))


def _write_sheet(
    values: Any,
    styles_from: StyleSource,
    refinement: Refinement | None,
    settings: dict[str, Any],
) -> int:
    """Photos in every style of the network: one in a block with captions, several in rows."""
    source, place = values.input, local_path(values.input)
    is_folder = batch.is_folder(source)
    # A folder may be called `.`, and a pipe leads to nothing that has a name.
    named = str(place.resolve()) if is_folder else source
    output = batch.output_of(named, values.output, "sheet")
    paths = pictures_in(place, exclude=Path(output)) if is_folder else [source]
    rows: list[list[np.ndarray]] = []
    failed: list[str] = []
    with (
        console.ProgressBar(len(paths) * len(styles_from.styles)) as bar,
        interruptible() as interrupts,
    ):
        for path in paths:
            with leaving_out(failed, path) if is_folder else contextlib.nullcontext():
                picture = batch.read(str(path)).fit(values.image_size or _SHEET_SIDE)
                row = [picture.over_white()]
                for style in styles_from.styles:
                    results = _apply(
                        values, styles_from, refinement, [{style: 1.0}], [picture], interrupts
                    )
                    if not results:
                        break
                    row.append(results[0].over_white())
                    bar.update(1, style, {})
                rows.append(row)
            if interrupts:
                break
    if interrupts:
        say("interrupted", aside=True)
        return interrupts.exit_code
    if rows:
        labels = ["photo", *styles_from.titles]
        if is_folder:
            columns = [label.replace("_", " ") for label in labels]
            sheet = image_grid.draw(rows, column_labels=columns)
        else:
            sheet = _block(rows[0], labels)
        # How large it is depends on every photo.
        if output != batch.PIPE and not batch.is_held(Path(output), sheet.shape[:2]):
            output += ".png"
        batch.write(output, Picture(sheet, None), settings)
        say(f"{output}: {len(styles_from.styles)} styles", aside=output == batch.PIPE)
    return report_left_out(failed, done=rows)


def _block(cells: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """About as many columns as rows, with the fewest empty cells."""
    root = math.ceil(math.sqrt(len(cells)))
    columns = min((root, root + 1), key=lambda columns: -len(cells) % columns)
    starts = range(0, len(cells), columns)
    return image_grid.draw(
        [cells[start : start + columns] for start in starts],
        captions=[labels[start : start + columns] for start in starts],
    )
