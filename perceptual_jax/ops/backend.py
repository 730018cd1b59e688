"""What differs between versions of XLA, and its options."""

import os
from pathlib import Path

import jax

# From 0.12 on (0.11 was not tried), XLA:CPU is fast and slow at other convolutions than before.
IS_NEW_XLA = jax.__version_info__ >= (0, 11)

# XLA's own convolutions in bfloat16 take as long as those in float32; oneDNN, which jaxlib brings,
# has some that use AMX, the matrix units of Intel's Xeons from 2023 on. jax 0.10 has the option
# too, and does nothing with it; a version that has no such option would end the program.
_ONEDNN = "--xla_cpu_experimental_onednn_custom_call=true"
_ONEDNN_VERSIONS = ((0, 12),)


def use_matrix_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Lets convolutions in bfloat16 use a CPU's matrix units, and says whether they will.

    For the whole process, and before JAX's first computation: XLA reads its options only once.
    What is compiled so cannot be kept in JAX's compilation cache.  `cpuinfo` is where Linux lists
    what the processor has.
    """
    try:
        has_units = " amx_bf16" in cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    if not has_units or jax.__version_info__[:2] not in _ONEDNN_VERSIONS:
        return False
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_ONEDNN}".strip()
    return True
