"""Trains the networks that ship, from a folder of photos, within a budget of time.

    python weights/train_networks.py --data=PHOTOS --minutes=90 --workdir=runs/shipped

It first measures how many steps fit into the budget, and writes that to `plan.json` in the workdir.
Started again with the same arguments, on a machine of the same kind, it goes on by that plan,
exactly where it was.  Small crops come first: at first a network learns more from many steps
than from many pixels.  The finished networks are put into `weights/networks/`.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
STYLES = (
    "composition_viii,moulin_de_la_galette,starry_night,summertime,the_kiss,village_street,wave"
)

# Steps that are timed; the first of them include the compilation.
_TRIAL_STEPS = 60

Flags = dict[str, str]


class Phase(NamedTuple):
    """One training run.

    Attributes:
      name: of its folder.
      mode: of the program.
      share: of the time.
      flags: beside those that all have.
      after: the phase whose network it begins with.
      ships: the name under which its network is put into `weights/networks`.
      steps: in place of as many as fit into its share.
    """

    name: str
    mode: str
    share: float
    flags: Flags
    after: str = ""
    ships: str = ""
    steps: int = 0


def phases(*, accelerator: bool) -> list[Phase]:
    """The phases of everything that ships, with batches and crops that suit the device."""
    style = {"style": STYLES}
    early = {"image_size": "128", "batch_size": "16" if accelerator else "1"}
    late = {"image_size": "256", "batch_size": "8" if accelerator else "1"}
    rate = "5e-4" if accelerator else "3e-4"
    found = [
        Phase("style-128", "train_transform", 0.15 if accelerator else 0.45, style | early),
        Phase(
            "style-256",
            "train_transform",
            0.45 if accelerator else 0.15,
            {**style, **late, "learning_rate": rate},
            after="style-128",
            ships="styles",
        ),
    ]
    for factor, crop, pixel_weight in (("4", "96", "50"), ("8", "128", "100")):
        size = {"image_size": "288", "batch_size": "16"} if accelerator else {"image_size": crop}
        pixel, feature = f"superres-x{factor}-pixel", f"superres-x{factor}-feature"
        common = {"factor": factor, **size}
        found += [
            Phase(pixel, "train_superres", 0.18, {**common, "loss": "pixel"}, ships=pixel),
            # Stopped early; weights/networks/README.md says what more steps do.
            Phase(
                feature,
                "train_superres",
                0.02,
                {**common, "loss": "both", "pixel_weight": pixel_weight, "learning_rate": "3e-4"},
                after=pixel,
                ships=feature,
                steps=1000,
            ),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="photos, as --data of the program")
    parser.add_argument("--minutes", type=float, default=90.0, help="for all of the training")
    parser.add_argument("--workdir", type=Path, default=Path("runs/shipped"))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    # Without a handler the process that trains would go on alone.
    signal.signal(signal.SIGTERM, _stop)

    wanted = phases(accelerator=_has_accelerator())
    steps = _plan(wanted, arguments)
    for phase in wanted:
        folder = arguments.workdir / phase.name
        start = arguments.workdir / phase.after / "network.safetensors"
        _train(
            phase.mode,
            {**phase.flags, "dtype": arguments.dtype, "steps": str(steps[phase.name])},
            f"--data={arguments.data}",
            f"--workdir={folder}",
            *([f"--network={start}"] if phase.after else []),
        )
        if _steps_done(folder) < steps[phase.name]:
            _stop()
        if phase.ships:
            target = HERE / "networks" / f"{phase.ships}.safetensors"
            shutil.copyfile(folder / "network.safetensors", target)
            print(target)


def _plan(wanted: list[Phase], arguments: argparse.Namespace) -> dict[str, int]:
    """The steps of every phase, as `plan.json` has them or as they are measured now."""
    file = arguments.workdir / "plan.json"
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    plan = {}
    for phase in wanted:
        if phase.steps:
            plan[phase.name] = phase.steps
            continue
        flags = {**phase.flags, "dtype": arguments.dtype}
        seconds = _seconds_per_step(phase.mode, flags, arguments.data)
        plan[phase.name] = max(100, int(60 * arguments.minutes * phase.share / seconds))
        print(f"{phase.name}: {plan[phase.name]} steps of {seconds:.3f} s", flush=True)
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    return plan


def _has_accelerator() -> bool:
    # In a process of its own: this one would keep an accelerator's memory from those that train.
    found = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"],
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() != "cpu"


def _seconds_per_step(mode: str, flags: Flags, data: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trial = {**flags, "steps": str(_TRIAL_STEPS), "preview_every": "0", "plot": "false"}
        _train(mode, trial, f"--data={data}", f"--workdir={folder}")
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        paces = sorted(json.loads(line)["photos_per_second"] for line in lines)
        return int(flags.get("batch_size", "1")) / paces[len(paces) // 2]


def _steps_done(folder: Path) -> int:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["step"])


def _stop(*_: object) -> None:
    raise SystemExit("stopped: the same command goes on from there")


def _train(mode: str, flags: Flags, *more: str) -> None:
    command = [sys.executable, str(HERE.parent / "run.py"), f"--mode={mode}"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    with subprocess.Popen([*command, *more]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # It has got the signal as well, and saves first.
            process.wait()
            raise
        except SystemExit:
            process.terminate()
            process.wait()
            raise
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
