"""Memory: how much is free, refusing what will not fit, and the allocator's settings."""

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

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
    margin: int = 0,
    unless: str = " (--nocheck_memory tries all the same)",
) -> None:
    """Refuses, as a `UserError` that names the largest size, a picture that will not fit.

    `margin` is that of `synthesis.transfer`, by which the picture is larger while it is optimised;
    `unless` says how to try all the same.
    """
    available = available_bytes()
    if available is None:
        return
    height, width = (side + 2 * margin for side in height_width)
    needed = synthesis_bytes(objective, params, (height, width), optimizer=optimizer, images=images)
    if needed <= available:
        return
    fixed = synthesis_bytes(objective, params, (0, 0), optimizer=optimizer)
    scale = math.sqrt(max(0.0, available - fixed) / (needed - fixed))
    # A pixel less, because both sides are rounded.
    largest = int(max(height, width) * scale) - 2 * margin - 1
    advice = "no size fits" if largest < 1 else f"--image_size={largest} is the largest that fits"
    raise UserError(
        f"{height_width[1]}x{height_width[0]} needs about {needed / 1e9:.1f} GB of memory, and "
        f"{available / 1e9:.1f} GB are free: {advice}{unless}"
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
    """Memory that this process may still take: the least that the machine and every limit leave."""
    candidates = [
        *_free_of_machine(Path("/proc")),
        *_free_of_groups(Path("/proc"), Path("/sys/fs/cgroup")),
        *_free_of_limits(Path("/proc")),
    ]
    if not candidates:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            candidates.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return max(0, min(candidates)) if candidates else None


def _free_of_machine(proc: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _free_of_groups(proc: Path, mounts: Path) -> Iterator[int]:
    """What is left of the limit of each control group that holds this process, as of its parents.

    Args:
      proc: `self/cgroup` in it names the groups, `0::/path` for version 2 and `4:memory:/path` for
        version 1.
      mounts: where version 2 is mounted, or beneath it `unified` and, for version 1, `memory`.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                roots, names = [mounts / "memory"], ("limit_in_bytes", "usage_in_bytes", "total_")
            elif not controllers:
                roots, names = [mounts, mounts / "unified"], ("max", "current", "")
            else:
                continue
            limit, usage, prefix = names
            # In a container the path may be the host's, of which only the end is mounted, as root.
            group = PurePosixPath(path.lstrip("/"))
            for folder in [root / parent for root in roots for parent in (group, *group.parents)]:
                with contextlib.suppress(OSError, ValueError):
                    left = int((folder / f"memory.{limit}").read_text())
                    left -= int((folder / f"memory.{usage}").read_text())
                    # Copies of files that were read count as used, and are given up when needed.
                    for entry in (folder / "memory.stat").read_text().splitlines():
                        if entry.startswith(f"{prefix}inactive_file "):
                            left += int(entry.split()[1])
                    yield left


def _free_of_limits(proc: Path) -> Iterator[int]:
    """What `ulimit -v` and `ulimit -d` leave: of addresses, and of memory that is this process's.

    Args:
      proc: `self/statm` in it counts pages: of all addresses first, of data sixth.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = (proc / "self" / "statm").read_text(encoding="ascii").split()
        for kind, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
            limit, _ = resource.getrlimit(kind)
            if limit != resource.RLIM_INFINITY:
                yield limit - int(used) * resource.getpagesize()
