"""How fast the forms in `perceptual_jax.convolution` are, beside the plain ones.

    python benchmarks/convolution.py
    python benchmarks/convolution.py --dtype=bfloat16

What XLA computes fast changes with its version: a form stays as long as it wins, or does no harm,
on the oldest and on the newest supported jax.  With bfloat16 the forms are in bfloat16, with the
processor's matrix units if it has some, and the plain ones stay in float32.  Takes about half a
minute.
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout that this is in.

from perceptual_jax.ops import backend, conv, pad, pool

REPEATS = 7
# What is slow is not repeated: its time is in seconds, and needs no care.
MOST_SECONDS = 1.5
ITERATIONS = 3


def milliseconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Of one call of the compiled function, the best of a few."""
    compiled = jax.jit(function).lower(*arguments).compile()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
        if sum(times) > MOST_SECONDS:
            break
    return 1e3 * min(times)


def plain(images: jax.Array, kernel: jax.Array, padding: str = "SAME") -> jax.Array:
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def reduce_window_max(images: jax.Array) -> jax.Array:
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, window, window, "VALID")


def image_gradient(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Of half the squared result, so that the forward pass is needed too."""
    return jax.grad(lambda images, *rest: 0.5 * jnp.sum(function(images, *rest) ** 2))


def mirrored(images: jax.Array, margin: int) -> jax.Array:
    sides = (margin, margin)
    return jnp.pad(images, ((0, 0), sides, sides, (0, 0)), mode="reflect")


def kernel_gradient(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Of half the squared result, so that the forward pass is needed too."""
    return jax.grad(lambda images, kernel: 0.5 * jnp.sum(function(images, kernel) ** 2), argnums=1)


def in_loop(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A few steps along the image gradient, compiled as one loop."""
    gradient = image_gradient(function)

    def steps(images: jax.Array, *rest: jax.Array) -> jax.Array:
        def step(_: Any, images: jax.Array) -> jax.Array:
            return images - 1e-6 * gradient(images, *rest)

        return jax.lax.fori_loop(0, ITERATIONS, step, images)

    return steps


def line(
    form: str,
    before: Callable[..., Any],
    after: Callable[..., Any],
    *arguments: jax.Array,
    dtype: str,
) -> None:
    """Prints the plain form of float32 beside ours of `dtype`, of the same numbers."""
    plainly = milliseconds(before, *arguments)
    here = milliseconds(after, *(array.astype(dtype) for array in arguments))
    print(f"| {form} | {plainly:.1f} | {here:.1f} | {plainly / here:.2f} |", flush=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of our forms")
    add(
        "--matrix-units",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="those of the processor, for bfloat16, where it has some",
    )
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse(sys.argv[1:])
    dtype = arguments.dtype
    wanted = dtype == "bfloat16" and arguments.matrix_units
    units = "with" if wanted and backend.use_matrix_units() else "without"
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {device}, {os.cpu_count()} cores, {units} matrix units\n")
    print(f"| form, ms | plain, float32 | here, {dtype} | times faster |\n|---|---|---|---|")
    compare = functools.partial(line, dtype=dtype)
    for side, channels in ((256, 64), (128, 128), (32, 512)):
        keys = jax.random.split(jax.random.key(0))
        images = jax.random.normal(keys[0], (1, side, side, channels))
        kernel = jax.random.normal(keys[1], (3, 3, channels, channels)) / (3 * channels**0.5)
        constant = conv.freeze(kernel, dtype=dtype)

        def with_constant(images: jax.Array, _: Any, constant: Any = constant) -> jax.Array:
            return conv.frozen_conv2d(images, constant)

        what = f"3x3, {channels} channels at {side}x{side}"
        both = (images, kernel)
        compare(f"{what}: forward", plain, conv.conv2d_reverse, *both)
        compare(f"{what}: forward, kernel constant", plain, with_constant, *both)
        gradients = image_gradient(plain), image_gradient(conv.conv2d_reverse)
        compare(f"{what}: image gradient", *gradients, *both)
        gradients = kernel_gradient(plain), kernel_gradient(conv.conv2d_reverse)
        compare(f"{what}: kernel gradient", *gradients, *both)
        loops = in_loop(plain), in_loop(conv.conv2d_reverse)
        compare(f"{what}: {ITERATIONS} image gradients in a loop", *loops, *both)
        loops = in_loop(plain), in_loop(with_constant)
        compare(f"{what}: the same, kernel constant", *loops, *both)
    valid: dict[str, Any] = {"padding": "VALID"}
    forms = functools.partial(plain, **valid), functools.partial(conv.conv2d_reverse, **valid)
    for inputs, outputs in ((3, 32), (32, 3), (64, 3)):
        keys = jax.random.split(jax.random.key(0))
        images = jax.random.normal(keys[0], (1, 520, 520, inputs))
        kernel = jax.random.normal(keys[1], (9, 9, inputs, outputs)) / (9 * inputs**0.5)
        what = f"9x9, {inputs} to {outputs} channels at 512x512, unpadded"
        compare(f"{what}: forward", *forms, images, kernel)
        gradients = kernel_gradient(forms[0]), kernel_gradient(forms[1])
        compare(f"{what}: kernel gradient", *gradients, images, kernel)
    for side, channels, margin in ((256, 32, 4), (256, 32, 1), (64, 128, 1)):
        images = jax.random.normal(jax.random.key(0), (1, side, side, channels))
        compare(
            f"reflection of {margin}, {channels} channels at {side}x{side}: gradient",
            image_gradient(functools.partial(mirrored, margin=margin)),
            image_gradient(lambda x, margin=margin: pad.reflect_pad_reverse(x, margin)),
            images,
        )
    images = jax.nn.relu(jax.random.normal(jax.random.key(0), (1, 256, 256, 64)))
    what = "2x2 max pooling, 64 channels at 256x256"
    compare(f"{what}: forward", reduce_window_max, pool.max_pool_reverse, images)
    gradients = image_gradient(reduce_window_max), image_gradient(pool.max_pool_reverse)
    compare(f"{what}: gradient", *gradients, images)


if __name__ == "__main__":
    main()
