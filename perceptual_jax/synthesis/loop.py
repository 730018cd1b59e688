"""The loop that optimises a batch of images side by side, several iterations per dispatch."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from perceptual_jax import vgg
from perceptual_jax.objective import GATYS, Objective, Targets
from perceptual_jax.synthesis.step import MAX_PER_DISPATCH, Optimizer, advance, init

# Weights are ratios: those of an image are computed with times what makes this their sum, so that
# neither float32 nor the optimiser sees their scale.  The sum of the default weights leaves these
# as they are, to the bit.
_SUM_OF_WEIGHTS = sum(GATYS.term_weights().values())


class NonFiniteError(ArithmeticError):
    """The objective became infinite or NaN; the message names the term."""


class Trace(NamedTuple):
    """The objective at consecutive evaluations: `(B, evaluations)`, in all and by term."""

    totals: np.ndarray
    terms: dict[str, np.ndarray]

    def summary(self) -> dict[str, float]:
        """The last total and its parts by kind (`content`, `style`, ...), means over the images."""
        parts = {"total": float(self.totals[:, -1].mean())}
        for name, values in self.terms.items():
            kind = name.split("/")[0]
            parts[kind] = parts.get(kind, 0.0) + float(values[:, -1].mean())
        return parts

    def records(self) -> list[dict[str, Any]]:
        """For each evaluation its `total` and `terms`, means over the images."""
        records = []
        for index, total in enumerate(self.totals.mean(axis=0)):
            terms = {name: float(values[:, index].mean()) for name, values in self.terms.items()}
            records.append({"total": float(total), "terms": terms})
        return records


@dataclasses.dataclass(frozen=True)
class Report:
    """What `run` yields after each dispatch.

    Attributes:
      step: iterations done, of `steps`.
      steps: iterations in all.
      trace: the objective after iterations `step - evaluations + 1` to `step`.
      best: the image with the lowest objective so far, `(B, H, W, 3)`, not clipped to [0, 1]; valid
        until the next report, so copy it if you keep it.
      stage: which of the sizes of `transfer` this is, from 0.
    """

    step: int
    steps: int
    trace: Trace
    best: jax.Array
    stage: int = 0


def freeze(params: vgg.Params, objective: Objective) -> vgg.Params:
    """`vgg.freeze` for an objective, with the result on the device.

    `run` and `transfer` call it. Call it yourself to run several times with one network, or to
    release the raw parameters before the first run.
    """
    return jax.device_put(vgg.freeze(params, objective.layers, dtype=objective.dtype))


def run(
    objective: Objective,
    params: vgg.Params,
    images: Any,
    targets: Targets,
    *,
    steps: int,
    optimizer: Optimizer | None = None,
    term_weights: Mapping[str, Any] | None = None,
    seconds_per_report: float = 1.0,
) -> Iterator[Report]:
    """Optimises images for `steps` iterations and reports after every dispatch.

    The objective is evaluated `steps + 1` times: before the first iteration, and after each.

    Args:
      objective: layers, weights, formulation.
      params: VGG parameters.
      images: where to start, `(B, H, W, 3)` in [0, 1].
      targets: what all the images are compared with.
      steps: iterations.
      optimizer: L-BFGS without line search by default.
      term_weights: in place of the objective's, each a number or `(B,)`; ratios, as those are.
      seconds_per_report: how long a dispatch should take, once the time of an iteration is known.

    Raises:
      NonFiniteError: once the objective or gradient of every image is infinite or NaN. The report
        of that dispatch is yielded first, with the last good images.
      ValueError: images of the wrong shape or range.
    """
    optimizer = optimizer or Optimizer()
    params = freeze(params, objective)
    state = init(images, optimizer)
    weights = objective.term_weights() if term_weights is None else term_weights
    batch = len(images)
    given = {name: np.broadcast_to(np.float64(value), batch) for name, value in weights.items()}
    scale = sum(given.values(), np.zeros(batch)) / _SUM_OF_WEIGHTS
    scale = np.where(scale > 0, scale, 1.0)
    weights = {name: np.float32(value / scale) for name, value in given.items()}
    done, evaluations = 0, 1
    move = functools.partial(advance, objective=objective, optimizer=optimizer)
    while done <= steps:
        began = time.perf_counter()
        state, totals, terms = move(state, params, targets, weights, evaluations)
        totals, terms = jax.device_get((totals, terms))
        trace = Trace(
            _scaled(totals[:, :evaluations], scale),
            {name: _scaled(values[:, :evaluations], scale) for name, values in terms.items()},
        )
        seconds = (time.perf_counter() - began) / evaluations
        first, done = done == 0, done + evaluations
        yield Report(done - 1, steps, trace, state.best)
        if np.asarray(state.stopped).all():
            raise NonFiniteError(
                f"{_non_finite(trace)} was no longer finite by iteration {done - 1}: "
                "lower the learning rate"
            )
        # The first dispatch includes compiling, and says nothing of the time of an iteration.
        pace = 1 if first else max(1, int(seconds_per_report / seconds))
        evaluations = min(pace, MAX_PER_DISPATCH, steps + 1 - done)


def _scaled(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Values `(B, evaluations)` times the scale of each image's weights; infinite if too large."""
    with np.errstate(over="ignore"):
        return (values * scale[:, None]).astype(np.float32)


def _non_finite(trace: Trace) -> str:
    terms = [name for name, values in trace.terms.items() if not np.isfinite(values[:, -1]).all()]
    return f"the term {', '.join(terms)}" if terms else "the gradient"


def white_noise(shape: Sequence[int], seed: int) -> np.ndarray:
    """Grey with a little noise, to start from: float32 of a shape, mean 0.5, deviation 0.1.

    VGG's features of it lead to the same pictures as those of noise of full contrast, and it is
    inside [0, 1], where it can be written as a picture.
    """
    noise = np.random.default_rng(seed).normal(0.5, 0.1, shape)
    return np.clip(noise, 0.0, 1.0).astype(np.float32)
