"""The convolution primitives that VGG and the networks share, in forms that XLA computes fast.

Images are channels-last, `(N, H, W, C)`; kernels are `(kH, kW, C_in, C_out)`.  What is fast
changes with the version of XLA, so the forms live here, are measured on the oldest and the newest
supported jax (`benchmarks/convolution.py`), and a test reads the compiled text of each.
"""

import functools
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# XLA's own convolutions in bfloat16 take as long as those in float32; oneDNN, which jaxlib brings,
# has some that use AMX, the matrix units of Intel's Xeons from 2023 on, and are 3 to 9 times
# faster. jax 0.10 has the option too, and does nothing with it; a version that has no such option
# would end the program.
_ONEDNN = "--xla_cpu_experimental_onednn_custom_call=true"
_ONEDNN_VERSIONS = ((0, 12),)


# From 0.12 on (0.11 was not tried), XLA:CPU is 2 to 3.4 times slower at few outputs of a large
# kernel where it need not pad, as in a network's last layer: 9x9, 64 -> 3 at 1024x1024 takes 759
# milliseconds, and 227 with padding that is then cut off. On 0.10 that costs 5 to 29%; but there
# three inputs to 32 outputs take 3 times as long as four, which on 0.12 costs 30%.
_NEW_XLA = jax.__version_info__ >= (0, 11)
_FEW_CHANNELS = 3


# From this many channels on, on both sides, `row_convolve` is faster in a loop: 1.2 to 1.4 times at
# 64, 1.2 to 1.8 times at 128 to 512, at 21x32 to 341x512 positions, on jax 0.10 and 0.12. So it is
# in a network's residual blocks, 1.6 times at 64x64 positions, as fast at 32x32.
_ROW_CHANNELS = 64


def use_matrix_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Lets convolutions in bfloat16 use a CPU's matrix units, where it has some and jax can.

    For the whole process, and before JAX's first computation: XLA reads its options only once.
    What is compiled so cannot be kept in JAX's compilation cache.

    Args:
      cpuinfo: where Linux tells what the processor has.

    Returns:
      Whether they will be used.
    """
    try:
        has_units = " amx_bf16" in cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    if not has_units or jax.__version_info__[:2] not in _ONEDNN_VERSIONS:
        return False
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_ONEDNN}".strip()
    return True


def _plain(images: jax.Array, kernel: jax.Array, padding: Any) -> jax.Array:
    if _goes_by_rows(kernel.shape, images.dtype):
        margin = {"SAME": 1, "VALID": 0}[padding] if isinstance(padding, str) else padding[0][0]
        return row_convolve(images, row_kernels(kernel), margin)
    if jax.default_backend() == "cpu" and _is_large(kernel, padding):
        channels, outputs = kernel.shape[2:]
        height, width = images.shape[1:3]
        if outputs <= _FEW_CHANNELS < channels and _NEW_XLA:
            cut = np.s_[:, 4 : height - 4, 4 : width - 4]
            return _as_written(images, kernel, "SAME")[cut]
        if channels == _FEW_CHANNELS < outputs and not _NEW_XLA:
            last = ((0, 0), (0, 0), (0, 0), (0, 1))
            images = jnp.pad(images, last)
            kernel = jnp.pad(kernel, (*last[:2], last[3], last[2]))
    return _as_written(images, kernel, padding)


def _goes_by_rows(shape: Sequence[int], dtype: Any) -> bool:
    """Whether `row_convolve` takes images of a dtype, and is fast, with a kernel of a shape."""
    return (
        jax.default_backend() == "cpu"
        and jnp.dtype(dtype) == jnp.float32
        and tuple(shape[:2]) == (3, 3)
        and min(shape[2:]) >= _ROW_CHANNELS
    )


def _is_large(kernel: jax.Array, padding: Any) -> bool:
    """Whether it is of a network's first or last layer."""
    return padding == "VALID" and kernel.shape[:2] == (9, 9)


def _as_written(images: jax.Array, kernel: jax.Array, padding: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images, kernel, window_strides=(1, 1), padding=padding, dimension_numbers=_LAYOUT
    )


