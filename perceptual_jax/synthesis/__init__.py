"""Optimise the pixels of images (Gatys et al. 2015)."""

from perceptual_jax.synthesis.loop import (
    MAX_PER_DISPATCH,
    NonFiniteError,
    Optimizer,
    Report,
    State,
    Trace,
    advance,
    coarse_to_fine,
    prepared,
    resize,
    run,
    start,
    transfer,
    white_noise,
)

__all__ = [
    "MAX_PER_DISPATCH",
    "NonFiniteError",
    "Optimizer",
    "Report",
    "State",
    "Trace",
    "advance",
    "coarse_to_fine",
    "prepared",
    "resize",
    "run",
    "start",
    "transfer",
    "white_noise",
]
