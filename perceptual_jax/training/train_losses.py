"""What networks are trained for: the loss of a batch of photos, as a pure function.

A `Loss` takes the network's variables, a batch, and constants: arrays that never change during
training.  It gives one value per photo, the weighted terms whose sum that value is, and the updated
running statistics.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax import losses, vgg
from perceptual_jax.models import networks
from perceptual_jax.models.networks import Decoder, StyleNetwork, SuperResolutionNetwork
from perceptual_jax.objective import Objective, Targets, evaluate, targets

# By which pictures are enlarged at most before VGG sees them turned; found by experiment.
_LARGEST_ZOOM = 1.4

Batch = Mapping[str, jax.Array]
Terms = dict[str, jax.Array]
Loss = Callable[[Any, Batch, Any], tuple[jax.Array, Terms, Any]]


def unit_range(photos: Any) -> Any:
    """8-bit photos to float32 in [0, 1]; they travel to the device as bytes, a quarter as large."""
    return photos.astype(np.float32) / np.float32(255)


def style_constants(
    objective: Objective, params: vgg.Params, paintings: Sequence[Any]
) -> dict[str, Any]:
    """VGG's parameters for `objective`, and what every painting is compared by, for each layer.

    Args:
      objective: which layers, in which formulation.
      params: VGG parameters.
      paintings: each `(H, W, 3)` in [0, 1]; larger ones give larger strokes.

    Returns:
      `{"vgg": ..., "style": {layer: ...}, "sizes": {layer: ()}}`: as in `Targets`, with an axis for
      the styles in front.
    """
    compute_targets = jax.jit(functools.partial(targets, objective))
    found = [compute_targets(params, styles=[painting]) for painting in paintings]
    stacked = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *(x.style for x in found))
    params = vgg.freeze(params, objective.layers, dtype=objective.dtype)
    return {"vgg": params, "style": stacked, "sizes": found[0].sizes}


def style_loss(network: StyleNetwork, objective: Objective, *, first_style: int = 0) -> Loss:
    """Resemble the photo in content and a painting in style (Johnson et al. 2016, section 3.2).

    The running number of a photo chooses its style, one after the other, so that each style gets
    as many photos, and each photo gets every style in time.  Several crops of a photo stand for one
    picture as large as all of them: they are normalised together, and together compared.

    Args:
      network: whose variables are trained.
      objective: layers, weights, formulation.
      first_style: the first style that photos get; those before it are not trained.

    Returns:
      A `Loss` of batches `{"photos": (B, H, W, 3) uint8, "index": (B,)}`, or of P crops of each
      photo, `(B, P, H, W, 3)` and `(B, P)`, with the constants that `style_constants` gives for the
      paintings from `first_style` on.  Crops that are normalised together need a network with
      instance normalisation.  Where the batch has `"inputs"`, photos that were varied, the network
      gets these.
    """

    def loss(variables: Any, batch: Batch, constants: Any) -> tuple[jax.Array, Terms, Any]:
        photos, numbers = unit_range(batch["photos"]), batch["index"]
        parts = numbers.ndim == 2
        if parts:
            numbers = numbers[:, 0] // numbers.shape[1]
        turns = numbers % (network.styles - first_style)
        weights = jax.nn.one_hot(first_style + turns, network.styles, dtype=jnp.float32)
        # The statistics of all images together are a collection, see `layers.InstanceNorm`.
        mutable = ["statistics" if parts else "batch_stats"]
        apply: Any = functools.partial(network.apply, variables, train=True, mutable=mutable)
        inputs = unit_range(batch["inputs"]) if "inputs" in batch else photos
        outputs, updated = (jax.vmap(apply) if parts else apply)(inputs, weights)
        updated = {} if parts else updated
        wanted = Targets(
            content=_content(objective, constants["vgg"], photos),
            style=jax.tree.map(lambda of_styles: of_styles[turns][None], constants["style"]),
            regions={},
            sizes=constants["sizes"],
        )
        totals, terms = evaluate(objective, constants["vgg"], outputs, wanted, parts=parts)
        return totals, terms, updated

    return loss


def superres_constants(objective: Objective, params: vgg.Params) -> dict[str, Any]:
    """VGG's parameters for `objective`, and the sizes of its layers; nothing if it has none."""
    if not objective.layers:
        return {}
    sizes = {}
    if objective.formulation == "normalized":
        sizes = vgg.layer_sizes(params, objective.layers, pooling=objective.pooling)
    return {"vgg": vgg.freeze(params, objective.layers, dtype=objective.dtype), "sizes": sizes}


