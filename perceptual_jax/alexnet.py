"""AlexNet features as a function of a parameter tree (Krizhevsky 2014, as torchvision has it).

Images are `(..., H, W, 3)`, RGB, in [0, 1]; the normalisation that the weights were trained with is
part of the tree.  `relu1` to `relu5` are the five convolutions, each after its ReLU.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from perceptual_jax.ops import conv, pool
from perceptual_jax.ops.checks import as_images, check_large_enough

Params = Mapping[str, Mapping[str, Any]]

# A 3x3 maximum with stride 2 is between them and the layer before.
_AFTER_POOLING = ("relu2", "relu3")

# 4 n + 7 at the first layer; those after no pooling keep the size of what they are given.
_SMALLEST_SIDES = {"relu1": 7, "relu2": 15, "relu3": 31, "relu4": 31, "relu5": 31}


def smallest_side(layers: Iterable[str]) -> int:
    """The fewest pixels of a side for which each of the layers has a position."""
    return max((_SMALLEST_SIDES[layer] for layer in layers), default=1)


def features(params: Params, images: ArrayLike, layers: Iterable[str]) -> dict[str, jax.Array]:
    """Activations of the asked layers, computed no deeper than the deepest of them.

    Args:
      params: `{"normalization": {"mean": (3,), "std": (3,)}, "conv1": {"kernel": (11, 11, 3, 64),
        "bias": (64,)}, ...}`, as `perceptual_jax.load_lpips` gives it.
      images: `(..., H, W, 3)`, RGB, in [0, 1].
      layers: `relu1` to `relu5`.

    Returns:
      For each layer, in order of computation, `(..., H', W', C)` in float32.

    Raises:
      ValueError: wrong layout, dtype, range or layer name, or an image too small for a layer.
    """
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    known = [name for name in _SMALLEST_SIDES if name.replace("relu", "conv") in params]
    if unknown := [layer for layer in layers if layer not in known]:
        raise ValueError(
            f"this network has no layer {', '.join(unknown)}; it has {', '.join(known)}"
        )
    images = as_images(images)
    *batch, height, width, _ = images.shape
    check_large_enough(height, width, smallest_side(layers), layers)

    mean, std = (
        jnp.asarray(params["normalization"][part], jnp.float32).reshape(1, 1, 1, 3)
        for part in ("mean", "std")
    )
    x = images.reshape(-1, height, width, 3)
    x = (x.astype(jnp.float32) - mean) / std
    found: dict[str, jax.Array] = {}
    for name in known:
        if len(found) == len(set(layers)):
            break
        if name in _AFTER_POOLING:
            x = pool.overlapping_max_pool(x)
        layer = params[name.replace("relu", "conv")]
        kernel, bias = (jnp.asarray(layer[part], jnp.float32) for part in ("kernel", "bias"))
        if name == "relu1":
            x = conv.conv2d(x, kernel, stride=4, padding=((2, 2), (2, 2)))
        else:
            x = conv.fast_conv2d(x, kernel)
        x = jax.nn.relu(x + bias.reshape(1, 1, 1, -1))
        if name in layers:
            found[name] = x
    return {name: x.reshape(*batch, *x.shape[1:]) for name, x in found.items()}
