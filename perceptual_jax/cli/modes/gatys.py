"""Make a picture by optimising its pixels (after Gatys et al. 2015).

The result resembles the photo in what it shows and the painting in how it is painted. Without any
flag it makes one from the examples. Ctrl-C keeps the picture so far.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import color, synthesis, vgg
from perceptual_jax.cli import batch, flags, memory, synthesis_run
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.io import images, masks, resources
from perceptual_jax.io.storage import local_path
from perceptual_jax.objective import PRESETS, WASSERSTEIN, Objective
from perceptual_jax.pretrained.vgg import load_vgg


def define_flags(define: flags.Flags) -> None:
    flags.pictures(define)
    define.list(
        "content_mask",
        None,
        "With several paintings: for each a picture that is white where it applies. One fewer than "
        "paintings leaves the rest of the photo to the last.",
    )
    define.list(
        "style_mask", None, "For each painting, a picture that is white where its style is taken."
    )
    define.enum(
        "keep_colors",
        "none",
        flags.KEEP_COLORS,
        "Keep the photo's colours: luminance transfers style in luminance alone; histogram gives "
        "the painting the photo's colours before.",
    )
    define.string("init", "content", "Where to start: content, noise, or a picture to go on from.")
    flags.objective(define, WASSERSTEIN, presets=("wasserstein", "gatys2015"))
    flags.optimization(
        define, synthesis.Optimizer(), steps=80, steps_text="Iterations at each scale."
    )
    define.integer(
        "num_scales", 0, "Sizes, each twice the last: 1 for --image_size alone, 0 chooses."
    )
    define.integer(
        "margin",
        synthesis.MARGIN,
        "Pixels on every side that are optimised with the picture and cut off, since stripes are "
        "drawn along the edges.",
    )
    flags.run_folder(define)


def main(values: Any) -> int:
    output = _output_path(values)
    with usage_errors():
        objective = flags.filled(PRESETS[values.preset], values)
        optimizer = flags.filled(synthesis.Optimizer(), values)
        images.check_writable(output)
        params = synthesis.freeze(load_vgg(values.vgg), objective)
    photo = batch.read(values.content)
    height_width = images.size_for(photo.rgb.shape[:2], values.image_size)
    images.check_size(output, height_width)
    if values.check_memory:
        memory.check(objective, params, height_width, optimizer=optimizer, margin=values.margin)
    photo = photo.fit(values.image_size)
    names = flags.weighted_names(values.style)
    style_side = round(values.image_size * values.style_scale)
    paintings = [
        images.fit(images.read(resources.picture(name, "styles")), style_side) for name, _ in names
    ]
    content_masks, style_masks = _read_masks(values, height_width, paintings)
    sizes = synthesis.coarse_to_fine(height_width, values.num_scales or None)
    _check_sizes(objective, sizes, paintings)
    init = None
    if values.init == "noise":
        init = synthesis.white_noise((*sizes[0], 3), values.seed)
    elif values.init != "content":
        init = batch.read(values.init).rgb

    settings = flags.record("gatys", values) | flags.settings(objective)
    stages = [(size, values.steps) for size in sizes]
    recolor = jax.jit(color.before_transfer, static_argnames="keep_colors")
    content, styles = recolor(photo.rgb, paintings, keep_colors=values.keep_colors)
    reports = synthesis.transfer(
        objective,
        params,
        content,
        styles,
        stages=stages,
        init=init,
        margin=values.margin,
        optimizer=optimizer,
        style_weights=[weight for _, weight in names],
        content_masks=content_masks,
        style_masks=style_masks,
    )

    def write(path: Path, best: np.ndarray, iterations: int) -> None:
        image = np.clip(best[0], 0.0, 1.0)
        size = image.shape[:2]
        original = images.resize(photo.rgb, size)
        image = np.asarray(color.after_transfer(image, original, keep_colors=values.keep_colors))
        alpha = None if photo.alpha is None else images.resize(photo.alpha, size)
        images.write(path, image, alpha=alpha, settings={**settings, "iterations": iterations})

    flags.say_examples(values, "content", "style")
    return synthesis_run.run(
        reports,
        stages,
        output=output,
        write=write,
        settings=settings,
        advice=f"To go on from there: --init={output} --num_scales=1",
        workdir=values.workdir,
        preview_every=values.preview_every,
        plot=values.plot,
    )


def _output_path(values: Any) -> Path:
    if values.output:
        return local_path(values.output)
    paintings = (batch.stem_of(name) for name, _ in flags.weighted_names(values.style))
    name = f"{batch.stem_of(values.content)}-{'-'.join(paintings)}.png"
    return local_path(values.workdir) / name if values.workdir else Path(name)


def _read_masks(
    values: Any, size: tuple[int, int], paintings: list[np.ndarray]
) -> tuple[list[np.ndarray] | None, list[np.ndarray] | None]:
    count = len(paintings)
    content_masks = style_masks = None
    if names := values.content_mask:
        flags.check_content_masks(values, count, "paintings")
        content_masks = masks.read_all(names, count, size)
    if names := values.style_mask:
        if len(names) != count:
            raise UserError(
                f"--style_mask needs one mask for each of {count} paintings, got {len(names)}"
            )
        sizes = (painting.shape[:2] for painting in paintings)
        style_masks = list(map(masks.read, names, sizes))
    return content_masks, style_masks


def _check_sizes(
    objective: Objective, sizes: list[tuple[int, int]], paintings: list[np.ndarray]
) -> None:
    """At the coarsest scale the network still has to have all of its layers."""
    needed = vgg.smallest_side(objective.layers)
    factor = sizes[0][0] / sizes[-1][0]
    shortest = min(side for painting in paintings for side in painting.shape[:2])
    for what, side in {"photo": min(sizes[0]), "painting": round(shortest * factor)}.items():
        if side < needed:
            raise UserError(
                f"at the coarsest scale the {what}'s short side is {side} pixels, and the layers "
                f"need {needed}: raise --image_size or --style_scale, or lower --num_scales"
            )
