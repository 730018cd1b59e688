"""One step: what an iteration of each optimiser does, and what it does not touch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import synthesis
from perceptual_jax.synthesis import Optimizer, preconditioning
from tests.synthesis.small import (
    NOISE,
    PARAMS,
    SMALL,
    TARGETS,
    evaluate,
    reports,
    totals,
    weights_for,
)


class TestInit:
    def test_images_of_the_wrong_range_or_type_are_refused(self) -> None:
        for images in (255 * NOISE, NOISE[..., 0], (255 * NOISE).astype(np.uint8)):
            with pytest.raises(ValueError, match="images must"):
                synthesis.init(images, Optimizer())

    def test_images_of_another_precision_become_float32(self) -> None:
        """As they are everywhere else; also where JAX has 64 bits."""
        with jax.enable_x64(True):
            for images in (NOISE.astype(np.float64), jnp.asarray(NOISE, jnp.bfloat16)):
                state = synthesis.init(images, Optimizer(memory=2))
                assert state.best.dtype == state.coordinates.dtype == jnp.float32
                assert state.best_total.dtype == jnp.float32


class TestAdvance:
    def test_the_state_is_donated(self) -> None:
        """Else the memory of L-BFGS, most of what a large picture takes, would be there twice."""
        optimizer = Optimizer()
        state = synthesis.init(jnp.asarray(NOISE), optimizer)
        after, values, _ = synthesis.advance(
            state, PARAMS, TARGETS, weights_for(3), 2, objective=SMALL, optimizer=optimizer
        )
        gone = {x.is_deleted() for x in jax.tree.leaves(state)}
        assert gone == {True}
        assert not after.best.is_deleted()
        assert values.shape == (3, synthesis.MAX_PER_DISPATCH)

    def test_what_broke_is_not_moved_any_more(self) -> None:
        """Nor afterwards, when the weights are good again: L-BFGS has seen what is not finite."""
        optimizer = Optimizer()
        state = synthesis.init(jnp.asarray(NOISE), optimizer)
        for weight in (3e38, 1.0):
            weights = weights_for(3)
            weights["content/conv2_1"][1] = weight
            state, _, _ = synthesis.advance(
                state, PARAMS, TARGETS, weights, 2, objective=SMALL, optimizer=optimizer
            )
            np.testing.assert_array_equal(state.stopped, [False, True, False])
            np.testing.assert_array_equal(state.coordinates[1], np.zeros_like(NOISE[1]))
        assert (np.abs(state.coordinates).max((1, 2, 3)) > 0.01)[[0, 2]].all()


class TestOptimizers:
    def test_lbfgs_moves_no_coordinate_further_than_max_step_times_the_learning_rate(self) -> None:
        optimizer = Optimizer(max_step=0.04, learning_rate=0.5)
        state = synthesis.init(jnp.asarray(NOISE), optimizer)
        furthest = []
        for _ in range(4):
            before = np.array(state.coordinates)
            state, _, _ = synthesis.advance(
                state, PARAMS, TARGETS, weights_for(3), 1, objective=SMALL, optimizer=optimizer
            )
            furthest.append(np.abs(np.asarray(state.coordinates) - before).max((1, 2, 3)))
        # Without the bound every step would be longer, the first one too, which is 0.05.
        np.testing.assert_allclose(furthest, np.full((4, 3), 0.02), rtol=1e-4)

    @pytest.mark.usefixtures("optaxs_promotion")
    @pytest.mark.parametrize(("learning_rate", "first_step"), [(None, 0.02), (0.007, 0.007)])
    def test_adam_moves_every_coordinate_by_the_learning_rate_at_first(
        self, learning_rate: float | None, first_step: float
    ) -> None:
        """Kingma & Ba 2015, algorithm 1: bias-corrected, the first step is the gradient's sign.

        The gradient of coordinates is that of pixels by `precondition`, which is its own adjoint.
        """
        found = reports(optimizer=Optimizer(optimizer="adam", learning_rate=learning_rate))
        gradient = jax.grad(lambda x: jnp.sum(evaluate(SMALL, PARAMS, x, TARGETS)[0]))(NOISE)
        moved = np.asarray(found[1].best) - NOISE
        precondition = jax.vmap(preconditioning.precondition)
        expected = precondition(-first_step * jnp.sign(precondition(gradient)))
        np.testing.assert_allclose(moved, expected, atol=1e-5)
        assert (np.diff(totals(found)) < 0).all()

    @pytest.mark.usefixtures("optaxs_promotion")
    def test_without_gain_the_pixels_themselves_are_moved(self) -> None:
        found = reports(steps=1, optimizer=Optimizer(optimizer="adam", low_frequency_gain=0.0))
        moved = np.asarray(found[1].best) - NOISE
        np.testing.assert_allclose(np.abs(moved), np.full_like(NOISE, 0.02), atol=1e-5)

    @pytest.mark.usefixtures("optaxs_promotion")
    def test_a_line_search_never_goes_up(self) -> None:
        found = totals(reports(NOISE[:1], steps=8, optimizer=Optimizer(line_search=True)))
        assert (np.diff(found) < 0).all()
        assert found[0, -1] < 0.2 * found[0, 0]

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"optimizer": "sgd"}, r"optimizer must be one of \('lbfgs', 'adam'\), got 'sgd'"),
            (
                {"line_search": True, "learning_rate": 0.5},
                "line_search finds the length of each step itself: leave learning_rate out",
            ),
            ({"line_search": True, "optimizer": "adam"}, "line_search is for lbfgs, adam has none"),
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
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Optimizer(**wrong)
