"""Optimise the pixels of images (Gatys et al. 2015)."""

from perceptual_jax.synthesis.lbfgs import scale_by_lbfgs as scale_by_lbfgs
from perceptual_jax.synthesis.loop import NonFiniteError as NonFiniteError
from perceptual_jax.synthesis.loop import Report as Report
from perceptual_jax.synthesis.loop import Trace as Trace
from perceptual_jax.synthesis.loop import freeze as freeze
from perceptual_jax.synthesis.loop import run as run
from perceptual_jax.synthesis.loop import white_noise as white_noise
from perceptual_jax.synthesis.step import MAX_PER_DISPATCH as MAX_PER_DISPATCH
from perceptual_jax.synthesis.step import Optimizer as Optimizer
from perceptual_jax.synthesis.step import State as State
from perceptual_jax.synthesis.step import advance as advance
from perceptual_jax.synthesis.step import init as init
from perceptual_jax.synthesis.transfer import MARGIN as MARGIN
from perceptual_jax.synthesis.transfer import coarse_to_fine as coarse_to_fine
from perceptual_jax.synthesis.transfer import refine as refine
from perceptual_jax.synthesis.transfer import resize as resize
from perceptual_jax.synthesis.transfer import transfer as transfer
