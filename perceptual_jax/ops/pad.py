"""Padding by reflection, and with the border repeated.

The `size` of the forward forms is that of a picture `(height, width)`, numbers that are known only
when the program runs, in the top left of a larger array.  The pad is then beside the picture, and
what is in the rest of the array does not matter.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def reflect_pad(images: jax.Array, margin: int, size: Any = None) -> jax.Array:
    """Mirrors the borders outwards: `(N, H, W, C) -> (N, H + 2 margin, W + 2 margin, C)`.

    Row -1 is row 1, the border itself is not repeated; sides must be larger than `margin`.
    """
    sides = (margin, margin)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)), mode="reflect")
    for axis, length in zip((1, 2), size or (), strict=False):
        # Pixel i is at i + margin: those before the border, from length - 1 - margin on.
        inside = jax.lax.dynamic_slice_in_dim(padded, length - 1, margin, axis)
        padded = _put(padded, jnp.flip(inside, axis), length + margin, axis)
    return padded


def edge_pad(images: jax.Array, size: Any = None) -> jax.Array:
    """Repeats the borders once: `(N, H, W, C) -> (N, H + 2, W + 2, C)`."""
    # `jnp.pad` would slice the batch too, and so refuses a sharded one.
    rows = jnp.concatenate([images[:, :1], images, images[:, -1:]], axis=1)
    padded = jnp.concatenate([rows[:, :, :1], rows, rows[:, :, -1:]], axis=2)
    for axis, length in zip((1, 2), size or (), strict=False):
        border = jax.lax.dynamic_slice_in_dim(padded, length, 1, axis)
        padded = _put(padded, border, length + 1, axis)
    return padded


def edge_pad_to(images: jax.Array, grid: int, size: Any = None) -> jax.Array:
    """Repeats the last row and column until the sides of `(N, H, W, C)` are multiples of a grid.

    Those of pictures of a `size` are repeated to the end of the array.
    """
    for axis, length in zip((1, 2), size or (), strict=False):
        rows = jnp.minimum(jnp.arange(images.shape[axis]), length - 1)
        images = jnp.take(images, rows, axis, mode="clip")
    for axis in (1, 2):
        last = jax.lax.slice_in_dim(images, -1, None, axis=axis)
        more = -images.shape[axis] % grid
        shape = [*last.shape[:axis], more, *last.shape[axis + 1 :]]
        images = jnp.concatenate([images, jnp.broadcast_to(last, shape)], axis)
    return images


def inside_of(shape: Sequence[int], size: Any) -> jax.Array:
    """Which positions of maps `(N, H, W, C)` belong to pictures of a size, `(H, W, 1)`."""
    rows, columns = (jnp.arange(shape[axis]) < size[axis - 1] for axis in (1, 2))
    return (rows[:, None] & columns[None])[..., None]


def _put(images: jax.Array, part: jax.Array, start: Any, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(images, part, start, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def reflect_pad_reverse(images: jax.Array, margin: int) -> jax.Array:
    """`reflect_pad`, reverse mode only, with a gradient of two passes over the image, not four."""
    return reflect_pad(images, margin)


def _forward(images: jax.Array, margin: int) -> tuple[jax.Array, jax.Array]:
    return reflect_pad(images, margin), images


def _backward(margin: int, images: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    if min(images.shape[1:3]) < 2 * margin + 2:  # The two margins fall onto the same pixels.
        _, vjp = jax.vjp(functools.partial(reflect_pad, margin=margin), images)
        return vjp(cotangent)
    for axis in (1, 2):
        cotangent = _fold_margins(cotangent, margin, axis)
    return (cotangent,)


reflect_pad_reverse.defvjp(_forward, _backward)


def _fold_margins(padded: jax.Array, margin: int, axis: int) -> jax.Array:
    """Adds the margins along an axis to the pixels that they mirror."""
    # Margin, border, what it mirrors, the inside, what the other margin mirrors, border, margin.
    inside = padded.shape[axis] - 4 * margin - 2
    ends = np.cumsum([margin, 1, margin, inside, margin, 1])
    first, border, near, rest, far, other_border, last = jnp.split(padded, ends, axis)
    near += jnp.flip(first, axis)
    far += jnp.flip(last, axis)
    return jnp.concatenate([border, near, rest, far, other_border], axis)
