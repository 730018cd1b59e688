"""The loop: what is reported, how dispatches follow, and what is kept when the objective breaks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import objective as objective_lib
from perceptual_jax import synthesis
from perceptual_jax.objective import GATYS, Objective
from perceptual_jax.synthesis import NonFiniteError, Optimizer, Report, Trace, loop
from tests import reference
from tests.synthesis.small import (
    NOISE,
    PARAMS,
    PHOTO,
    SIZE,
    SMALL,
    TARGETS,
    evaluate,
    kept,
    reports,
    totals,
    weights_for,
)


def programs() -> int:
    """How often `advance` was compiled."""
    compiled: Any = synthesis.advance
    return compiled._cache_size()


def times_red(factor: float) -> reference.Params:
    """A network of one feature, conv1_1: the red of its pixel times a factor."""
    kernel = np.zeros((3, 3, 3, 1), np.float32)
    kernel[1, 1, 0, 0] = factor
    return {
        "normalization": {"mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32)},
        "conv1_1": {"kernel": kernel, "bias": np.zeros(1, np.float32)},
    }


@pytest.fixture(scope="module")
def twelve() -> list[Report]:
    """The reports of 12 iterations from noise, three images side by side."""
    return reports()


class TestReports:
    def test_the_objective_is_evaluated_before_the_first_iteration_and_after_each(
        self, twelve: list[Report]
    ) -> None:
        assert totals(twelve).shape == (3, 13)
        evaluations = np.cumsum([report.trace.totals.shape[1] for report in twelve])
        assert [report.step for report in twelve] == list(evaluations - 1)
        assert {report.steps for report in twelve} == {12}

    def test_the_first_comes_before_anything_moved(self, twelve: list[Report]) -> None:
        """So that a person sees something at once, and knows what the start was worth."""
        assert twelve[0].step == 0
        np.testing.assert_array_equal(twelve[0].best, NOISE)

    def test_terms_are_named_and_add_up(self, twelve: list[Report]) -> None:
        for report in twelve:
            assert set(report.trace.terms) == set(SMALL.term_weights())
            added = np.sum(list(report.trace.terms.values()), axis=0)
            np.testing.assert_allclose(report.trace.totals, added, rtol=1e-5)

    def test_the_first_total_is_the_objective_of_the_start(self, twelve: list[Report]) -> None:
        found, terms = evaluate(SMALL, PARAMS, NOISE, TARGETS)
        np.testing.assert_allclose(totals(twelve)[:, 0], found, rtol=1e-5)
        for name, values in twelve[0].trace.terms.items():
            np.testing.assert_allclose(values[:, 0], terms[name], rtol=1e-5)

    def test_the_best_image_has_the_lowest_total_so_far(self, twelve: list[Report]) -> None:
        for count, report in enumerate(twelve, start=1):
            found, _ = evaluate(SMALL, PARAMS, jnp.asarray(report.best), TARGETS)
            lowest = totals(twelve[:count]).min(axis=1)
            np.testing.assert_allclose(found, lowest, rtol=1e-4)

    def test_the_objective_falls(self, twelve: list[Report]) -> None:
        found = totals(twelve)
        assert (found.min(axis=1) < 0.15 * found[:, 0]).all()

    def test_a_start_out_of_range_is_refused_before_anything_is_compiled(self) -> None:
        with pytest.raises(ValueError, match="images must lie in"):
            reports(255 * NOISE)
        with pytest.raises(ValueError, match="images must be"):
            reports(NOISE[..., 0])


class TestDispatch:
    """How many iterations one dispatch does is a matter of time, and of nothing else."""

    def test_any_number_is_one_program_with_one_result(self) -> None:
        reports(steps=1)
        compiled = programs()
        one_by_one = reports(seconds_per_report=0.0)
        at_once = reports(seconds_per_report=1e9)
        assert [report.step for report in one_by_one] == list(range(13))
        # The second dispatch, the first whose time says something, is of one.
        assert [report.step for report in at_once] == [0, 1, 11, 12]
        np.testing.assert_allclose(totals(at_once), totals(one_by_one), rtol=1e-5)
        np.testing.assert_allclose(at_once[-1].best, one_by_one[-1].best, atol=1e-5)
        assert programs() == compiled

    def test_weights_are_data_of_one_program(self) -> None:
        """As many weightings as a person tries compile once."""
        reports(steps=1)
        compiled = programs()
        doubled = {name: 2 * weight for name, weight in SMALL.term_weights().items()}
        once, twice = reports(steps=1), reports(steps=1, term_weights=doubled)
        np.testing.assert_allclose(totals(twice)[:, 0], 2 * totals(once)[:, 0], rtol=1e-5)
        assert programs() == compiled

    def test_starting_leaves_the_given_images_alone(self) -> None:
        images = jnp.asarray(NOISE)
        reports(images, steps=1)
        np.testing.assert_array_equal(images, NOISE)


class TestBatch:
    def test_side_by_side_is_each_alone(self, twelve: list[Report]) -> None:
        for index in range(2):
            alone = reports(NOISE[index : index + 1])
            np.testing.assert_allclose(totals(alone)[0], totals(twelve)[index], rtol=1e-3)

    def test_each_with_its_own_weights(self) -> None:
        """Figure 3 of the paper: one program, a column of alphas."""
        alphas = np.array([0.0, 1.0, 30.0], np.float32)
        together = reports(
            np.repeat(NOISE[:1], 3, axis=0),
            term_weights={**SMALL.term_weights(), "content/conv2_1": alphas},
        )
        content = np.concatenate([x.trace.terms["content/conv2_1"] for x in together], axis=1)
        np.testing.assert_array_equal(content[0], np.zeros(13))
        np.testing.assert_allclose(content[2, 0], 30 * content[1, 0], rtol=1e-5)
        alone = reports(NOISE[:1])  # Of weight 1 by the objective itself.
        np.testing.assert_allclose(totals(together)[1], totals(alone)[0], rtol=1e-3)
        assert content[2, -1] / 30 < content[1, -1]


class TestScaleOfTheWeights:
    """Weights are ratios: all of them times one factor give the same pictures."""

    @pytest.mark.usefixtures("optaxs_promotion")
    @pytest.mark.parametrize(
        "optimizer",
        [
            Optimizer(),
            Optimizer(line_search=True),
            Optimizer(optimizer="adam"),
        ],
        ids=["lbfgs", "line search", "adam"],
    )
    def test_does_nothing_but_to_the_printed_numbers(self, optimizer: Optimizer) -> None:
        def found(factor: float) -> list[Report]:
            weights = {name: factor * weight for name, weight in SMALL.term_weights().items()}
            options: Any = {"optimizer": optimizer, "term_weights": weights}
            return reports(steps=4, seconds_per_report=0.0, **options)

        expected = found(1.0)
        for factor in (1e-4, 1e4, 1e-30, 1e30):
            scaled = found(factor)
            np.testing.assert_allclose(scaled[-1].best, expected[-1].best, rtol=0, atol=1e-5)
            np.testing.assert_allclose(totals(scaled) / factor, totals(expected), rtol=1e-4)

    def test_is_left_alone_for_the_default_weights(self) -> None:
        """So that the pictures of a preset are those of the optimiser on the preset itself."""
        assert loop._SUM_OF_WEIGHTS == sum(GATYS.term_weights().values()) == 11001.0

    @pytest.mark.usefixtures("optaxs_promotion")
    def test_adam_moves_pixels_as_far_where_the_losses_are_small(self) -> None:
        """The first step of Adam is the learning rate, whatever the gradient (Kingma & Ba 2015).

        That of this picture is some 1e-9: optax's own epsilon, 1e-8, would take most of the step.
        """
        photo = np.full((*SIZE, 3), 0.5, np.float32)
        objective = Objective(content_layers=("conv1_1",))
        params = times_red(1e-6)
        targets = objective_lib.targets(objective, params, content=photo)
        *_, last = synthesis.run(
            objective,
            params,
            photo[None] + 0.1,
            targets,
            steps=1,
            optimizer=Optimizer(optimizer="adam", learning_rate=0.01, low_frequency_gain=0.0),
        )
        np.testing.assert_allclose(last.best[0, ..., 0], 0.59, rtol=1e-4)


class TestSettingsOfJax:
    def test_nothing_depends_on_64_bits(self, twelve: list[Report]) -> None:
        with jax.enable_x64(True):
            found = reports(steps=2, seconds_per_report=0.0)
        np.testing.assert_allclose(totals(found), totals(twelve)[:, :3], rtol=1e-4)
        assert found[-1].best.dtype == found[-1].trace.totals.dtype == np.float32

    def test_nothing_is_nan_on_the_way(self, twelve: list[Report]) -> None:
        """`jax_debug_nans` raises `FloatingPointError` for any value that is."""
        with jax.debug_nans(True):
            found = reports(steps=2, seconds_per_report=0.0)
        np.testing.assert_allclose(totals(found), totals(twelve)[:, :3], rtol=1e-5)


class TestTrace:
    # Two images, two evaluations.
    TRACE = Trace(
        np.array([[8.0, 6.0], [4.0, 2.0]]),
        {
            "content/conv4_2": np.array([[1.0, 2.0], [0.0, 0.0]]),
            "style/conv1_1": np.array([[3.0, 3.0], [4.0, 1.0]]),
            "style/conv2_1": np.array([[4.0, 1.0], [0.0, 1.0]]),
        },
    )

    def test_the_summary_is_of_the_last_evaluation_by_kind(self) -> None:
        """By hand, means over the images: (6 + 2) / 2, (2 + 0) / 2, (3 + 1) / 2 + (1 + 1) / 2."""
        assert self.TRACE.summary() == {"total": 4.0, "content": 1.0, "style": 3.0}

    def test_records_are_one_for_each_evaluation(self) -> None:
        names = ("content/conv4_2", "style/conv1_1", "style/conv2_1")
        assert self.TRACE.records() == [
            {"total": 6.0, "terms": dict(zip(names, (0.5, 3.5, 2.0), strict=True))},
            {"total": 4.0, "terms": dict(zip(names, (1.0, 2.0, 1.0), strict=True))},
        ]


class TestFreeze:
    def test_names_a_layer_that_the_network_does_not_have(self) -> None:
        with pytest.raises(ValueError, match="no layer conv9_1"):
            synthesis.freeze(PARAMS, Objective(content_layers=("conv9_1",)))

    def test_what_is_frozen_gives_the_same(self, twelve: list[Report]) -> None:
        frozen = synthesis.freeze(PARAMS, SMALL)
        found = list(synthesis.run(SMALL, frozen, NOISE, TARGETS, steps=0))
        np.testing.assert_array_equal(totals(found)[:, 0], totals(twelve)[:, 0])


class TestNonFinite:
    """In other programs pictures become black: here the last good one stays."""

    def broken(
        self,
        images: Any,
        objective: Objective = SMALL,
        targets: Any = TARGETS,
        *,
        params: Any = PARAMS,
        **options: Any,
    ) -> tuple[list[Report], str]:
        """The reports until the error, and its message."""
        found: list[Report] = []

        def collect() -> None:
            for report in synthesis.run(objective, params, images, targets, **options):
                found.append(kept(report))

        with pytest.raises(NonFiniteError) as caught:
            collect()
        return found, str(caught.value)

    def test_the_terms_that_overflow_are_named(self) -> None:
        """A step that leads far from every picture; the start is what is left."""
        astray = Optimizer(learning_rate=1e30)
        found, message = self.broken(PHOTO[None], steps=5, optimizer=astray)
        assert message == (
            "the term content/conv2_1, style/conv1_1, style/conv2_1 was no longer finite by "
            "iteration 1: lower the learning rate"
        )
        assert [report.step for report in found] == [0, 1]
        np.testing.assert_array_equal(found[-1].best, PHOTO[None])

    def test_nan_in_what_is_compared_with(self) -> None:
        style = TARGETS.style["conv2_1"].at[0, 0, 0].set(jnp.nan)
        targets = TARGETS._replace(style={**TARGETS.style, "conv2_1": style})
        found, message = self.broken(NOISE, targets=targets, steps=5)
        assert message.startswith("the term style/conv2_1 was no longer finite by iteration 0:")
        np.testing.assert_array_equal(found[-1].best, NOISE)

    @pytest.mark.usefixtures("optaxs_promotion")
    def test_a_gradient_that_overflows_where_the_objective_does_not(self) -> None:
        """By hand, of a feature that is 2e19 times a pixel, 1e-4 off the photo's: eq. 1 of Gatys et
        al. 2015 is (2e15)^2 / 2 = 2e30, and its derivative 2e19 * 2e15 = 4e34; times the sum of
        the default weights, 11001, the latter is 4e38, above float32's 3.4e38.
        """
        params = times_red(2e19)
        photo = np.full((*SIZE, 3), 0.125, np.float32)
        image = photo[None].copy()
        image[0, 8, 8, 0] += 1e-4
        objective = Objective(content_layers=("conv1_1",))
        targets = objective_lib.targets(objective, params, content=photo)
        found, message = self.broken(
            image,
            objective,
            targets,
            params=params,
            steps=5,
            optimizer=Optimizer(optimizer="adam", low_frequency_gain=0.0),
        )
        assert np.isfinite(found[-1].trace.totals).all()
        assert message.startswith("the gradient was no longer finite by iteration 0:")
        np.testing.assert_array_equal(found[-1].best, image)

    def test_the_others_of_a_batch_go_on(self, twelve: list[Report]) -> None:
        weights = weights_for(3)
        weights["content/conv2_1"][1] = np.nan
        found = reports(term_weights=weights)
        np.testing.assert_allclose(totals(found)[[0, 2]], totals(twelve)[[0, 2]], rtol=1e-3)
        np.testing.assert_array_equal(found[-1].best[1], NOISE[1])
        assert np.isfinite(found[-1].best).all()


class TestWhiteNoise:
    def test_is_grey_with_a_little_noise_inside_the_range_of_pixels(self) -> None:
        noise = synthesis.white_noise((64, 96, 3), seed=0)
        assert noise.shape == (64, 96, 3)
        assert noise.dtype == np.float32
        assert noise.min() >= 0
        assert noise.max() <= 1
        np.testing.assert_allclose([noise.mean(), noise.std()], [0.5, 0.1], atol=0.002)

    def test_is_made_by_its_seed(self) -> None:
        first, again, other = (synthesis.white_noise((4, 5, 3), seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
