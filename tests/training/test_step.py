"""Training steps, against Adam and an exponential moving average written by hand.

Most tests train a toy: `a x + row[style]` is to be `target`, by squares, where x are the three
numbers of a photo.  Its gradients are written out in NumPy.  The batch lies on two devices.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import training
from perceptual_jax.models import layers
from perceptual_jax.training import step as training_step
from perceptual_jax.training import train_losses
from perceptual_jax.training.step import NonFiniteError, Report, TrainConfig, TrainState
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly", "training_steps")

STYLES = 2
# One number of each photo is larger by far, so that losses differ tenfold.
PHOTOS = np.array([[10, 200, 30], [255, 0, 90], [70, 80, 20], [0, 140, 250]] * 4, np.uint8)
CONSTANTS = {"target": np.array([0.5, -3.0, 1.0], np.float32), "style": np.float32(1.0)}
CONFIG = TrainConfig(steps=6, learning_rate=0.1)


def variables() -> dict[str, Any]:
    rows = np.array([[0.1, 0.2, -0.3], [-0.4, 0.0, 0.6]], np.float32)
    return {
        "params": {"a": np.array([1.0, -0.5, 0.25], np.float32), "instance": {"row": rows}},
        "batch_stats": {"mean": np.zeros(3, np.float32)},
    }


def toy(given: Any, batch: Any, constants: Any, first_style: int = 0) -> Any:
    params, x = given["params"], train_losses.unit_range(batch["photos"])
    rows = params["instance"]["row"][first_style + batch["index"] % (STYLES - first_style)]
    squares = jnp.square(params["a"].reshape(1, 3) * x + rows - constants["target"].reshape(1, 3))
    terms = {
        "content": jnp.sum(squares, axis=1),
        "style": jnp.broadcast_to(constants["style"], len(x)),
    }
    mean = 0.9 * given["batch_stats"]["mean"] + 0.1 * jnp.mean(x, axis=0)
    return sum(terms.values()), terms, {"batch_stats": {"mean": mean}}


def batches(size: int = 4) -> Iterator[dict[str, np.ndarray]]:
    for number in itertools.count():
        index = np.arange(number * size, (number + 1) * size)
        # A factor of its own for each batch.
        photos = (PHOTOS[index % len(PHOTOS)] / (1 + number % 3)).astype(np.uint8)
        yield {"photos": photos, "index": index}


class ByHand:
    """The same training in float64: the toy's gradient, Adam, and the ema."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        given: Any = variables()
        self.params = {
            "a": given["params"]["a"].astype(np.float64),
            "row": given["params"]["instance"]["row"].astype(np.float64),
        }
        self.running = np.zeros(3)
        self.ema = {**{name: x.copy() for name, x in self.params.items()}, "mean": np.zeros(3)}
        self.first = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.second = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.totals: list[float] = []

    def gradient(self, batch: Any) -> dict[str, np.ndarray]:
        """Of the mean of the losses or of their logarithms: each divided by its loss."""
        x = batch["photos"] / 255.0
        styles = batch["index"] % STYLES
        away = self.params["a"] * x + self.params["row"][styles] - CONSTANTS["target"]
        totals = np.sum(away**2, axis=1) + 1.0
        self.totals.append(float(np.mean(totals)))
        of_each = 2.0 * away / (totals[:, None] if self.config.loss_mean == "log" else 1.0)
        rows = np.stack([np.sum(of_each[styles == s], axis=0) for s in range(STYLES)])
        self.running = 0.9 * self.running + 0.1 * x.mean(0)
        return {"a": np.mean(of_each * x, axis=0), "row": rows / len(x)}

    def rate(self, step: int) -> float:
        rate = float(self.config.learning_rate or 0.0)
        if self.config.schedule == "cosine":
            rate *= 0.5 * (1 + np.cos(np.pi * step / self.config.steps))
        if self.config.warmup_steps:
            rate *= min(1.0, step / self.config.warmup_steps)
        return rate

    def step(self, number: int, batch: Any) -> None:
        """Kingma & Ba 2015, algorithm 1, with its constants; `number` from 0."""
        for name, gradient in self.gradient(batch).items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
            self.second[name] = 0.999 * self.second[name] + 0.001 * gradient**2
            corrected = self.first[name] / (1 - 0.9 ** (number + 1))
            scale = np.sqrt(self.second[name] / (1 - 0.999 ** (number + 1))) + 1e-8
            self.params[name] = self.params[name] - self.rate(number) * corrected / scale
        decay = min(self.config.ema_decay, (1 + number) / (10 + number))
        for name, value in {**self.params, "mean": self.running}.items():
            self.ema[name] = decay * self.ema[name] + (1 - decay) * value


