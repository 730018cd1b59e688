"""Checks of what comes from outside: images, and the settings of a dataclass."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# The slack lets images under optimisation pass, which stray a little out of [0, 1], and still
# catches [-1, 1], ImageNet-normalised and 0..255 images.
_LOWEST, _HIGHEST = -0.5, 1.5


def as_images(images: ArrayLike, *, channels: int | None = 3) -> jax.Array:
    """Images as a JAX array, `(..., H, W, channels)`, checked; None takes any number of channels.

    The values are looked at where they are known, which inside of `jax.jit` and the other
    transformations they are not; layout and dtype are looked at always.

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


def _check_range(images: Any) -> None:
    # Where the array is: two numbers come back from the device, and not the array.
    # A trace that is under way, of a function that closes over the images, stays out of it.
    with jax.ensure_compile_time_eval():
        low, high = float(images.min()), float(images.max())
    if not (low >= _LOWEST and high <= _HIGHEST):  # NaN included
        raise ValueError(
            f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}: pass "
            "images / 255 for 0..255, (images + 1) / 2 for -1..1; the normalisation to the "
            "network's mean and standard deviation is done here."
        )


def setting(text: str, *, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """A dataclass's field with its limits, `choices` or `least`, and its help text, or `""`."""
    return dataclasses.field(default=default, metadata={"help": text, **limits} if text else limits)


def check_settings(config: Any) -> None:
    """Raises `ValueError` unless every field of a dataclass is within its limits, or None."""
    for field in dataclasses.fields(config):
        value, limits = getattr(config, field.name), field.metadata
        if "choices" in limits and value not in limits["choices"]:
            raise ValueError(f"{field.name} must be one of {limits['choices']}, got {value!r}")
        if "least" in limits and value is not None and not limits["least"] <= value < math.inf:
            kind = "a finite number of at least" if isinstance(value, float) else "at least"
            raise ValueError(f"{field.name} must be {kind} {limits['least']}, got {value}")


def check_large_enough(height: Any, width: Any, needed: int, layers: Sequence[str]) -> None:
    """Raises `ValueError` unless images have a position at all of these layers."""
    if any(side < needed for side in (height, width)):
        raise ValueError(
            f"images of {height}x{width} are too small for {', '.join(layers)}: "
            f"both sides need at least {needed} pixels"
        )
