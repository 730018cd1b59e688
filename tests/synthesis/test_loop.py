"""Optimising pixels: what is reported, what an iteration does, and how sizes follow each other.

The network is a VGG-16 of a few channels, and pictures have a few hundred pixels.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from perceptual_jax import objective as objective_lib
from perceptual_jax import synthesis
from perceptual_jax.objective import Objective
from perceptual_jax.synthesis import preconditioning
from perceptual_jax.synthesis.loop import NonFiniteError, Optimizer, Report
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


def programs() -> int:
    """How often `advance` was compiled."""
    compiled: Any = synthesis.advance
    return compiled._cache_size()


def weights_for(count: int) -> dict[str, np.ndarray]:
    return {name: np.full(count, x, np.float32) for name, x in SMALL.term_weights().items()}


@pytest.fixture
def optaxs_promotion() -> Iterator[None]:
    """optax's Adam and line search add integers to floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


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

    def test_a_start_out_of_range_is_told_before_anything_is_compiled(self) -> None:
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

    def test_the_state_is_donated(self) -> None:
        """Else the memory of L-BFGS, most of what a large picture takes, would be there twice."""
        optimizer = Optimizer()
        state = synthesis.start(jnp.asarray(NOISE), optimizer)
        after, values, _ = synthesis.advance(
            state, PARAMS, TARGETS, weights_for(3), 2, objective=SMALL, optimizer=optimizer
        )
        gone = {x.is_deleted() for x in jax.tree.leaves(state)}
        assert gone == {True}
        assert not after.best.is_deleted()
        assert values.shape == (3, synthesis.MAX_PER_DISPATCH)
        assert np.isnan(values[:, 2:]).all()

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


