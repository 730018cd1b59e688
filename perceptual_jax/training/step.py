"""Optimise the weights of a network: one jitted optax step, one loop, for every task.

The step is data-parallel over all devices of all processes: the batch is shard_batch over them, the
weights are on each.  What a run needs to go on exactly as if it had never stopped is its `TrainState`
and the position of its input.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers, muon

from perceptual_jax.models.networks import is_inner_kernel, is_style_parameter
from perceptual_jax.training.train_losses import Loss

# Steps in a row whose gradient is not finite, after which a run is given up.
PATIENCE = 20

MEANS = ("log", "linear")
OPTIMIZERS = ("adam", "muon")
SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How weights are moved.

    Attributes:
      steps: updates in all.
      optimizer: `"adam"`, as in the paper; or `"muon"` (Jordan et al. 2024), by which the step of a
        kernel, as a matrix, is made orthogonal, so that it moves as far in every direction. The
        output layer, biases and normalisation are left to Adam there too.
      learning_rate: Adam's (Johnson et al. 2016: 1e-3), and the root mean square of Muon's step;
        for `"cosine"` that after the warm-up.
      schedule: `"cosine"` falls to 0 over the steps; `"constant"`, as in the paper.
      warmup_steps: over which the learning rate rises from 0.
      mean: what is minimised: the mean over photos of their loss, `"linear"`, as in the paper; or
        of its logarithm, `"log"`. The size of a photo's gradient varies tenfold, and the few
        largest ones then decide the step.
      ema_decay: of the exponential ema of the weights, which is the result; 0 for none.
        Early on it is shorter, `(1 + step) / (10 + step)` at most.
      accumulate: parts into which a batch is cut, to be computed one after the other.
      styles_only: whether only the parameters of styles are trained, and the rest stays.
    """

    steps: int
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 0
    mean: str = "log"
    ema_decay: float = 0.999
    accumulate: int = 1
    styles_only: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.accumulate < 1 or self.warmup_steps < 0:
            raise ValueError(
                "steps and accumulate must be at least 1, and warmup_steps at least 0, got "
                f"{self.steps}, {self.accumulate} and {self.warmup_steps}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if self.mean not in MEANS:
            raise ValueError(f"mean must be one of {MEANS}, got {self.mean!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, got {self.schedule!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, got {self.optimizer!r}")

    def transformation(self) -> optax.GradientTransformation:
        """What optax makes of it."""
        rate: Any = optax.constant_schedule(self.learning_rate)
        if self.schedule == "cosine":
            rate = optax.cosine_decay_schedule(self.learning_rate, self.steps)
        if self.warmup_steps:
            rise, full = optax.linear_schedule(0.0, 1.0, self.warmup_steps), rate
            rate = lambda step: rise(step) * full(step)  # noqa: E731
        if self.optimizer == "adam":
            return optax.adam(rate)
        return muon(rate, consistent_rms=1.0, muon_weight_dimension_numbers=_matrices)


def _matrices(params: Any) -> Any:
    """Which parameters Muon moves, and how they are matrices: what goes in, by what comes out."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: MuonDimensionNumbers((0, 1, 2), 3) if is_inner_kernel(path) else None,
        params,
    )


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
      step: updates made or skipped.
      variables: of the network: `{"params": ..., "batch_stats": ...}`, float32.
      optimizer: optax's state.
      ema: the exponential ema of `variables`.
      skipped: steps whose gradient was not finite, in all.
      failing: the same, in a row until now.
    """

    step: jax.Array
    variables: Any
    optimizer: Any
    ema: Any
    skipped: jax.Array
    failing: jax.Array


class NonFiniteError(ArithmeticError):
    """The loss was infinite or NaN for `PATIENCE` steps in a row; the message names the term."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `train` tells every now and then.

    Attributes:
      step: steps done, in all.
      total: mean loss of the photos since the last report, weighted terms' sum.
      terms: the same of each weighted term.
      photos_per_second: since the last report.
      skipped: steps skipped, in all.
      state: to be copied before the next report, whose step donates it.
    """

    step: int
    total: float
    terms: dict[str, float]
    photos_per_second: float
    skipped: int
    state: TrainState


def data_mesh() -> Mesh:
    """All devices of all processes, along one axis, `data`."""
    # Flax Linen's convolutions fail in the gradient under make_mesh's own default, Explicit.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def start(variables: Any, config: TrainConfig, mesh: Mesh) -> TrainState:
    """The state before the first step, on every device; `variables` are copied."""

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def initial(variables: Any) -> TrainState:
        # Twice the same array could not be donated.
        copied = jax.tree.map(jnp.array, variables)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(
            step=zero,
            variables=variables,
            optimizer=config.transformation().init(variables["params"]),
            ema=copied,
            skipped=zero,
            failing=zero,
        )

    return initial(variables)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Constants on every device, where each step finds them."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch, as its share of the whole batch over all devices."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.make_array_from_process_local_data(
            sharding, array.astype(np.int32) if array.dtype == np.int64 else array
        )
        for name, array in batch.items()
    }


