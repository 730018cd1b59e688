"""Memory: how much is free, refusing what will not fit, and the allocator's settings."""

import contextlib
import ctypes
import math
import os
from pathlib import Path

import jax

from perceptual_jax import vgg
from perceptual_jax.cli.errors import UserError
from perceptual_jax.objective import Objective
from perceptual_jax.synthesis import Optimizer
from perceptual_jax.synthesis.memory import synthesis_bytes


def check(
    objective: Objective,
    params: vgg.Params,
    height_width: tuple[int, int],
    *,
    optimizer: Optimizer,
    images: int = 1,
) -> None:
    """Refuses, as a `UserError` that names the largest size, a picture that will not fit."""
    available = available_bytes()
    if available is None:
        return
    needed = synthesis_bytes(objective, params, height_width, optimizer=optimizer, images=images)
    if needed <= available:
        return
    fixed = synthesis_bytes(objective, params, (0, 0), optimizer=optimizer)
    scale = math.sqrt(max(0.0, available - fixed) / (needed - fixed))
    # A pixel less, because both sides are rounded.
    largest = int(max(height_width) * scale) - 1
    advice = "no size fits" if largest < 1 else f"--image_size={largest} is the largest that fits"
    raise UserError(
        f"{height_width[1]}x{height_width[0]} needs about {needed / 1e9:.1f} GB of memory, and "
        f"{available / 1e9:.1f} GB are free: {advice} (--nocheck_memory tries all the same)"
    )


def check_picture(height_width: tuple[int, int]) -> None:
    """Refuses, as a `UserError`, a picture that does not fit into memory as it is stylised."""
    available = _host_bytes()
    # Its pixels as float32 five times over, as read, made and written: stylised pictures of 24 and
    # 43 megapixels took 1.9 and 3.0 GB, of which 0.45 are the program's.
    needed = 5 * 4 * 3 * math.prod(height_width)
    if available is not None and needed > available:
        raise UserError(
            f"{height_width[1]}x{height_width[0]} needs {needed / 1e9:.1f} GB of memory for the "
            f"picture alone, and {available / 1e9:.1f} GB are free: lower --image_size"
        )


def keep() -> None:
    """Makes the allocator keep freed memory for what is computed next, where there is glibc.

    glibc otherwise gives large blocks back to the system, which clears every page again for the
    next training step. Call it before JAX starts its threads, because each of them chooses its pool
    of memory then. `synthesis.memory.release` still gives memory back.
    """
    arenas, mapped_blocks, trim_threshold = -8, -4, -1  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(arenas, 1)
        glibc.mallopt(mapped_blocks, 0)
        glibc.mallopt(trim_threshold, 2**31 - 1)


def available_bytes() -> int | None:
    """Memory that is free, of the accelerator or of this machine; None if that is not known."""
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