def flat(tree: Any) -> dict[str, np.ndarray]:
    """The toy's variables by name."""
    return {
        "a": np.asarray(tree["params"]["a"]),
        "row": np.asarray(tree["params"]["instance"]["row"]),
        "mean": np.asarray(tree["batch_stats"]["mean"]),
    }


def started(config: TrainConfig = CONFIG) -> TrainState:
    return training.start(variables(), config, training.data_mesh())


def advanced(
    config: TrainConfig, steps: int, loss: Any = toy, constants: Any = CONSTANTS
) -> TrainState:
    """The state after a few steps."""
    mesh = training.data_mesh()
    state, step = started(config), training_step.make_step(loss, config)
    for batch in itertools.islice(batches(), steps):
        state, _ = step(state, training.shard_batch(batch, mesh), constants)
    return state


def reports(
    config: TrainConfig = CONFIG, state: TrainState | None = None, **options: Any
) -> list[Report]:
    options = {"constants": CONSTANTS, "seconds_per_report": 0.0, **options}
    constants = options.pop("constants")
    state = started(config) if state is None else state
    found = training.train(
        toy, config, state, batches(), constants, training.data_mesh(), **options
    )
    return [
        dataclasses.replace(report, state=jax.tree.map(np.array, report.state)) for report in found
    ]


@pytest.fixture(scope="module")
def whole() -> list[Report]:
    """A report of every step."""
    return reports()


