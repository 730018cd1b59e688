"""Tiny networks for super-resolution whose share of the result shows in 8 bits."""

from typing import Any

import jax

from perceptual_jax.models import networks
from perceptual_jax.models.networks import SuperResolutionNetwork
from perceptual_jax.pretrained.networks import TrainedNetwork
from tests import reference


def random_enlarger(factor: int = 4, **options: Any) -> TrainedNetwork:
    """With random weights; what it adds to the bicubic enlargement is some tenths."""
    network = SuperResolutionNetwork(factor, **{"width": 2, "residual_blocks": 1, **options})
    shapes = jax.eval_shape(lambda: networks.initial_variables(network, seed=0))
    variables = reference.random_variables(shapes)
    variables["params"]["output"]["kernel"] *= 50.0
    return TrainedNetwork(network=network, variables=variables, styles=(), settings={})


def zero_enlarger(factor: int = 4) -> TrainedNetwork:
    """One that adds nothing."""
    trained = random_enlarger(factor)
    output = trained.variables["params"]["output"]
    trained.variables["params"]["output"] = jax.tree.map(lambda leaf: 0.0 * leaf, output)
    return trained
