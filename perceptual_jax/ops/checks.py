"""What an array has to be to be taken for images: `(..., H, W, C)`, floating, in [0, 1]."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# The slack lets images under optimisation pass, which stray a little out of [0, 1], and still
# catches [-1, 1], ImageNet-normalised and 0..255 images.
_LOWEST, _HIGHEST = -0.5, 1.5


def as_images(images: ArrayLike, *, channels: int | None = 3) -> jax.Array:
    """Images as an array of JAX, checked.

    The values are looked at where they are known, which inside of `jax.jit` and the other
    transformations they are not; layout and dtype are looked at always.

    Args:
      images: JAX's or NumPy's.
      channels: of the last axis; None for any number.

    Returns:
      `(..., H, W, C)`, of the dtype that it had.

    Raises:
      ValueError: another layout, integers, or values outside of [0, 1]; says what to pass instead.
    """
    shape = jnp.shape(images)
    if len(shape) < 3 or (channels and shape[-1] != channels):
        hint = ""
        if len(shape) >= 3 and shape[-3] == channels:
            hint = " This looks like channels first: pass jnp.moveaxis(images, -3, -1)."
        raise ValueError(
            f"images must be (..., height, width, {channels or 'C'}), got shape {shape}.{hint}"
        )
    dtype = jnp.result_type(images)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"images must be floating point in [0, 1], got {dtype}: "
            "pass images.astype('float32') / 255 for 8-bit images."
        )
    if not isinstance(images, jax.core.Tracer) and 0 not in shape:
        _check_range(images)
    return jnp.asarray(images)


def _check_range(images: ArrayLike) -> None:
    # Where the array is: two numbers come back from the device, and not the array.
    # A trace that is under way, of a function that closes over the images, stays out of it.
    with jax.ensure_compile_time_eval():
        extremes = _extremes(images) if isinstance(images, jax.Array) else _numpy_extremes(images)
        low, high = map(float, extremes)
    if not (low >= _LOWEST and high <= _HIGHEST):  # NaN included
        raise ValueError(
            f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}: pass "
            "images / 255 for 0..255, (images + 1) / 2 for -1..1; the normalisation to the "
            "network's mean and standard deviation is done here."
        )


@jax.jit
def _extremes(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.min(images), jnp.max(images)


def _numpy_extremes(images: Any) -> tuple[Any, Any]:
    array = np.asarray(images)
    return array.min(), array.max()
