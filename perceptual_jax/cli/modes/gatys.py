"""Make a picture by optimising its pixels (Gatys et al. 2015).

The result resembles the photo in what it shows and the painting in how it is painted. Without any
flag it makes one from the examples. Ctrl-C keeps the picture so far.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import __version__, color, synthesis, vgg
from perceptual_jax.cli import console, flags, memory
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.io import images, resources
from perceptual_jax.io import masks as regions
from perceptual_jax.objective import Objective
from perceptual_jax.pretrained import vgg as pretrained_vgg
from perceptual_jax.training import recorder


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
    flags.objective(define)
    flags.optimization(
        define, steps=80, steps_text="Iterations at each scale; the last scale is --image_size."
    )
    define.integer(
        "num_scales",
        0,
        "Sizes to go through, each twice the last; 1 works at --image_size alone, 0 chooses.",
        least=0,
    )
    flags.run_folder(define)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arrays at the size of the result, float32 in [0, 1]."""

    content: np.ndarray
    alpha: np.ndarray | None
    styles: list[np.ndarray]
    style_weights: list[float]
    content_masks: list[np.ndarray] | None
    style_masks: list[np.ndarray] | None


def main(values: Any) -> int:
    began = time.monotonic()
    with usage_errors():
        objective = flags.objective_of(values)
        optimizer = flags.optimizer_of(values)
    output = _output_path(values)
    images.check_writable(output)
    params: vgg.Params = pretrained_vgg.load_vgg(values.vgg)
    with usage_errors():
        params = synthesis.prepared(params, objective)
    photo = images.read_picture(resources.picture(values.content, "content"))
    height_width = images.size_for(photo.rgb.shape[:2], values.image_size)
    if values.check_memory:
        memory.check(objective, params, height_width, memory=optimizer.memory)
    inputs = _read_inputs(values, photo)
    sizes = synthesis.coarse_to_fine(height_width, values.num_scales or None)
    _check_sizes(objective, sizes, inputs.styles)
    initial = _initial(values, sizes[0])

    settings = {
        "program": f"perceptual_jax {__version__}",
        "mode": "gatys",
        **flags.as_dict(values),
    }
    folder = None
    if values.workdir:
        folder = recorder.RunFolder(values.workdir, settings, plot=values.plot)
    stages = [(size, values.steps) for size in sizes]
    content, styles = _recoloured(values.keep_colors, inputs)
    transfer = synthesis.transfer(
        objective,
        params,
        content,
        styles,
        stages=stages,
        init=initial,
        optimizer=optimizer,
        style_weights=inputs.style_weights,
        content_masks=inputs.content_masks,
        style_masks=inputs.style_masks,
    )

    def write(path: Path, image: np.ndarray, iterations: int) -> None:
        _write(path, image, inputs, values.keep_colors, {**settings, "iterations": iterations})

    picture, done, failure = None, 0, None
    bar = console.ProgressBar(sum(math.prod(size) * (steps + 1) for size, steps in stages))
    with console.interruptible() as interrupts:
        try:
            for stage, report in transfer:
                size = stages[stage][0]
                before, done = done, stage * values.steps + report.step
                picture = np.asarray(report.best[0])
                bar.update(
                    math.prod(size) * report.trace.totals.shape[1],
                    f"{size[1]}x{size[0]} iteration {report.step}/{report.steps}",
                    _summary(report.trace),
                )
                if folder:
                    folder.record(_metrics(report, stage, size, done))
                if (
                    values.preview_every
                    and done // values.preview_every > before // values.preview_every
                ):
                    write(_preview_path(output, folder, done), picture, done)
                if interrupts:
                    break
        except synthesis.NonFiniteError as error:
            failure = error
    bar.close()
    if folder:
        folder.close()
    if picture is None or not np.isfinite(picture).all():
        raise UserError(f"no picture was made: {failure or 'stopped before the first iteration'}")
    write(output, picture, done)
    height, width = picture.shape[:2]
    print(f"{output}: {width}x{height}, {done} iterations, {time.monotonic() - began:.0f} s")
    if failure:
        raise UserError(str(failure))
    if interrupts:
        whole = f", of {height_width[1]}x{height_width[0]}" if size != height_width else ""
        print(f"Stopped early{whole}. To go on from there: --init={output} --num_scales=1")
    return interrupts.exit_code


def _output_path(values: Any) -> Path:
    if values.output:
        return Path(values.output).expanduser()
    style = "-".join(Path(name.split(":")[0]).stem for name in values.style)
    name = f"{Path(values.content).stem}-{style}.png"
    return Path(values.workdir).expanduser() / name if values.workdir else Path(name)


