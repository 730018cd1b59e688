"""Convolutions that double height and width, `(N, H, W, C_in) -> (N, 2 H, 2 W, C_out)`.

Each is computed at the lower resolution, as a convolution for every one of the four phases of the
output's positions.  Which `conv2d` that is decides how the whole can be differentiated:
`conv.fast_conv2d` both ways, `conv.conv2d_reverse` in reverse mode, faster.  Kernels are
`(3, 3, C_in, C_out)`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax.ops.conv import fast_conv2d
from perceptual_jax.ops.pad import edge_pad, reflect_pad

Conv2d = Callable[..., jax.Array]

# Which of the three taps of a kernel falls on which of two neighbouring positions, by the parity of
# the output position: `[parity, neighbour, tap]`.
NEAREST_TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
_TRANSPOSED_TAPS = np.array([[[0, 1, 0], [0, 0, 0]], [[0, 0, 1], [1, 0, 0]]], np.float32)


def nearest_conv2d(
    images: jax.Array, kernel: jax.Array, *, conv2d: Conv2d = fast_conv2d, size: Any = None
) -> jax.Array:
    """Repeats pixels, pads by reflection, convolves 3x3, with 4/9 of the products of these steps.

    Reflecting the enlarged image is repeating the border of the small one.
    """
    height, width = images.shape[1:3]
    phases = _phases(edge_pad(images, size), kernel, NEAREST_TAPS, conv2d)
    return _interleave(
        [[phases[:, y : y + height, x : x + width, y, x] for x in (0, 1)] for y in (0, 1)]
    )


def transposed_conv2d(
    images: jax.Array, kernel: jax.Array, *, conv2d: Conv2d = fast_conv2d
) -> jax.Array:
    """Transposed 3x3 convolution of stride 2.

    The adjoint of the stride-2 convolution with a padding of 1, and one more row and column at the
    end (PyTorch's `padding=1, output_padding=1`, with the kernel as it multiplies the outputs): tap
    (k, l) goes to output position (2 i - 1 + k, 2 j - 1 + l).  The weight gradient of a convolution
    of a dilated image would be slow.
    """
    padded = jnp.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    phases = _phases(padded, kernel, _TRANSPOSED_TAPS, conv2d)
    return _interleave([[phases[..., y, x, :] for x in (0, 1)] for y in (0, 1)])


def subpixel_conv2d(
    images: jax.Array, kernel: jax.Array, *, conv2d: Conv2d = fast_conv2d, size: Any = None
) -> jax.Array:
    """A 3x3 convolution, padded by reflection, gives four pixels each (Shi et al. 2016).

    Sides are 2 or more.  The kernel is `(3, 3, C_in, 4 C_out)`, the output's channels of the four
    pixels one after the other: top left, top right, bottom left, bottom right.
    """
    four = conv2d(reflect_pad(images, 1, size), kernel, padding="VALID")
    four = four.reshape(*four.shape[:-1], 2, 2, four.shape[-1] // 4)
    return _interleave([[four[..., y, x, :] for x in (0, 1)] for y in (0, 1)])


def _phases(padded: jax.Array, kernel: jax.Array, taps: np.ndarray, conv2d: Conv2d) -> jax.Array:
    """All four 2x2 convolutions as one: `(N, H, W, C) -> (N, H - 1, W - 1, 2, 2, C_out)`."""
    taps = taps.astype(kernel.dtype)
    folded = jnp.einsum(
        "psk,qtl,klio->stipqo", taps, taps, kernel, precision=jax.lax.Precision.HIGHEST
    )
    result = conv2d(padded, folded.reshape(2, 2, kernel.shape[2], -1), padding="VALID")
    return result.reshape(*result.shape[:-1], 2, 2, kernel.shape[3])


def _interleave(phases: list[list[jax.Array]]) -> jax.Array:
    """Images `(N, H, W, C)` for even and odd rows and columns, to one `(N, 2 H, 2 W, C)`."""
    # Along one axis after the other: JAX refuses to reshape both at once if the batch is sharded.
    return _alternate([_alternate(row, axis=2) for row in phases], axis=1)


def _alternate(images: list[jax.Array], *, axis: int) -> jax.Array:
    """The rows (`axis=1`) or columns (`axis=2`) of each image in turn."""
    shape = list(images[0].shape)
    shape[axis] *= len(images)
    return jnp.stack(images, axis=axis + 1).reshape(shape)
