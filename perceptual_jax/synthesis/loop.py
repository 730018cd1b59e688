"""Optimise the pixels of images: one jitted optax step, one loop.

`run` optimises a batch of images side by side, each for itself, several iterations per dispatch.
`coarse_to_fine` gives the sizes through which one large picture is best approached.
"""

import concurrent.futures
import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from perceptual_jax import objective as objective_lib
from perceptual_jax import vgg
from perceptual_jax.objective import Objective, Targets
from perceptual_jax.synthesis import memory
from perceptual_jax.synthesis.lbfgs import scale_by_lbfgs
from perceptual_jax.synthesis.preconditioning import LOW_FREQUENCY_GAIN, precondition

# Iterations whose values one dispatch can return; between dispatches a program can show progress
# and be interrupted.
MAX_PER_DISPATCH = 10

# Below this, VGG's deepest style layer has too few positions for a style to show.
COARSEST_SIDE = 192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How pixels are moved.

    Attributes:
      name: `"lbfgs"` or `"adam"`.
      learning_rate: step size in units of [0, 1] for Adam; factor on the quasi-Newton step for
        L-BFGS. None for the default, 0.02 or 1.
      max_step: the furthest that L-BFGS moves any of the coordinates of `preconditioning` in one
        iteration, in units of [0, 1]; a longer step is shortened as a whole.
      memory: gradients that L-BFGS remembers, at the cost of two copies of the image for each, and
        of reading them in every iteration. From 20 to 30 the objective falls by 2% after 80
        iterations at 256 pixels, and with 50 it is within 3% of that (docs/gatys.md).
      low_frequency_gain: how much further large shapes move than fine detail, for which see `preconditioning`;
        with 0 the pixels themselves are optimised, as in the papers.
      line_search: whether L-BFGS searches along its direction (zoom, strong Wolfe conditions).
        Without, as in the classic implementations, an iteration is one evaluation, and the
        objective falls faster per second.
    """

    name: str = "lbfgs"
    learning_rate: float | None = None
    max_step: float = 0.2
    memory: int = 30
    low_frequency_gain: float = LOW_FREQUENCY_GAIN
    line_search: bool = False

    def __post_init__(self) -> None:
        if self.name not in ("lbfgs", "adam"):
            raise ValueError(f"name must be 'lbfgs' or 'adam', got {self.name!r}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.max_step < math.inf:
            raise ValueError(f"max_step must be positive, got {self.max_step}")
        if not 0 <= self.low_frequency_gain < math.inf:
            raise ValueError(
                f"low_frequency_gain must be a finite number of at least 0, got {self.low_frequency_gain}"
            )
        if self.memory < 1:
            raise ValueError(f"memory must be at least 1, got {self.memory}")

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """The optax optimiser."""
        if self.name == "adam":
            return optax.with_extra_args_support(optax.adam(self.learning_rate or 0.02))
        direction = scale_by_lbfgs(self.memory, self.max_step)
        if self.line_search:
            search = optax.scale_by_zoom_linesearch(max_linesearch_steps=20)
            return optax.chain(direction, optax.scale(-1.0), search)
        plain = optax.chain(direction, optax.scale_by_learning_rate(self.learning_rate or 1.0))
        return optax.with_extra_args_support(plain)


class State(NamedTuple):
    """Everything that an iteration changes; each array has a leading axis for the images.

    Attributes:
      origin: the images that the optimisation began with, `(B, H, W, 3)`.
      coordinates: where it is, as `preconditioning` has it, `(B, H, W, 3)`: the objective is
        evaluated next at `origin + precondition(coordinates, low_frequency_gain)`.
      optimizer: optax's state.
      best: the evaluated image with the lowest objective, `(B, H, W, 3)`.
      best_total: its objective, `(B,)`; infinite before the first evaluation.
      stopped: whether an evaluation was not finite, `(B,)`; such an image is not moved any more.
    """

    origin: jax.Array
    coordinates: jax.Array
    optimizer: Any
    best: jax.Array
    best_total: jax.Array
    stopped: jax.Array


class Trace(NamedTuple):
    """The objective at consecutive evaluations: `(B, evaluations)`, in all and by term."""

    totals: np.ndarray
    terms: dict[str, np.ndarray]


class NonFiniteError(ArithmeticError):
    """The objective became infinite or NaN; the message names the term."""


def start(images: jax.Array, optimizer: Optimizer) -> State:
    """The state before the first evaluation of `images`, `(B, H, W, 3)` in [0, 1]."""
    vgg.check_images(images)
    return _start(images, optimizer=optimizer)


@functools.partial(jax.jit, static_argnames="optimizer")
def _start(images: jax.Array, *, optimizer: Optimizer) -> State:
    batch = images.shape[0]
    state = State(
        origin=images,
        coordinates=jnp.zeros_like(images),
        optimizer=jax.vmap(optimizer.transformation().init)(images),
        best=images.copy(),
        best_total=jnp.full(batch, jnp.inf),
        stopped=jnp.zeros(batch, bool),
    )
    # Strongly typed, as after an iteration: else the second dispatch would compile again.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)


@functools.partial(jax.jit, static_argnames=("objective", "optimizer"), donate_argnames="state")
def advance(
    state: State,
    params: vgg.Params,
    targets: Targets,
    term_weights: Mapping[str, Any],
    evaluations: Any,
    *,
    objective: Objective,
    optimizer: Optimizer,
) -> tuple[State, jax.Array, dict[str, jax.Array]]:
    """Evaluates and moves every image `evaluations` times, in one compiled program.

    An image whose objective or gradient is not finite is not moved, now or later.

    Args:
      state: donated: its arrays are gone afterwards.
      params: VGG parameters, best as `prepared` gives them.
      targets: what all the images are compared with.
      term_weights: as `Objective.term_weights()` names them, each `(B,)`.
      evaluations: at most `MAX_PER_DISPATCH`; traced, so that any number is one program.
      objective: layers and formulation.
      optimizer: the same as at `start`.

    Returns:
      The new state; the totals `(B, MAX_PER_DISPATCH)` of the images before each move, NaN beyond
      `evaluations`; and the same of each weighted term.
    """
    transformation = optimizer.transformation()

    def one_image(state: State, term_weights: Mapping[str, Any]) -> Any:
        def value(coordinates: jax.Array) -> tuple[jax.Array, Any]:
            image = state.origin + precondition(coordinates, optimizer.low_frequency_gain)
            total, terms = objective_lib.evaluate(
                objective, params, image, targets, term_weights=term_weights
            )
            return total, (terms, image)

        def iteration(index: jax.Array, carry: Any) -> Any:
            state, totals, terms_so_far = carry
            (total, (terms, image)), gradient = jax.value_and_grad(value, has_aux=True)(
                state.coordinates
            )
            finite = jnp.isfinite(total) & jnp.all(jnp.isfinite(gradient))
            stopped = state.stopped | ~finite
            better = ~stopped & (total < state.best_total)
            updates, optimizer_state = transformation.update(
                gradient,
                state.optimizer,
                state.coordinates,
                value=total,
                grad=gradient,
                value_fn=lambda coordinates: value(coordinates)[0],
            )
            moved = State(
                origin=state.origin,
                coordinates=jnp.where(stopped, state.coordinates, state.coordinates + updates),
                optimizer=optimizer_state,
                best=jnp.where(better, image, state.best),
                best_total=jnp.where(better, total, state.best_total),
                stopped=stopped,
            )
            terms_so_far = {
                name: values.at[index].set(terms[name]) for name, values in terms_so_far.items()
            }
            return moved, totals.at[index].set(total), terms_so_far

        nothing = jnp.full(MAX_PER_DISPATCH, jnp.nan)
        carry = (state, nothing, dict.fromkeys(term_weights, nothing))
        return jax.lax.fori_loop(0, evaluations, iteration, carry)

    return jax.vmap(one_image)(state, term_weights)


@dataclasses.dataclass(frozen=True)
class Report:
    """What `run` tells after each dispatch.

    Attributes:
      step: iterations done, of `steps`.
      steps: iterations asked for.
      trace: the objective after iterations `step - evaluations + 1` to `step`.
      best: the image with the lowest objective so far, `(B, H, W, 3)`, not clipped to [0, 1]; to be
        copied before the next report.
    """

    step: int
    steps: int
    trace: Trace
    best: jax.Array


def run(
    objective: Objective,
    params: vgg.Params,
    images: Any,
    targets: Targets,
    *,
    steps: int,
    optimizer: Optimizer | None = None,
    term_weights: Mapping[str, Any] | None = None,
    seconds_per_report: float = 1.0,
) -> Iterator[Report]:
    """Optimises images for `steps` iterations and reports after every dispatch.

    The objective is evaluated `steps + 1` times: before the first iteration, and after each.

    Args:
      objective: layers, weights, formulation.
      params: VGG parameters.
      images: where to start, `(B, H, W, 3)` in [0, 1].
      targets: what all the images are compared with.
      steps: iterations.
      optimizer: L-BFGS without line search by default.
      term_weights: in place of the objective's, each a number or `(B,)`.
      seconds_per_report: how long a dispatch should take, once the time of an iteration is known.

    Raises:
      NonFiniteError: from the report on at which the objective of every image has become infinite
        or NaN. That report is given first, with the last good images.
      ValueError: images of the wrong shape or range.
    """
    optimizer = optimizer or Optimizer()
    params = prepared(params, objective)
    state = start(jnp.asarray(images), optimizer)
    weights = objective.term_weights() if term_weights is None else term_weights
    batch = len(images)
    weights = {name: np.broadcast_to(np.float32(value), batch) for name, value in weights.items()}
    done, evaluations = 0, 1
    constants = (params, targets, weights)
    while done <= steps:
        began = time.perf_counter()
        state, totals, terms = advance(
            state, *constants, evaluations, objective=objective, optimizer=optimizer
        )
        trace = Trace(
            np.asarray(totals)[:, :evaluations],
            {name: np.asarray(values)[:, :evaluations] for name, values in terms.items()},
        )
        seconds = (time.perf_counter() - began) / evaluations
        first, done = done == 0, done + evaluations
        yield Report(done - 1, steps, trace, state.best)
        if np.asarray(state.stopped).all():
            raise NonFiniteError(_what_broke(trace, done - 1))
        # The first dispatch was spent compiling, and says nothing of the time of an iteration.
        pace = 1 if first else max(1, int(seconds_per_report / seconds))
        evaluations = min(pace, MAX_PER_DISPATCH, steps + 1 - done)


def white_noise(shape: Sequence[int], seed: int) -> np.ndarray:
    """Grey with a little noise, to start from: float32 of a shape, mean 0.5, deviation 0.1.

    VGG makes the same of it as of noise of full contrast, and it is inside [0, 1], where it can be
    written as a picture.
    """
    noise = np.random.default_rng(seed).normal(0.5, 0.1, shape)
    return np.clip(noise, 0.0, 1.0).astype(np.float32)


def prepared(params: vgg.Params, objective: Objective) -> vgg.Params:
    """For this objective, on the device, where every dispatch finds them; see `vgg.freeze`.

    `run` and `transfer` do this themselves; who does it before need not keep both trees.
    """
    return jax.device_put(vgg.freeze(params, objective.layers, dtype=objective.dtype))


def _what_broke(trace: Trace, step: int) -> str:
    terms = [name for name, values in trace.terms.items() if not np.isfinite(values[:, -1]).all()]
    what = f"the term {', '.join(terms)}" if terms else "the gradient"
    return (
        f"{what} was no longer finite by iteration {step}; the picture before that is kept. "
        "Lower the weights, or --learning_rate"
    )


@functools.partial(jax.jit, static_argnames="height_width")
def resize(image: jax.Array, height_width: tuple[int, int]) -> jax.Array:
    """An image `(H, W, C)` or mask `(H, W)` at another size, antialiased Lanczos, in [0, 1]."""
    shape = (*height_width, *image.shape[2:])
    return jnp.clip(jax.image.resize(image, shape, method="lanczos3", antialias=True), 0.0, 1.0)


def coarse_to_fine(
    height_width: tuple[int, int], num_scales: int | None = None
) -> list[tuple[int, int]]:
    """The sizes through which a picture of `height_width` is approached, each twice the last.

    Large shapes form at coarse sizes, where an iteration costs a quarter for each halving.

    Args:
      height_width: of the finest size, the last of the list.
      num_scales: how many sizes; None for as many as keep the coarsest long side at
        `COARSEST_SIDE` or more.
    """
    height, width = height_width
    if num_scales is None:
        num_scales = 1 + max(0, int(math.log2(max(height, width) / COARSEST_SIDE)))
    scales = [2.0**-level for level in reversed(range(num_scales))]
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in scales]


def _targets(
    objective: Objective,
    params: vgg.Params,
    images: jax.Array,
    optimizer: Optimizer,
    style_weights: Sequence[float] | None,
    arrays: Mapping[str, Any],
) -> Targets:
    """`objective_lib.targets`, and what `run` will do with them compiled.

    Most of the time until the first evaluation goes into the two programs.  One is traced while the
    other is compiled; and that of the targets, which is run once, is compiled without optimisation
    on a CPU, in half the time: libraries do its work.  What the compiler took is given back each
    time, else it would be the most that the whole run takes.
    """
    compute = functools.partial(objective_lib.targets, objective, style_weights=style_weights)
    traced = jax.jit(compute).trace(params, **arrays)
    on_cpu = jax.default_backend() == "cpu"
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"} if on_cpu else {}
    state = jax.eval_shape(functools.partial(_start, optimizer=optimizer), images)
    weights = dict.fromkeys(objective.term_weights(), np.zeros(len(images), np.float32))
    constants = (params, traced.out_info, weights)
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as worker:
        compiling = worker.submit(traced.lower().compile, compiler_options=options)
        lowered = advance.lower(state, *constants, 1, objective=objective, optimizer=optimizer)
        program = compiling.result()
    memory.release()
    computed = jax.block_until_ready(program(params, **arrays))
    memory.release()
    lowered.compile()
    memory.release()
    return computed


def transfer(
    objective: Objective,
    params: vgg.Params,
    content: Any,
    styles: Sequence[Any],
    *,
    stages: Sequence[tuple[tuple[int, int], int]],
    init: Any = None,
    optimizer: Optimizer | None = None,
    style_weights: Sequence[float] | None = None,
    content_masks: Sequence[Any] | None = None,
    style_masks: Sequence[Any] | None = None,
) -> Iterator[tuple[int, Report]]:
    """Style transfer of one picture from coarse to fine, each stage started from the one before.

    What a stage changed in the photo is enlarged and added to the photo at the next size, whose
    finest detail is thereby kept: after 20 iterations the objective is 10% lower than from the
    enlarged picture itself.

    Args:
      objective: layers, weights, formulation.
      params: VGG parameters.
      content: the photo at the finest size, `(H, W, 3)` in [0, 1].
      styles: the paintings at the size they have beside it, each `(H', W', 3)`; at a coarser
        stage they shrink as the photo does.
      stages: `((height, width), steps)` of every stage, the finest last.
      init: where the first stage starts, `(H, W, 3)` in [0, 1]; the photo by default.
      optimizer: as for `run`.
      style_weights: as for `objective.targets`, and so are:
      content_masks: each `(H, W)`.
      style_masks: each `(H', W')`.

    Yields:
      The number of the stage, from 0, and the report of its last dispatch.

    Raises:
      NonFiniteError, ValueError: as `run`.
    """
    optimizer = optimizer or Optimizer()
    params = prepared(params, objective)
    content = jnp.asarray(content, jnp.float32)
    change = None
    finest_height = stages[-1][0][0]
    for index, (height_width, steps) in enumerate(stages):
        factor = height_width[0] / finest_height

        def at_scale(picture: Any, factor: float = factor) -> jax.Array:
            picture = jnp.asarray(picture, jnp.float32)
            height, width = picture.shape[:2]
            return resize(picture, (max(1, round(height * factor)), max(1, round(width * factor))))

        photo = resize(content, height_width)
        arrays = {
            "content": photo,
            "styles": [at_scale(style) for style in styles],
            "content_masks": content_masks
            and [resize(jnp.asarray(mask, jnp.float32), height_width) for mask in content_masks],
            "style_masks": style_masks and [at_scale(mask) for mask in style_masks],
        }
        if change is not None:
            image = _carry_over(photo, change)
        else:
            image = photo if init is None else resize(jnp.asarray(init, jnp.float32), height_width)
        targets = _targets(objective, params, image[None], optimizer, style_weights, arrays)
        for report in run(
            objective, params, image[None], targets, steps=steps, optimizer=optimizer
        ):
            yield index, report
        change = report.best[0] - photo


@jax.jit
def _carry_over(photo: jax.Array, change: jax.Array) -> jax.Array:
    enlarged = jax.image.resize(change, photo.shape, method="lanczos3")
    return jnp.clip(photo + enlarged, 0.0, 1.0)
