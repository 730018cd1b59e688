"""Convolution (cross-correlation, as in every deep-learning library) in four forms.

`conv2d` is the plain one; `fast_conv2d` computes the same in the form that is fastest on the
platform; `conv2d_reverse` has fast gradients besides, for training; `frozen_conv2d` is for kernels
that stay as they are while images change.

The gradients are written out because XLA:CPU leaves its fast library for JAX's own inside a
compiled loop: JAX swaps the kernel's dimension labels, and an ordinary convolution of the cotangent
with the adjoint kernel is the same sum.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax.ops.backend import IS_NEW_XLA
from perceptual_jax.ops.winograd import (
    is_fast,
    is_fast_5x5,
    transform_kernel,
    winograd_conv2d,
    winograd_conv2d_5x5,
)

Padding = str | Sequence[tuple[int, int]]

# Of an image, of what a network's first layer takes and its last one gives.
_FEW_CHANNELS = 3


def conv2d(
    images: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding = "SAME"
) -> jax.Array:
    """Convolution as JAX has it: any mode of differentiation, any platform.

    Args:
      images: `(N, H, W, C_in)`, float.
      kernel: `(kH, kW, C_in, C_out)` of the same dtype.
      stride: of both axes.
      padding: `"SAME"` (zeros), `"VALID"`, or pixels before and after along each axis.

    Returns:
      `(N, H', W', C_out)`.
    """
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def fast_conv2d(images: jax.Array, kernel: jax.Array, *, padding: Padding = "SAME") -> jax.Array:
    """`conv2d` of stride 1, in the form that is fastest on the platform that it is lowered for."""
    on_cpu = _cpu_form(kernel.shape, images.dtype, padding)
    plain = functools.partial(conv2d, padding=padding)
    if on_cpu is None:
        return plain(images, kernel)
    return jax.lax.platform_dependent(images, kernel, cpu=on_cpu, default=plain)


def _cpu_form(shape: Sequence[int], dtype: Any, padding: Padding) -> Any:
    """A form faster than the plain one on a CPU, if there is one."""
    if is_fast(shape, dtype):
        margin = {"SAME": 1, "VALID": 0}[padding] if isinstance(padding, str) else padding[0][0]
        return lambda images, kernel: winograd_conv2d(images, transform_kernel(kernel), margin)
    if padding == "SAME" and is_fast_5x5(shape, dtype):
        return winograd_conv2d_5x5
    if _is_large(shape, padding):
        channels, outputs = shape[2:]
        if outputs <= _FEW_CHANNELS < channels and IS_NEW_XLA:
            return _padded_and_cut
        if channels == _FEW_CHANNELS < outputs and not IS_NEW_XLA:
            return _with_a_fourth_input
    return None


def _is_large(shape: Sequence[int], padding: Padding) -> bool:
    """Whether a kernel of this shape is of a network's first or last layer."""
    return padding == "VALID" and tuple(shape[:2]) == (9, 9)