def superres_loss(
    network: SuperResolutionNetwork, objective: Objective, *, pixel_weight: float
) -> Loss:
    """Resemble the true picture in features, in pixels, or both (Johnson et al. 2016, section 3.2).

    With style layers it has to resemble the true picture in texture as well, by the statistics of
    its features.  VGG is then shown both pictures turned and enlarged at random: of stripes along
    the axes, which a network draws most easily, it would else reward too many.  Not in the paper.

    Args:
      network: whose variables are trained.
      objective: whose features are compared; without layers VGG is not computed.
      pixel_weight: of the pixel loss `||y - y_hat||^2 / (C H W)`, pixels in 0..255.

    Returns:
      A `Loss` of batches `{"photos": (B, H, W, 3) uint8, "low": (B, H / factor, W / factor, 3)
      uint8, "index": (B,)}` with the constants of `superres_constants`.
    """
    seen = _turned if objective.style_layers else _shifted

    def loss(variables: Any, batch: Batch, constants: Any) -> tuple[jax.Array, Terms, Any]:
        photos = unit_range(batch["photos"])
        outputs, updated = network.apply(
            variables, unit_range(batch["low"]), train=True, mutable=["batch_stats"]
        )
        total = jnp.zeros(len(photos), jnp.float32)
        terms: Terms = {}
        if objective.layers:
            true = seen(photos, batch["index"])
            wanted = targets(
                objective,
                constants["vgg"],
                content=true,
                styles=[true] if objective.style_layers else (),
                sizes=constants["sizes"],
            )
            found = seen(outputs, batch["index"])
            total, terms = evaluate(objective, constants["vgg"], found, wanted)
        if pixel_weight:
            pixels = losses.feature_reconstruction(255.0 * outputs, 255.0 * photos)
            terms = {**terms, "pixel": pixel_weight * pixels}
            total = total + terms["pixel"]
        return total, terms, updated

    return loss


# A decoder inverts these, and its pictures of a style are compared with the painting at them, fine
# strokes most; what their relu4_1 is compared with is what the decoder was given.
INVERSION = Objective(
    formulation="normalized",
    content_layers=("relu1_1", "relu2_1", "relu3_1", "relu4_1"),
    pooling=networks.ENCODER_POOLING,
)
TRANSFER = Objective(
    formulation="normalized",
    style_statistics="wasserstein",
    content_layers=networks.TRANSPORTED[:1],
    content_weight=1.0,
    style_layers=("relu1_1", "relu2_1", "relu3_1"),
    style_weight=10.0,
    style_layer_weights=(0.45, 0.33, 0.22),
    range_weight=None,
    pooling=networks.ENCODER_POOLING,
)

# Of the mean squared difference of pixels, whose variance is about 0.05.
_PIXEL_WEIGHT = 20.0


def decoder_constants(
    params: vgg.Params, paintings: Sequence[Any], *, dtype: str = "float32"
) -> dict[str, Any]:
    """VGG's parameters, and what a decoder learns from paintings, each `(H, W, 3)` in [0, 1].

    Returns:
      What `style_constants` gives for the moments at every layer of `INVERSION`.
    """
    seen = dataclasses.replace(
        TRANSFER, style_layers=INVERSION.content_layers, style_layer_weights=None, dtype=dtype
    )
    return style_constants(seen, params, paintings)


