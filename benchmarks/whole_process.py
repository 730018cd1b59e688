"""Runs a program as a process of its own and measures it from its start to its exit.

The program is started by a small interpreter in between, this file: the kernel counts what a
parent holds when it starts a child towards the child's peak memory.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Measured(NamedTuple):
    """`began` is the time of day; `seconds` are until the exit; `peak_bytes` is resident memory."""

    began: float
    seconds: float
    peak_bytes: int


def own_peak_bytes() -> int:
    """The peak of this process's resident memory so far, as Linux tells it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def run(command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str]) -> Measured:
    """Runs a program whose output goes to the file `log`.

    Raises:
      RuntimeError: the program failed; the message ends with the last lines of its output.
    """
    between = [sys.executable, "-I", "-S", __file__, str(log), *map(str, command)]
    result = subprocess.run(between, env=environment, stdout=subprocess.PIPE, check=True)
    measured = json.loads(result.stdout)
    if measured.pop("status"):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        program = " ".join(map(str, command))
        raise RuntimeError("\n".join([f"this failed: {program}", *lines[-20:]]))
    return Measured(**measured)


def environment(cache: Path) -> dict[str, str]:
    """The environment in which our program keeps what it has compiled in a folder."""
    found = {**os.environ, "PERCEPTUAL_JAX_CACHE": str(cache)}
    for name in ("JAX_COMPILATION_CACHE_DIR", "PERCEPTUAL_JAX_COMPILATION_CACHE"):
        found.pop(name, None)
    return found


def _measure(log: str, *command: str) -> dict[str, float]:
    with Path(log).open("wb") as output:
        began = time.time()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.time() - began
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = usage.ru_maxrss * unit
    return {"status": status, "began": began, "seconds": seconds, "peak_bytes": peak_bytes}


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:])))