# F(4, 3) of Winograd: four outputs of a row of three taps by six products, at the points 0, 1, -1,
# 1/2, -2 and infinity, whose rounding errors are half of those of the usual 0, 1, -1, 2, -2.
_ROWS_IN = (
    (1, -1.5, -2, 1.5, 1, 0),
    (0, -1, 0.5, 2.5, 1, 0),
    (0, 1, -2.5, 0.5, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 0.5, -1, -0.5, 1, 0),
    (0, 1, -1.5, -2, 1.5, 1),
)
_ROWS_KERNEL = np.array(
    [[60, 0, 0], [20, 20, 20], [-20, 20, -20], [-64, -32, -16], [4, -8, 16], [0, 0, 60]]
) / np.float64(60)
_ROWS_OUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 0.5, -2, 0),
    (0, 1, 1, 0.25, 4, 0),
    (0, 1, -1, 0.125, -8, 1),
)


def row_kernels(kernel: Any) -> tuple[jax.Array, ...]:
    """A kernel `(3, 3, C_in, C_out)` as `row_convolve` takes it, six of `(1, 3, C_in, C_out)`.

    float32. One that is not on the device is transformed in NumPy, for which nothing is compiled.
    """
    kernel = kernel if isinstance(kernel, jax.Array) else np.asarray(kernel, np.float32)
    # Sums, and no matrix product: the library takes 1 to 2 milliseconds for that of 128 channels.
    return tuple(
        jnp.asarray(_weighted_sum(taps, kernel)[None]) for taps in _ROWS_KERNEL.astype(np.float32)
    )


