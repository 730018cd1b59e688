"""Small convolutions, and their plain form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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