class TestStep:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"loss_mean": "linear", "schedule": "constant", "ema_decay": 0.0},
            {"warmup_steps": 3, "ema_decay": 0.2},
            {"accumulate": 2, "schedule": "constant"},
        ],
    )
    def test_is_that_of_adam_by_hand(self, options: dict[str, Any]) -> None:
        config = dataclasses.replace(CONFIG, **options)
        by_hand = ByHand(config)
        for number, batch in enumerate(itertools.islice(batches(), config.steps)):
            by_hand.step(number, batch)
        found = reports(config)
        totals = [report.total for report in found]
        np.testing.assert_allclose(totals, by_hand.totals, rtol=1e-5)
        moved, averaged = flat(found[-1].state.variables), flat(found[-1].state.ema)
        for name in ("a", "row"):
            np.testing.assert_allclose(moved[name], by_hand.params[name], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(averaged[name], by_hand.ema[name], rtol=1e-4, atol=1e-5)
        if config.accumulate == 1:  # Else they move with every part.
            np.testing.assert_allclose(moved["mean"], by_hand.running, rtol=1e-5)
            np.testing.assert_allclose(averaged["mean"], by_hand.ema["mean"], rtol=1e-4)
        if not config.ema_decay:
            np.testing.assert_array_equal(averaged["a"], moved["a"])

    @pytest.mark.parametrize("optimizer", ["adam", "muon"])
    @pytest.mark.parametrize("loss_mean", ["log", "linear"])
    def test_a_factor_of_the_whole_loss_changes_no_step(
        self, optimizer: str, loss_mean: str
    ) -> None:
        """The weights of a loss are ratios: no epsilon of the optimiser has a scale."""
        config = dataclasses.replace(CONFIG, optimizer=optimizer, loss_mean=loss_mean)

        def scaled(factor: float) -> Any:
            def loss(*arguments: Any) -> Any:
                totals, terms, updated = toy(*arguments)
                return factor * totals, terms, updated

            return flat(advanced(config, steps=3, loss=loss).variables)

        expected = scaled(1.0)
        for factor in (1e-7, 1e7):
            for name, found in scaled(factor).items():
                np.testing.assert_allclose(found, expected[name], rtol=1e-5, err_msg=name)

    def test_the_logarithm_divides_each_photos_gradient_by_its_loss(self) -> None:
        """So that no photo counts for more because it is far away; by JAX's own gradient."""
        given, batch = variables(), next(batches())
        photos = [{name: x[i : i + 1] for name, x in batch.items()} for i in range(4)]
        mean = jax.tree.map(np.zeros_like, given["params"])

        @jax.jit
        @jax.value_and_grad
        def loss_and_gradient(params: Any, photo: Any) -> jax.Array:
            return toy({**given, "params": params}, photo, CONSTANTS)[0][0]

        for photo in photos:
            total, gradient = loss_and_gradient(given["params"], photo)
            mean = jax.tree.map(lambda m, g, t=total: m + g / t / 4, mean, gradient)
        # What Adam remembers of one gradient is a tenth of it.
        adam: Any = advanced(CONFIG, 1).optimizer[0]
        found = jax.tree.map(lambda m: 10.0 * m, adam.mu)
        jax.tree.map(lambda f, m: np.testing.assert_allclose(f, m, rtol=1e-4), found, mean)

    def test_of_a_network_has_the_gradient_of_one_device(self) -> None:
        """Two devices and two parts of a batch change nothing but the rounding."""

        class Network(nn.Module):
            @nn.compact
            def __call__(self, images: jax.Array, style_weights: jax.Array) -> jax.Array:
                x = layers.Convolution(4)(images)
                x = nn.relu(layers.InstanceNorm(STYLES)(x, style_weights))
                return layers.Convolution(3)(x)

        def loss(given: Any, batch: Any, constants: Any) -> Any:
            images = train_losses.unit_range(batch["photos"])
            weights = jax.nn.one_hot(batch["index"] % STYLES, STYLES)
            outputs: Any = Network().apply(given, images, weights)
            totals = jnp.mean(jnp.square(outputs - images), axis=(1, 2, 3))
            return totals, {"content": totals}, {}

        photos = np.random.default_rng(0).integers(0, 256, (4, 9, 8, 3)).astype(np.uint8)
        batch: dict[str, np.ndarray] = {"photos": photos, "index": np.arange(4)}
        example = jnp.zeros((1, 9, 8, 3))
        initial = reference.random_variables(
            jax.eval_shape(Network().init, jax.random.key(0), example, jnp.ones((1, STYLES)))
        )

        @jax.jit
        @functools.partial(jax.grad, has_aux=True)
        def plain(params: Any) -> Any:
            totals, *_ = loss({"params": params}, batch, None)
            return jnp.mean(jnp.log(totals)), jnp.mean(totals)

        gradient, total = plain(initial["params"])
        config = TrainConfig(steps=1, accumulate=2)
        mesh = training.data_mesh()
        assert mesh.size == 2
        state, metrics = training_step.make_step(loss, config)(
            training.start(initial, config, mesh), training.shard_batch(batch, mesh), None
        )
        np.testing.assert_allclose(metrics["total"], total, rtol=1e-5)
        adam: Any = state.optimizer[0]
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
        for found, expected in zip(*map(jax.tree.leaves, (adam.mu, gradient)), strict=True):
            np.testing.assert_allclose(10.0 * found, expected, rtol=1e-3, atol=1e-5 * largest)

    def test_donates_the_state_and_leaves_what_it_began_with(self) -> None:
        given = jax.tree.map(jnp.asarray, variables())
        state = training.start(given, CONFIG, training.data_mesh())
        batch = training.shard_batch(next(batches()), training.data_mesh())
        training_step.make_step(toy, CONFIG)(state, batch, CONSTANTS)
        assert {leaf.is_deleted() for leaf in jax.tree.leaves(state)} == {True}
        assert {leaf.is_deleted() for leaf in jax.tree.leaves(given)} == {False}

    def test_is_compiled_once(self) -> None:
        advanced(CONFIG, 1)
        step: Any = training_step.make_step(toy, CONFIG)
        compiled = step._cache_size()
        advanced(CONFIG, 3)
        assert step._cache_size() == compiled


def _slopes() -> Any:
    """Of the kernel's four directions one counts 30 times as much as another."""
    random = np.random.default_rng(0)
    left = np.linalg.qr(random.normal(size=(18, 4)))[0]
    right = np.linalg.qr(random.normal(size=(4, 4)))[0]
    matrix = left @ np.diag([1.0, 0.3, 0.1, 1 / 30]) @ right.T
    kernel = matrix.reshape(3, 3, 2, 4).astype(np.float32)
    bias = random.normal(size=4).astype(np.float32)
    return {"conv1": {"kernel": kernel, "bias": bias}, "output": {"kernel": kernel}}


class TestModes:
    """Of JAX, in which a researcher's program may run."""

    def test_64_bits_change_no_type(self) -> None:
        """And of the values only the last digits: Adam's bias correction is more exact."""
        expected = jax.device_get(advanced(CONFIG, 2))
        with jax.enable_x64(True):
            found = jax.device_get(advanced(CONFIG, 2))
        for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=1e-3)

    def test_nan_are_looked_for_and_none_is_found(self) -> None:
        with jax.debug_nans(True):
            state = advanced(CONFIG, 2)
        assert int(state.skipped) == 0