class TestOptimizers:
    def test_lbfgs_moves_no_coordinate_further_than_max_step_times_the_learning_rate(self) -> None:
        optimizer = Optimizer(max_step=0.04, learning_rate=0.5)
        state = synthesis.start(jnp.asarray(NOISE), optimizer)
        furthest = []
        for _ in range(4):
            before = np.array(state.coordinates)
            state, _, _ = synthesis.advance(
                state, PARAMS, TARGETS, weights_for(3), 1, objective=SMALL, optimizer=optimizer
            )
            furthest.append(np.abs(np.asarray(state.coordinates) - before).max((1, 2, 3)))
        # Of the first step only the length is known: 0.05. The others would all be longer.
        np.testing.assert_allclose(furthest[0], np.full(3, 0.025), rtol=1e-4)
        np.testing.assert_allclose(furthest[1:], np.full((3, 3), 0.02), rtol=1e-4)

    @pytest.mark.usefixtures("optaxs_promotion")
    @pytest.mark.parametrize(("learning_rate", "first_step"), [(None, 0.02), (0.007, 0.007)])
    def test_adam_moves_every_coordinate_by_the_learning_rate_at_first(
        self, learning_rate: float | None, first_step: float
    ) -> None:
        """Kingma & Ba 2015, algorithm 1: bias-corrected, the first step is the gradient's sign.

        The gradient of coordinates is that of pixels by `precondition`, which is its own adjoint.
        """
        found = reports(optimizer=Optimizer(name="adam", learning_rate=learning_rate))
        gradient = jax.grad(lambda x: jnp.sum(evaluate(SMALL, PARAMS, x, TARGETS)[0]))(NOISE)
        moved = np.asarray(found[1].best) - NOISE
        precondition = jax.vmap(preconditioning.precondition)
        expected = precondition(-first_step * jnp.sign(precondition(gradient)))
        np.testing.assert_allclose(moved, expected, atol=1e-5)
        assert (np.diff(totals(found)) < 0).all()

    @pytest.mark.usefixtures("optaxs_promotion")
    def test_without_boost_the_pixels_themselves_are_moved(self) -> None:
        found = reports(steps=1, optimizer=Optimizer(name="adam", low_frequency_gain=0.0))
        moved = np.asarray(found[1].best) - NOISE
        np.testing.assert_allclose(np.abs(moved), np.full_like(NOISE, 0.02), atol=1e-5)

    @pytest.mark.usefixtures("optaxs_promotion")
    def test_a_line_search_never_goes_up(self) -> None:
        found = totals(reports(NOISE[:1], steps=8, optimizer=Optimizer(line_search=True)))
        assert (np.diff(found) < 0).all()
        assert found[0, -1] < 0.2 * found[0, 0]

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"name": "sgd"}, "name must be 'lbfgs' or 'adam', got 'sgd'"),
            ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
            ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
            ({"learning_rate": float("inf")}, "learning_rate must be positive, got inf"),
            ({"memory": 0}, "memory must be at least 1, got 0"),
            (
                {"low_frequency_gain": -1.0},
                "low_frequency_gain must be a finite number of at least 0, got -1.0",
            ),
            ({"max_step": 0.0}, "max_step must be positive, got 0.0"),
            ({"max_step": float("nan")}, "max_step must be positive, got nan"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            Optimizer(**wrong)


class TestNonFinite:
    """Other programs' people complain of black pictures: here the last good one stays."""

    def broken(
        self, images: Any, objective: Objective = SMALL, targets: Any = TARGETS, **options: Any
    ) -> tuple[list[Report], str]:
        """The reports until the error, and its message."""
        found: list[Report] = []

        def collect() -> None:
            for report in synthesis.run(objective, PARAMS, images, targets, **options):
                found.append(kept(report))

        with pytest.raises(NonFiniteError) as caught:
            collect()
        return found, str(caught.value)

    def test_a_weight_that_overflows_is_named(self) -> None:
        """The photo itself has a content loss of 0; from the first iteration on it is infinite."""
        weights = {**SMALL.term_weights(), "content/conv2_1": 3e38}
        found, message = self.broken(PHOTO[None], steps=5, term_weights=weights)
        assert message.startswith("the term content/conv2_1 was no longer finite by iteration 1;")
        assert [report.step for report in found] == [0, 1]
        np.testing.assert_array_equal(found[-1].best, PHOTO[None])

    def test_the_first_evaluation_already(self) -> None:
        weights = {**SMALL.term_weights(), "content/conv2_1": 3e38}
        found, message = self.broken(NOISE, steps=5, term_weights=weights)
        assert message.startswith("the term content/conv2_1 was no longer finite by iteration 0;")
        np.testing.assert_array_equal(found[-1].best, NOISE)

    def test_nan_in_what_is_compared_with(self) -> None:
        style = TARGETS.style["conv2_1"].at[0, 0, 0].set(jnp.nan)
        targets = TARGETS._replace(style={**TARGETS.style, "conv2_1": style})
        found, message = self.broken(NOISE, targets=targets, steps=5)
        assert message.startswith("the term style/conv2_1 was")
        np.testing.assert_array_equal(found[-1].best, NOISE)

    @pytest.mark.usefixtures("optaxs_promotion")
    def test_a_gradient_that_overflows_where_the_objective_does_not(self) -> None:
        """By hand, one pixel of one channel being d = 1e-4 off its four neighbours: 3e37 255² 4d²
        is 8e34, and its derivative 3e37 255² 8d is 2e39, above float32's 3e38.
        """
        image = np.full((1, *SIZE, 3), 0.5, np.float32)
        image[0, 8, 8, 0] += 1e-4
        objective = Objective(tv_weight=3e37)
        targets = made_for(objective, styles=())
        found, message = self.broken(
            image, objective, targets, steps=5, optimizer=Optimizer(name="adam")
        )
        assert np.isfinite(found[-1].trace.totals).all()
        assert message.startswith("the gradient was no longer finite by iteration 0;")
        np.testing.assert_array_equal(found[-1].best, image)

    def test_what_broke_is_not_moved_any_more(self) -> None:
        """Nor afterwards, when the weights are good again: L-BFGS has seen what is not finite."""
        optimizer = Optimizer()
        state = synthesis.start(jnp.asarray(NOISE), optimizer)
        for weight in (3e38, 1.0):
            weights = weights_for(3)
            weights["content/conv2_1"][1] = weight
            state, _, _ = synthesis.advance(
                state, PARAMS, TARGETS, weights, 2, objective=SMALL, optimizer=optimizer
            )
            np.testing.assert_array_equal(state.stopped, [False, True, False])
            np.testing.assert_array_equal(state.coordinates[1], np.zeros_like(NOISE[1]))
        assert (np.abs(state.coordinates).max((1, 2, 3)) > 0.01)[[0, 2]].all()

    def test_the_others_of_a_batch_go_on(self, twelve: list[Report]) -> None:
        weights = weights_for(3)
        weights["content/conv2_1"][1] = 3e38
        found = reports(term_weights=weights)
        np.testing.assert_allclose(totals(found)[[0, 2]], totals(twelve)[[0, 2]], rtol=1e-3)
        np.testing.assert_array_equal(found[-1].best[1], NOISE[1])
        assert np.isfinite(found[-1].best).all()


class TestCoarseToFine:
    @pytest.mark.parametrize(
        ("size", "scales"),
        [
            ((150, 191), [(150, 191)]),
            ((192, 100), [(192, 100)]),
            ((383, 300), [(383, 300)]),
            ((300, 384), [(150, 192), (300, 384)]),
            ((512, 342), [(256, 171), (512, 342)]),
            ((768, 1024), [(192, 256), (384, 512), (768, 1024)]),
        ],
    )
    def test_the_coarsest_long_side_is_from_192_to_383(
        self, size: tuple[int, int], scales: list[tuple[int, int]]
    ) -> None:
        assert synthesis.coarse_to_fine(size) == scales

    def test_as_many_as_asked_for(self) -> None:
        assert synthesis.coarse_to_fine((512, 342), 1) == [(512, 342)]
        assert synthesis.coarse_to_fine((40, 1000), 3) == [(10, 250), (20, 500), (40, 1000)]

    def test_no_side_vanishes(self) -> None:
        assert synthesis.coarse_to_fine((3, 64), 4) == [(1, 8), (1, 16), (2, 32), (3, 64)]


class TestResize:
    def test_is_pillows_lanczos(self) -> None:
        image = reference.random_images(24, 36, 3, seed=5)
        for height, width in ((12, 18), (11, 20), (48, 72)):
            channels = [
                np.asarray(
                    Image.fromarray(np.ascontiguousarray(image[..., i])).resize(
                        (width, height), Image.Resampling.LANCZOS
                    )
                )
                for i in range(3)
            ]
            found = synthesis.resize(jnp.asarray(image), (height, width))
            expected = np.clip(np.stack(channels, axis=-1), 0, 1)
            np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_of_a_mask_too(self) -> None:
        np.testing.assert_allclose(
            synthesis.resize(jnp.ones((9, 7)), (5, 4)), np.ones((5, 4)), rtol=1e-6
        )


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


@pytest.mark.usefixtures("optaxs_promotion")
class TestTransfer:
    """With Adam, whose first step is known, and which compiles faster."""

    FINE, COARSE = (32, 40), (16, 20)
    ADAM = Optimizer(name="adam", learning_rate=0.01)
    LARGE_PHOTO = reference.random_images(*FINE, 3, seed=6)
    LARGE_PAINTING = reference.random_images(36, 34, 3, seed=7) ** 2
    SECOND = np.sqrt(reference.random_images(30, 44, 3, seed=8))

    def stages_of(
        self,
        objective: Objective = SMALL,
        *,
        styles: Sequence[Any] | None = None,
        stages: Any = ((COARSE, 2), (FINE, 3)),
        **options: Any,
    ) -> dict[int, list[Report]]:
        found: dict[int, list[Report]] = {}
        for stage, report in synthesis.transfer(
            objective,
            PARAMS,
            self.LARGE_PHOTO,
            [self.LARGE_PAINTING] if styles is None else styles,
            stages=stages,
            optimizer=self.ADAM,
            **options,
        ):
            found.setdefault(stage, []).append(kept(report))
        return found

    def total_at(self, size: tuple[int, int], image: Any, style_size: tuple[int, int]) -> Any:
        photo = synthesis.resize(jnp.asarray(self.LARGE_PHOTO), size)
        style = synthesis.resize(jnp.asarray(self.LARGE_PAINTING), style_size)
        targets = made_for(SMALL, photo, (style,))
        return evaluate(SMALL, PARAMS, photo if image is None else image, targets)[0]

    def test_each_stage_is_run_at_its_size_for_its_steps(self) -> None:
        found = self.stages_of()
        assert list(found) == [0, 1]
        assert [totals(x).shape for x in found.values()] == [(1, 3), (1, 4)]
        assert [x[-1].best.shape for x in found.values()] == [(1, 16, 20, 3), (1, 32, 40, 3)]

    def test_photo_and_painting_shrink_alike(self) -> None:
        """A stage starts at the photo of its size, beside the painting at half of its own."""
        found = self.stages_of()
        started = self.total_at(self.COARSE, None, (18, 17))
        np.testing.assert_allclose(totals(found[0])[0, 0], started, rtol=1e-5)

    def test_what_was_changed_is_carried_over(self) -> None:
        """The change, enlarged, is added to the photo."""
        found = self.stages_of()
        small_photo = synthesis.resize(jnp.asarray(self.LARGE_PHOTO), self.COARSE)
        change = np.asarray(found[0][-1].best[0]) - np.asarray(small_photo)
        enlarged = np.stack(
            [
                np.asarray(
                    Image.fromarray(np.ascontiguousarray(change[..., i])).resize(
                        self.FINE[::-1], Image.Resampling.LANCZOS
                    )
                )
                for i in range(3)
            ],
            axis=-1,
        )
        expected = np.clip(self.LARGE_PHOTO + enlarged, 0, 1)
        np.testing.assert_allclose(found[1][0].best[0], expected, atol=5e-3)
        # Two steps of Adam.
        np.testing.assert_allclose(np.abs(change).max(), 0.02, rtol=0.2)

    def test_the_photos_finest_detail_survives(self) -> None:
        """The photo being the painting too, every stage starts at its optimum, and keeps it."""
        found = self.stages_of(styles=[self.LARGE_PHOTO])
        np.testing.assert_allclose(totals(found[1])[0, 0], 0.0, atol=1e-6)
        np.testing.assert_allclose(found[1][-1].best[0], self.LARGE_PHOTO, atol=1e-6)

    def test_starts_from_another_picture(self) -> None:
        """Given at any size; an objective that asks for nothing leaves it as it is."""
        started = self.stages_of(Objective(), init=self.LARGE_PHOTO[::-1], stages=((self.FINE, 1),))
        np.testing.assert_allclose(started[0][-1].best[0], self.LARGE_PHOTO[::-1], atol=1e-6)
        found = self.stages_of(Objective(), init=np.full((64, 80, 3), 0.25), stages=[(SIZE, 1)])
        np.testing.assert_allclose(found[0][-1].best, np.full((1, *SIZE, 3), 0.25), atol=1e-6)

    def test_of_two_paintings_the_weights_say_how_much_each_counts(self) -> None:
        both = [self.LARGE_PAINTING, self.SECOND]
        options: Any = {"stages": [(self.FINE, 1)], "init": self.LARGE_PHOTO[::-1]}
        first, mixed, second = (
            totals(self.stages_of(styles=both, style_weights=weights, **options)[0])[0, 0]
            for weights in ((1.0, 0.0), (1.0, 1.0), (0.0, 5.0))
        )
        alone = [totals(self.stages_of(styles=[x], **options)[0])[0, 0] for x in both]
        np.testing.assert_allclose([first, second], alone, rtol=1e-5)
        assert mixed < (first + second) / 2  # Convex in the Gram matrices.

    def test_each_painting_rules_its_region(self) -> None:
        """With the whole photo for one and nothing for the other, the other does not count."""
        everywhere, nowhere = np.ones(self.FINE), np.zeros(self.FINE)
        both = [self.LARGE_PAINTING, self.SECOND]
        options: Any = {"stages": [(self.FINE, 2)]}
        alone = self.stages_of(**options)
        masked = self.stages_of(styles=both, content_masks=[everywhere, nowhere], **options)
        np.testing.assert_allclose(totals(masked[0]), totals(alone[0]), rtol=1e-3)

    def test_of_a_painting_only_the_masked_part_is_taken(self) -> None:
        """conv1_1 sees one pixel around each: beyond that, the rest may be anything."""
        objective = Objective(formulation="gatys", style_layers=("conv1_1",))
        mask = np.zeros((36, 34), np.float32)
        mask[:, :15] = 1
        other = np.where(np.arange(34)[:, None] < 16, self.LARGE_PAINTING, np.float32(0.9))
        options: Any = {"stages": [(self.FINE, 2)]}
        found = [
            totals(self.stages_of(objective, styles=[style], style_masks=masks, **options)[0])
            for style, masks in (
                (self.LARGE_PAINTING, [mask]),
                (other, [mask]),
                (self.LARGE_PAINTING, None),
            )
        ]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
        assert np.abs(found[2] / found[0] - 1).max() > 0.01

    def test_aspect_and_masks_at_sizes_that_do_not_divide(self) -> None:
        found = self.stages_of(
            Objective(formulation="gatys", style_layers=("conv1_1",)),
            styles=[self.LARGE_PAINTING, self.SECOND],
            content_masks=[np.ones((17, 23))] * 2,
            style_masks=[np.ones((36, 34)), np.ones((30, 44))],
            stages=(((8, 11), 1), ((17, 23), 1)),
        )
        assert [x[-1].best.shape for x in found.values()] == [(1, 8, 11, 3), (1, 17, 23, 3)]
        assert np.isfinite(totals(found[1])).all()
