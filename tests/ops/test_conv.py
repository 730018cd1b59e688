"""What the convolution room promises: the plain values and gradients, in a form XLA keeps fast."""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.ops import backend, conv, pad, pool, upsample
from tests import reference

PADDINGS = ("SAME", "VALID")
SIDES = ((3, 3), (9, 9), (3, 5))
# Channels of a 3x3 kernel that a CPU convolves as it is written, and of one that goes by rows.
AS_WRITTEN_AND_BY_ROWS = (AS_WRITTEN := 48, 64)


def random_case(sides: tuple[int, int], *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two images and a kernel whose side is no symmetry of anything."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(2, 11, 10, 2)), generator.normal(size=(*sides, 2, 3))


def f32(*arrays: np.ndarray) -> list[jax.Array]:
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def plain(images: jax.Array, kernel: jax.Array, padding: str = "SAME", **_: Any) -> jax.Array:
    """The same convolution with JAX's own gradient."""
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class TestConvolve:
    def test_correlates_without_flipping_the_kernel(self) -> None:
        # By hand: the kernel's one entry looks at the pixel above and to the left.
        image = jnp.arange(1.0, 7.0).reshape(1, 2, 3, 1)  # [[1, 2, 3], [4, 5, 6]]
        kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0, 0, 0].set(10.0)
        moved = conv.conv2d_reverse(image, kernel)
        np.testing.assert_array_equal(moved[0, ..., 0], [[0, 0, 0], [0, 10, 20]])

    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("sides", SIDES)
    def test_is_the_sum_over_windows(self, sides: tuple[int, int], padding: str) -> None:
        images, kernel = random_case(sides)
        expected = reference.convolve(images, kernel, padding)
        result = conv.conv2d_reverse(*f32(images, kernel), padding=padding)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-5)

    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("sides", SIDES)
    def test_has_the_gradients_of_jax(self, sides: tuple[int, int], padding: str) -> None:
        images, kernel = f32(*random_case(sides))
        expected, expected_vjp = jax.vjp(lambda x, k: plain(x, k, padding), images, kernel)
        result, vjp = jax.vjp(
            lambda x, k: conv.conv2d_reverse(x, k, padding=padding), images, kernel
        )
        (cotangent,) = f32(np.random.default_rng(1).normal(size=result.shape))
        np.testing.assert_array_equal(result, expected)
        for gradient, of_jax in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
            np.testing.assert_allclose(gradient, of_jax, rtol=1e-5, atol=3e-5)

    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("height", [3, 9, 16])
    def test_of_many_channels_is_the_same_to_rounding(self, height: int, padding: str) -> None:
        """Which on a CPU goes by rows, whatever the height leaves when it is divided by four."""
        generator = np.random.default_rng(0)
        images, kernel = f32(
            generator.normal(size=(2, height, 7, 64)), generator.normal(size=(3, 3, 64, 80))
        )
        expected, expected_vjp = jax.vjp(lambda x, k: plain(x, k, padding), images, kernel)
        result, vjp = jax.vjp(
            lambda x, k: conv.conv2d_reverse(x, k, padding=padding), images, kernel
        )
        cotangent = jnp.cos(expected)
        # Sums of up to 720 products of numbers around 1, to 5e-6 of the largest of them.
        for ours, of_jax in zip(
            (result, *vjp(cotangent)), (expected, *expected_vjp(cotangent)), strict=True
        ):
            np.testing.assert_allclose(ours, of_jax, rtol=0, atol=5e-6 * np.abs(of_jax).max())

    @pytest.mark.parametrize(("inputs", "outputs"), [(16, 3), (3, 32)])
    def test_of_a_networks_first_and_last_layer_is_the_same(
        self, inputs: int, outputs: int
    ) -> None:
        """Which are computed in another form, depending on the version of jax."""
        generator = np.random.default_rng(0)
        images, kernel = f32(
            generator.normal(size=(2, 13, 14, inputs)),
            generator.normal(size=(9, 9, inputs, outputs)),
        )
        expected, expected_vjp = jax.vjp(lambda x, k: plain(x, k, "VALID"), images, kernel)
        result, vjp = jax.vjp(
            lambda x, k: conv.conv2d_reverse(x, k, padding="VALID"), images, kernel
        )
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-4)
        cotangent = jnp.cos(expected)
        for gradient, of_jax in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
            np.testing.assert_allclose(gradient, of_jax, rtol=1e-5, atol=2e-4)

    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_of_few_outputs_has_the_kernel_gradient_of_jax(self, count: int, dtype: Any) -> None:
        """In the form that one device takes; the tests have two."""
        generator = np.random.default_rng(1)
        images, kernel, cotangent = (
            jnp.asarray(array, dtype)
            for array in f32(
                generator.normal(size=(count, 13, 14, 16)),
                generator.normal(size=(9, 9, 16, 3)),
                generator.normal(size=(count, 5, 6, 3)),
            )
        )
        _, vjp = jax.vjp(
            lambda k: plain(images.astype(jnp.float32), k, "VALID"), kernel.astype(jnp.float32)
        )
        (expected,) = vjp(cotangent.astype(jnp.float32))
        found = conv.swapped_kernel_gradient(images, kernel, cotangent)
        assert found.dtype == dtype
        # Every image's sum is rounded to the 8 bits of bfloat16, and so is that of all.
        exact = dtype == jnp.float32
        rtol, atol = (1e-5, 1e-4) if exact else (2.0**-8, 2.0**-8 * np.max(np.abs(expected)))
        np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=rtol, atol=atol)

    @pytest.mark.parametrize("padding", PADDINGS)
    def test_has_the_gradients_of_finite_differences(self, padding: str) -> None:
        """A convolution is linear in either argument, so that central differences are exact."""
        images, kernel = random_case((3, 5), seed=2)
        cotangent = np.random.default_rng(3).normal(
            size=reference.convolve(images, kernel, padding).shape
        )

        def inner_product(images: np.ndarray, kernel: np.ndarray) -> float:
            return float(np.sum(cotangent * reference.convolve(images, kernel, padding)))

        def slope(argument: int, place: tuple[int, ...]) -> float:
            step = [np.zeros_like(images), np.zeros_like(kernel)]
            step[argument][place] = 0.5
            ahead = inner_product(images + step[0], kernel + step[1])
            return ahead - inner_product(images - step[0], kernel - step[1])

        _, vjp = jax.vjp(
            lambda x, k: conv.conv2d_reverse(x, k, padding=padding), *f32(images, kernel)
        )
        image_gradient, kernel_gradient = vjp(*f32(cotangent))
        # Corners, edges and the middle of the image; every entry of the kernel.
        for place in [(0, 0, 0, 0), (1, 10, 9, 1), (0, 0, 5, 1), (1, 6, 0, 0), (0, 5, 5, 1)]:
            np.testing.assert_allclose(image_gradient[place], slope(0, place), rtol=1e-4, atol=1e-5)
        for place in np.ndindex(kernel.shape):
            np.testing.assert_allclose(
                kernel_gradient[place], slope(1, place), rtol=1e-4, atol=1e-4
            )

    def test_valid_takes_even_kernels(self) -> None:
        images, kernel = f32(*random_case((2, 4)))
        gradients = jax.grad(lambda x, k: jnp.sum(conv.conv2d_reverse(x, k, padding="VALID") ** 2))
        expected = jax.grad(lambda x, k: jnp.sum(plain(x, k, "VALID") ** 2))
        np.testing.assert_allclose(
            gradients(images, kernel), expected(images, kernel), rtol=1e-4, atol=1e-3
        )

    def test_maps_over_images_and_kernels(self) -> None:
        images, kernel = f32(*random_case((3, 3)))
        stacked = jnp.stack([images, 2 * images])
        kernels = jnp.stack([kernel, -kernel])

        def gradients(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.grad(lambda x, k: jnp.sum(conv.conv2d_reverse(x, k) ** 2), argnums=(0, 1))(
                images, kernel
            )

        mapped = jax.vmap(gradients)(stacked, kernels)
        for index in range(2):
            alone = gradients(stacked[index], kernels[index])
            for of_all, of_one in zip(mapped, alone, strict=True):
                np.testing.assert_allclose(of_all[index], of_one, rtol=1e-4, atol=1e-3)

    def test_keeps_bfloat16(self) -> None:
        images, kernel = f32(*random_case((3, 3)))
        short_images, short_kernel = (x.astype(jnp.bfloat16) for x in (images, kernel))
        result, vjp = jax.vjp(conv.conv2d_reverse, short_images, short_kernel)
        gradients = vjp(jnp.ones_like(result))
        exact, exact_vjp = jax.vjp(conv.conv2d_reverse, images, kernel)
        for short, long in zip(
            (result, *gradients), (exact, *exact_vjp(jnp.ones_like(exact))), strict=True
        ):
            assert short.dtype == jnp.bfloat16
            # Eight bits of significand, and sums of up to 220 products.
            scale = float(jnp.max(jnp.abs(long)))
            np.testing.assert_allclose(short.astype(jnp.float32), long, atol=0.02 * scale)

    def test_is_reverse_mode_only(self) -> None:
        images, kernel = f32(*random_case((3, 3)))
        with pytest.raises(TypeError, match="custom_vjp"):
            jax.jvp(lambda x: conv.conv2d_reverse(x, kernel), (images,), (images,))


class TestConstantConvolve:
    @pytest.mark.parametrize(("inputs", "outputs"), [(2, 3), (64, 80)])
    @pytest.mark.parametrize("height", [1, 3, 4, 9, 16])
    def test_has_the_values_and_the_image_gradient_of_convolve(
        self, height: int, inputs: int, outputs: int
    ) -> None:
        """As written or by rows, whatever the height leaves when it is divided by four."""
        generator = np.random.default_rng(0)
        images, kernel = f32(
            generator.normal(size=(2, height, 7, inputs)),
            generator.normal(size=(3, 3, inputs, outputs)),
        )
        expected, expected_vjp = jax.vjp(lambda x: plain(x, kernel), images)
        constant = conv.freeze(kernel)
        result, vjp = jax.vjp(lambda x: conv.frozen_conv2d(x, constant), images)
        # Sums of up to 720 products of numbers around 1, to 5e-6 of the largest of them.
        np.testing.assert_allclose(result, expected, rtol=0, atol=5e-6 * np.abs(expected).max())
        by_rows = inputs >= 64 and jax.default_backend() == "cpu"
        assert np.any(result != expected) == by_rows
        cotangent = jnp.cos(expected)
        (gradient,), (of_jax,) = vjp(cotangent), expected_vjp(cotangent)
        np.testing.assert_allclose(gradient, of_jax, rtol=0, atol=5e-6 * np.abs(of_jax).max())

    def test_kernels_made_in_numpy_on_the_device_and_in_a_trace_are_the_same(self) -> None:
        kernel = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
        in_numpy = conv.freeze(kernel)
        for others in (
            conv.freeze(jnp.asarray(kernel)),
            jax.jit(conv.freeze)(kernel),
        ):
            for one, other in zip(jax.tree.leaves(in_numpy), jax.tree.leaves(others), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)

    def test_passes_nothing_on_to_the_kernel(self) -> None:
        images, kernel = f32(*random_case((3, 3)))
        gradient = jax.grad(lambda kernel: jnp.sum(conv.frozen_conv2d(images, kernel) ** 2))(
            conv.freeze(kernel)
        )
        for part in gradient:
            np.testing.assert_array_equal(part, np.zeros(part.shape))

    def test_of_bfloat16_is_as_written(self) -> None:
        generator = np.random.default_rng(0)
        images, kernel = (
            x.astype(jnp.bfloat16)
            for x in f32(
                generator.normal(size=(1, 9, 7, 64)), generator.normal(size=(3, 3, 64, 64))
            )
        )
        constant = conv.freeze(kernel, dtype=jnp.bfloat16)
        found = conv.frozen_conv2d(images, constant)
        np.testing.assert_array_equal(found, conv.conv2d_reverse(images, kernel))

    @pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere all are as written")
    def test_by_rows_refuses_what_it_would_round(self) -> None:
        constant = conv.freeze(np.ones((3, 3, 64, 64), np.float32))
        images = jnp.ones((1, 8, 8, 64), jnp.bfloat16)
        with pytest.raises(
            ValueError, match="only float32 is exact enough for Winograd's sums, got bfloat16"
        ):
            conv.frozen_conv2d(images, constant)


class TestAdjoint:
    def test_flips_space_and_swaps_channels(self) -> None:
        kernel = jnp.arange(2.0 * 2 * 1 * 2).reshape(2, 2, 1, 2)
        # By hand: entry [i, j, c, d] of the kernel is at [1 - i, 1 - j, d, c].
        np.testing.assert_array_equal(
            conv.adjoint(kernel), [[[[6], [7]], [[4], [5]]], [[[2], [3]], [[0], [1]]]]
        )

    def test_is_the_adjoint_operator(self) -> None:
        """`<K x, y> = <x, K* y>` for any x and y."""
        x, kernel = f32(*random_case((3, 5)))
        (y,) = f32(np.random.default_rng(4).normal(size=(2, 11, 10, 3)))
        ahead = jnp.vdot(conv.conv2d_reverse(x, kernel), y)
        back = jnp.vdot(x, conv.conv2d_reverse(y, conv.adjoint(kernel)))
        np.testing.assert_allclose(ahead, back, rtol=1e-4)


class TestStridedConvolve:
    @pytest.mark.parametrize("stride", [1, 2, 3])
    def test_takes_every_so_many_positions(self, stride: int) -> None:
        images, kernel = f32(*random_case((3, 5)))
        expected = reference.convolve(np.asarray(images), np.asarray(kernel), "VALID")
        result = conv.conv2d(images, kernel, stride=stride, padding="VALID")
        np.testing.assert_allclose(result, expected[:, ::stride, ::stride], rtol=1e-5, atol=2e-5)


class TestReflectPad:
    def test_mirrors_without_repeating_the_border(self) -> None:
        row = pad.reflect_pad_reverse(jnp.arange(3.0 * 3).reshape(1, 3, 3, 1), 1)[0, 0, :, 0]
        np.testing.assert_array_equal(row, [4, 3, 4, 5, 4])

    @pytest.mark.parametrize("size", [(5, 12), (9, 10), (16, 11)])
    @pytest.mark.parametrize("margin", [1, 4])
    def test_has_the_values_and_the_gradient_of_jax(
        self, size: tuple[int, int], margin: int
    ) -> None:
        """Also where the margins of both ends are of the same pixels."""
        (images,) = f32(np.random.default_rng(2).normal(size=(2, *size, 3)))
        sides = ((0, 0), (margin, margin), (margin, margin), (0, 0))
        expected, expected_vjp = jax.vjp(lambda x: jnp.pad(x, sides, mode="reflect"), images)
        result, vjp = jax.vjp(lambda x: pad.reflect_pad_reverse(x, margin), images)
        np.testing.assert_array_equal(result, expected)
        (ours,), (of_jax,) = vjp(jnp.cos(result)), expected_vjp(jnp.cos(result))
        np.testing.assert_allclose(ours, of_jax, rtol=1e-5, atol=1e-6)


def repeated_and_convolved(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`upsample_convolve` as its docstring says it, at the higher resolution."""
    repeated = jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)
    padded = jnp.pad(repeated, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return plain(padded, kernel, "VALID")


def dilated_and_convolved(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`transposed_convolve` as libraries do it: zeros between the pixels, kernel flipped."""
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


class TestUpsampleConvolve:
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


class TestTransposedConvolve:
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
    """Why the room exists: the image gradient stays on XLA's fast path inside a compiled loop."""

    @pytest.mark.parametrize("channels", AS_WRITTEN_AND_BY_ROWS)
    def test_the_gradient_in_a_loop_swaps_no_kernel_labels(self, channels: int) -> None:
        assert swapped_convolutions(compiled_loop(conv.conv2d_reverse, channels=channels)) == 0

    @pytest.mark.parametrize("channels", AS_WRITTEN_AND_BY_ROWS)
    def test_the_gradient_is_as_fast_as_the_forward_pass(self, channels: int) -> None:
        """Where the backend has a library for convolutions, it takes those of the gradient too."""
        forward_only = compiled_loop(conv.conv2d_reverse, channels=channels, steps=0)
        # Two convolutions forward, and two more for the gradient.
        both = compiled_loop(conv.conv2d_reverse, channels=channels)
        assert outside_library(both) <= 2 * outside_library(forward_only)

    def test_no_constant_kernel_is_flipped_or_copied_in_the_loop(self) -> None:
        assert flips_in_loop(compiled_loop(conv.conv2d_reverse, channels=AS_WRITTEN)) == 2
        text = compiled_loop(conv.frozen_conv2d, form=conv.freeze)
        assert flips_in_loop(text) == 0
        assert not re.search(r"= f32\[1,3,64,64\]\S* (fusion|copy|slice)\(.*/while/body/", text)

    def test_by_rows_every_convolution_is_of_rows_and_the_librarys(self) -> None:
        text = compiled_loop(conv.frozen_conv2d, form=conv.freeze)
        # Two convolutions and their two gradients, of six each.
        assert len(re.findall(r" convolution\(.*window={size=1x3 ", text)) == 4 * 6
        assert len(re.findall(r" convolution\(", text)) == 4 * 6
        assert swapped_convolutions(text) == 0
        forward_only = compiled_loop(conv.frozen_conv2d, form=conv.freeze, steps=0)
        assert outside_library(text) <= 2 * outside_library(forward_only)

    @pytest.mark.parametrize("upsampling", [upsampling for upsampling, _ in UPSAMPLINGS])
    def test_nor_does_that_of_upsamplings(self, upsampling: Callable[..., jax.Array]) -> None:
        text = compiled_loop(upsampling, size=16)
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

    def test_the_plain_form_would_be_found_out(self) -> None:
        """The detectors detect: both image gradients of the plain form are slow."""
        text = compiled_loop(plain, channels=AS_WRITTEN)
        assert swapped_convolutions(text) == 2
        assert outside_library(text) >= 2


def compiled_loop(
    convolve: Callable[..., jax.Array],
    *,
    form: Callable[[Any], Any] = jnp.asarray,
    steps: int = 5,
    size: int = 32,
    channels: int = 64,
) -> str:
    """The optimised program that descends the image gradient of two convolutions.

    `form` makes the kernels into what `convolve` takes, before the program.

    Without steps it is the forward pass alone.  The size is one that XLA:CPU hands to its library:
    smaller convolutions it computes itself.
    """

    def program(image: jax.Array, first: Any, second: Any) -> jax.Array:
        def two_layers(image: jax.Array) -> jax.Array:
            return convolve(jnp.tanh(convolve(image, first)), second)

        def step(_: Any, image: jax.Array) -> jax.Array:
            if steps:
                return image - 1e-3 * jax.grad(lambda x: jnp.sum(two_layers(x) ** 2))(image)
            return two_layers(image)

        return jax.lax.fori_loop(0, steps or 5, step, image)

    image = jnp.zeros((1, size, size, channels))
    kernel = form(np.zeros((3, 3, channels, channels), np.float32))
    text = jax.jit(program).lower(image, kernel, kernel).compile().as_text()
    assert text is not None
    return text


def swapped_convolutions(text: str) -> int:
    """How many convolutions read a kernel with input and output channels swapped."""
    return len(re.findall(r" convolution\(.*dim_labels=\w+_\d*oi\d*->", text))


def flips_in_loop(text: str) -> int:
    """How many arrays are reversed in every iteration; the instruction's name tells its place."""
    return len(re.findall(r" reverse\(.*/while/body/", text))


def outside_library(text: str) -> int:
    """How many convolutions are not the content of a fusion that a library computes.

    XLA:CPU wraps what it hands to its library into fusions of kind `kCustom`, and computes the
    other convolutions with its own loops.
    """
    library = set(re.findall(r"kind=kCustom, calls=(%[\w.-]+)", text))
    computation, count = "", 0
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?(%[\w.-]+) \(", line):
            computation = header[1]
        if " convolution(" in line and computation not in library:
            count += 1
    return count


class TestUseMatrixUnits:
    @pytest.fixture(autouse=True)
    def _options(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
        monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))

    def test_adds_to_the_options_of_xla(self, tmp_path: Path) -> None:
        assert backend.use_matrix_units(processor(tmp_path, "fma amx_bf16 amx_tile"))
        assert os.environ["XLA_FLAGS"] == (
            "--xla_dump_to=here --xla_cpu_experimental_onednn_custom_call=true"
        )

    def test_needs_a_processor_that_has_them(self, tmp_path: Path) -> None:
        assert not backend.use_matrix_units(processor(tmp_path, "fma avx512_bf16"))
        assert not backend.use_matrix_units(tmp_path / "not Linux")
        assert os.environ["XLA_FLAGS"] == "--xla_dump_to=here"

    @pytest.mark.parametrize("version", [(0, 10, 1), (0, 13, 0), (1, 0, 0)])
    def test_leaves_versions_alone_whose_options_are_not_known(
        self, version: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jax, "__version_info__", version)
        assert not backend.use_matrix_units(processor(tmp_path, "amx_bf16"))
        assert os.environ["XLA_FLAGS"] == "--xla_dump_to=here"


def processor(folder: Path, flags: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(f"model name\t: one\nflags\t\t: {flags}\n", encoding="utf-8")
    return file


def test_convolutions_in_bfloat16_use_matrix_units_where_there_are_some() -> None:
    """In a process of its own, since XLA reads its options once."""
    program = """
import jax
import jax.numpy as jnp
from perceptual_jax.ops import backend, conv, pad, pool, upsample, winograd

used = backend.use_matrix_units()
images, kernel = jnp.ones((1, 32, 32, 64), jnp.bfloat16), jnp.ones((3, 3, 64, 64), jnp.bfloat16)
text = jax.jit(conv.conv2d_reverse).lower(images, kernel).compile().as_text()
print(used, "onednn" in text)
"""
    command = [sys.executable, "-c", program]
    used, found = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert found == used


class TestMaxPool:
    def test_takes_the_maximum_of_blocks(self) -> None:
        image = jnp.array([[1.0, 2.0, -1.0, -2.0], [4.0, 3.0, -4.0, -3.0]])
        np.testing.assert_array_equal(
            pool.max_pool_reverse(image[:, :, None])[..., 0], [[4.0, -1.0]]
        )

    @pytest.mark.parametrize("shape", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 3)])
    def test_leaves_out_an_odd_last_row_and_column(self, shape: tuple[int, int]) -> None:
        images = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
        pooled = pool.max_pool_reverse(jnp.asarray(images))
        np.testing.assert_array_equal(pooled, reference.pool(images, "max"))

    def test_any_leading_axes(self) -> None:
        images = jnp.asarray(reference.random_images(2, 3, 5, 4, 2))
        pooled = pool.max_pool_reverse(images)
        assert pooled.shape == (2, 3, 2, 2, 2)
        np.testing.assert_array_equal(pooled[1, 2], pool.max_pool_reverse(images[1, 2]))

    def test_after_a_relu_its_gradient_is_that_of_a_window_reduction(self) -> None:
        (images,) = f32(np.random.default_rng(5).normal(size=(1, 7, 8, 3)))

        def reduce_window(x: jax.Array) -> jax.Array:
            window = (1, 2, 2, 1)
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")

        ours, theirs = (
            jax.grad(lambda x, pool=pool: jnp.sum(jnp.sin(pool(jax.nn.relu(x)))))(images)
            for pool in (pool.max_pool_reverse, reduce_window)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert np.count_nonzero(theirs) > 20

    @pytest.mark.parametrize(
        ("block", "shares"),
        [
            ([1.0, 3.0, 2.0, 0.0], [0, 1, 0, 0]),
            ([3.0, 3.0, 2.0, 0.0], [0.5, 0.5, 0, 0]),
            ([3.0, 2.0, 0.0, 3.0], [0.5, 0, 0, 0.5]),
            ([3.0, 3.0, 3.0, 3.0], [0.25, 0.25, 0.25, 0.25]),
        ],
    )
    def test_ties_share_the_gradient(self, block: list[float], shares: list[float]) -> None:
        image = jnp.array(block).reshape(2, 2, 1)
        gradient = jax.grad(lambda x: jnp.sum(pool.max_pool_reverse(x)))(image)
        np.testing.assert_array_equal(gradient.ravel(), shares)

    @pytest.mark.parametrize("value", [0.0, -1.0])
    def test_ties_of_a_relu_pass_nothing_on(self, value: float) -> None:
        image = jnp.full((2, 2, 1), value)
        gradient = jax.grad(lambda x: jnp.sum(pool.max_pool_reverse(jax.nn.relu(x))))(image)
        np.testing.assert_array_equal(gradient, np.zeros((2, 2, 1)))


class TestAveragePool:
    def test_takes_the_mean_of_blocks(self) -> None:
        image = jnp.array([[1.0, 2.0, -1.0, -2.0], [4.0, 3.0, -4.0, -3.0]])
        np.testing.assert_array_equal(pool.average_pool(image[:, :, None])[..., 0], [[2.5, -2.5]])

    @pytest.mark.parametrize("shape", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 3)])
    def test_leaves_out_an_odd_last_row_and_column(self, shape: tuple[int, int]) -> None:
        images = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
        pooled = pool.average_pool(jnp.asarray(images))
        np.testing.assert_allclose(pooled, reference.pool(images, "avg"), rtol=1e-5, atol=1e-6)

    def test_every_position_of_a_block_gets_a_quarter_of_the_gradient(self) -> None:
        gradient = jax.grad(lambda x: jnp.sum(pool.average_pool(x)))(jnp.ones((2, 3, 1)))
        np.testing.assert_array_equal(gradient[..., 0], [[0.25, 0.25, 0.0], [0.25, 0.25, 0.0]])


@pytest.mark.parametrize("pool", [pool.max_pool_reverse, pool.average_pool])
def test_pooling_keeps_bfloat16(pool: Callable[[jax.Array], jax.Array]) -> None:
    image = jnp.array([[1.0, 3.0], [5.0, 7.0]], jnp.bfloat16).reshape(2, 2, 1)
    assert pool(image).dtype == jnp.bfloat16
    assert float(pool(image)[0, 0, 0]) == {"max_pool": 7.0, "average_pool": 4.0}[pool.__name__]
