"""Limited-memory BFGS for pixels, as an optax transformation.

optax's own accepts every pair of a step and the change of gradient over it.  Where the objective
curves downwards along the step, as VGG's does early on, its next direction then points uphill.
Here such a pair is passed over, a step is bounded, and the recursion runs on inner products
alone, so that an iteration reads its memory twice, however long it is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# The largest entry of the first step, of whose scale nothing is known: enough to be on the way
# within three iterations, and little enough to go on from a finished picture without harm.
_FIRST_STEP = 0.05

# A pair is kept if the cosine of its step and its change of gradient exceeds this: float32
# rounding alone gives about 1e-7.
_LEAST_COSINE = 1e-3


class LBFGSState(NamedTuple):
    """What L-BFGS remembers; m is its memory.

    Attributes:
      pairs: how many pairs were kept so far.
      updates: how many updates were made.
      parameters: at the last update.
      gradient: at the last update.
      steps: the last kept changes of the parameters, s, a ring `(m, ...)`.
      changes: the changes of the gradient over these steps, y, alike.
      step_change: inner products of steps and changes, `(m, m)`.
      change_change: inner products among the changes, `(m, m)`.
    """

    pairs: jax.Array
    updates: jax.Array
    parameters: jax.Array
    gradient: jax.Array
    steps: jax.Array
    changes: jax.Array
    step_change: jax.Array
    change_change: jax.Array


def scale_by_lbfgs(memory: int, max_step: float) -> optax.GradientTransformation:
    """Turns a gradient into the direction of L-BFGS, `H g` (Nocedal & Wright 2006, alg. 7.4).

    Its sign is the gradient's, as that of every `optax.scale_by_*`.

    Args:
      memory: pairs remembered.
      max_step: bound on the absolute value of any entry of the result; one that would be longer is
        scaled down as a whole.
    """

    def init(parameters: jax.Array) -> LBFGSState:
        zeros = jnp.zeros_like(parameters)
        ring = jnp.zeros((memory, *parameters.shape), parameters.dtype)
        count = jnp.zeros((), jnp.int32)
        products = jnp.zeros((memory, memory))
        return LBFGSState(count, count, zeros, zeros, ring, ring, products, products)

    def update(gradient: Any, state: LBFGSState, parameters: Any = None) -> Any:
        state = _remember(state, gradient, parameters)
        direction = _direction(state)
        longest = jnp.max(jnp.abs(direction))
        bound = jnp.where(state.pairs > 0, jnp.minimum(longest, max_step), _FIRST_STEP)
        return direction * (bound / jnp.maximum(longest, 1e-30)), state

    return optax.GradientTransformation(init, update)


def _dots(ring: jax.Array, vector: jax.Array) -> jax.Array:
    """Inner products `(m,)` of a vector with each of a ring's."""
    flat = ring.reshape(ring.shape[0], -1)
    return jnp.matmul(flat, vector.ravel(), precision=jax.lax.Precision.HIGHEST)


def _combination(weights: jax.Array, ring: jax.Array) -> jax.Array:
    """The weighted sum of a ring's vectors."""
    return jnp.tensordot(weights, ring, axes=1, precision=jax.lax.Precision.HIGHEST)


def _remember(state: LBFGSState, gradient: jax.Array, parameters: jax.Array) -> LBFGSState:
    """The state at new parameters, with the pair that led there if it curves upwards."""
    step, change = parameters - state.parameters, gradient - state.gradient
    curvature = jnp.vdot(step, change)
    scale = jnp.sqrt(jnp.vdot(step, step) * jnp.vdot(change, change))
    keep = (state.updates > 0) & (curvature > _LEAST_COSINE * scale)
    memory = state.steps.shape[0]
    slot = state.pairs % memory
    chosen = keep & (jnp.arange(memory) == slot)

    def put(array: jax.Array, value: jax.Array) -> jax.Array:
        # Not by the index: of a batch of images that is a scatter, for which XLA copies the ring.
        return jnp.where(chosen.reshape(-1, *[1] * value.ndim), value, array)

    # The barrier keeps XLA from writing a ring twice, once for each shape in which it is read.
    steps, changes = jax.lax.optimization_barrier(
        (put(state.steps, step), put(state.changes, change))
    )
    step_change = put(state.step_change, _dots(changes, step))
    step_change = put(step_change.T, _dots(steps, change)).T
    change_change = put(state.change_change, _dots(changes, change))
    change_change = put(change_change.T, change_change[slot]).T
    return LBFGSState(
        pairs=state.pairs + keep.astype(jnp.int32),
        updates=state.updates + 1,
        parameters=parameters,
        gradient=gradient,
        steps=steps,
        changes=changes,
        step_change=step_change,
        change_change=change_change,
    )


def _direction(state: LBFGSState) -> jax.Array:
    """`H g` by the two-loop recursion, on coefficients in place of vectors.

    The result is `gamma (g - sum alpha_i y_i) + sum (alpha_i - beta_i) s_i`, and all that the
    recursion asks of s, y and g are inner products (Chen et al. 2014, "Large-scale L-BFGS using
    MapReduce").
    """
    memory = state.steps.shape[0]
    newest = (state.pairs - 1) % memory
    rho = jnp.where(state.pairs > 0, jnp.diagonal(state.step_change), 0.0)
    inverse_rho = jnp.where(rho > 0, 1.0 / jnp.where(rho > 0, rho, 1.0), 0.0)
    step_gradient = _dots(state.steps, state.gradient)
    change_gradient = _dots(state.changes, state.gradient)
    squared = state.change_change[newest, newest]
    gamma = jnp.where(squared > 0, rho[newest] / jnp.where(squared > 0, squared, 1.0), 1.0)

    def newest_to_oldest(age: jax.Array, alphas: jax.Array) -> jax.Array:
        i = (newest - age) % memory
        alpha = inverse_rho[i] * (step_gradient[i] - state.step_change[i] @ alphas)
        return alphas.at[i].set(alpha)

    alphas = jax.lax.fori_loop(0, memory, newest_to_oldest, jnp.zeros(memory))

    def oldest_to_newest(count: jax.Array, weights: jax.Array) -> jax.Array:
        i = (newest + 1 + count) % memory
        along_changes = change_gradient[i] - state.change_change[i] @ alphas
        beta = inverse_rho[i] * (gamma * along_changes + weights @ state.step_change[:, i])
        return weights.at[i].set(jnp.where(rho[i] > 0, alphas[i] - beta, 0.0))

    weights = jax.lax.fori_loop(0, memory, oldest_to_newest, jnp.zeros(memory))
    combined = state.gradient - _combination(alphas, state.changes)
    return gamma * combined + _combination(weights, state.steps)