# Jitted, so that layers of one shape, of which there are several, are traced once.
@functools.partial(jax.jit, static_argnames="margin")
def row_convolve(images: jax.Array, rows: Sequence[jax.Array], margin: int = 1) -> jax.Array:
    """A 3x3 convolution with half of the products (Winograd 1980; Lavin & Gray 2016).

    Winograd's algorithm in one dimension: four rows of the result are sums of six convolutions
    with a kernel of a single row, of sums of six rows of the images.  In two dimensions there would
    be fewer products still, but small ones, and more to move.  The largest error is four times
    that of the sum as written, and 2e-6 of the largest value at 256 channels.

    Args:
      images: `(N, H, W, C_in)`, float32: in bfloat16 the sums of rows would be rounded to 8 bits
        before they are multiplied.
      rows: `row_kernels(kernel)`.
      margin: zeros around the images: 1 keeps their size (`"SAME"`), 0 is `"VALID"`.

    Returns:
      `(N, H + 2 margin - 2, W + 2 margin - 2, C_out)`.

    Raises:
      ValueError: images that are not float32.
    """
    if images.dtype != jnp.float32:
        raise ValueError(f"by rows only float32 is exact enough, got {images.dtype}")
    count, height, width, channels = images.shape
    rows_out = height + 2 * margin - 2
    fours = -(-rows_out // 4)
    margins = ((0, 0), (margin, 4 * fours + 4 - height - margin), (0, 0), (0, 0))
    padded = jnp.pad(images, margins).reshape(count, fours + 1, 4, width, channels)
    six = [padded[:, :-1, row] for row in range(4)] + [padded[:, 1:, row] for row in range(2)]
    sums = [_weighted_sum(taps, six) for taps in _ROWS_IN]
    products = [
        _as_written(part, row, ((0, 0), (margin, margin)))
        for part, row in zip(sums, rows, strict=True)
    ]
    four = [_weighted_sum(taps, products) for taps in _ROWS_OUT]
    stacked = jnp.stack(four, axis=2)
    return stacked.reshape(count, 4 * fours, *stacked.shape[3:])[:, :rows_out]


def _weighted_sum(weights: Any, arrays: Any) -> Any:
    """Of arrays, or along the first axis of one; NumPy's stay NumPy's."""
    chosen = [w * x for w, x in zip(weights, arrays, strict=True) if w]
    return functools.reduce(operator.add, chosen)


def adjoint(kernel: Any) -> Any:
    """The kernel of the image gradient: flipped in space, input and output channels swapped.

    A view, of a NumPy array.
    """
    return kernel[::-1, ::-1].swapaxes(2, 3)


def convolve(images: jax.Array, kernel: jax.Array, *, padding: str = "SAME") -> jax.Array:
    """Stride-1 convolution (cross-correlation, as in every deep-learning library).

    Its image gradient is written out as an ordinary convolution of the cotangent with the adjoint
    kernel.  JAX's own gradient is the same sum, but swaps the kernel's dimension labels, and inside
    a compiled loop XLA:CPU then leaves its fast library: 4 times slower on jax 0.10 and 20 times
    on 0.12.  The price is reverse mode only: `jax.jvp` through it raises.

    Args:
      images: `(N, H, W, C_in)`, float.
      kernel: `(kH, kW, C_in, C_out)` of the same dtype; odd sides for `"SAME"`.
      padding: `"SAME"` (zeros) or `"VALID"`.

    Returns:
      `(N, H', W', C_out)`.

    Raises:
      ValueError: an even kernel with `"SAME"`, whose image gradient would be shifted.
    """
    if padding == "SAME" and not (kernel.shape[0] % 2 and kernel.shape[1] % 2):
        raise ValueError(f"padding 'SAME' needs odd kernel sides, got {kernel.shape[:2]}")
    return _convolve(images, kernel, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(images: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    return _plain(images, kernel, padding)


def _forward(
    images: jax.Array, kernel: jax.Array, padding: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(images, kernel, padding), (images, kernel)


def _backward(
    padding: str, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    full = [(side - 1, side - 1) for side in kernel.shape[:2]]
    image_gradient = _plain(cotangent, adjoint(kernel), "SAME" if padding == "SAME" else full)
    return image_gradient, _kernel_gradient(images, kernel, cotangent, padding)


def _kernel_gradient(
    images: jax.Array, kernel: jax.Array, cotangent: jax.Array, padding: str
) -> jax.Array:
    channels, outputs = kernel.shape[2:]
    if jax.default_backend() == "cpu":
        few = _is_large(kernel, padding) and outputs <= _FEW_CHANNELS < channels
        # Image by image, several devices would have to send them to one another.
        if few and jax.device_count() == 1:
            return swapped_kernel_gradient(images, kernel, cotangent)
        if kernel.shape[:2] == (2, 2) and kernel.dtype == jnp.bfloat16:
            return _tap_gradients(images, kernel, cotangent)
    _, kernel_vjp = jax.vjp(lambda kernel: _as_written(images, kernel, padding), kernel)
    (gradient,) = kernel_vjp(cotangent)
    return gradient


def _tap_gradients(images: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The kernel gradient of a `"VALID"` convolution, a matrix product for every tap.

    For the upsamplings in bfloat16, where oneDNN takes half the time of the convolution.
    """
    rows, columns = kernel.shape[:2]
    height, width = cotangent.shape[1:3]
    taps = [
        jnp.tensordot(images[:, y : y + height, x : x + width], cotangent, ((0, 1, 2), (0, 1, 2)))
        for y in range(rows)
        for x in range(columns)
    ]
    return jnp.stack(taps).reshape(kernel.shape)


def swapped_kernel_gradient(
    images: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """The kernel gradient of a `"VALID"` convolution with few outputs, of one image or more.

    It is a correlation of the images with the cotangent, as large as they are.  JAX slides the
    cotangent over the images, and the library computes as many numbers at once as there are
    outputs; sliding the images over the cotangent instead, as many as there are inputs, which was
    2.6 to 4.6 times faster for one image and for four, of 96 and of 256 pixels.
    """
    rows, columns = kernel.shape[:2]
    full = ((0, 0), (rows - 1, rows - 1), (columns - 1, columns - 1), (0, 0))
    padded = jnp.pad(cotangent, full)
    # One image after the other: four of 256x256 pixels at once take twice as long.
    flipped = sum(
        jax.lax.conv_general_dilated(
            padded[index, None],
            images[index, None],
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=jax.lax.ConvDimensionNumbers(
                lhs_spec=(3, 0, 1, 2), rhs_spec=(3, 0, 1, 2), out_spec=(2, 3, 0, 1)
            ),
        ).astype(jnp.float32)
        for index in range(len(images))
    )
    return adjoint(flipped).astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)


class Constant(NamedTuple):
    """A kernel that stays as it is while images change, in the form that is fastest then.

    Attributes:
      kernel: `(kH, kW, C_in, C_out)`, or its `row_kernels`.
      adjoint: the same of its adjoint, for the image gradient: XLA would flip the kernel anew in
        every iteration of a loop.
    """

    kernel: Any
    adjoint: Any


def constant(kernel: Any, *, dtype: Any = jnp.float32) -> Constant:
    """For `constant_convolve` of images of `dtype`; a kernel `(kH, kW, C_in, C_out)`, odd sides."""
    if _goes_by_rows(np.shape(kernel), dtype):
        return Constant(row_kernels(kernel), row_kernels(adjoint(kernel)))
    kernel = kernel.astype(dtype)
    return Constant(kernel, adjoint(kernel))


@jax.custom_vjp
def constant_convolve(images: jax.Array, kernel: Constant) -> jax.Array:
    """`convolve`, padding `"SAME"`, with a kernel whose gradient nobody asks for, and gets as zero.

    Args:
      images: `(N, H, W, C_in)`, of the dtype that the kernel was made for.
      kernel: `constant(kernel)`.

    Returns:
      `(N, H, W, C_out)`.

    Raises:
      ValueError: images of another dtype, where that matters.
    """
    return _in_its_form(images, kernel.kernel)


def _in_its_form(images: jax.Array, kernel: Any) -> jax.Array:
    return (
        row_convolve(images, kernel)
        if isinstance(kernel, tuple)
        else _plain(images, kernel, "SAME")
    )


def _constant_forward(images: jax.Array, kernel: Constant) -> tuple[jax.Array, Constant]:
    return _in_its_form(images, kernel.kernel), kernel


def _constant_backward(kernel: Constant, cotangent: jax.Array) -> tuple[jax.Array, Constant]:
    return _in_its_form(cotangent, kernel.adjoint), jax.tree.map(jnp.zeros_like, kernel)


constant_convolve.defvjp(_constant_forward, _constant_backward)


def _mirrored(images: jax.Array, margin: int) -> jax.Array:
    sides = (margin, margin)
    return jnp.pad(images, ((0, 0), sides, sides, (0, 0)), mode="reflect")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def reflect_pad(images: jax.Array, margin: int) -> jax.Array:
    """Mirrors the borders outwards: `(N, H, W, C) -> (N, H + 2 margin, W + 2 margin, C)`.

    Row -1 is row 1, the border itself is not repeated; sides must be larger than `margin`.
    JAX's own gradient adds each of the four margins in a pass over the whole image; here it takes
    two passes, and is 7 to 11 times faster for 32 channels of 256x256 pixels.
    """
    return _mirrored(images, margin)


def _reflect_forward(images: jax.Array, margin: int) -> tuple[jax.Array, jax.Array]:
    return _mirrored(images, margin), images


def _reflect_backward(margin: int, images: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    if min(images.shape[1:3]) < 2 * margin + 2:  # The two margins fall onto the same pixels.
        _, vjp = jax.vjp(functools.partial(_mirrored, margin=margin), images)
        return vjp(cotangent)
    for axis in (1, 2):
        cotangent = _fold_margins(cotangent, margin, axis)
    return (cotangent,)


def _fold_margins(padded: jax.Array, margin: int, axis: int) -> jax.Array:
    """What the margins along an axis hold, added to the pixels that they mirror."""
    # Margin, border, what it mirrors, the inside, what the other margin mirrors, border, margin.
    inside = padded.shape[axis] - 4 * margin - 2
    ends = np.cumsum([margin, 1, margin, inside, margin, 1])
    first, border, near, rest, far, other_border, last = jnp.split(padded, ends, axis)
    near += jnp.flip(first, axis)
    far += jnp.flip(last, axis)
    return jnp.concatenate([border, near, rest, far, other_border], axis)


reflect_pad.defvjp(_reflect_forward, _reflect_backward)


def strided_convolve(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution of which every `stride`-th position is computed, `"VALID"`."""
    return jax.lax.conv_general_dilated(
        images, kernel, window_strides=(stride, stride), padding="VALID", dimension_numbers=_LAYOUT
    )


# Which of the three taps of a kernel falls on which of two neighbouring positions, by the parity of
# the output position: `[parity, neighbour, tap]`.
_NEAREST_TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
_TRANSPOSED_TAPS = np.array([[[0, 1, 0], [0, 0, 0]], [[0, 0, 1], [1, 0, 0]]], np.float32)


def upsample_convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Doubles height and width by repeating pixels, pads by reflection, convolves 3x3.

    Computed at the lower resolution, where it is a 2x2 convolution for each of four phases, with
    4/9 of the products.  Reflecting the enlarged image is repeating the border of the small one.

    Args:
      images: `(N, H, W, C_in)`.
      kernel: `(3, 3, C_in, C_out)`.

    Returns:
      `(N, 2 H, 2 W, C_out)`.
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    phases = _phases(padded, kernel, _NEAREST_TAPS)
    return _interleave(
        [[phases[:, y : y + height, x : x + width, y, x] for x in (0, 1)] for y in (0, 1)]
    )


def transposed_convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 3x3 convolution of stride 2 that doubles height and width exactly.

    The adjoint of the stride-2 convolution with a padding of 1, and one more row and column at the
    end (PyTorch's `padding=1, output_padding=1`, with the kernel as it multiplies the outputs).
    As in `upsample_convolve`, a 2x2 convolution for each of four phases: the weight gradient of a
    convolution of a dilated image is 20 times slower than its forward pass.

    Args:
      images: `(N, H, W, C_in)`.
      kernel: `(3, 3, C_in, C_out)`; its tap (k, l) goes to output position (2 i - 1 + k,
        2 j - 1 + l).

    Returns:
      `(N, 2 H, 2 W, C_out)`.
    """
    padded = jnp.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    phases = _phases(padded, kernel, _TRANSPOSED_TAPS)
    return _interleave([[phases[..., y, x, :] for x in (0, 1)] for y in (0, 1)])


def subpixel_convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Doubles height and width: a 3x3 convolution, padded by reflection, gives four pixels each.

    The sub-pixel convolution of Shi et al. 2016.

    Args:
      images: `(N, H, W, C_in)`, sides of 2 or more.
      kernel: `(3, 3, C_in, 4 C_out)`, the output's channels of the four pixels one after the other:
        top left, top right, bottom left, bottom right.

    Returns:
      `(N, 2 H, 2 W, C_out)`.
    """
    padded = reflect_pad(images, 1)
    four = convolve(padded, kernel, padding="VALID")
    four = four.reshape(*four.shape[:-1], 2, 2, -1)
    return _interleave([[four[..., y, x, :] for x in (0, 1)] for y in (0, 1)])


def _phases(padded: jax.Array, kernel: jax.Array, taps: np.ndarray) -> jax.Array:
    """All four 2x2 convolutions as one: `(N, H, W, C) -> (N, H - 1, W - 1, 2, 2, C_out)`."""
    taps = taps.astype(kernel.dtype)
    folded = jnp.einsum(
        "psk,qtl,klio->stipqo", taps, taps, kernel, precision=jax.lax.Precision.HIGHEST
    )
    result = convolve(padded, folded.reshape(2, 2, kernel.shape[2], -1), padding="VALID")
    return result.reshape(*result.shape[:-1], 2, 2, kernel.shape[3])


def _interleave(phases: list[list[jax.Array]]) -> jax.Array:
    """Images `(N, H, W, C)` for even and odd rows and columns, to one `(N, 2 H, 2 W, C)`."""
    count, height, width, channels = phases[0][0].shape
    rows = [jnp.stack(row, axis=3) for row in phases]
    return jnp.stack(rows, axis=2).reshape(count, 2 * height, 2 * width, channels)


def _quarters(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The four positions of every 2x2 block; an odd last row or column is left out."""
    *_, height, width, channels = images.shape
    even = images[..., : height // 2 * 2, : width // 2 * 2, :]
    blocks = even.reshape(*images.shape[:-3], height // 2, 2, width // 2, 2, channels)
    return (
        blocks[..., :, 0, :, 0, :],
        blocks[..., :, 0, :, 1, :],
        blocks[..., :, 1, :, 0, :],
        blocks[..., :, 1, :, 1, :],
    )


@jax.custom_vjp
def max_pool(images: jax.Array) -> jax.Array:
    """2x2 max pooling with stride 2, `(..., H, W, C) -> (..., H // 2, W // 2, C)`.

    The maximum of four slices: `reduce_window` gives the same values, but its gradient is 30 times
    slower on a CPU.  Where several positions of a block tie, they share the gradient.

    Computed in float32, which changes nothing: on a CPU the maximum of two bfloat16 takes four
    times as long, and its gradient as well.
    """
    a, b, c, d = _quarters(images.astype(jnp.float32))
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d)).astype(images.dtype)


def _max_pool_forward(images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    pooled = max_pool(images)
    return pooled, (images, pooled)


def _max_pool_backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array]:
    images, pooled, shared = (x.astype(jnp.float32) for x in (*residuals, cotangent))
    shared = shared / sum((quarter == pooled).astype(jnp.float32) for quarter in _quarters(images))
    *batch, height, width, channels = pooled.shape

    def spread(values: jax.Array) -> jax.Array:
        return values[..., :, None, :, None, :]

    even = images[..., : 2 * height, : 2 * width, :]
    blocks = even.reshape(*batch, height, 2, width, 2, channels)
    gradient = jnp.where(blocks == spread(pooled), spread(shared), 0.0).reshape(even.shape)
    rows, columns = (images.shape[axis] - even.shape[axis] for axis in (-3, -2))
    gradient = jnp.pad(gradient, (*[(0, 0)] * len(batch), (0, rows), (0, columns), (0, 0)))
    return (gradient.astype(cotangent.dtype),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(images: jax.Array) -> jax.Array:
    """2x2 average pooling with stride 2, `(..., H, W, C) -> (..., H // 2, W // 2, C)`."""
    a, b, c, d = _quarters(images)
    return (a + b + c + d) * jnp.asarray(0.25, images.dtype)
