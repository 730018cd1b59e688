"""Convolutions: the plain values and gradients, in forms that XLA keeps fast."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.ops import conv
from tests import reference
from tests.ops.cases import f32, plain, random_case
from tests.ops.compiled import (
    compiled_loop,
    flips_in_loop,
    outside_library,
    swapped_convolutions,
)

PADDINGS = ("SAME", "VALID")


SIDES = ((3, 3), (9, 9), (3, 5))


# Channels of a 3x3 kernel that a CPU convolves as it is written, and of one that goes by rows.
PLAIN_AND_WINOGRAD = (PLAIN := 48, 64)


class TestConv2dReverse:
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


class TestFrozenConv2d:
    @pytest.mark.parametrize(("inputs", "outputs"), [(2, 3), (64, 80)])
    @pytest.mark.parametrize("height", [1, 3, 4, 9, 16])
    def test_has_the_values_and_the_image_gradient_of_the_plain_form(
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
        by_winograd = inputs >= 64 and jax.default_backend() == "cpu"
        assert np.any(result != expected) == by_winograd
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

    def test_of_bfloat16_is_plain(self) -> None:
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
    def test_by_winograd_refuses_what_it_would_round(self) -> None:
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


class TestConv2d:
    @pytest.mark.parametrize("stride", [1, 2, 3])
    def test_takes_every_so_many_positions(self, stride: int) -> None:
        images, kernel = f32(*random_case((3, 5)))
        expected = reference.convolve(np.asarray(images), np.asarray(kernel), "VALID")
        result = conv.conv2d(images, kernel, stride=stride, padding="VALID")
        np.testing.assert_allclose(result, expected[:, ::stride, ::stride], rtol=1e-5, atol=2e-5)


class TestCompiledText:
    """Why the room exists: the image gradient stays on XLA's fast path inside a compiled loop."""

    @pytest.mark.parametrize("channels", PLAIN_AND_WINOGRAD)
    def test_the_gradient_in_a_loop_swaps_no_kernel_labels(self, channels: int) -> None:
        assert swapped_convolutions(compiled_loop(conv.conv2d_reverse, channels=channels)) == 0

    @pytest.mark.parametrize("channels", PLAIN_AND_WINOGRAD)
    def test_the_gradient_is_as_fast_as_the_forward_pass(self, channels: int) -> None:
        """Where the backend has a library for convolutions, it takes those of the gradient too."""
        forward_only = compiled_loop(conv.conv2d_reverse, channels=channels, steps=0)
        # Two convolutions forward, and two more for the gradient.
        both = compiled_loop(conv.conv2d_reverse, channels=channels)
        assert outside_library(both) <= 2 * outside_library(forward_only)

    def test_no_constant_kernel_is_flipped_or_copied_in_the_loop(self) -> None:
        assert flips_in_loop(compiled_loop(conv.conv2d_reverse, channels=PLAIN)) == 2
        text = compiled_loop(conv.frozen_conv2d, form=conv.freeze)
        assert flips_in_loop(text) == 0
        assert not re.search(r"= f32\[1,3,64,64\]\S* (fusion|copy|slice)\(.*/while/body/", text)

    def test_by_winograd_every_convolution_is_of_rows_and_the_librarys(self) -> None:
        text = compiled_loop(conv.frozen_conv2d, form=conv.freeze)
        # Two convolutions and their two gradients, of six each.
        assert len(re.findall(r" convolution\(.*window={size=1x3 ", text)) == 4 * 6
        assert len(re.findall(r" convolution\(", text)) == 4 * 6
        assert swapped_convolutions(text) == 0
        forward_only = compiled_loop(conv.frozen_conv2d, form=conv.freeze, steps=0)
        assert outside_library(text) <= 2 * outside_library(forward_only)

    def test_the_plain_form_would_be_found_out(self) -> None:
        """The detectors detect: both image gradients of the plain form are slow."""
        text = compiled_loop(plain, channels=PLAIN)
        assert swapped_convolutions(text) == 2
        assert outside_library(text) >= 2
