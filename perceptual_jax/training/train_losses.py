"""What networks are trained for: the loss of a batch of photos, as a pure function.

A `Loss` takes the network's variables, a batch and constants (arrays that stay the same all
through training), and gives one value per photo, the weighted terms that it is the sum of, and the
running statistics as they are afterwards.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax import losses, vgg
from perceptual_jax import objective as objective_lib
from perceptual_jax.models.networks import StyleNetwork, SuperResolutionNetwork
from perceptual_jax.objective import Objective, Targets

Terms = dict[str, jax.Array]
Loss = Callable[[Any, Mapping[str, jax.Array], Any], tuple[jax.Array, Terms, Any]]


def unit_range(photos: Any) -> Any:
    """8-bit photos to float32 in [0, 1]; they travel to the device as bytes, a quarter as large."""
    return photos.astype(np.float32) / np.float32(255)


def style_constants(
    objective: Objective, params: vgg.Params, paintings: Sequence[Any]
) -> dict[str, Any]:
    """VGG's parameters for `objective`, and every painting's Gram matrices, by layer.

    Args:
      objective: which layers, in which formulation.
      params: VGG parameters.
      paintings: each `(H, W, 3)` in [0, 1], of the size that its strokes are to have.

    Returns:
      `{"vgg": ..., "grams": {layer: (styles, C, C)}}`.
    """
    compute_targets = jax.jit(functools.partial(objective_lib.targets, objective))
    grams = [compute_targets(params, styles=[painting]).style for painting in paintings]
    stacked = {
        layer: jnp.concatenate([gram[layer] for gram in grams]) for layer in objective.style_layers
    }
    params = vgg.freeze(params, objective.layers, dtype=objective.dtype)
    return {"vgg": params, "grams": stacked}


def style_loss(network: StyleNetwork, objective: Objective, *, first_style: int = 0) -> Loss:
    """Resemble the photo in content and a painting in style (Johnson et al. 2016, section 3.2).

    The photos of a batch take the styles in turn, by their running number, so that each style sees
    as many, and each photo meets all of them in time.

    Args:
      network: whose variables are trained.
      objective: layers, weights, formulation.
      first_style: the styles before it are left out, for adding to a trained network.

    Returns:
      A `Loss` of batches `{"photos": (B, H, W, 3) uint8, "index": (B,)}`, with the constants that
      `style_constants` gives for the paintings of the styles that are not left out.
    """

    def loss(
        variables: Any, batch: Mapping[str, jax.Array], constants: Any
    ) -> tuple[jax.Array, Terms, Any]:
        photos = unit_range(batch["photos"])
        turns = batch["index"] % (network.styles - first_style)
        weights = jax.nn.one_hot(first_style + turns, network.styles)
        outputs, updated = network.apply(
            variables, photos, weights, train=True, mutable=["batch_stats"]
        )
        targets = Targets(
            content=_content(objective, constants["vgg"], photos),
            style={layer: grams[turns][None] for layer, grams in constants["grams"].items()},
            regions={},
        )
        totals, terms = objective_lib.evaluate(objective, constants["vgg"], outputs, targets)
        return totals, terms, updated

    return loss


def superres_loss(
    network: SuperResolutionNetwork, objective: Objective, *, pixel_weight: float
) -> Loss:
    """Resemble the true picture in features, in pixels, or both (Johnson et al. 2016, section 3.2).

    Args:
      network: whose variables are trained.
      objective: what features are compared; without content layers VGG is not computed.
      pixel_weight: of the pixel loss `||y - y_hat||^2 / (C H W)`, pixels in 0..255.

    Returns:
      A `Loss` of batches `{"photos": (B, H, W, 3) uint8, "low": (B, H / factor, W / factor, 3)
      uint8, "index": (B,)}` with the constants `{"vgg": ...}`; empty ones where VGG is not needed.
    """

    def loss(
        variables: Any, batch: Mapping[str, jax.Array], constants: Any
    ) -> tuple[jax.Array, Terms, Any]:
        photos = unit_range(batch["photos"])
        outputs, updated = network.apply(
            variables, unit_range(batch["low"]), train=True, mutable=["batch_stats"]
        )
        total: jax.Array = jnp.zeros(len(photos))
        terms: Terms = {}
        if objective.layers:
            shifts = _shifts(batch["index"])
            seen, wanted = _shifted(outputs, shifts), _shifted(photos, shifts)
            content = _content(objective, constants["vgg"], wanted)
            targets = Targets(content=content, style={}, regions={})
            total, terms = objective_lib.evaluate(objective, constants["vgg"], seen, targets)
        if pixel_weight:
            pixels = losses.feature_reconstruction(255.0 * outputs, 255.0 * photos)
            terms = {**terms, "pixel": pixel_weight * pixels}
            total = total + terms["pixel"]
        return total, terms, updated

    return loss


def _shifts(index: jax.Array) -> jax.Array:
    """Rows and columns, 0 or 1, by which VGG looks at a picture, `(B, 2)`: all four in turn.

    VGG's pooling sees blocks of 2x2 pixels, and a network soon knows which of its pixels fall into
    one: it then draws a grid that VGG does not see. Not in the paper.
    """
    return jnp.stack([index // 2 % 2, index % 2], axis=-1)


def _shifted(pictures: jax.Array, shifts: jax.Array) -> jax.Array:
    """`(B, H, W, C)` without the first, or the last, row and column."""
    height, width, channels = pictures.shape[1:]

    def cut(picture: jax.Array, shift: jax.Array) -> jax.Array:
        start = (shift[0], shift[1], jnp.zeros_like(shift[0]))
        return jax.lax.dynamic_slice(picture, start, (height - 1, width - 1, channels))

    return jax.vmap(cut)(pictures, shifts)


def _content(objective: Objective, params: vgg.Params, photos: jax.Array) -> dict[str, jax.Array]:
    return vgg.features(
        params, photos, objective.content_layers, pooling=objective.pooling, dtype=objective.dtype
    )
