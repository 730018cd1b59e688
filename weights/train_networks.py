"""Trains the networks that ship, from a folder of photos, within a budget of time.

    python weights/train_networks.py --data=PHOTOS --minutes=90 --workdir=runs/shipped

It first measures how many steps fit into the budget, and writes that to `plan.json` in the workdir.
Started again with the same arguments, on a machine of the same kind, it goes on by that plan,
exactly where it was.  Small crops come first: at first a network learns more from many steps
than from many pixels.  The finished networks are put into `weights/networks/`.

The paintings of `examples/styles` are some 650 pixels long, and strokes are learnt at up to 1024.
So they are enlarged, by the network for super-resolution that ships, into the workdir.
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

from PIL import Image, ImageFilter

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples" / "styles"

# Long sides of the paintings, in pixels.
STROKE_SIZES = (256, 512, 1024)

# Whose scans show the weave of the canvas, which a wider median takes away.
WOVEN = ("moulin_de_la_galette", "summertime", "wave")

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


def phases(paintings: str, *, accelerator: bool) -> list[Phase]:
    """The phases of everything that ships, with batches and crops that suit the device."""
    style = {
        "style": paintings,
        "style_size": ",".join(map(str, STROKE_SIZES)),
        "preset": "wasserstein",
        "variation": "1",
    }
    batch = {"batch_size": "16", "parts": "4"}
    early = {"image_size": "128", **(batch if accelerator else {"batch_size": "2", "parts": "2"})}
    late = {"image_size": "256", **(batch if accelerator else {"batch_size": "1", "parts": "1"})}
    rate = "5e-4" if accelerator else "3e-4"
    found = [
        Phase("style-128", "train_transform", 0.1 if accelerator else 0.4, style | early),
        Phase(
            "style-256",
            "train_transform",
            0.3 if accelerator else 0.1,
            {**style, **late, "learning_rate": rate},
            after="style-128",
            ships="styles",
        ),
        Phase(
            "decoder",
            "train_decoder",
            0.2 if accelerator else 0.1,
            {"style": paintings, "image_size": "256" if accelerator else "128"},
            ships="decoder",
        ),
    ]
    # From the networks for pixels; weights/networks/README.md says why they are stopped early.
    features = {
        "4": {
            "preset": "wasserstein",
            "batch_size": "4",
            "ema_decay": "0.99",
            "warmup_steps": "50",
        },
        "8": {"pixel_weight": "100"},
    }
    for factor, crop in (("4", "96"), ("8", "128")):
        size = {"image_size": "288", "batch_size": "16"} if accelerator else {"image_size": crop}
        pixel, feature = f"superres-x{factor}-pixel", f"superres-x{factor}-feature"
        common = {"factor": factor}
        found += [
            Phase(pixel, "train_superres", 0.18, {**common, **size, "loss": "pixel"}, ships=pixel),
            Phase(
                feature,
                "train_superres",
                0.02,
                {**common, **features[factor], **size, "loss": "both", "learning_rate": "3e-4"},
                after=pixel,
                ships=feature,
                steps=380 if factor == "4" else 1000,
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

    paintings = ",".join(map(str, _paintings(arguments.workdir)))
    wanted = phases(paintings, accelerator=_has_accelerator())
    steps = _plan(wanted, arguments)
    for phase in wanted:
        folder = arguments.workdir / phase.name
        start = arguments.workdir / phase.after / "network.safetensors"
        _run(
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


def _paintings(workdir: Path) -> list[Path]:
    """The paintings at the largest size of strokes, as files; made once."""
    enlarged, folder = workdir / "enlarged", workdir / "paintings"
    names = sorted(path.stem for path in EXAMPLES.iterdir())
    found = [folder / f"{name}.png" for name in names]
    if all(path.exists() for path in found):
        return found
    _run("superres", {"network": "pixel", "input": str(EXAMPLES), "output": str(enlarged)})
    folder.mkdir(parents=True, exist_ok=True)
    for path in enlarged.iterdir():
        with Image.open(path) as picture:
            # It takes the noise of the scan away, and leaves the edges of strokes.
            smooth = picture.filter(ImageFilter.MedianFilter(5 if path.stem in WOVEN else 3))
        side = max(STROKE_SIZES)
        smooth.thumbnail((side, side), Image.Resampling.LANCZOS)
        smooth.save(folder / f"{path.stem}.png")
    return found


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
        _run(mode, trial, f"--data={data}", f"--workdir={folder}")
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        paces = sorted(json.loads(line)["photos_per_second"] for line in lines)
        crops, parts = (int(flags.get(name, "1")) for name in ("batch_size", "parts"))
        return crops / parts / paces[len(paces) // 2]


def _steps_done(folder: Path) -> int:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["step"])


def _stop(*_: object) -> None:
    raise SystemExit("stopped: the same command goes on from there")


def _run(mode: str, flags: Flags, *more: str) -> None:
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
