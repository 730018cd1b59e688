"""`--refine`, where a signal ends it; what it makes is in `modes/test_stylize.py`."""

import signal

import numpy as np

from perceptual_jax.cli.interrupts import Interrupts
from perceptual_jax.cli.refinement import Refinement
from tests import reference


def test_interrupted_at_a_smaller_size_it_leaves_the_picture_as_it_was() -> None:
    photo, result = (reference.random_images(32, 40, 3, seed=seed) for seed in (1, 2))
    interrupts = Interrupts()
    interrupts.handle(signal.SIGINT, None)
    found = Refinement(["wave"], 2)(photo, result, {"wave": 1.0}, 64.0, interrupts)
    np.testing.assert_array_equal(found, result)
