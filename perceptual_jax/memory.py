"""How much memory optimising pixels takes, before it is compiled; what there is; giving it back."""

import contextlib
import ctypes
import math
import os
from pathlib import Path

import jax

from perceptual_jax import vgg
from perceptual_jax.errors import UserError
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
      params: VGG parameters, as they will be held: see `vgg.constant`.
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


def check(
    objective: Objective,
    params: vgg.Params,
    height_width: tuple[int, int],
    *,
    memory: int,
    images: int = 1,
) -> None:
    """Refuses, as a `UserError` that names the largest size, a picture that will not fit."""
    available = available_bytes()
    if available is None:
        return
    needed = synthesis_bytes(objective, params, height_width, memory=memory, images=images)
    fixed = synthesis_bytes(objective, params, (0, 0), memory=memory)
    if needed <= available:
        return
    scale = math.sqrt(max(0.0, available - fixed) / (needed - fixed))
    # A pixel less, because both sides are rounded.
    largest = int(max(height_width) * scale) - 1
    advice = "no size fits" if largest < 1 else f"--image_size={largest} is the largest that fits"
    raise UserError(
        f"{height_width[1]}x{height_width[0]} needs about {needed / 1e9:.1f} GB of memory, and "
        f"{available / 1e9:.1f} GB are free: {advice} "
        "(--nocheck_memory tries all the same)"
    )


def check_picture(height_width: tuple[int, int]) -> None:
    """Refuses, as a `UserError`, a picture that does not fit into memory as it is stylised."""
    available = _host_bytes()
    # Its pixels as float32 five times over, as read, made and written: a stylised picture of 24
    # megapixels takes 1.9 GB in all, one of 43 takes 3.0, of which 0.45 go to the program.
    needed = 5 * 4 * 3 * math.prod(height_width)
    if available is not None and needed > available:
        raise UserError(
            f"{height_width[1]}x{height_width[0]} needs {needed / 1e9:.1f} GB of memory for the "
            f"picture alone, and {available / 1e9:.1f} GB are free: lower --image_size"
        )


def keep() -> None:
    """Keeps memory that is freed for what is computed next, from now on, where there is glibc.

    glibc gives large blocks back to the system, which clears every page anew for the next step:
    a sixth of the time of a training step on a CPU. Call it before JAX has begun its threads,
    which keep to the pools of memory that they find then. `release` still gives back.
    """
    arenas, mapped_blocks, trim_threshold = -8, -4, -1  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(arenas, 1)
        glibc.mallopt(mapped_blocks, 0)
        glibc.mallopt(trim_threshold, 2**31 - 1)


def release() -> None:
    """Gives memory that was freed back to the system, of which glibc else keeps much."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # No glibc.
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes() -> int | None:
    """Memory that a program started now can use: the accelerator's, or this machine's.

    None where it cannot be known.
    """
    device = jax.devices()[0]
    if device.platform != "cpu":
        statistics = device.memory_stats() or {}
        limit = statistics.get("bytes_limit")
        return None if limit is None else limit - statistics.get("bytes_in_use", 0)
    return _host_bytes()


def _host_bytes() -> int | None:
    candidates = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                candidates.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        candidates.append(limit - used)
    if not candidates:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            candidates.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(candidates, default=None)
