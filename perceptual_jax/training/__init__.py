"""Optimise the weights of networks (Johnson et al. 2016)."""

from perceptual_jax.training.step import NonFiniteError as NonFiniteError
from perceptual_jax.training.step import Report as Report
from perceptual_jax.training.step import TrainConfig as TrainConfig
from perceptual_jax.training.step import TrainState as TrainState
from perceptual_jax.training.step import data_mesh as data_mesh
from perceptual_jax.training.step import make_step as make_step
from perceptual_jax.training.step import replicate as replicate
from perceptual_jax.training.step import shard_batch as shard_batch
from perceptual_jax.training.step import start as start
from perceptual_jax.training.step import train as train
