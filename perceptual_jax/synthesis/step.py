"""One compiled step of optimising images: what it changes, and how the optimiser moves pixels."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from perceptual_jax import objective as objective_lib
from perceptual_jax import vgg
from perceptual_jax.objective import Objective, Targets
from perceptual_jax.ops.checks import as_images, check_settings, setting
from perceptual_jax.synthesis.lbfgs import scale_by_lbfgs
from perceptual_jax.synthesis.preconditioning import LOW_FREQUENCY_GAIN, precondition

# Iterations whose values one dispatch can return; between dispatches a program can show progress
# and be interrupted.
MAX_PER_DISPATCH = 10

# Nothing but a guard against 0 / 0: squares of gradients a little below end in float32.  Optax's
# 1e-8 would slow pixels down where the losses themselves are small.
ADAM_EPSILON = 1e-16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How pixels are moved.

    Attributes:
      max_step: the furthest that L-BFGS moves any of the coordinates of `preconditioning` in one
        iteration, in units of [0, 1] and before `learning_rate` or a line search; a longer step is
        shortened as a whole.
      memory: gradients that L-BFGS remembers, at the cost of two copies of the image for each, and
        of reading them in every iteration (docs/gatys.md compares 20, 30 and 50).
      low_frequency_gain: of `precondition`; with 0 the pixels themselves are optimised, as in the
        papers.
    """

    optimizer: str = setting("How pixels are moved.", default="lbfgs", choices=("lbfgs", "adam"))
    learning_rate: float | None = setting(
        "Step size: for adam in units of [0, 1] (0.02 if not given), for lbfgs a factor (1).",
        default=None,
        least=1e-9,
    )
    line_search: bool = setting(
        "Let lbfgs search along its direction for a step that meets the strong Wolfe conditions "
        "(zoom). Without, as in the classic programs, an iteration is one evaluation, and the "
        "objective falls faster per second.",
        default=False,
    )
    max_step: float = 0.2
    memory: int = setting("", default=30, least=1)
    low_frequency_gain: float = setting("", default=LOW_FREQUENCY_GAIN, least=0)

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_step"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        check_settings(self)
        if self.line_search and self.optimizer != "lbfgs":
            raise ValueError(f"line_search is for lbfgs, {self.optimizer} has none")
        if self.line_search and self.learning_rate is not None:
            raise ValueError(
                "line_search finds the length of each step itself: leave learning_rate out, "
                f"got {self.learning_rate}"
            )

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """The optax optimiser."""
        if self.optimizer == "adam":
            adam = optax.adam(self.learning_rate or 0.02, eps=ADAM_EPSILON)
            return optax.with_extra_args_support(adam)
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
      coordinates: see `preconditioning`, `(B, H, W, 3)`; the objective is evaluated next at
        `origin + precondition(coordinates, low_frequency_gain)`.
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


def init(images: Any, optimizer: Optimizer) -> State:
    """The state before the first evaluation of `images`, `(B, H, W, 3)` in [0, 1].

    Raises:
      ValueError: images of the wrong shape, type or range.
    """
    return _init(as_images(images).astype(jnp.float32), optimizer=optimizer)


@functools.partial(jax.jit, static_argnames="optimizer")
def _init(images: jax.Array, *, optimizer: Optimizer) -> State:
    batch = images.shape[0]
    state = State(
        origin=images,
        coordinates=jnp.zeros_like(images),
        optimizer=jax.vmap(optimizer.transformation().init)(images),
        best=images.copy(),
        best_total=jnp.full(batch, jnp.inf, jnp.float32),
        stopped=jnp.zeros(batch, bool),
    )
    # Strongly typed, as after an iteration: otherwise the second dispatch would compile again.
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
      params: VGG parameters, fastest if frozen (see `vgg.freeze`).
      targets: what all the images are compared with.
      term_weights: as `Objective.term_weights()` names them, each `(B,)`.
      evaluations: at most `MAX_PER_DISPATCH`; traced, so that any number is one program.
      objective: layers and formulation.
      optimizer: the same as for `init`.

    Returns:
      The new state; the totals `(B, MAX_PER_DISPATCH)` of the images before each move, of which
      only the first `evaluations` mean anything; and the same of each weighted term.
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
            moved = state._replace(
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

        # Zeros and not NaN, which `jax_debug_nans` would take for a mistake.
        unset = jnp.zeros(MAX_PER_DISPATCH, jnp.float32)
        carry = (state, unset, dict.fromkeys(term_weights, unset))
        return jax.lax.fori_loop(0, evaluations, iteration, carry)

    return jax.vmap(one_image)(state, term_weights)
