"""Upsampling convolutions: the values and gradients of what they stand for."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.ops import conv, upsample
from tests import reference
from tests.ops.cases import f32, plain
from tests.ops.compiled import (
    compiled_loop,
    swapped_convolutions,
)


def repeated_and_convolved(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`nearest_conv2d` as its docstring says it, at the higher resolution."""
    repeated = jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)
    padded = jnp.pad(repeated, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return plain(padded, kernel, "VALID")


def dilated_and_convolved(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`transposed_conv2d` as libraries do it: zeros between the pixels, kernel flipped."""
    return jax.lax.conv_general_dilated(
        images,
        kernel[::-1, ::-1],
        (1, 1),
        [(1, 2), (1, 2)],
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


SMALL_SIZES = ((1, 1), (5, 3))


UPSAMPLINGS = (
    (upsample.nearest_conv2d, repeated_and_convolved),
    (upsample.transposed_conv2d, dilated_and_convolved),
)


@pytest.mark.parametrize("size", SMALL_SIZES)
@pytest.mark.parametrize(("upsampling", "plain_form"), UPSAMPLINGS)
def test_upsamplings_have_the_values_and_gradients_of_their_plain_forms(
    upsampling: Callable[..., jax.Array],
    plain_form: Callable[..., jax.Array],
    size: tuple[int, int],
) -> None:
    generator = np.random.default_rng(6)
    images, kernel, cotangent = f32(
        generator.normal(size=(2, *size, 2)),
        generator.normal(size=(3, 3, 2, 4)),
        generator.normal(size=(2, 2 * size[0], 2 * size[1], 4)),
    )

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(form: Callable[..., jax.Array], cotangent: jax.Array) -> Any:
        result, vjp = jax.vjp(form, images, kernel)
        return result, *vjp(cotangent)

    found = value_and_gradients(upsampling, cotangent)
    expected = value_and_gradients(plain_form, cotangent)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)


class TestNearestConv2d:
    def test_of_one_row_by_hand(self) -> None:
        # [1 | 1 1 2 2 | 2] with its reflected border, and each output's left neighbour minus its
        # right one.
        image = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)
        kernel = jnp.zeros((3, 3, 1, 1)).at[1].set(jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1))
        result = upsample.nearest_conv2d(image, kernel)[0, ..., 0]
        np.testing.assert_array_equal(result, [[0, -1, -1, 0]] * 2)

    @pytest.mark.parametrize("size", SMALL_SIZES)
    def test_is_the_convolution_of_repeated_pixels(self, size: tuple[int, int]) -> None:
        generator = np.random.default_rng(7)
        images, kernel = generator.normal(size=(2, *size, 2)), generator.normal(size=(3, 3, 2, 4))
        repeated = images.repeat(2, axis=1).repeat(2, axis=2)
        padded = np.pad(repeated, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        result = jax.jit(upsample.nearest_conv2d)(*f32(images, kernel))
        expected = reference.convolve(padded, kernel, "VALID")
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)

    def test_has_the_kernel_gradient_in_bfloat16_too(self) -> None:
        generator = np.random.default_rng(0)
        case = f32(generator.normal(size=(2, 5, 6, 8)), generator.normal(size=(3, 3, 8, 4)))
        (cotangent,) = f32(generator.normal(size=(2, 10, 12, 4)))
        exact, rounded = (
            jax.vjp(upsample.nearest_conv2d, *(x.astype(dtype) for x in case))[1](
                cotangent.astype(dtype)
            )[1].astype(jnp.float32)
            for dtype in (jnp.float32, jnp.bfloat16)
        )
        # Products of numbers of 8 bits, and sums of them that are again rounded to 8 bits.
        largest = np.max(np.abs(exact))
        np.testing.assert_allclose(rounded, exact, atol=2**-7 * largest)
        assert np.max(np.abs(rounded - exact)) > 0

    def test_leaves_a_flat_image_flat(self) -> None:
        """No checkerboard, whatever the kernel, and no border."""
        (kernel,) = f32(np.random.default_rng(8).normal(size=(3, 3, 2, 4)))
        result = np.asarray(upsample.nearest_conv2d(jnp.ones((1, 4, 3, 2)), kernel))
        np.testing.assert_allclose(
            result, np.broadcast_to(result[0, 0, 0], result.shape), rtol=0, atol=1e-5
        )


class TestTransposedConv2d:
    def test_of_one_pixel_by_hand(self) -> None:
        """Its 3x3 patch begins one pixel before the image."""
        kernel = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
        result = upsample.transposed_conv2d(jnp.full((1, 1, 1, 1), 10.0), kernel)
        np.testing.assert_array_equal(result[0, ..., 0], [[50, 60], [80, 90]])

    @pytest.mark.parametrize("size", SMALL_SIZES)
    def test_is_the_adjoint_of_the_strided_convolution(self, size: tuple[int, int]) -> None:
        """`<T x, y> = <x, S y>`, S with a padding of 1, for any x and y."""
        generator = np.random.default_rng(9)
        x, kernel = generator.normal(size=(2, *size, 2)), generator.normal(size=(3, 3, 2, 4))
        y = generator.normal(size=(2, 2 * size[0], 2 * size[1], 4))
        back = reference.convolve(y, kernel.swapaxes(2, 3), "SAME")[:, ::2, ::2]
        ahead = jax.jit(upsample.transposed_conv2d)(*f32(x, kernel))
        np.testing.assert_allclose(np.vdot(ahead, y), np.vdot(x, back), rtol=1e-5, atol=1e-4)


class TestCompiledText:
    @pytest.mark.parametrize("upsampling", [upsampling for upsampling, _ in UPSAMPLINGS])
    def test_the_gradient_in_a_loop_swaps_no_kernel_labels(
        self, upsampling: Callable[..., jax.Array]
    ) -> None:
        text = compiled_loop(functools.partial(upsampling, conv2d=conv.conv2d_reverse), size=16)
        assert swapped_convolutions(text) == 0

    @pytest.mark.parametrize(("upsampling", "plain_form"), UPSAMPLINGS)
    def test_kernels_of_upsamplings_are_learnt_without_dilation(
        self, upsampling: Callable[..., jax.Array], plain_form: Callable[..., jax.Array]
    ) -> None:
        """A dilated image is full of zeros, which a weight gradient multiplies one by one."""

        def text_of(upsampling: Callable[..., jax.Array]) -> str:
            gradient = jax.grad(lambda kernel, x: jnp.sum(upsampling(x, kernel) ** 2))
            lowered = jax.jit(gradient).lower(jnp.zeros((3, 3, 64, 32)), jnp.zeros((1, 16, 16, 64)))
            return str(lowered.compile().as_text())

        assert "_dilate=" not in text_of(upsampling)
        if upsampling is upsample.transposed_conv2d:
            assert "_dilate=" in text_of(plain_form)  # It would be found out.
