"""How much memory optimising pixels takes, before it is compiled; and giving it back."""

import contextlib
import ctypes

import jax

from perceptual_jax import vgg
from perceptual_jax.objective import Objective

# Of the activations' bytes: what is live at once in value and gradient.  The activations are kept
# for the gradient, and besides these stand a cotangent and what the widest layer needs for both
# directions.  From XLA's own account, `memory_analysis()`, on jax 0.10 and 0.12; a test compares.
_LIVE = 1.6

# Of what L-BFGS remembers: XLA before jax 0.11 copies it in every iteration, in part to where
# nothing else is then.
_RINGS = 1.0 if jax.__version_info__ >= (0, 11) else 1.6

# The interpreter, the compiler and the program: 340 MB at 256x170 pixels, more where it is large.
_PROGRAM_BYTES = 450e6


def synthesis_bytes(
    objective: Objective,
    params: vgg.Params,
    height_width: tuple[int, int],
    *,
    memory: int,
    images: int = 1,
) -> int:
    """Peak memory of optimising `images` pictures of `height_width` side by side, in bytes.

    Args:
      objective: its layers say how deep the network is computed.
      params: VGG parameters, as they will be held: see `vgg.freeze`.
      height_width: of each picture.
      memory: of L-BFGS; 0 for Adam.
      images: optimised at once.
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
    # Steps and changes of gradient, and some ten arrays more.
    pixels = 4 * 3 * height * width * (_RINGS * 2 * memory + 10)
    weights = sum(4 * array.size for array in jax.tree.leaves(params))
    return int(images * (activations + pixels) + weights + _PROGRAM_BYTES)


def release() -> None:
    """Gives memory that was freed back to the system, of which glibc else keeps much."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # No glibc.
        ctypes.CDLL(None).malloc_trim(0)
