"""Trains the networks that ship, from a folder of photos, within a budget of time.

    python weights/train_networks.py --data=PHOTOS --minutes=90 --workdir=runs/shipped

How many steps fit into the budget is measured at the beginning and written to `plan.json` in the
workdir; started again, on the same machine or with the folder on another, it goes on by that plan,
exactly where it was.  Small crops come first: early on, a network learns more from many steps than
from many pixels.  The finished networks are put into `weights/networks/`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
STYLES = (
    "composition_viii,moulin_de_la_galette,starry_night,summertime,the_kiss,village_street,wave"
)

# Steps of which the pace is measured: the first reports hold the compilation.
_TRIAL_STEPS = 60


class Phase(NamedTuple):
    """One training run; its network is where the next one begins."""

    name: str
    share: float
    flags: dict[str, str]


# Batches and crops for a CPU; an accelerator does more at once in the same time.
STYLE_ON_CPU = (
    Phase("style-128", 0.75, {"image_size": "128", "batch_size": "1"}),
    Phase("style-256", 0.25, {"image_size": "256", "batch_size": "1", "learning_rate": "3e-4"}),
)
STYLE_ON_ACCELERATOR = (
    Phase("style-128", 0.2, {"image_size": "128", "batch_size": "16"}),
    Phase("style-256", 0.8, {"image_size": "256", "batch_size": "8", "learning_rate": "5e-4"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="photos, as --data of the program")
    parser.add_argument("--minutes", type=float, default=90.0, help="for all of the training")
    parser.add_argument("--workdir", type=Path, default=Path("runs/shipped"))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()

    plan = _plan(arguments)
    before: Path | None = None
    for name, flags in plan.items():
        folder = arguments.workdir / name
        network = folder / "network.safetensors"
        start = [] if before is None else [f"--network={before}"]
        _train(flags, f"--data={arguments.data}", f"--workdir={folder}", *start)
        before = network
    if before is not None:
        target = HERE / "networks" / "styles.safetensors"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(before, target)
        print(target)


def _plan(arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The flags of every phase, steps included, as they were decided at the beginning."""
    file = arguments.workdir / "plan.json"
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    plan = {}
    for phase in _phases():
        flags = {"style": STYLES, "dtype": arguments.dtype, **phase.flags}
        seconds = _seconds_per_step(flags, arguments.data)
        steps = max(100, int(60 * arguments.minutes * phase.share / seconds))
        plan[phase.name] = {**flags, "steps": str(steps)}
        print(f"{phase.name}: {steps} steps of {seconds:.3f} s")
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    return plan


def _phases() -> tuple[Phase, ...]:
    # In a process of its own: this one would keep an accelerator's memory from those that train.
    found = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"],
        check=True,
        capture_output=True,
        text=True,
    )
    return STYLE_ON_CPU if found.stdout.strip() == "cpu" else STYLE_ON_ACCELERATOR


def _seconds_per_step(flags: dict[str, str], data: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trial = {**flags, "steps": str(_TRIAL_STEPS), "preview_every": "0", "plot": "false"}
        _train(trial, f"--data={data}", f"--workdir={folder}")
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        paces = sorted(json.loads(line)["photos_per_second"] for line in lines)
        return int(flags["batch_size"]) / paces[len(paces) // 2]


def _train(flags: dict[str, str], *more: str) -> None:
    command = [sys.executable, str(HERE.parent / "run.py"), "--mode=train_transform"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    finished = subprocess.run([*command, *more], check=False)
    if finished.returncode:
        raise SystemExit(finished.returncode)


if __name__ == "__main__":
    main()