class TestMuon:
    """On a loss whose gradient is known, since it is linear: each parameter times its slope."""

    RATE = 0.01
    SLOPES = _slopes()

    def moved(self, **options: Any) -> Any:
        """How far the first step moves each parameter, downhill, in units of the rate."""

        def loss(given: Any, batch: Any, constants: Any) -> Any:
            products = jax.tree.map(lambda x, slope: jnp.sum(x * slope), given["params"], constants)
            totals = jnp.full(len(batch["index"]), sum(jax.tree.leaves(products)))
            return totals, {"content": totals}, {}

        config = TrainConfig(
            steps=1, optimizer="muon", learning_rate=self.RATE, loss_mean="linear", **options
        )
        mesh = training.data_mesh()
        given = {"params": jax.tree.map(np.ones_like, self.SLOPES)}
        state = training.start(given, config, mesh)
        batch = training.shard_batch({"index": np.arange(2)}, mesh)
        state, _ = training_step.make_step(loss, config)(state, batch, self.SLOPES)
        params = jax.device_get(state.variables)["params"]
        return jax.tree.map(lambda x: (1.0 - x) / self.RATE, params)

    def test_moves_a_kernel_as_far_in_every_direction(self) -> None:
        """By the rate, root mean square, to the third that five steps of Newton-Schulz leave."""
        matrix = self.moved()["conv1"]["kernel"].reshape(18, 4)
        factors = np.linalg.svd(matrix, compute_uv=False) / np.sqrt(18)
        assert factors.min() > 0.66
        assert factors.max() < 1.33
        left, _, right = np.linalg.svd(self.SLOPES["conv1"]["kernel"].reshape(18, 4))
        orthogonal = left[:, :4] @ right
        cosine = np.sum(matrix * orthogonal) / np.linalg.norm(matrix) / np.linalg.norm(orthogonal)
        assert cosine > 0.98

    def test_leaves_the_output_and_biases_to_adam(self) -> None:
        """Whose first step does not depend on the gradient's size, but for the sign."""
        moved = self.moved()
        for found, slope in (
            (moved["output"]["kernel"], self.SLOPES["output"]["kernel"]),
            (moved["conv1"]["bias"], self.SLOPES["conv1"]["bias"]),
        ):
            np.testing.assert_allclose(np.abs(found), np.abs(found).mean(), rtol=1e-3)
            np.testing.assert_array_equal(np.sign(found), np.sign(slope))

    def test_moves_no_kernel_where_only_styles_are_trained(self) -> None:
        moved = self.moved(styles_only=True)
        assert {float(np.abs(leaf).max()) for leaf in jax.tree.leaves(moved)} == {0.0}


