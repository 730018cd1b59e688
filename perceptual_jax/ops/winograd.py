"""3x3 and 5x5 convolution with fewer products, for CPUs (Winograd 1980; Lavin & Gray 2016).

Winograd's algorithm in one dimension: four rows of the result are sums of six convolutions with a
kernel of a single row, of sums of six rows of the images.  In two dimensions there would be fewer
products still, but smaller ones, and more memory to move.  Of a kernel with five rows, six products
give two rows: 3/5 of the products.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# From this many channels on, on both sides, it is faster than the plain form in a loop.
_LEAST_CHANNELS = 64

# F(4, 3): four outputs of a row of three taps by six products, at the points 0, 1, -1, 1/2, -2 and
# infinity, whose rounding errors are half of those of the usual 0, 1, -1, 2, -2.
_INPUT_SUMS = (
    (1, -1.5, -2, 1.5, 1, 0),
    (0, -1, 0.5, 2.5, 1, 0),
    (0, 1, -2.5, 0.5, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 0.5, -1, -0.5, 1, 0),
    (0, 1, -1.5, -2, 1.5, 1),
)
_KERNEL_SUMS = (
    np.array([[60, 0, 0], [20, 20, 20], [-20, 20, -20], [-64, -32, -16], [4, -8, 16], [0, 0, 60]])
    / 60.0
).astype(np.float32)
_OUTPUT_SUMS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 0.5, -2, 0),
    (0, 1, 1, 0.25, 4, 0),
    (0, 1, -1, 0.125, -8, 1),
)

# F(2, 5): two outputs of a row of five taps by six products at the same points, of the same sums.
_KERNEL_SUMS_5 = np.array(
    [
        [1, 0, 0, 0, 0],
        *(
            scale * np.power(point, np.arange(5.0))
            for scale, point in ((1 / 3, 1), (-1 / 3, -1), (-16 / 15, 1 / 2), (1 / 15, -2))
        ),
        [0, 0, 0, 0, 1],
    ],
    np.float32,
)
_OUTPUT_SUMS_5 = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 0.5, -2, 1))


def is_fast(kernel_shape: Sequence[int], dtype: Any) -> bool:
    """Whether it takes images of this dtype, and is fast on a CPU, with a kernel of this shape."""
    return (
        jnp.dtype(dtype) == jnp.float32
        and tuple(kernel_shape[:2]) == (3, 3)
        and min(kernel_shape[2:]) >= _LEAST_CHANNELS
    )


def transform_kernel(kernel: Any) -> tuple[jax.Array, ...]:
    """A kernel `(3, 3, C_in, C_out)` as `winograd_conv2d` takes it, six of `(1, 3, C_in, C_out)`.

    float32.  A NumPy kernel is transformed in NumPy, for which nothing is compiled.
    """
    kernel = kernel if isinstance(kernel, jax.Array) else np.asarray(kernel, np.float32)
    # Sums and no matrix product, which takes XLA:CPU longer.
    return tuple(jnp.asarray(_weighted_sum(taps, kernel)[None]) for taps in _KERNEL_SUMS)


# Jitted, so that layers of one shape, of which there are several, are traced once.
@functools.partial(jax.jit, static_argnames="margin")
def winograd_conv2d(images: jax.Array, kernels: Sequence[jax.Array], margin: int = 1) -> jax.Array:
    """A stride-1 convolution; the largest error is four times that of the plain form.

    Args:
      images: `(N, H, W, C_in)`.
      kernels: `transform_kernel(kernel)`.
      margin: zeros around the images: 1 keeps their size (`"SAME"`), 0 is `"VALID"`.

    Raises:
      ValueError: images that are not float32: the sums of rows would be rounded to 8 bits.
    """
    if images.dtype != jnp.float32:
        raise ValueError(f"only float32 is exact enough for Winograd's sums, got {images.dtype}")
    count, height, width, channels = images.shape
    rows_out = height + 2 * margin - 2
    fours = -(-rows_out // 4)
    below = 4 * fours + 4 - height - margin
    padded = jnp.pad(images, ((0, 0), (margin, below), (0, 0), (0, 0)))
    padded = padded.reshape(count, fours + 1, 4, width, channels)
    six = [padded[:, :-1, row] for row in range(4)] + [padded[:, 1:, row] for row in range(2)]
    sums = [_weighted_sum(taps, six) for taps in _INPUT_SUMS]
    products = [
        jax.lax.conv_general_dilated(
            part,
            row,
            window_strides=(1, 1),
            padding=((0, 0), (margin, margin)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for part, row in zip(sums, kernels, strict=True)
    ]
    four = [_weighted_sum(taps, products) for taps in _OUTPUT_SUMS]
    stacked = jnp.stack(four, axis=2)
    return stacked.reshape(count, 4 * fours, *stacked.shape[3:])[:, :rows_out]


def is_fast_5x5(kernel_shape: Sequence[int], dtype: Any) -> bool:
    """Whether `winograd_conv2d_5x5` takes images of this dtype, and is fast with such a kernel."""
    of_fives = tuple(kernel_shape[:2]) == (5, 5)
    return of_fives and is_fast((3, 3, *kernel_shape[2:]), dtype)


@jax.jit
def winograd_conv2d_5x5(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """A stride-1 convolution of float32 images with zeros around, which keep their size.

    Args:
      images: `(N, H, W, C_in)`.
      kernel: `(5, 5, C_in, C_out)`.
    """
    count, height, width, channels = images.shape
    twos = -(-height // 2)
    padded = jnp.pad(images, ((0, 0), (2, 2 * twos + 2 - height), (0, 0), (0, 0)))
    padded = padded.reshape(count, twos + 2, 2, width, channels)
    six = [padded[:, first : first + twos, row] for first in range(3) for row in range(2)]
    products = [
        jax.lax.conv_general_dilated(
            _weighted_sum(taps, six),
            _weighted_sum(kernel_taps, kernel)[None],
            window_strides=(1, 1),
            padding=((0, 0), (2, 2)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for taps, kernel_taps in zip(_INPUT_SUMS, _KERNEL_SUMS_5, strict=True)
    ]
    two = jnp.stack([_weighted_sum(taps, products) for taps in _OUTPUT_SUMS_5], axis=2)
    return two.reshape(count, 2 * twos, *two.shape[3:])[:, :height]


def _weighted_sum(weights: Any, arrays: Any) -> Any:
    """The sum of arrays, or along the first axis of one; NumPy's stay NumPy's."""
    chosen = [w * x for w, x in zip(weights, arrays, strict=True) if w]
    return functools.reduce(operator.add, chosen)
