"""Style transfer of one picture from coarse to fine."""

import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax import objective as objective_lib
from perceptual_jax import vgg
from perceptual_jax.objective import Objective, Targets
from perceptual_jax.synthesis import memory, step
from perceptual_jax.synthesis.loop import Report, freeze, run
from perceptual_jax.synthesis.step import Optimizer

# Below this, VGG's deepest style layer has too few positions for a style to show.
COARSEST_SIDE = 192

# Pixels: as far as the stripes reach that VGG's zero padding draws along edges.
MARGIN = 16


@functools.partial(jax.jit, static_argnames="height_width")
def resize(image: jax.Array, height_width: tuple[int, int]) -> jax.Array:
    """An image `(H, W, C)` or mask `(H, W)` at another size, antialiased Lanczos, in [0, 1]."""
    resized = jax.image.resize(
        image.astype(jnp.float32), (*height_width, *image.shape[2:]), method="lanczos3"
    )
    return jnp.clip(resized, 0.0, 1.0)


def _scaled(shape: Sequence[int], factor: float) -> tuple[int, int]:
    height, width = shape[:2]
    return max(1, round(height * factor)), max(1, round(width * factor))


def coarse_to_fine(
    height_width: tuple[int, int], num_scales: int | None = None
) -> list[tuple[int, int]]:
    """The sizes through which a picture of `height_width` is approached, each twice the last.

    Large shapes form at coarse sizes, where an iteration costs a quarter for each halving.  Without
    `num_scales` there are as many as keep the coarsest long side at `COARSEST_SIDE` or more.
    """
    if num_scales is None:
        num_scales = 1 + max(0, int(math.log2(max(height_width) / COARSEST_SIDE)))
    return [_scaled(height_width, 2.0**-level) for level in reversed(range(num_scales))]


def transfer(
    objective: Objective,
    params: vgg.Params,
    content: Any,
    styles: Sequence[Any],
    *,
    stages: Sequence[tuple[tuple[int, int], int]],
    init: Any = None,
    margin: int = MARGIN,
    optimizer: Optimizer | None = None,
    style_weights: Sequence[float] | None = None,
    content_masks: Sequence[Any] | None = None,
    style_masks: Sequence[Any] | None = None,
) -> Iterator[Report]:
    """Style transfer of one picture from coarse to fine, each stage started from the one before.

    What a stage changed in the photo is enlarged and added to the photo at the next size, which
    keeps the photo's finest detail: the objective ends lower than from the enlarged picture itself.

    Args:
      objective: as for `run`, and so are `params` and `optimizer`.
      content: the photo at the finest size, `(H, W, 3)` in [0, 1].
      styles: the paintings at the size they have beside it, each `(H', W', 3)`; at a coarser
        stage they shrink as the photo does.
      stages: `((height, width), steps)` of every stage, the finest last.
      margin: pixels by which the picture is larger on every side while it is optimised, its photo
        mirrored there; they are cut off from what is reported.
      init: where the first stage starts, `(H, W, 3)` in [0, 1]; the photo by default.
      style_weights: as for `objective.targets`, and so are the masks, of the pictures' sizes here.

    Yields:
      The reports of `run` for every stage, with its number; and it raises what `run` does.
    """
    optimizer = optimizer or Optimizer()
    params = freeze(params, objective)
    change = None
    for stage, (height_width, steps) in enumerate(stages):
        factor = height_width[0] / stages[-1][0][0]
        photo = resize(content, height_width)
        arrays = {
            "content": _mirrored(photo, margin),
            "styles": [resize(style, _scaled(style.shape, factor)) for style in styles],
            "content_masks": content_masks
            and [_mirrored(resize(mask, height_width), margin) for mask in content_masks],
            "style_masks": style_masks
            and [resize(mask, _scaled(mask.shape, factor)) for mask in style_masks],
        }
        if change is not None:
            image = _add_enlarged(photo, change)
        else:
            image = photo if init is None else resize(init, height_width)
        images = _mirrored(image, margin)[None]
        targets = _targets_while_compiling(
            objective, params, images, optimizer, style_weights, arrays
        )
        for report in run(objective, params, images, targets, steps=steps, optimizer=optimizer):
            best = report.best[
                :, margin : margin + photo.shape[0], margin : margin + photo.shape[1]
            ]
            report = dataclasses.replace(report, stage=stage, best=best)
            yield report
        change = report.best[0] - photo


def refine(
    objective: Objective,
    params: vgg.Params,
    content: Any,
    styles: Sequence[Any],
    start: Any,
    *,
    steps: int,
    margin: int = MARGIN,
    style_weights: Sequence[float] | None = None,
) -> Iterator[Report]:
    """`transfer` from a picture that a network has made: at a quarter and half the size, then full.

    The two smaller sizes cost a third more, and the picture becomes about as good as by twice as
    many steps at the full one alone.

    Args:
      objective, params, content, styles, margin, style_weights: as for `transfer`.
      start: the picture, of the size of `content`.
      steps: iterations at each of the three sizes, or fewer if a painting is too narrow for VGG.
    """
    sides = [side for picture in (content, *styles) for side in picture.shape[:2]]
    halvings = int(math.log2(max(1.0, min(sides) / vgg.smallest_side(objective.layers))))
    sizes = coarse_to_fine((content.shape[0], content.shape[1]), 1 + min(2, halvings))
    stages = [(size, steps) for size in sizes]
    options: dict[str, Any] = {"margin": margin, "style_weights": style_weights}
    return transfer(objective, params, content, styles, stages=stages, init=start, **options)


def _mirrored(image: jax.Array, margin: int) -> jax.Array:
    """An image `(H, W, C)` or mask `(H, W)`, larger by a margin on every side."""
    return jnp.pad(image, [(margin, margin)] * 2 + [(0, 0)] * (image.ndim - 2), mode="symmetric")


@jax.jit
def _add_enlarged(photo: jax.Array, change: jax.Array) -> jax.Array:
    enlarged = jax.image.resize(change, photo.shape, method="lanczos3")
    return jnp.clip(photo + enlarged, 0.0, 1.0)


def _targets_while_compiling(
    objective: Objective,
    params: vgg.Params,
    images: jax.Array,
    optimizer: Optimizer,
    style_weights: Sequence[float] | None,
    arrays: Mapping[str, Any],
) -> Targets:
    """`objective_lib.targets`; compiles `step.advance`, too, so that `run` finds it compiled.

    Tracing and compiling these two programs takes most of the time until the first evaluation, so
    one is compiled in a thread while the other is traced.  The program of the targets runs once; on
    a CPU it is compiled without optimisation, which is faster in all, since libraries do most of
    its work.  The memory that the compiler used is released each time: otherwise it would be the
    peak of the whole run.
    """
    compute = functools.partial(objective_lib.targets, objective, style_weights=style_weights)
    traced = jax.jit(compute).trace(params, **arrays)
    on_cpu = jax.default_backend() == "cpu"
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"} if on_cpu else {}
    state = jax.eval_shape(functools.partial(step.init, optimizer=optimizer), images)
    weights = dict.fromkeys(objective.term_weights(), np.zeros(len(images), np.float32))
    constants = (params, traced.out_info, weights)
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as worker:
        compiling = worker.submit(traced.lower().compile, compiler_options=options)
        lowered = step.advance.lower(state, *constants, 1, objective=objective, optimizer=optimizer)
        program = compiling.result()
    memory.release()
    targets = jax.block_until_ready(program(params, **arrays))
    memory.release()
    lowered.compile()
    memory.release()
    return targets
