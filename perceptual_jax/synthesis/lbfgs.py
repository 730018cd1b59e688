"""Limited-memory BFGS for pixels, as an optax transformation.

`optax.scale_by_lbfgs` keeps every pair of a step and the change of the gradient over it.  Where the
objective curves downwards along the step, as VGG's does early on, its next direction then points
uphill.  This one skips such pairs, bounds the step, and runs the recursion on inner products alone,
so that an iteration reads the stored vectors twice, however many there are.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# The largest entry of the first step, before anything is known of the objective's scale: large
# enough to make progress within three iterations, and small enough to go on from a finished picture
# without harm.
_FIRST_STEP = 0.05

# A pair is kept if the cosine of its step and its change of gradient exceeds this: float32
# rounding alone gives about 1e-7.
_LEAST_COSINE = 1e-3


class LBFGSState(NamedTuple):
    """The stored vectors of L-BFGS and their inner products; m is the memory.

    The vectors are trees like the parameters, of float32 or, where the parameters are, float64.

    Attributes:
      updates: updates made.
      pairs: pairs kept.
      params: at the last update.
      gradient: at the last update.
      s: the last kept steps, `s_k = x_{k+1} - x_k`, a ring `(m, ...)`.
      y: the changes of the gradient over these steps, `y_k = g_{k+1} - g_k`, likewise.
      sy: inner products of steps and changes, `(m, m)`.
      yy: inner products among the changes, `(m, m)`.
    """

    updates: jax.Array
    pairs: jax.Array
    params: Any
    gradient: Any
    s: Any
    y: Any
    sy: jax.Array
    yy: jax.Array


def scale_by_lbfgs(memory: int, max_step: float) -> optax.GradientTransformation:
    """Turns a gradient into the direction of L-BFGS, `H g` (Nocedal & Wright 2006, alg. 7.4).

    The result has the gradient's sign, as that of every `optax.scale_by_*`.  Parameters may be any
    tree of real arrays.  Those of less than 32 bits are remembered in float32, and the direction is
    rounded to the gradient's type.

    Args:
      memory: pairs remembered.
      max_step: bound on the absolute value of any entry of the result; a longer one is scaled down
        as a whole.

    Raises:
      ValueError: `memory` or `max_step` out of range; parameters that are not real floating point.
    """
    if memory < 1:
        raise ValueError(f"memory must be at least 1, got {memory}")
    if not max_step > 0:
        raise ValueError(f"max_step must be positive, got {max_step}")

    def init(params: Any) -> LBFGSState:
        params = _widen(params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        ring = jax.tree.map(lambda leaf: jnp.zeros((memory, *leaf.shape), leaf.dtype), params)
        count = jnp.zeros((), jnp.int32)
        widest = max((leaf.dtype for leaf in jax.tree.leaves(params)), key=lambda x: x.itemsize)
        products = jnp.zeros((memory, memory), widest)
        return LBFGSState(count, count, zeros, zeros, ring, ring, products, products)

    def update(gradient: Any, state: LBFGSState, params: Any = None) -> tuple[Any, LBFGSState]:
        if params is None:
            raise ValueError(
                "L-BFGS needs the parameters at which the gradient was taken: "
                "call update(gradient, state, params)"
            )
        state = _remember(state, _widen(gradient), _widen(params))
        direction = _direction(state)
        dtype = state.sy.dtype
        largest = [jnp.max(jnp.abs(leaf)).astype(dtype) for leaf in jax.tree.leaves(direction)]
        longest = functools.reduce(jnp.maximum, largest)
        first = min(_FIRST_STEP, max_step)
        bound = jnp.where(state.pairs > 0, jnp.minimum(longest, max_step), first)
        factor = bound / jnp.maximum(longest, 1e-30)

        def bounded(leaf: jax.Array, like: jax.Array) -> jax.Array:
            return (leaf * factor.astype(leaf.dtype)).astype(like.dtype)

        return jax.tree.map(bounded, direction, gradient), state

    return optax.GradientTransformation(init, update)


def _widen(tree: Any) -> Any:
    """With leaves of at least 32 bits: differences of fewer lose what a pair says."""

    def widen(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"L-BFGS needs real floating-point parameters, got {leaf.dtype}")
        return leaf.astype(leaf.dtype if leaf.dtype.itemsize >= 4 else jnp.float32)

    return jax.tree.map(widen, tree)


def _dot(a: Any, b: Any, dtype: Any) -> jax.Array:
    """The inner product of two vectors."""

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST).astype(dtype)

    return functools.reduce(operator.add, jax.tree.leaves(jax.tree.map(dot, a, b)))


def _dots(ring: Any, vector: Any, dtype: Any) -> jax.Array:
    """Inner products `(m,)` of a vector with each of a ring's."""
    return jax.vmap(lambda of_ring: _dot(of_ring, vector, dtype))(ring)


