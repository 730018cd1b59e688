"""Optimise the pixels of images (Gatys et al. 2015)."""

from perceptual_jax.synthesis.lbfgs import scale_by_lbfgs
from perceptual_jax.synthesis.loop import NonFiniteError, Report, Trace, freeze, run, white_noise
from perceptual_jax.synthesis.step import MAX_PER_DISPATCH, Optimizer, State, advance, init
from perceptual_jax.synthesis.transfer import coarse_to_fine, resize, transfer

__all__ = [
    "MAX_PER_DISPATCH",
    "NonFiniteError",
    "Optimizer",
    "Report",
    "State",
    "Trace",
    "advance",
    "coarse_to_fine",
    "freeze",
    "init",
    "resize",
    "run",
    "scale_by_lbfgs",
    "transfer",
    "white_noise",
]