def _padded_and_cut(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`"VALID"` with few outputs, which the new XLA computes slowly where it need not pad."""
    height, width = images.shape[1:3]
    return conv2d(images, kernel)[:, 4 : height - 4, 4 : width - 4]


def _with_a_fourth_input(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`"VALID"` with three inputs, for which the old XLA takes longer than for four."""
    last = ((0, 0), (0, 0), (0, 0), (0, 1))
    padded_kernel = jnp.pad(kernel, (*last[:2], last[3], last[2]))
    return conv2d(jnp.pad(images, last), padded_kernel, padding="VALID")


def adjoint(kernel: Any) -> Any:
    """The kernel of the image gradient: flipped in space, input and output channels swapped."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def conv2d_reverse(images: jax.Array, kernel: jax.Array, *, padding: str = "SAME") -> jax.Array:
    """`fast_conv2d` with gradients that are fast in a compiled loop; reverse mode only.

    Arguments as of `conv2d`, with `"SAME"` or `"VALID"` for the padding.

    Raises:
      ValueError: an even kernel with `"SAME"`, whose image gradient would be shifted.
    """
    if padding == "SAME" and not (kernel.shape[0] % 2 and kernel.shape[1] % 2):
        raise ValueError(f"padding 'SAME' needs odd kernel sides, got {kernel.shape[:2]}")
    return _conv2d_reverse(images, kernel, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d_reverse(images: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    return fast_conv2d(images, kernel, padding=padding)


def _forward(
    images: jax.Array, kernel: jax.Array, padding: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return fast_conv2d(images, kernel, padding=padding), (images, kernel)


def _backward(
    padding: str, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    full = [(side - 1, side - 1) for side in kernel.shape[:2]]
    image_gradient = fast_conv2d(
        cotangent, adjoint(kernel), padding="SAME" if padding == "SAME" else full
    )
    return image_gradient, _kernel_gradient(images, kernel, cotangent, padding)


_conv2d_reverse.defvjp(_forward, _backward)


def _kernel_gradient(
    images: jax.Array, kernel: jax.Array, cotangent: jax.Array, padding: str
) -> jax.Array:
    on_cpu = None
    channels, outputs = kernel.shape[2:]
    few = _is_large(kernel.shape, padding) and outputs <= _FEW_CHANNELS < channels
    # Image by image, several devices would have to send them to one another.
    if few and jax.device_count() == 1:
        on_cpu = swapped_kernel_gradient
    elif kernel.shape[:2] == (2, 2) and kernel.dtype == jnp.bfloat16:
        on_cpu = _tap_gradients

    def plain(images: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
        _, vjp = jax.vjp(lambda kernel: conv2d(images, kernel, padding=padding), kernel)
        (gradient,) = vjp(cotangent)
        return gradient

    if on_cpu is None:
        return plain(images, kernel, cotangent)
    return jax.lax.platform_dependent(images, kernel, cotangent, cpu=on_cpu, default=plain)


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
    outputs; sliding the images over the cotangent instead, it computes as many as there are inputs.
    """
    rows, columns = kernel.shape[:2]
    full = ((0, 0), (rows - 1, rows - 1), (columns - 1, columns - 1), (0, 0))
    padded = jnp.pad(cotangent, full)
    # One image after the other, which is faster than four at once.
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


class FrozenKernel(NamedTuple):
    """A kernel that stays as it is while images change, in the form that is fastest then.

    Attributes:
      kernel: `(kH, kW, C_in, C_out)`, or what `transform_kernel` makes of it.
      adjoint: the same of its adjoint, for the image gradient: XLA would flip the kernel anew in
        every iteration of a loop.
    """

    kernel: Any
    adjoint: Any


def freeze(kernel: Any, *, dtype: Any = jnp.float32) -> FrozenKernel:
    """A kernel `(kH, kW, C_in, C_out)`, odd sides, prepared for this process's default backend.

    `dtype` is that of the images that `frozen_conv2d` will get.
    """
    if jax.default_backend() == "cpu" and is_fast(np.shape(kernel), dtype):
        return FrozenKernel(transform_kernel(kernel), transform_kernel(adjoint(kernel)))
    kernel = kernel.astype(dtype)
    return FrozenKernel(kernel, adjoint(kernel))


@jax.custom_vjp
def frozen_conv2d(images: jax.Array, kernel: FrozenKernel) -> jax.Array:
    """`conv2d`, padding `"SAME"`; reverse mode only, and the kernel's gradient is zero.

    Raises:
      ValueError: images of another dtype than the kernel was frozen for, where that matters.
    """
    return _in_its_form(images, kernel.kernel)


def _in_its_form(images: jax.Array, kernel: Any) -> jax.Array:
    return winograd_conv2d(images, kernel) if isinstance(kernel, tuple) else conv2d(images, kernel)


def _frozen_forward(images: jax.Array, kernel: FrozenKernel) -> tuple[jax.Array, FrozenKernel]:
    return _in_its_form(images, kernel.kernel), kernel


def _frozen_backward(kernel: FrozenKernel, cotangent: jax.Array) -> tuple[jax.Array, FrozenKernel]:
    return _in_its_form(cotangent, kernel.adjoint), jax.tree.map(jnp.zeros_like, kernel)


frozen_conv2d.defvjp(_frozen_forward, _frozen_backward)
