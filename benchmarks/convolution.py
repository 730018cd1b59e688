"""How fast the forms in `perceptual_jax.convolution` are, beside the plain ones.

    python benchmarks/convolution.py

What XLA computes fast changes with its version: a form stays as long as it wins, or does no harm,
on the oldest and on the newest supported jax.  Takes about half a minute.
"""

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout that this is in.

from perceptual_jax import convolution

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


def ours(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolution.convolve(images, kernel)


def ours_constant(images: jax.Array, kernel: convolution.Constant) -> jax.Array:
    return convolution.constant_convolve(images, kernel)


def line(form: str, before: float, after: float) -> None:
    print(f"| {form} | {before:.1f} | {after:.1f} | {before / after:.2f} |", flush=True)


def main() -> None:
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores\n")
    print("| form, float32, ms | plain | here | times faster |\n|---|---|---|---|")
    for side, channels in ((256, 64), (128, 128), (32, 512)):
        keys = jax.random.split(jax.random.key(0))
        images = jax.random.normal(keys[0], (1, side, side, channels))
        kernel = jax.random.normal(keys[1], (3, 3, channels, channels)) / (3 * channels**0.5)
        constant = convolution.constant(kernel)
        what = f"3x3, {channels} channels at {side}x{side}"
        line(
            f"{what}: forward",
            milliseconds(plain, images, kernel),
            milliseconds(ours, images, kernel),
        )
        line(
            f"{what}: image gradient",
            milliseconds(image_gradient(plain), images, kernel),
            milliseconds(image_gradient(ours), images, kernel),
        )
        in_plain_loop = milliseconds(in_loop(plain), images, kernel)
        in_our_loop = milliseconds(in_loop(ours), images, kernel)
        in_constant_loop = milliseconds(in_loop(ours_constant), images, constant)
        line(f"{what}: {ITERATIONS} image gradients in a loop", in_plain_loop, in_our_loop)
        line(f"{what}: the same, kernel constant", in_plain_loop, in_constant_loop)
    valid: dict[str, Any] = {"padding": "VALID"}
    for inputs, outputs in ((3, 32), (32, 3), (64, 3)):
        keys = jax.random.split(jax.random.key(0))
        images = jax.random.normal(keys[0], (1, 520, 520, inputs))
        kernel = jax.random.normal(keys[1], (9, 9, inputs, outputs)) / (9 * inputs**0.5)
        line(
            f"9x9, {inputs} to {outputs} channels at 512x512, unpadded: forward",
            milliseconds(functools.partial(plain, **valid), images, kernel),
            milliseconds(functools.partial(convolution.convolve, **valid), images, kernel),
        )
        line(
            f"9x9, {inputs} to {outputs} channels at 512x512, unpadded: kernel gradient",
            milliseconds(kernel_gradient(functools.partial(plain, **valid)), images, kernel),
            milliseconds(
                kernel_gradient(functools.partial(convolution.convolve, **valid)), images, kernel
            ),
        )
    for side, channels, margin in ((256, 32, 4), (256, 32, 1), (64, 128, 1)):
        images = jax.random.normal(jax.random.key(0), (1, side, side, channels))
        line(
            f"reflection of {margin}, {channels} channels at {side}x{side}: gradient",
            milliseconds(image_gradient(functools.partial(mirrored, margin=margin)), images),
            milliseconds(
                image_gradient(lambda x, margin=margin: convolution.reflect_pad(x, margin)), images
            ),
        )
    images = jax.nn.relu(jax.random.normal(jax.random.key(0), (1, 256, 256, 64)))
    what = "2x2 max pooling, 64 channels at 256x256"
    line(
        f"{what}: forward",
        milliseconds(reduce_window_max, images),
        milliseconds(convolution.max_pool, images),
    )
    line(
        f"{what}: gradient",
        milliseconds(image_gradient(reduce_window_max), images),
        milliseconds(image_gradient(convolution.max_pool), images),
    )


if __name__ == "__main__":
    main()
