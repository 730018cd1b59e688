"""Train the weights of a network: configuration, state, one jitted step and the loop, for any task.

A step is data-parallel: every device of every process holds the weights, and computes its share of
the batch.  A run that goes on from a saved `TrainState` and position of its input ends with the
same bits as one that was never interrupted.

As many devices give the same bits, whether one process has them or several.  Another number adds
the gradient up in another order, by which it differs by 3e-7 of its norm.  A bias before a
normalisation has no gradient but such rounding, and Adam moves it by the whole learning rate all
the same; after 60 steps the kernels of two such runs differ by some percent of the largest weight.
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
from perceptual_jax.ops.checks import check_settings, setting
from perceptual_jax.training.train_losses import Loss

# A run ends after this many steps in a row that were not finite.
PATIENCE = 20

# By optimizer: Adam's is that of Johnson et al. 2016, Muon's was found by experiment.
LEARNING_RATES = {"adam": 1e-3, "muon": 2e-3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How weights are optimised; the metadata of a field says what it means.

    Raises:
      ValueError: a value is out of its range.
    """

    steps: int = setting("Updates in all.", least=1)
    optimizer: str = setting(
        "adam, as in the paper; or muon (Jordan et al. 2024), which makes the step of a kernel, as "
        "a matrix, orthogonal. It learns a style in fewer steps, and magnifies rounding. The "
        "output layer, biases and normalisation stay with Adam.",
        default="adam",
        choices=tuple(LEARNING_RATES),
    )
    learning_rate: float | None = setting(
        "Size of a step: Adam's, or the root mean square of Muon's; none is "
        f"{LEARNING_RATES['adam']} for adam, as in the paper, and {LEARNING_RATES['muon']} for "
        "muon.",
        default=None,
    )
    schedule: str = setting(
        "How the learning rate goes on: cosine falls to 0 at the last step; constant, as in the "
        "paper.",
        default="cosine",
        choices=("cosine", "constant"),
    )
    warmup_steps: int = setting(
        "Steps over which the learning rate rises from 0.", default=0, least=0
    )
    loss_mean: str = setting(
        "Minimise the mean of the photos' losses (linear, as in the paper) or of their logarithms "
        "(log): gradients of photos differ tenfold in size, and the largest decide the steps of "
        "the linear mean.",
        default="log",
        choices=("log", "linear"),
    )
    ema_decay: float = setting(
        "Decay of the exponential moving average of the weights, which is the result; 0 for none. "
        "At first it is smaller: (1 + step) / (10 + step) at most.",
        default=0.999,
    )
    accumulate: int = setting("Parts of a batch, computed one after the other.", default=1, least=1)
    # Whether only the parameters of styles are trained, and all others stay.
    styles_only: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer, which keeps no moments of parameters that are not trained."""
        peak = self.learning_rate or LEARNING_RATES[self.optimizer]
        rate: Any = optax.constant_schedule(peak)
        if self.schedule == "cosine":
            rate = optax.cosine_decay_schedule(peak, self.steps)
        if self.warmup_steps:
            rise, full = optax.linear_schedule(0.0, 1.0, self.warmup_steps), rate
            rate = lambda step: rise(step) * full(step)  # noqa: E731
        # The gradient of a logarithm has no scale; that of the linear mean has the scale of the
        # weights of the loss, which are ratios: there it is nothing but a guard against 0 / 0.
        eps = 1e-8 if self.loss_mean == "log" else 1e-16
        if self.optimizer == "adam":
            optimizer = optax.adam(rate, eps=eps)
        else:
            optimizer = muon(
                rate, eps=eps, consistent_rms=1.0, muon_weight_dimension_numbers=_matrices
            )
        if not self.styles_only:
            return optimizer
        labels = functools.partial(
            jax.tree_util.tree_map_with_path,
            lambda path, _: "train" if is_style_parameter(path) else "freeze",
        )
        return optax.partition({"train": optimizer, "freeze": optax.set_to_zero()}, labels)


def _matrices(params: Any) -> Any:
    """Which parameters Muon moves, and how they are matrices: inputs by output channels."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: MuonDimensionNumbers((0, 1, 2), 3) if is_inner_kernel(path) else None,
        params,
    )


class TrainState(NamedTuple):
    """Everything that a step changes; `step` counts skipped steps, too."""

    step: jax.Array
    variables: Any  # Of the network: `{"params": ..., "batch_stats": ...}`, float32.
    optimizer: Any
    ema: Any
    skipped: jax.Array  # Steps that were not finite, in all.
    failing: jax.Array  # The same, in a row until now.