def _preview_path(output: Path, folder: recorder.RunFolder | None, done: int) -> Path:
    if folder:
        return folder.preview_path(done)
    return output.with_name(f"{output.stem}-{done:06d}{output.suffix}")


def _read_inputs(values: Any, photo: images.Picture) -> Inputs:
    photo = photo.fit(values.image_size)
    names = flags.weighted_names(values.style)
    style_side = max(1, round(values.image_size * values.style_scale))
    styles = [
        images.fit(images.read(resources.picture(name, "styles")), style_side) for name, _ in names
    ]
    content_masks, style_masks = _read_masks(
        values, photo.rgb.shape[:2], [style.shape[:2] for style in styles]
    )
    return Inputs(
        content=photo.rgb,
        alpha=photo.alpha,
        styles=styles,
        style_weights=[weight for _, weight in names],
        content_masks=content_masks,
        style_masks=style_masks,
    )


def _read_masks(
    values: Any, size: Any, style_sizes: list[Any]
) -> tuple[list[np.ndarray] | None, list[np.ndarray] | None]:
    style_masks = None
    if values.style_mask:
        if len(values.style_mask) != len(style_sizes):
            raise UserError(
                f"--style_mask needs one mask for each of {len(style_sizes)} paintings, "
                f"got {len(values.style_mask)}"
            )
        style_masks = [
            regions.read(path, shape)
            for path, shape in zip(values.style_mask, style_sizes, strict=True)
        ]
    if not values.content_mask:
        return None, style_masks
    return regions.read_all(values.content_mask, len(style_sizes), size), style_masks


def _check_sizes(
    objective: Objective, sizes: list[tuple[int, int]], styles: list[np.ndarray]
) -> None:
    """At the coarsest scale the network still has to have all of its layers."""
    needed = vgg.smallest_side(objective.layers)
    factor = sizes[0][0] / sizes[-1][0]
    smallest = {
        "photo": min(sizes[0]),
        "painting": min(round(side * factor) for style in styles for side in style.shape[:2]),
    }
    for what, side in smallest.items():
        if side < needed:
            raise UserError(
                f"at the coarsest scale the {what}'s short side is {side} pixels, and the layers "
                f"need {needed}: raise --image_size or --style_scale, or lower --num_scales"
            )


def _recoloured(keep_colors: str, inputs: Inputs) -> tuple[Any, list[Any]]:
    """The photo and the paintings with the colours that they are to have in the transfer."""
    if keep_colors == "luminance":
        match = jax.jit(color.match_luminance)
        return color.grey(inputs.content), [match(style, inputs.content) for style in inputs.styles]
    if keep_colors == "histogram":
        match = jax.jit(color.match_statistics)
        return inputs.content, [match(style, inputs.content) for style in inputs.styles]
    return inputs.content, inputs.styles


def _initial(values: Any, coarsest: tuple[int, int]) -> np.ndarray | None:
    if values.init == "content":
        return None
    if values.init == "noise":
        return synthesis.white_noise((*coarsest, 3), values.seed)
    return images.read(resources.picture(values.init, "content"))


def _write(
    path: Path, image: np.ndarray, inputs: Inputs, keep_colors: str, settings: dict[str, Any]
) -> None:
    image = np.clip(image, 0.0, 1.0)
    if keep_colors == "luminance":
        photo = images.resize(inputs.content, image.shape[:2])
        image = np.asarray(color.replace_luminance(photo, image))
    alpha = inputs.alpha
    if alpha is not None:
        alpha = images.resize(alpha, image.shape[:2])
    images.write(path, image, alpha=alpha, settings=settings)


def _summary(trace: synthesis.Trace) -> dict[str, float]:
    """The last total, and its parts by kind."""
    parts = {"total": float(trace.totals[0, -1])}
    for name, values in trace.terms.items():
        kind = name.split("/")[0]
        parts[kind] = parts.get(kind, 0.0) + float(values[0, -1])
    return parts


def _metrics(
    report: synthesis.Report, stage: int, size: tuple[int, int], done: int
) -> list[dict[str, Any]]:
    evaluations = report.trace.totals.shape[1]
    return [
        {
            "step": done - evaluations + 1 + index,
            "scale": stage,
            "height": size[0],
            "width": size[1],
            "total": float(report.trace.totals[0, index]),
            "terms": {name: float(values[0, index]) for name, values in report.trace.terms.items()},
        }
        for index in range(evaluations)
    ]
