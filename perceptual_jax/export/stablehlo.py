"""Trained networks as StableHLO, the programs that JAX itself stores."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from perceptual_jax import models
from perceptual_jax.models import networks
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.pretrained.networks import TrainedNetwork

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(trained: TrainedNetwork, *, style_weights: Any = None) -> bytes:
    """A network as StableHLO, for CPU, GPU and TPU, and pictures of any number, height and width.

    `jax.export.deserialize(bytearray(data)).call(images)` gives what `models.stylize` or
    `models.enlarge` does; JAX keeps such files readable for six months at least.

    Args:
      trained: the network.
      style_weights: of the rows of a style network; needed if there are several.
    """
    network, variables = trained.network, jax.tree.map(jnp.asarray, trained.variables)

    def apply(images: jax.Array) -> jax.Array:
        if isinstance(network, StyleNetwork):
            return models.stylize(variables, images, network=network, style_weights=style_weights)
        return models.enlarge(variables, images, network=network)

    least = networks.smallest_side(network)
    shape = export.symbolic_shape(
        "n, h, w, 3", constraints=[f"h >= {least}", f"w >= {least}", "n >= 1"]
    )
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return bytes(export.export(jax.jit(apply), platforms=PLATFORMS)(images).serialize())
