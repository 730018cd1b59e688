"""What the tests of this folder share: a VGG-16 of a few channels, and pictures of few pixels."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax import objective as objective_lib
from perceptual_jax import synthesis
from perceptual_jax.objective import Objective
from perceptual_jax.synthesis import Report
from tests import reference

PARAMS = reference.random_vgg()
SMALL = Objective(
    formulation="gatys",
    content_layers=("conv2_1",),
    style_layers=("conv1_1", "conv2_1"),
    style_weight=100.0,
    pooling="avg",
)
SIZE = (16, 20)
PHOTO = reference.random_images(*SIZE, 3, seed=2)
PAINTING = reference.random_images(18, 17, 3, seed=3) ** 2
NOISE = reference.random_images(3, *SIZE, 3, seed=4)

evaluate = jax.jit(objective_lib.evaluate, static_argnums=0)


def made_for(
    objective: Objective, content: Any = PHOTO, styles: Sequence[Any] = (PAINTING,)
) -> objective_lib.Targets:
    found = [jnp.asarray(style) for style in styles]
    return objective_lib.targets(objective, PARAMS, content=jnp.asarray(content), styles=found)


TARGETS = made_for(SMALL)


def kept(report: Report) -> Report:
    """With a best image that the next dispatch does not take away."""
    return dataclasses.replace(report, best=np.array(report.best))  # type: ignore[arg-type]


def reports(
    images: Any = NOISE, *, steps: int = 12, targets: Any = TARGETS, **options: Any
) -> list[Report]:
    return [kept(x) for x in synthesis.run(SMALL, PARAMS, images, targets, steps=steps, **options)]


def totals(found: Sequence[Report]) -> np.ndarray:
    return np.concatenate([report.trace.totals for report in found], axis=1)


def weights_for(count: int) -> dict[str, np.ndarray]:
    return {name: np.full(count, x, np.float32) for name, x in SMALL.term_weights().items()}
