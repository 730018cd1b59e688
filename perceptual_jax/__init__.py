"""Neural style transfer and perceptual losses as pure JAX functions.

    import perceptual_jax as pj
    params = pj.load_vgg()
    features = pj.vgg.features(params, images, ["relu3_3"])  # images: (..., H, W, 3) in [0, 1]

Submodules are imported when they are first used, so that the losses cost no Flax, Orbax or Pillow.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "alexnet",
    "color",
    "io",
    "load_dists",
    "load_lpips",
    "load_network",
    "load_vgg",
    "losses",
    "metrics",
    "models",
    "objective",
    "synthesis",
    "training",
    "vgg",
]

_FUNCTIONS = {
    "load_dists": "perceptual_jax.pretrained.metrics",
    "load_lpips": "perceptual_jax.pretrained.metrics",
    "load_network": "perceptual_jax.pretrained.networks",
    "load_vgg": "perceptual_jax.pretrained.vgg",
}

if TYPE_CHECKING:
    from perceptual_jax import (
        alexnet,
        color,
        io,
        losses,
        metrics,
        models,
        objective,
        synthesis,
        training,
        vgg,
    )
    from perceptual_jax.pretrained.metrics import load_dists, load_lpips
    from perceptual_jax.pretrained.networks import load_network
    from perceptual_jax.pretrained.vgg import load_vgg


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in __all__:
        return importlib.import_module(f"perceptual_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