def decoder_loss(decoder: Decoder) -> Loss:
    """Invert VGG, and make pictures of features that were moved to a painting's moments.

    Of every crop two pictures are made: one of its own features, compared with the crop in pixels
    and features (`INVERSION`), and one of the transported features, compared with these and the
    painting (`TRANSFER`).  The running number of a photo chooses the painting.  Several crops of a
    photo are transported together, and together compared.

    Returns:
      A `Loss` of batches as for `style_loss`, with the constants of `decoder_constants`; of
      `"inputs"`, where the batch has them.
    """
    deepest = networks.TRANSPORTED[0]
    inversion = dataclasses.replace(INVERSION, dtype=decoder.dtype)
    transfer = dataclasses.replace(TRANSFER, dtype=decoder.dtype)

    def loss(variables: Any, batch: Batch, constants: Any) -> tuple[jax.Array, Terms, Any]:
        photos, numbers = unit_range(batch.get("inputs", batch["photos"])), batch["index"]
        if numbers.ndim == 1:
            photos, numbers = photos[:, None], numbers[:, None]
        count, parts = numbers.shape
        paintings = jax.tree.leaves(constants["style"])[0].shape[0]
        turns = numbers[:, 0] // parts % paintings
        styles = jax.tree.map(lambda of_all: of_all[turns], constants["style"])
        crops = photos.reshape(-1, *photos.shape[2:])
        wanted = _content(inversion, constants["vgg"], crops)
        moved: dict[str, jax.Array] = {}

        def change(layer: str, features: jax.Array, _: Any) -> jax.Array:
            own, other = jnp.split(features, 2)
            # All crops of a photo side by side are one picture.
            shape = (count, -1, *other.shape[2:])
            found = networks.transported(
                layer,
                other.reshape(shape),
                losses.moments(other.reshape(shape)),
                styles[layer],
                train=True,
            )
            moved[layer] = found.reshape(other.shape)
            return jnp.concatenate([own.astype(jnp.float32), moved[layer]])

        encoded = jnp.concatenate([wanted[deepest], wanted[deepest]])
        pictures: Any = decoder.apply(variables, encoded, change, train=True)
        inverted, painted = (half.reshape(photos.shape) for half in jnp.split(pictures, 2))

        def grouped(features: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return {name: x.reshape(count, parts, *x.shape[1:]) for name, x in features.items()}

        of_crops = Targets(grouped(wanted), style={}, regions={}, sizes=constants["sizes"])
        total, terms = evaluate(inversion, constants["vgg"], inverted, of_crops, parts=True)
        terms = {f"inversion/{name.split('/')[1]}": value for name, value in terms.items()}
        difference = jnp.mean(jnp.square(inverted - photos), axis=(1, 2, 3, 4))
        terms["inversion/pixels"] = _PIXEL_WEIGHT * difference
        of_painting = Targets(
            content=grouped({deepest: jax.lax.stop_gradient(moved[deepest])}),
            style=jax.tree.map(lambda x: x[None], styles),
            regions={},
            sizes=constants["sizes"],
        )
        of_style, more = evaluate(transfer, constants["vgg"], painted, of_painting, parts=True)
        return total + terms["inversion/pixels"] + of_style, {**terms, **more}, {}

    return loss


def _shifted(pictures: jax.Array, index: jax.Array) -> jax.Array:
    """`(B, H, W, C)` without the first, or the last, row and column: all four ways in turn.

    VGG pools blocks of 2x2 pixels.  If these were always the same ones, the network would learn to
    draw a grid that VGG cannot see.  Not in the paper.
    """
    height, width, channels = pictures.shape[1:]

    def cut(picture: jax.Array, number: jax.Array) -> jax.Array:
        start = (number // 2 % 2, number % 2, jnp.zeros_like(number))
        return jax.lax.dynamic_slice(picture, start, (height - 1, width - 1, channels))

    return jax.vmap(cut)(pictures, index)


def _turned(pictures: jax.Array, index: jax.Array) -> jax.Array:
    """`(B, S, S, C)` to the middle of each, `(B, S', S', C)`, S' about S / sqrt(2).

    Turned by up to 45 degrees either way and enlarged up to `_LARGEST_ZOOM` times, bilinearly; how
    follows from the index.  Not in the paper.
    """
    middle = (pictures.shape[1] - 1) / 2
    # At 45 degrees its corners are still inside.
    side = int(math.sqrt(2.0) * middle) + 1

    def turn(picture: jax.Array, number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(0), number)
        angle, zoom = jax.random.uniform(key, (2,), jnp.float32)
        angle = (angle - 0.5) * (math.pi / 2)
        steps = jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2
        steps = steps / (1.0 + (_LARGEST_ZOOM - 1.0) * zoom)
        down, right = jnp.meshgrid(steps, steps, indexing="ij")
        rows = middle + down * jnp.cos(angle) - right * jnp.sin(angle)
        columns = middle + down * jnp.sin(angle) + right * jnp.cos(angle)
        below, beside = ((place - jnp.floor(place))[..., None] for place in (rows, columns))
        row, column = (jnp.floor(place).astype(jnp.int32) for place in (rows, columns))
        upper = picture[row, column] * (1.0 - beside) + picture[row, column + 1] * beside
        lower = picture[row + 1, column] * (1.0 - beside) + picture[row + 1, column + 1] * beside
        return upper * (1.0 - below) + lower * below

    return jax.vmap(turn)(pictures, index)


def _content(objective: Objective, params: vgg.Params, photos: jax.Array) -> dict[str, jax.Array]:
    return vgg.features(
        params, photos, objective.content_layers, pooling=objective.pooling, dtype=objective.dtype
    )
