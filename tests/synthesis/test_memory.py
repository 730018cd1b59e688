"""Memory: the estimate beside XLA's own account, and what people are told."""

import platform
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import objective as objective_lib
from perceptual_jax import synthesis, vgg
from perceptual_jax.cli.errors import UserError
from perceptual_jax.io import images
from perceptual_jax.objective import GATYS, JOHNSON, Objective
from perceptual_jax.synthesis import memory
from perceptual_jax.synthesis.loop import Optimizer
from tests import reference

PARAMS = reference.random_vgg(widths=reference.VGG_WIDTHS)
# Compiled, not run.  Above 512x512, where no layer has so few positions that it is convolved in
# another way, which takes up to some 30 MB whatever the size.
SMALLER, LARGER = (544, 544), (576, 768)
# Code that is never run need not be good; what is kept in memory is decided before.
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
PIXELS = 576 * 768 - 544 * 544


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
            jax.eval_shape(lambda x: synthesis.start(x, optimizer), batch),
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


def estimate(objective: Objective, height_width: tuple[int, int], **options: Any) -> int:
    return memory.synthesis_bytes(objective, PARAMS, height_width, **options)


class TestEstimate:
    @pytest.mark.parametrize(
        ("objective", "optimizer", "remembered"),
        [
            (GATYS, Optimizer(), Optimizer().memory),
            (GATYS, Optimizer(memory=10), 10),
            (JOHNSON, Optimizer(name="adam"), 0),
        ],
    )
    def test_grows_by_pixels_as_xlas_account(
        self, objective: Objective, optimizer: Optimizer, remembered: int
    ) -> None:
        """Between two sizes, so that the program and its weights drop out."""
        xla = bytes_by_xla(objective, optimizer, LARGER) - bytes_by_xla(
            objective, optimizer, SMALLER
        )
        ours = estimate(objective, LARGER, memory=remembered) - estimate(
            objective, SMALLER, memory=remembered
        )
        assert ours / PIXELS == pytest.approx(xla / PIXELS, rel=0.08)

    def test_is_in_proportion_to_pixels_and_pictures(self) -> None:
        fixed = estimate(GATYS, (0, 0), memory=50)
        one = estimate(GATYS, (64, 48), memory=50) - fixed
        assert estimate(GATYS, (128, 96), memory=50) - fixed == pytest.approx(4 * one)
        assert estimate(GATYS, (64, 48), memory=50, images=20) - fixed == pytest.approx(20 * one)

    def test_layers_that_are_not_computed_cost_nothing(self) -> None:
        shallow = Objective(content_layers=("conv1_1",))
        deep = Objective(content_layers=("conv1_1", "conv2_2"))
        assert estimate(shallow, (64, 64), memory=0) < estimate(deep, (64, 64), memory=0)

    def test_counts_the_weights(self) -> None:
        """VGG-16's 14.7 million parameters are 59 MB in float32 (Simonyan & Zisserman 2015)."""
        empty = memory.synthesis_bytes(Objective(), {}, (0, 0), memory=0)
        assert estimate(Objective(), (0, 0), memory=0) - empty == pytest.approx(59e6, rel=0.01)


class TestCheck:
    SIZE = (2666, 4000)

    def test_lets_through_what_fits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        needed = estimate(GATYS, self.SIZE, memory=50)
        for available in (needed, 10 * needed, None):
            monkeypatch.setattr(memory, "available_bytes", lambda x=available: x)
            memory.check(GATYS, PARAMS, self.SIZE, memory=50)

    @pytest.mark.parametrize("gigabytes", [0.8, 1.0, 1.7, 3.0, 5.5, 11.0])
    def test_names_the_largest_size_that_fits(
        self, gigabytes: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: int(gigabytes * 1e9))
        with pytest.raises(UserError, match=r"4000x2666 needs about \d+\.\d GB") as caught:
            memory.check(GATYS, PARAMS, self.SIZE, memory=50)
        assert f"{gigabytes:.1f} GB are free" in str(caught.value)
        assert "--nocheck_memory" in str(caught.value)
        largest = int(re.findall(r"--image_size=(\d+)", str(caught.value))[0])
        memory.check(GATYS, PARAMS, images.size_for(self.SIZE, largest), memory=50)
        larger = images.size_for(self.SIZE, round(1.02 * largest) + 2)
        with pytest.raises(UserError):
            memory.check(GATYS, PARAMS, larger, memory=50)

    def test_names_none_where_not_even_the_program_fits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
        with pytest.raises(UserError, match="no size fits") as caught:
            memory.check(GATYS, PARAMS, self.SIZE, memory=50)
        assert "--image_size" not in str(caught.value)

    def test_many_pictures_at_once_are_smaller(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: 2_000_000_000)
        found = []
        for count in (1, 4):
            with pytest.raises(UserError) as caught:
                memory.check(GATYS, PARAMS, (1000, 1000), memory=50, images=count)
            found.append(int(re.findall(r"--image_size=(\d+)", str(caught.value))[0]))
        assert found[0] == pytest.approx(2 * found[1], abs=4)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the settings")
def test_what_is_kept_is_not_cleared_anew() -> None:
    """Pages of 256 MB, taken and given back ten times by a thread, in a process of its own."""
    program = """
import resource, sys, threading
import numpy as np
from perceptual_jax import memory

def take():
    for _ in range(10):
        np.ones(32 << 20)

if sys.argv[1] == "kept":
    memory.keep()
thread = threading.Thread(target=take)
thread.start()
thread.join()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=take)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def pages(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program, how], check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    assert pages("kept") < pages("as it is") / 10


def test_a_picture_larger_than_memory_is_refused_before_it_is_made() -> None:
    memory.check_picture((3000, 4000))
    with pytest.raises(UserError, match=r"900000x600000 needs 32400.0 GB .* lower --image_size"):
        memory.check_picture((600_000, 900_000))


def test_what_is_free_is_less_than_what_there_is() -> None:
    """Where the machine tells; between a hundredth of a gigabyte and a hundred terabytes."""
    available = memory.available_bytes()
    if available is not None:
        assert isinstance(available, int)
        assert 1e7 < available < 1e14
