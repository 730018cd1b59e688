"""How much memory optimising pixels takes, estimated before it is compiled; and releasing it."""

import contextlib
import ctypes

import jax

from perceptual_jax import vgg
from perceptual_jax.objective import Objective
from perceptual_jax.synthesis.step import Optimizer

# How many times the bytes of the activations are live at once.  The gradient needs all of them, and
# beside them a cotangent and what the widest layer needs for both directions.  From XLA's own
# account, `memory_analysis()`, on jax 0.10 and 0.12; a test compares.
_LIVE = 1.6

# How many times L-BFGS's vectors are there: XLA before jax 0.11 copies them in every iteration, in
# part while little else is live.
_RINGS = 1.0 if jax.__version_info__ >= (0, 11) else 1.6

# The interpreter, the compiler and the program: 340 MB at 256x170 pixels, more where it is large.
_PROGRAM_BYTES = 450e6


def synthesis_bytes(
    objective: Objective,
    params: vgg.Params,
    height_width: tuple[int, int],
    *,
    optimizer: Optimizer,
    images: int = 1,
) -> int:
    """Peak memory of optimising `images` pictures of `height_width` side by side, in bytes.

    The VGG parameters are taken as they will be held: see `vgg.freeze`.
    """
    height, width = height_width
    names = vgg.layer_names(params)
    deepest = max((names.index(layer) for layer in objective.layers), default=0)
    positions = sum(
        len(params[name]["bias"]) / vgg.stride(name) ** 2
        for name in names[: deepest + 1]
        if name.startswith("conv")
    )
    bytes_per_value = 2 if objective.dtype == "bfloat16" else 4
    activations = _LIVE * positions * bytes_per_value * height * width
    remembered = optimizer.memory if optimizer.optimizer == "lbfgs" else 0
    # Beside what L-BFGS remembers, some ten arrays more.
    pixels = 4 * 3 * height * width * (_RINGS * 2 * remembered + 10)
    weights = sum(4 * array.size for array in jax.tree.leaves(params))
    return int(images * (activations + pixels) + weights + _PROGRAM_BYTES)


def release() -> None:
    """Gives freed memory back to the system; glibc would keep much of it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # No glibc.
        ctypes.CDLL(None).malloc_trim(0)