def make_step(
    loss: Loss, config: TrainConfig
) -> Callable[[TrainState, Mapping[str, jax.Array], Any], tuple[TrainState, dict[str, Any]]]:
    """The jitted update: `(state, batch, constants) -> (state, metrics)`; the state is donated.

    A step whose loss or gradient is not finite changes nothing but the counts.  `metrics` has
    `total` and `terms`, means over the batch.
    """
    optimizer = config.transformation()

    def mean_loss(params: Any, others: Any, batch: Any, constants: Any) -> Any:
        totals, terms, updated = loss({"params": params, **others}, batch, constants)
        mean = jnp.mean(jnp.log(totals) if config.mean == "log" else totals)
        metrics = {"total": jnp.mean(totals), "terms": jax.tree.map(jnp.mean, terms)}
        return mean, ({**others, **updated}, metrics)

    gradient_of = jax.value_and_grad(mean_loss, has_aux=True)

    def gradient_and_metrics(params: Any, others: Any, batch: Any, constants: Any) -> Any:
        if config.accumulate == 1:
            (value, (others, metrics)), gradient = gradient_of(params, others, batch, constants)
            return value, others, metrics, gradient

        def part(others: Any, batch: Any) -> Any:
            (value, (others, metrics)), gradient = gradient_of(params, others, batch, constants)
            return others, (value, metrics, gradient)

        def cut(array: jax.Array) -> jax.Array:
            # Part i has every i-th photo, so that each device keeps its own.
            return array.reshape(-1, config.accumulate, *array.shape[1:]).swapaxes(0, 1)

        others, parts = jax.lax.scan(part, others, jax.tree.map(cut, batch))
        value, metrics, gradient = jax.tree.map(lambda x: jnp.mean(x, axis=0), parts)
        return value, others, metrics, gradient

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Any, constants: Any) -> tuple[TrainState, dict[str, Any]]:
        others = {name: tree for name, tree in state.variables.items() if name != "params"}
        params = state.variables["params"]
        value, others, metrics, gradient = gradient_and_metrics(params, others, batch, constants)
        if config.styles_only:
            gradient = jax.tree_util.tree_map_with_path(
                lambda path, leaf: leaf if is_style_parameter(path) else jnp.zeros_like(leaf),
                gradient,
            )
        finite = jnp.isfinite(value)
        for leaf in jax.tree.leaves(gradient):
            finite &= jnp.all(jnp.isfinite(leaf))
        updates, moved_optimizer = optimizer.update(gradient, state.optimizer, params)
        moved = {"params": optax.apply_updates(params, updates), **others}
        decay = jnp.minimum(config.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        averaged = jax.tree.map(lambda old, new: new + decay * (old - new), state.ema, moved)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

        return TrainState(
            step=state.step + 1,
            variables=keep(moved, state.variables),
            optimizer=keep(moved_optimizer, state.optimizer),
            ema=keep(averaged, state.ema),
            skipped=state.skipped + ~finite,
            failing=jnp.where(finite, 0, state.failing + 1),
        ), metrics

    return step


def train(
    loss: Loss,
    config: TrainConfig,
    state: TrainState,
    batches: Iterator[Mapping[str, np.ndarray]],
    constants: Any,
    mesh: Mesh,
    *,
    seconds_per_report: float = 1.0,
    report_at: Callable[[int], bool] = lambda step: False,
) -> Iterator[Report]:
    """Trains from `state` on, to `config.steps`, and reports now and then.

    Args:
      loss: what is minimised; see `perceptual_jax.tasks`.
      config: how.
      state: donated.
      batches: this process's part of each batch, without end.
      constants: for the loss, on every device (see `replicate`).
      mesh: of the devices.
      seconds_per_report: at least so often.
      report_at: also after the steps for which it is true, the same ones in every process.

    Raises:
      NonFiniteError: `PATIENCE` steps in a row were not finite, after the report of the last one.
    """
    step_of = make_step(loss, config)
    done = int(state.step)
    began, photos = time.perf_counter(), 0
    pending: list[dict[str, Any]] = []
    while done < config.steps:
        batch = shard_batch(next(batches), mesh)
        state, metrics = step_of(state, batch, constants)
        done += 1
        photos += len(next(iter(batch.values())))
        if pending:
            # One step ahead of the device, and no more: each holds a batch.
            jax.block_until_ready(pending[-1])
        pending.append(metrics)
        seconds = time.perf_counter() - began
        if seconds < seconds_per_report and done < config.steps and not report_at(done):
            continue
        mean = jax.tree.map(lambda *values: float(np.mean(values)), *jax.device_get(pending))
        yield Report(
            step=done,
            total=mean["total"],
            terms=mean["terms"],
            photos_per_second=photos / (time.perf_counter() - began),
            skipped=int(state.skipped),
            state=state,
        )
        if int(state.failing) >= PATIENCE:
            raise NonFiniteError(_what_broke(jax.device_get(pending[-1]), done))
        began, photos, pending = time.perf_counter(), 0, []


def _what_broke(metrics: Mapping[str, Any], step: int) -> str:
    terms = [name for name, value in metrics["terms"].items() if not np.isfinite(value)]
    what = f"the term {', '.join(terms)}" if terms else "the gradient"
    return (
        f"{what} was not finite for {PATIENCE} steps in a row, up to step {step}: lower "
        "--learning_rate or the weights, and begin anew in another --workdir"
    )
