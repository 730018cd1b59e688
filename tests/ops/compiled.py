"""Reads the text of compiled programs: which convolutions are in it, and in which form."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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
