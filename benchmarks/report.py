"""What every benchmark says of the machine, and where it leaves what it found."""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Part(NamedTuple):
    """What a part of a benchmark found: for people, and for programs."""

    table: str
    results: Any


def integers(text: str) -> list[int]:
    """The value of a flag that takes numbers with commas, for argparse."""
    return [int(part) for part in text.split(",")]


def some_of(parts: Iterable[str]) -> Callable[[str], list[str]]:
    """What reads a flag that takes some of these names with commas, for argparse."""
    known = list(parts)

    def chosen(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(sorted(unknown))}, only {', '.join(known)}"
            )
        return names

    return chosen


# A program that tells what the peer runs on, of which ONNX Runtime may be missing.
_VERSIONS = """
import importlib.util, json, platform, torch
found = {"python_of_torch": platform.python_version(), "torch": torch.__version__}
if importlib.util.find_spec("onnxruntime"):
    import onnxruntime
    found["onnxruntime"] = onnxruntime.__version__
print(json.dumps(found))
"""


def machine(torch_python: str | None = None) -> dict[str, Any]:
    """What the measurements were made on, and with; `torch_python` is that of the peer."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    found = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
    }
    if torch_python:
        try:
            answer = subprocess.run(
                [torch_python, "-c", _VERSIONS], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            raise SystemExit(
                f"--torch-python={torch_python}: no Python that has torch; see benchmarks/README.md"
            ) from None
        found |= json.loads(answer.stdout)
    return found


def heading(where: dict[str, Any]) -> str:
    """The same in a line."""
    line = f"{where['cpu']}, {where['cores']} cores; jax {where['jax']} on Python {where['python']}"
    if "torch" in where:
        line += f", torch {where['torch']} on Python {where['python_of_torch']}"
    if "onnxruntime" in where:
        line += f", onnxruntime {where['onnxruntime']}"
    return line


def publish(
    folder: Path, name: str, part: Part, *, where: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Prints the table, and leaves it in `table.md` and all that was measured in `results.json`."""
    table = f"{heading(where)}. {part.table}\n"
    record = {"machine": where, "settings": settings, name: part.results}
    print(table, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(table, encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(record, default=str), encoding="utf-8")
