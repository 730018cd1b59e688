"""The estimate of memory beside XLA's own account."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import objective as objective_lib
from perceptual_jax import synthesis, vgg
from perceptual_jax.objective import GATYS, JOHNSON, Objective
from perceptual_jax.synthesis import Optimizer, memory
from tests import reference

PARAMS = reference.random_vgg(widths=reference.VGG_WIDTHS)
# Compiled, not run.  Above 512x512, where no layer has so few positions that it is convolved in
# another way, which takes up to some 30 MB whatever the size.
SMALLER, LARGER = (544, 544), (576, 768)
# Code that is never run need not be good; what is kept in memory is decided before.
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
PIXELS = 576 * 768 - 544 * 544
ADAM = Optimizer(optimizer="adam")


def bytes_by_xla(
    objective: Objective, optimizer: Optimizer, height_width: tuple[int, int]
) -> float:
    """What the compiled `advance` holds at once, without running it."""
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam adds integers to floats.
        picture = jax.ShapeDtypeStruct((*height_width, 3), jnp.float32)
        batch = jax.ShapeDtypeStruct((1, *height_width, 3), jnp.float32)
        params = jax.eval_shape(lambda params: vgg.freeze(params, objective.layers), PARAMS)
        targets = jax.eval_shape(
            lambda params, x: objective_lib.targets(objective, params, content=x, styles=[x]),
            params,
            picture,
        )
        compiled = synthesis.advance.lower(
            jax.eval_shape(lambda x: synthesis.init(x, optimizer), batch),
            params,
            targets,
            {name: np.zeros(1, np.float32) for name in objective.term_weights()},
            1,
            objective=objective,
            optimizer=optimizer,
        ).compile(compiler_options=QUICK)
    found: Any = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.temp_size_in_bytes
    return held + found.output_size_in_bytes - found.alias_size_in_bytes


def estimate(
    objective: Objective, height_width: tuple[int, int], optimizer: Optimizer, images: int = 1
) -> int:
    return memory.synthesis_bytes(
        objective, PARAMS, height_width, optimizer=optimizer, images=images
    )


class TestEstimate:
    @pytest.mark.parametrize(
        ("objective", "optimizer"),
        [
            (GATYS, Optimizer()),
            (GATYS, Optimizer(memory=10)),
            (JOHNSON, ADAM),
        ],
    )
    def test_grows_by_pixels_as_xlas_account(
        self, objective: Objective, optimizer: Optimizer
    ) -> None:
        """Between two sizes, so that the program and its weights drop out."""
        xla = bytes_by_xla(objective, optimizer, LARGER) - bytes_by_xla(
            objective, optimizer, SMALLER
        )
        ours = estimate(objective, LARGER, optimizer) - estimate(objective, SMALLER, optimizer)
        assert ours / PIXELS == pytest.approx(xla / PIXELS, rel=0.08)

    def test_is_in_proportion_to_pixels_and_pictures(self) -> None:
        optimizer = Optimizer(memory=50)
        fixed = estimate(GATYS, (0, 0), optimizer)
        one = estimate(GATYS, (64, 48), optimizer) - fixed
        assert estimate(GATYS, (128, 96), optimizer) - fixed == pytest.approx(4 * one)
        assert estimate(GATYS, (64, 48), optimizer, images=20) - fixed == pytest.approx(20 * one)

    def test_adam_remembers_no_gradients(self) -> None:
        of_adam = estimate(GATYS, (500, 500), ADAM)
        assert of_adam == estimate(GATYS, (500, 500), Optimizer(optimizer="adam", memory=99))
        # By hand: at least 2 x 30 copies of 500 x 500 x 3 float32 less.
        assert of_adam <= estimate(GATYS, (500, 500), Optimizer(memory=30)) - 60 * 3_000_000

    def test_layers_that_are_not_computed_cost_nothing(self) -> None:
        shallow = Objective(content_layers=("conv1_1",))
        deep = Objective(content_layers=("conv1_1", "conv2_2"))
        assert estimate(shallow, (64, 64), ADAM) < estimate(deep, (64, 64), ADAM)

    def test_counts_the_weights(self) -> None:
        """VGG-16's 14.7 million parameters are 59 MB in float32 (Simonyan & Zisserman 2015)."""
        empty = memory.synthesis_bytes(Objective(), {}, (0, 0), optimizer=ADAM)
        assert estimate(Objective(), (0, 0), ADAM) - empty == pytest.approx(59e6, rel=0.01)
