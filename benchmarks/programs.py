"""The two programs of the comparison, run on the same pixels, and what judges both.

The term of our objective that keeps pixels in their range is left out of what is compared, whether
the peer minimises it too or not.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import whole_process

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout that this is in.

from perceptual_jax import objective
from perceptual_jax.io import images, resources
from perceptual_jax.objective import GATYS
from perceptual_jax.pretrained.vgg import load_vgg

ROOT = Path(__file__).resolve().parent.parent

COMPARED = dataclasses.replace(GATYS, range_weight=0.0)


class Evaluation(NamedTuple):
    """`seconds` are since the program was started."""

    step: int
    seconds: float
    objective: float


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a program; its evaluations are those at the finest scale."""

    process: whole_process.Measured
    first_seconds: float
    evaluations: list[Evaluation]
    picture: Path

    @property
    def seconds(self) -> float:
        return self.process.seconds

    @property
    def objective(self) -> float:
        return self.evaluations[-1].objective


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The photo and the painting as PNG files, both with a long side of `size` pixels."""

    size: int
    content: Path
    style: Path
    folder: Path


def prepare(content: str, style: str, size: int, folder: Path) -> Inputs:
    """Shrinks the pictures here, so that neither program has to."""
    inputs = Inputs(size, folder / "content.png", folder / "style.png", folder)
    for name, kind, path in (
        (content, "content", inputs.content),
        (style, "styles", inputs.style),
    ):
        picture = images.read(resources.picture(name, kind))
        images.write(path, images.resize(picture, images.size_for(picture.shape[:2], size)))
    return inputs


def run_ours(inputs: Inputs, *, steps: int, cache: Path, num_scales: int = 1) -> Run:
    workdir = inputs.folder / "ours"
    picture = workdir / "picture.png"
    command: list[str | Path] = [
        sys.executable,
        ROOT / "run.py",
        "--mode=gatys",
        "--preset=gatys2015",
        "--margin=0",
        f"--content={inputs.content}",
        f"--style={inputs.style}",
        f"--image_size={inputs.size}",
        f"--steps={steps}",
        f"--num_scales={num_scales}",
        f"--workdir={workdir}",
        "--noplot",
        f"--output={picture}",
    ]
    environment = whole_process.environment(cache)
    process = whole_process.run(command, log=inputs.folder / "ours.log", environment=environment)
    lines = _json_lines(workdir / "metrics.jsonl")
    evaluations = []
    for line in lines:
        if line["scale"] == lines[-1]["scale"]:
            objective = sum(line["terms"][name] for name in COMPARED.term_weights())
            evaluations.append(Evaluation(line["step"], line["time"] - process.began, objective))
    return Run(process, lines[0]["time"] - process.began, evaluations, picture)


def run_peer(inputs: Inputs, *, steps: int, python: str, in_range: bool = False) -> Run:
    """Of PyTorch; `in_range` with the term that keeps pixels in their range, as ours has it."""
    name = "torch-in-range" if in_range else "torch"
    picture, log = inputs.folder / f"{name}.png", inputs.folder / f"{name}.log"
    command: list[str | Path] = [
        python,
        ROOT / "benchmarks" / "peers" / "gatys_torch.py",
        f"--weights={resources.folder('weights') / 'vgg16.safetensors'}",
        f"--content={inputs.content}",
        f"--style={inputs.style}",
        f"--output={picture}",
        f"--steps={steps}",
        f"--pooling={COMPARED.pooling}",
        f"--content-weight={COMPARED.content_weight}",
        f"--style-weight={COMPARED.style_weight}",
        f"--range-weight={GATYS.term_weights()['range'] if in_range else 0.0}",
    ]
    process = whole_process.run(command, log=log, environment=os.environ)
    evaluations = [
        Evaluation(line["evaluation"], line["time"] - process.began, line["objective"])
        for line in _json_lines(log)
    ]
    return Run(process, evaluations[0].seconds, evaluations, picture)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


class Judge:
    """The objective that both minimise, by the one measure that serves both."""

    def __init__(self, inputs: Inputs) -> None:
        params = load_vgg("vgg16")
        content, style = (jnp.asarray(images.read(path)) for path in (inputs.content, inputs.style))
        targets = objective.targets(COMPARED, params, content=content, styles=[style])
        self._total = jax.jit(lambda image: objective.evaluate(COMPARED, params, image, targets)[0])

    def written(self, run: Run) -> float:
        """Of the picture that was written, whose pixels are clipped and of 8 bits."""
        return float(self._total(images.read(run.picture)))

    def check(self, peer: Run) -> None:
        """Our objective of the peer's last pixels has to be what the peer itself found."""
        pixels = np.load(peer.picture.with_suffix(".npy")) / np.float32(255)
        ours = float(self._total(pixels))
        if abs(ours / peer.objective - 1) > 1e-3:
            raise RuntimeError(
                f"the two do not minimise the same: {peer.objective:.6g} by the peer is "
                f"{ours:.6g} here"
            )
