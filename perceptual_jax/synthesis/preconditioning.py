"""The coordinates in which the pixels of an image are optimised.

A gradient step changes fine detail and large shapes alike, but the objective curves far less along
large shapes: with VGG's features of a photo, one at 0.01 cycles per pixel has a seventh of the
curvature of one at 0.14.  L-BFGS and Adam then spend most of their iterations on large shapes.  In
coordinates that move these three times as far they need fewer, for four small matrix products each
(docs/gatys.md compares the two; not in the papers).
"""

import jax
import jax.numpy as jnp
import numpy as np

# Found by experiment on three pairs of a photo and a painting, from the photo at 256 pixels: after
# 80 iterations, periods of 24 to 48 pixels and gains of 1 to 3 are within 5% of one another.
_PERIOD = 32
LOW_FREQUENCY_GAIN = 2.0


def precondition(
    coordinates: jax.Array, low_frequency_gain: float = LOW_FREQUENCY_GAIN
) -> jax.Array:
    """The change of an image that coordinates stand for: `K z = z + low_frequency_gain L z`.

    `L = U U^T / 32^2` keeps what varies over 32 pixels or more; U interpolates linearly between
    positions 32 pixels apart.  `K` is linear, symmetric and positive definite, so that it moves no
    optimum.

    Args:
      coordinates: `(H, W, C)`, in units of the image.
      low_frequency_gain: how much further large shapes move; 0 for the pixels themselves.
    """
    if low_frequency_gain == 0:
        return coordinates
    height, width = coordinates.shape[:2]
    rows, columns = (_interpolation(side).astype(coordinates.dtype) for side in (height, width))
    exact = jax.lax.Precision.HIGHEST
    coarse = jnp.einsum("hwc,hi,wj->ijc", coordinates, rows, columns, precision=exact)
    smooth = jnp.einsum("ijc,hi,wj->hwc", coarse, rows, columns, precision=exact)
    return coordinates + low_frequency_gain / _PERIOD**2 * smooth


def _interpolation(side: int) -> np.ndarray:
    """From positions at 0, 32, ... pixels to all pixels: `(side, positions)`, rows of sum 1."""
    pixels = np.arange(side)[:, None] + 0.5
    positions = _PERIOD * np.arange(-(-side // _PERIOD) + 1)
    return np.maximum(0.0, 1.0 - np.abs(pixels - positions) / _PERIOD)