class NonFiniteError(ArithmeticError):
    """`PATIENCE` steps in a row were not finite; the message names the term of the loss."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `train` measures between two reports: means over their photos, and steps in all.

    The next step donates `state`: copy it before the next report.
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


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of a tree of arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch of all processes, cut into shards, of which this process gives its own."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.make_array_from_process_local_data(
            sharding, array.astype(np.int32) if array.dtype == np.int64 else array
        )
        for name, array in batch.items()
    }


def start(variables: Any, config: TrainConfig, mesh: Mesh) -> TrainState:
    """The state before the first step, on every device; `variables` are copied."""

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def initial(variables: Any) -> TrainState:
        zero = jnp.zeros((), jnp.int32)
        return TrainState(
            step=zero,
            variables=variables,
            optimizer=config.transformation().init(variables["params"]),
            # A copy: the same array cannot be donated twice.
            ema=jax.tree.map(jnp.array, variables),
            skipped=zero,
            failing=zero,
        )

    return initial(variables)


def make_step(
    loss: Loss, config: TrainConfig
) -> Callable[[TrainState, Mapping[str, jax.Array], Any], tuple[TrainState, dict[str, Any]]]:
    """The jitted update: `(state, batch, constants) -> (state, metrics)`; the state is donated.

    `metrics` has `total` and `terms`, means over the batch.  A step is skipped, and changes nothing
    but the counts, if its loss or the norm of its gradient is not finite.
    """
    optimizer = config.transformation()

    def mean_loss(params: Any, others: Any, batch: Any, constants: Any) -> Any:
        totals, terms, updated = loss({"params": params, **others}, batch, constants)
        mean = jnp.mean(jnp.log(totals) if config.loss_mean == "log" else totals)
        metrics = {"total": jnp.mean(totals), "terms": jax.tree.map(jnp.mean, terms)}
        return mean, ({**others, **updated}, metrics)

    value_and_grad = jax.value_and_grad(mean_loss, has_aux=True)

    def accumulated(params: Any, others: Any, batch: Any, constants: Any) -> Any:
        """What `value_and_grad` gives for a batch, computed part by part."""

        def one_part(others: Any, batch: Any) -> Any:
            (value, (others, metrics)), gradient = value_and_grad(params, others, batch, constants)
            return others, (value, metrics, gradient)

        def split(array: jax.Array) -> jax.Array:
            # Part i has every i-th photo, so that no photo moves to another device.
            return array.reshape(-1, config.accumulate, *array.shape[1:]).swapaxes(0, 1)

        others, parts = jax.lax.scan(one_part, others, jax.tree.map(split, batch))
        value, metrics, gradient = jax.tree.map(lambda x: jnp.mean(x, axis=0), parts)
        return (value, (others, metrics)), gradient

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Any, constants: Any) -> tuple[TrainState, dict[str, Any]]:
        # The gradient; running statistics move along with the loss.
        others = {name: tree for name, tree in state.variables.items() if name != "params"}
        params = state.variables["params"]
        gradient_of = value_and_grad if config.accumulate == 1 else accumulated
        (value, (others, metrics)), gradient = gradient_of(params, others, batch, constants)

        # The update.  Optax adds integers to floats, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, params)
        variables = {"params": optax.apply_updates(params, updates), **others}

        # The moving average, in the form that leaves weights which do not move as they are, to the
        # bit; that of optax.incremental_update rounds.
        done = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.ema_decay, (1.0 + done) / (10.0 + done))
        ema = optax.tree.add_scale(variables, decay, optax.tree.sub(state.ema, variables))

        # Skipped unless finite; the norm also shows a gradient that Adam could not square.
        # optax.apply_if_finite knows of gradients alone: running statistics and the average would
        # still change, and after some steps it lets NaN through.
        trained = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
            if not config.styles_only or is_style_parameter(path)
        ]
        finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(trained))
        variables, optimizer_state, ema = optax.tree.where(
            finite, (variables, optimizer_state, ema), (state.variables, state.optimizer, state.ema)
        )
        return TrainState(
            step=state.step + 1,
            variables=variables,
            optimizer=optimizer_state,
            ema=ema,
            skipped=jnp.where(finite, state.skipped, state.skipped + 1),
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
      loss, config: what is minimised, see `perceptual_jax.training.train_losses`, and how.
      state: donated.
      batches: this process's part of each batch, without end.
      constants: for the loss, on every device (see `replicate`).
      mesh: of the devices.
      seconds_per_report: at least so often.
      report_at: also after the steps for which it is true, the same ones in every process.

    Raises:
      NonFiniteError: `PATIENCE` steps in a row were not finite, after the report of the last one.
    """
    update = make_step(loss, config)
    done = int(state.step)
    began, photos = time.perf_counter(), 0
    pending: list[dict[str, Any]] = []
    while done < config.steps:
        batch = shard_batch(next(batches), mesh)
        state, metrics = update(state, batch, constants)
        done += 1
        photos += len(next(iter(batch.values())))
        if pending:
            # The host runs one step ahead of the device and no more: each step holds a batch.
            jax.block_until_ready(pending[-1])
        pending.append(metrics)
        seconds = time.perf_counter() - began
        if seconds < seconds_per_report and done < config.steps and not report_at(done):
            continue

        # Only here are numbers fetched from the device.
        mean = jax.tree.map(lambda *values: float(np.mean(values)), *jax.device_get(pending))
        yield Report(
            step=done,
            **mean,
            photos_per_second=photos / (time.perf_counter() - began),
            skipped=int(state.skipped),
            state=state,
        )
        if int(state.failing) >= PATIENCE:
            terms = jax.device_get(pending[-1])["terms"]
            names = ", ".join(name for name, value in terms.items() if not np.isfinite(value))
            raise NonFiniteError(
                f"{f'the term {names}' if names else 'the gradient'} was not finite for {PATIENCE} "
                f"steps in a row, up to step {done}: lower the learning rate or the weights"
            )
        began, photos, pending = time.perf_counter(), 0, []
