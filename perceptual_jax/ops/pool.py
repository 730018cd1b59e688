"""Pooling with stride 2 of `(..., H, W, C)`.

Of 2x2 blocks to `(..., H // 2, W // 2, C)`, where an odd last row or column is left out; and of
3x3 windows, which overlap.
"""

import functools

import jax
import jax.numpy as jnp

# Under the root, so that its slope at 0 is finite; that of the authors' program.
_LEAST_SQUARE = 1e-12


def max_pool(images: jax.Array) -> jax.Array:
    """The maximum of each block, as that of four slices.

    `reduce_window` gives the same values, but its gradient is slow on a CPU.  Positions of a block
    that tie share the gradient.
    """
    a, b, c, d = _quarters(images)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def average_pool(images: jax.Array) -> jax.Array:
    """The mean of each block."""
    a, b, c, d = _quarters(images)
    return (a + b + c + d) * jnp.asarray(0.25, images.dtype)


def _quarters(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The four positions of every block."""
    *_, height, width, _ = images.shape
    even = images[..., : height // 2 * 2, : width // 2 * 2, :]
    # Strided slices and no reshape, which splits axes and so refuses a sharded batch.
    top, bottom = even[..., ::2, :, :], even[..., 1::2, :, :]
    return top[..., ::2, :], top[..., 1::2, :], bottom[..., ::2, :], bottom[..., 1::2, :]


@jax.custom_vjp
def max_pool_reverse(images: jax.Array) -> jax.Array:
    """`max_pool`, reverse mode only.

    Computed in float32, which changes nothing: on a CPU the maximum of two bfloat16 takes longer,
    and its gradient as well.
    """
    return max_pool(images.astype(jnp.float32)).astype(images.dtype)


def _max_forward(images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    pooled = max_pool_reverse(images)
    return pooled, (images, pooled)


def _max_backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array]:
    images, pooled, shared = (x.astype(jnp.float32) for x in (*residuals, cotangent))
    shared = shared / sum((quarter == pooled).astype(jnp.float32) for quarter in _quarters(images))
    *batch, height, width, channels = pooled.shape
    even = images[..., : 2 * height, : 2 * width, :]
    blocks = even.reshape(*batch, height, 2, width, 2, channels)
    gradient = jnp.where(blocks == _repeated(pooled), _repeated(shared), 0.0)
    return (_unblocked(gradient, images.shape).astype(cotangent.dtype),)


max_pool_reverse.defvjp(_max_forward, _max_backward)


@jax.custom_vjp
def average_pool_reverse(images: jax.Array) -> jax.Array:
    """`average_pool`, reverse mode only: the gradient of each block is written once."""
    return average_pool(images)


def _average_forward(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return average_pool(images), images


def _average_backward(images: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    quarter = cotangent * jnp.asarray(0.25, cotangent.dtype)
    *batch, height, width, channels = cotangent.shape
    blocks = jnp.broadcast_to(_repeated(quarter), (*batch, height, 2, width, 2, channels))
    return (_unblocked(blocks, images.shape),)


average_pool_reverse.defvjp(_average_forward, _average_backward)


def _repeated(pooled: jax.Array) -> jax.Array:
    """For every position of a block, `(..., H, 1, W, 1, C)`."""
    return pooled[..., :, None, :, None, :]


def _unblocked(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`(..., H, 2, W, 2, C)` as images of a shape, whose odd last row and column get zeros."""
    *batch, height, _, width, _, channels = blocks.shape
    even = blocks.reshape(*batch, 2 * height, 2 * width, channels)
    rows, columns = (shape[axis] - even.shape[axis] for axis in (-3, -2))
    return jnp.pad(even, (*[(0, 0)] * len(batch), (0, rows), (0, columns), (0, 0)))


def overlapping_max_pool(images: jax.Array) -> jax.Array:
    """The maximum of 3x3 windows that lie within, `(..., (H - 1) // 2, (W - 1) // 2, C)`."""
    *_, height, width, _ = images.shape
    rows = functools.reduce(jnp.maximum, _taps(images, -3, (height - 1) // 2))
    return functools.reduce(jnp.maximum, _taps(rows, -2, (width - 1) // 2))


def l2_pool(images: jax.Array) -> jax.Array:
    """The root of the mean square, `sqrt(g * x^2)`, `(..., (H + 1) // 2, (W + 1) // 2, C)`.

    g is a 3x3 Hann window of sum 1, zeros are around the images (Ding et al. 2020, "Image quality
    assessment: unifying structure and texture similarity", after Hénaff & Simoncelli 2016).
    """
    *batch, height, width, _ = images.shape
    around = [*[(0, 0)] * len(batch), (1, 1), (1, 1), (0, 0)]
    mean = jnp.pad(jnp.square(images), around)
    for axis, count in ((-3, (height + 1) // 2), (-2, (width + 1) // 2)):
        before, middle, after = _taps(mean, axis, count)
        mean = (before + 2 * middle + after) * jnp.asarray(0.25, images.dtype)
    return jnp.sqrt(mean + jnp.asarray(_LEAST_SQUARE, images.dtype))


def _taps(images: jax.Array, axis: int, count: int) -> list[jax.Array]:
    """The three positions of every window along an axis: `count` windows, two apart."""
    return [
        jax.lax.slice_in_dim(
            images, start, start + 2 * count - 1, stride=2, axis=images.ndim + axis
        )
        for start in range(3)
    ]
