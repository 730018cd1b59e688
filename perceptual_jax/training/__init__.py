"""Optimise the weights of networks (Johnson et al. 2016)."""

from perceptual_jax.training.step import (
    NonFiniteError,
    Report,
    TrainConfig,
    TrainState,
    data_mesh,
    make_step,
    replicate,
    shard_batch,
    start,
    train,
)

__all__ = [
    "NonFiniteError",
    "Report",
    "TrainConfig",
    "TrainState",
    "data_mesh",
    "make_step",
    "replicate",
    "shard_batch",
    "start",
    "train",
]