class TestStylesOnly:
    CONFIG = dataclasses.replace(CONFIG, styles_only=True)

    def test_nothing_but_rows_of_styles_is_trained(self) -> None:
        state = advanced(self.CONFIG, 4)
        before, after = flat(variables()), flat(state.variables)
        assert after["a"].tobytes() == before["a"].tobytes()
        assert flat(state.ema)["a"].tobytes() == before["a"].tobytes()
        assert (np.abs(after["row"] - before["row"]) > 0.1).all()

    @pytest.mark.parametrize("optimizer", ["adam", "muon"])
    def test_nothing_is_kept_of_what_is_not_trained(self, optimizer: str) -> None:
        """Adam's two moments of the rows, its count, and at most Muon's count and coefficients."""
        state = started(dataclasses.replace(self.CONFIG, optimizer=optimizer))
        sizes = [leaf.size for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
        rows = variables()["params"]["instance"]["row"].size
        assert sizes in ([rows, rows], [3, rows, rows], [rows, rows, 3])

    def test_rows_that_no_photo_takes_stay_bit_for_bit(self) -> None:
        """Adam divides their moments, which are zeros, by a root that is zero too."""

        second_alone = functools.partial(toy, first_style=1)
        state = advanced(self.CONFIG, 4, loss=second_alone)
        for tree in (state.variables, state.ema):
            before, after = flat(variables())["row"], flat(tree)["row"]
            assert after[0].tobytes() == before[0].tobytes()
            assert (after[1] != before[1]).all()


class TestNonFinite:
    NAN = CONSTANTS | {"style": np.float32(np.nan)}

    def test_a_step_whose_loss_is_not_finite_changes_nothing_but_the_counts(self) -> None:
        mesh, step = training.data_mesh(), training_step.make_step(toy, CONFIG)
        state = advanced(CONFIG, 2)
        before = jax.tree.map(np.array, state)
        batch = next(batches())
        counts = []
        for constants in (self.NAN, self.NAN, CONSTANTS, self.NAN):
            state, _ = step(state, training.shard_batch(batch, mesh), constants)
            counts.append((int(state.step), int(state.skipped), int(state.failing)))
            if len(counts) == 2:
                for name in ("variables", "optimizer", "ema"):
                    jax.tree.map(
                        np.testing.assert_array_equal, getattr(state, name), getattr(before, name)
                    )
        assert counts == [(3, 1, 1), (4, 2, 2), (5, 2, 0), (6, 3, 1)]
        assert (flat(state.variables)["a"] != flat(before.variables)["a"]).all()

    def test_nor_does_one_whose_gradient_alone_is_not(self) -> None:
        def rooted(given: Any, batch: Any, constants: Any) -> Any:
            totals, terms, updated = toy(given, batch, constants)
            # A root of 0, whose slope is infinite.
            return totals + jnp.sqrt(0.0 * given["params"]["a"][0]), terms, updated

        state = advanced(CONFIG, 3, loss=rooted)
        jax.tree.map(np.testing.assert_array_equal, flat(state.variables), flat(variables()))
        assert (int(state.step), int(state.skipped), int(state.failing)) == (3, 3, 3)

    def test_nor_does_one_whose_gradient_adam_cannot_square(self) -> None:
        """It would be remembered as infinite, and the parameter would never move again."""

        def steep(given: Any, batch: Any, constants: Any) -> Any:
            totals, terms, updated = toy(given, batch, constants)
            return totals + 1e25 * given["params"]["a"][0], terms, updated

        config = dataclasses.replace(CONFIG, loss_mean="linear")
        state = advanced(config, 1, loss=steep)
        jax.tree.map(np.testing.assert_array_equal, flat(state.variables), flat(variables()))
        assert int(state.skipped) == 1

    def test_too_many_in_a_row_end_the_training_and_name_the_term(self) -> None:
        found: list[int] = []

        def collect() -> None:
            config = dataclasses.replace(CONFIG, steps=1000)
            for report in training.train(
                toy,
                config,
                started(config),
                batches(),
                self.NAN,
                training.data_mesh(),
                seconds_per_report=0.0,
            ):
                found.append(report.skipped)

        with pytest.raises(NonFiniteError) as caught:
            collect()
        assert found == list(range(1, training_step.PATIENCE + 1))
        message = str(caught.value)
        assert message.startswith("the term style was not finite for 20 steps in a row, up to step")
        assert message.endswith("step 20: lower the learning rate or the weights")

    def test_a_photo_without_loss_is_no_end(self) -> None:
        """The logarithm of 0: skipped, and the next step goes on."""
        exact = variables()
        exact["params"]["a"][:] = 0.0
        exact["params"]["instance"]["row"][:] = CONSTANTS["target"]
        config, mesh = CONFIG, training.data_mesh()
        state = training.start(exact, config, mesh)
        step = training_step.make_step(toy, config)
        nothing = CONSTANTS | {"style": np.float32(0.0)}
        batch = next(batches())
        for constants in (nothing, CONSTANTS):
            state, _ = step(state, training.shard_batch(batch, mesh), constants)
        assert (int(state.skipped), int(state.failing)) == (1, 0)
        assert np.isfinite(flat(state.variables)["a"]).all()


class TestTrain:
    def test_reports_every_step_where_there_is_time(self, whole: list[Report]) -> None:
        assert [report.step for report in whole] == list(range(1, CONFIG.steps + 1))
        for report in whole:
            assert report.total == pytest.approx(sum(report.terms.values()), rel=1e-5)
            assert set(report.terms) == {"content", "style"}
            assert report.photos_per_second > 0
            assert int(report.state.step) == report.step

    def test_else_at_the_given_steps_and_the_last_with_means_since(
        self, whole: list[Report]
    ) -> None:
        found = reports(seconds_per_report=np.inf, report_at=lambda step: step in (2, 5))
        assert [report.step for report in found] == [2, 5, 6]
        for report, (first, last) in zip(found, [(0, 2), (2, 5), (5, 6)], strict=True):
            mean = np.mean([one.total for one in whole[first:last]])
            assert report.total == pytest.approx(mean, rel=1e-5)
            content = np.mean([one.terms["content"] for one in whole[first:last]])
            assert report.terms["content"] == pytest.approx(content, rel=1e-5)
        for x, y in zip(*(jax.tree.leaves(r[-1].state) for r in (whole, found)), strict=True):
            assert x.tobytes() == y.tobytes()

    def test_goes_on_from_a_state_as_if_it_had_not_stopped(self, whole: list[Report]) -> None:
        mesh = training.data_mesh()
        taken, state = batches(), started()
        step = training_step.make_step(toy, CONFIG)
        for _ in range(2):
            state, _ = step(state, training.shard_batch(next(taken), mesh), CONSTANTS)
        rest = [
            (report.step, report.total, jax.tree.map(np.array, report.state))
            for report in training.train(
                toy, CONFIG, state, taken, CONSTANTS, mesh, seconds_per_report=0.0
            )
        ]
        assert [(x, y) for x, y, _ in rest] == [(one.step, one.total) for one in whole[2:]]
        for x, y in zip(*map(jax.tree.leaves, (rest[-1][2], whole[-1].state)), strict=True):
            assert x.tobytes() == y.tobytes()

    def test_what_is_done_is_not_done_again(self) -> None:
        assert reports(state=advanced(CONFIG, CONFIG.steps)) == []


class TestDevices:
    def test_a_batch_is_spread_over_them(self) -> None:
        batch = next(batches())
        found = training.shard_batch(batch, training.data_mesh())
        assert found["photos"].dtype == jnp.uint8
        assert found["index"].dtype == jnp.int32  # JAX has no others, by default.
        shards = [np.asarray(shard.data) for shard in found["photos"].addressable_shards]
        np.testing.assert_array_equal(shards, batch["photos"].reshape(2, 2, 3))

    def test_the_state_and_constants_are_on_each(self) -> None:
        mesh = training.data_mesh()
        for tree in (started(), training.replicate(CONSTANTS, mesh)):
            for leaf in jax.tree.leaves(tree):
                assert leaf.sharding.is_fully_replicated
                assert leaf.sharding.device_set == set(jax.devices())

    def test_one_gives_what_two_give(self, whole: list[Report]) -> None:
        one = jax.make_mesh(
            (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
        )
        found = training.train(
            toy,
            CONFIG,
            training.start(variables(), CONFIG, one),
            batches(),
            training.replicate(CONSTANTS, one),
            one,
            seconds_per_report=0.0,
        )
        totals = [report.total for report in found]
        np.testing.assert_allclose(totals, [report.total for report in whole], rtol=1e-6)


class TestConfig:
    @pytest.mark.parametrize(("optimizer", "expected"), [("adam", 1e-3), ("muon", 2e-3)])
    def test_the_learning_rate_is_that_of_the_optimizer(
        self, optimizer: str, expected: float
    ) -> None:
        params = {"bias": jnp.ones(2)}

        def first_update(learning_rate: float | None) -> Any:
            config = TrainConfig(steps=1, optimizer=optimizer, learning_rate=learning_rate)
            transformation = config.transformation()
            with jax.numpy_dtype_promotion("standard"):
                return transformation.update(params, transformation.init(params), params)[0]

        np.testing.assert_array_equal(first_update(None)["bias"], first_update(expected)["bias"])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"steps": 0}, "steps must be at least 1, got 0"),
            ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
            ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
            ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
            ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
            ({"learning_rate": float("inf")}, "learning_rate must be positive, got inf"),
            ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
            ({"ema_decay": float("nan")}, r"ema_decay must be in \[0, 1\), got nan"),
            ({"loss_mean": "geometric"}, "loss_mean must be one of .*log.*, got 'geometric'"),
            ({"optimizer": "sgd"}, "optimizer must be one of .*muon.*, got 'sgd'"),
            ({"schedule": "linear"}, "schedule must be one of .*cosine.*, got 'linear'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(CONFIG, **wrong)