def _combination(weights: jax.Array, ring: Any) -> Any:
    """The weighted sum of a ring's vectors."""

    def combine(ring: jax.Array) -> jax.Array:
        exact = jax.lax.Precision.HIGHEST
        return jnp.tensordot(weights.astype(ring.dtype), ring, axes=1, precision=exact)

    return jax.tree.map(combine, ring)


def _remember(state: LBFGSState, gradient: Any, params: Any) -> LBFGSState:
    """The state at new parameters, with the pair that led there if it curves upwards."""
    dtype = state.sy.dtype
    step = jax.tree.map(operator.sub, params, state.params)
    change = jax.tree.map(operator.sub, gradient, state.gradient)
    curvature = _dot(step, change, dtype)
    scale = jnp.sqrt(_dot(step, step, dtype) * _dot(change, change, dtype))
    keep = (state.updates > 0) & (curvature > _LEAST_COSINE * scale)
    memory = state.sy.shape[0]
    slot = state.pairs % memory
    chosen = keep & (jnp.arange(memory, dtype=jnp.int32) == slot)

    def put(array: jax.Array, value: jax.Array) -> jax.Array:
        # Not by the index: for a batch of images that is a scatter, for which XLA copies the ring.
        return jnp.where(chosen.reshape(-1, *[1] * value.ndim), value, array)

    # The barrier keeps XLA from writing a ring twice, once for each shape in which it is read.
    s, y = jax.lax.optimization_barrier(
        (jax.tree.map(put, state.s, step), jax.tree.map(put, state.y, change))
    )
    sy = put(state.sy, _dots(y, step, dtype))
    sy = put(sy.T, _dots(s, change, dtype)).T
    yy = put(state.yy, _dots(y, change, dtype))
    yy = put(yy.T, yy[slot]).T
    pairs = state.pairs + keep.astype(jnp.int32)
    return LBFGSState(state.updates + 1, pairs, params, gradient, s, y, sy, yy)


def _direction(state: LBFGSState) -> Any:
    """`H g` by the two-loop recursion, on coefficients in place of vectors.

    The result is `gamma (g - sum alpha_i y_i) + sum (alpha_i - beta_i) s_i`, and the recursion uses
    s, y and g in inner products only (Chen et al. 2014, "Large-scale L-BFGS using MapReduce").
    """
    sy, yy = state.sy, state.yy
    memory, dtype = sy.shape[0], sy.dtype
    newest = (state.pairs - 1) % memory
    # 1 / rho_i of the textbook.
    curvature = jnp.where(state.pairs > 0, jnp.diagonal(sy), 0.0)
    rho = jnp.where(curvature > 0, 1.0 / jnp.where(curvature > 0, curvature, 1.0), 0.0)
    sg = _dots(state.s, state.gradient, dtype)
    yg = _dots(state.y, state.gradient, dtype)
    squared = yy[newest, newest]
    gamma = jnp.where(squared > 0, curvature[newest] / jnp.where(squared > 0, squared, 1.0), 1.0)
    zeros, (start, stop) = jnp.zeros(memory, dtype), np.array([0, memory], np.int32)

    def newest_to_oldest(age: jax.Array, alphas: jax.Array) -> jax.Array:
        i = (newest - age) % memory
        return alphas.at[i].set(rho[i] * (sg[i] - sy[i] @ alphas))

    alphas = jax.lax.fori_loop(start, stop, newest_to_oldest, zeros)

    def oldest_to_newest(count: jax.Array, weights: jax.Array) -> jax.Array:
        i = (newest + 1 + count) % memory
        beta = rho[i] * (gamma * (yg[i] - yy[i] @ alphas) + weights @ sy[:, i])
        return weights.at[i].set(jnp.where(curvature[i] > 0, alphas[i] - beta, 0.0))

    weights = jax.lax.fori_loop(start, stop, oldest_to_newest, zeros)

    def combine(gradient: jax.Array, along_y: jax.Array, along_s: jax.Array) -> jax.Array:
        return gamma.astype(gradient.dtype) * (gradient - along_y) + along_s

    return jax.tree.map(
        combine, state.gradient, _combination(alphas, state.y), _combination(weights, state.s)
    )
