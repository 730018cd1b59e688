"""What is minimised: features, losses and weights put together into one number and its terms.

The photo's features and the painting's Gram matrices are computed once by `targets`; `evaluate`
then gives, for every image, the total and each named term that it is the sum of.

The formulations differ in what a weight means (`docs/losses.md` has the table):

- `gatys`: Gatys et al. 2015, eq. 1, 4 and 5; each style layer counts 1/L by default.
- `johnson`: Johnson et al. 2016, eq. 2 to 4; each layer counts 1.
- `johnson_code`: the same authors' released program, which averages over the C^2 entries of a Gram
  matrix and halves the total variation.
- `normalized`: ours. Features are divided by the size of their layer (`vgg.layer_sizes`), and every
  term is a mean, so that weights mean the same for every layer, network and size of a picture.

The total variation is that of pixels on the papers' scale of 0..255.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from perceptual_jax import losses, vgg
from perceptual_jax.ops.checks import as_images, check_settings, setting

FORMULATIONS = ("gatys", "johnson", "johnson_code", "normalized")
STYLE_STATISTICS = ("gram", "wasserstein")


# The weights of terms that smooth, where none is given, as parts of `content_weight +
# style_weight`: those of `JOHNSON` and of `GATYS`, below, which say where they come from.
_TV_SHARE = 1e-6 / (1.0 + 5.0)
_RANGE_SHARE = 1e3 / (1.0 + 1e4)
_NORMALIZED_RANGE_SHARE = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Layers, weights and formulation.

    The weights are ratios: all that are given, times one factor, give the same picture.

    Attributes:
      style_layer_weights: w_l for each style layer; None for the formulation's own: 1/L for
        `gatys` (2015, section "Methods"), 1 for those of `johnson`; for `normalized` shares of 1
        in proportion to a layer's number of positions, so that fine strokes count most.
      dtype: what the convolutions compute in, `"float32"` or `"bfloat16"`.
    """

    formulation: str = setting("", default="gatys", choices=FORMULATIONS)
    style_statistics: str = setting(
        "What is compared with the painting: Gram matrices of features, or their means and "
        "covariances by the Wasserstein distance of Gaussians.",
        default="gram",
        choices=STYLE_STATISTICS,
    )
    content_layers: tuple[str, ...] = setting(
        "Layers at which the result resembles the photo.", default=()
    )
    style_layers: tuple[str, ...] = setting(
        "Layers at which the result resembles the painting; each counts as much.", default=()
    )
    content_weight: float = setting(
        "alpha, lambda_c: factor of the content loss.", default=1.0, least=0
    )
    style_weight: float = setting("beta, lambda_s: factor of the style loss.", default=1.0, least=0)
    tv_weight: float | None = setting(
        "Factor of the squared total variation of pixels in 0..255: higher is smoother. None: in "
        "proportion to the others, 1e-6 where content_weight + style_weight is 6.",
        default=0.0,
        least=0,
    )
    range_weight: float | None = setting(
        "Factor of the squared distance of pixels from 0..255, into which they are clipped when "
        "the picture is written. Not in the papers; without it clipping raises the objective, and "
        "shows as grain. None: in proportion to the others, 1e3 where content_weight + "
        "style_weight is 10001.",
        default=0.0,
        least=0,
    )
    pooling: str = setting(
        "VGG's pooling: max as trained, avg as in Gatys et al. 2015.",
        default="max",
        choices=tuple(vgg.POOLINGS),
    )
    style_layer_weights: tuple[float, ...] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        # Lists and arrays become tuples: an objective is hashed where it is an argument of jit.
        for name in ("content_layers", "style_layers", "style_layer_weights"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name} must be a list of layers, got the string {value!r}")
            if value is not None:
                entries = value.tolist() if isinstance(value, np.ndarray) else value
                object.__setattr__(self, name, tuple(entries))
        check_settings(self)
        weights = self.style_layer_weights
        if weights is not None and len(weights) != len(self.style_layers):
            raise ValueError(
                f"style_layer_weights needs one weight for each of {len(self.style_layers)} style "
                f"layers, got {len(weights)}"
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """Every VGG layer that the objective looks at."""
        return tuple(dict.fromkeys(self.content_layers + self.style_layers))

    def term_weights(self) -> dict[str, float]:
        """The factor of every term, by the term's name: `content/conv4_2`, `style/conv1_1`, ..."""
        per_layer = self.style_layer_weights
        if per_layer is None:
            per_layer = tuple(1.0 for _ in self.style_layers)
            if self.formulation == "normalized":
                per_layer = tuple(vgg.stride(layer) ** -2 for layer in self.style_layers)
            if self.formulation in ("gatys", "normalized"):
                per_layer = tuple(weight / sum(per_layer) for weight in per_layer)
        range_share = _NORMALIZED_RANGE_SHARE if self.formulation == "normalized" else _RANGE_SHARE
        weights = {f"content/{layer}": self.content_weight for layer in self.content_layers}
        for layer, weight in zip(self.style_layers, per_layer, strict=True):
            weights[f"style/{layer}"] = self.style_weight * weight
        for name, given, share in (
            ("total_variation", self.tv_weight, _TV_SHARE),
            ("range", self.range_weight, range_share),
        ):
            in_proportion = share * (self.content_weight + self.style_weight)
            if own := in_proportion if given is None else given:
                weights[name] = own
        return weights


# Gatys et al. 2015, section "Methods": content at conv4_2, style at the first convolution of every
# block, average pooling; alpha / beta = 1e-3 and 1e-4 are what the paper gives for its paintings
# (quoted from memory), of which 1e-4 looks better at 512 pixels.  The layers are taken before the
# ReLU, as their names say.  The weight of the range was found by experiment: 150 and 1500 give
# clipped pictures whose objectives differ by 0.3%.
GATYS = Objective(
    formulation="gatys",
    content_layers=("conv4_2",),
    content_weight=1.0,
    style_layers=("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"),
    style_weight=1e4,
    range_weight=None,  # 1e3.
    pooling="avg",
)

# Colours and strokes stay those of the painting where the Gram matrices of GATYS mix them into grey
# (docs/gatys.md shows both).  Deeper layers would add little, and cost an eighth of the time.
WASSERSTEIN = Objective(
    formulation="normalized",
    style_statistics="wasserstein",
    content_layers=("relu4_1",),
    content_weight=4e-3,
    style_layers=("relu1_1", "relu2_1", "relu3_1", "relu4_1"),
    style_weight=1.0,
    range_weight=None,
    pooling="avg",
)

# The settings stored in the models that the authors of Johnson et al. 2016 released.
JOHNSON = Objective(
    formulation="johnson_code",
    content_layers=("relu3_3",),
    content_weight=1.0,
    style_layers=("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
    style_weight=5.0,
    tv_weight=None,  # 1e-6.
)

# By name, for the command line.
PRESETS = {"wasserstein": WASSERSTEIN, "gatys2015": GATYS, "johnson2016": JOHNSON}


class Targets(NamedTuple):
    """What an image is compared with, as one tree of arrays.

    Attributes:
      content: for each content layer, the photo's features `(H, W, C)`.
      style: for each style layer, the paintings' Gram matrices `(R, C, C)`, one for each region; or
        their `losses.Moments`, `(R, C)` and `(R, C, C)`.
      regions: for each style layer, how much positions count in a region, `(R, H, W)`: the masks
        times the paintings' weights, whose mean is 1; an empty dict without masks, where the one
        region is the whole picture.
      sizes: for each layer, what its losses take as the unit of features; without entries, 1.
    """

    content: dict[str, jax.Array]
    style: dict[str, Any]
    regions: dict[str, jax.Array]
    sizes: dict[str, jax.Array]


def _statistics(objective: Objective, features: jax.Array, mask: jax.Array | None) -> Any:
    """What of a layer's features is compared with the painting's: a Gram matrix, or moments."""
    if objective.style_statistics == "wasserstein":
        return losses.moments(features, mask=mask)
    elements = objective.formulation in ("johnson", "johnson_code")
    normalize_by = "elements" if elements else "positions"
    return losses.gram_matrix(features, normalize_by=normalize_by, mask=mask)


def _shrink(mask: ArrayLike, layer: str) -> jax.Array:
    """A mask `(H, W)` at a layer's resolution: the mean over each of its positions' pixels."""
    mask = jnp.asarray(mask, jnp.float32)
    height, width = vgg.layer_shape(mask.shape, layer)
    side = vgg.stride(layer)
    blocks = mask[: height * side, : width * side].reshape(height, side, width, side)
    return jnp.mean(blocks, axis=(1, 3))


def targets(
    objective: Objective,
    params: vgg.Params,
    *,
    content: ArrayLike | None = None,
    styles: Sequence[ArrayLike] = (),
    style_weights: Sequence[float] | np.ndarray | None = None,
    content_masks: Sequence[ArrayLike] | None = None,
    style_masks: Sequence[ArrayLike] | None = None,
    sizes: Mapping[str, ArrayLike] | None = None,
) -> Targets:
    """The photo's features and the paintings' Gram matrices.

    Several paintings without masks are blended: the sum of their style losses has the same
    gradient as the loss of the weighted mean of their Gram matrices, which is what is kept.  With
    `content_masks`, painting i is for region i alone, whose style loss its weight multiplies.

    Args:
      objective: which layers, in which formulation.
      params: VGG parameters.
      content: the photo, `(..., H, W, 3)`; None if only the style is wanted.
      styles: paintings, each `(..., H', W', 3)` of any size.
      style_weights: how much each painting counts, as ratios; equal by default.
      content_masks: a mask `(H, W)` in [0, 1] of the photo for each painting.
      style_masks: a mask `(H', W')` for each painting, of the part whose style is taken.
      sizes: of all layers, by `vgg.layer_sizes` with the objective's pooling, if they are known.

    Raises:
      ValueError: numbers of paintings, weights and masks that do not match, or negative weights.
    """
    for name, given in (
        ("style_weights", style_weights),
        ("content_masks", content_masks),
        ("style_masks", style_masks),
    ):
        if given is not None and len(given) != len(styles):
            raise ValueError(f"{name}: one for each of {len(styles)} styles, got {len(given)}")
    if style_weights is None:
        style_weights = [1.0] * len(styles)
    shares = np.asarray(style_weights, np.float32)
    if styles and not (np.all(shares >= 0) and 0 < shares.sum() < np.inf):
        raise ValueError(f"style_weights must be at least 0, and not all 0, got {style_weights}")

    def statistics(index: int, layer: str, features: jax.Array) -> Any:
        mask = None if style_masks is None else _shrink(style_masks[index], layer)
        return _statistics(objective, features, mask)

    if objective.formulation != "normalized":
        sizes = {}
    elif sizes is None:
        sizes = vgg.layer_sizes(params, objective.layers, pooling=objective.pooling)
    compute = functools.partial(_features, objective, params)
    found = [compute(style, objective.style_layers) for style in styles]
    of_styles = {
        layer: [statistics(index, layer, of[layer]) for index, of in enumerate(found)]
        for layer in (objective.style_layers if styles else ())
    }
    regions: dict[str, jax.Array] = {}
    if content_masks is not None:
        for layer in objective.style_layers:
            shrunk = jnp.stack([_shrink(mask, layer) for mask in content_masks])
            regions[layer] = shrunk * (shares / shares.mean())[:, None, None]
    else:
        of_styles = {
            layer: [_blend(shares / shares.sum(), each)] for layer, each in of_styles.items()
        }
    style = {
        layer: jax.tree.map(lambda *arrays: jnp.stack(arrays), *each)
        for layer, each in of_styles.items()
    }
    photo = compute(content, objective.content_layers) if content is not None else {}
    return Targets(photo, style, regions, {name: jnp.asarray(size) for name, size in sizes.items()})


def _blend(shares: np.ndarray, statistics: list[Any]) -> Any:
    """The statistics of all positions of paintings, of which i counts `shares[i]` in all."""
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *statistics)
    if isinstance(stacked, losses.Moments):
        return losses.blend_moments(stacked, shares)
    return jnp.tensordot(shares, stacked, axes=1, precision=jax.lax.Precision.HIGHEST)


def _features(
    objective: Objective, params: vgg.Params, images: ArrayLike, layers: tuple[str, ...]
) -> dict[str, jax.Array]:
    return vgg.features(params, images, layers, pooling=objective.pooling, dtype=objective.dtype)


def _style_loss(objective: Objective, statistics: Any, wanted: Any) -> jax.Array:
    if objective.style_statistics == "wasserstein":
        return losses.gaussian_wasserstein_of_moments(statistics, wanted)
    if objective.formulation == "gatys":
        return losses.gatys_style_of_grams(statistics, wanted)
    reduction = "sum" if objective.formulation == "johnson" else "mean"
    return losses.style_reconstruction_of_grams(statistics, wanted, reduction=reduction)


def _style_term(
    objective: Objective, features: jax.Array, wanted: Any, regions: jax.Array | None
) -> jax.Array:
    """The style loss of one layer, over its regions in proportion to their areas.

    A pixel then weighs the same in a small region as in a large one, and as it would without masks.
    """
    parts = []
    for index in range(len(jax.tree.leaves(wanted)[0])):
        mask = None if regions is None else regions[index]
        statistics = _statistics(objective, features, mask)
        of_region = jax.tree.map(operator.itemgetter(index), wanted)
        loss = _style_loss(objective, statistics, of_region)
        parts.append(loss if mask is None else loss * jnp.mean(mask))
    return functools.reduce(operator.add, parts)


def evaluate(
    objective: Objective,
    params: vgg.Params,
    images: ArrayLike,
    targets: Targets,
    *,
    term_weights: Mapping[str, ArrayLike] | None = None,
    parts: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The objective of images, and the weighted terms whose sum it is.

    Args:
      objective: layers, weights, formulation.
      params: VGG parameters.
      images: `(..., H, W, 3)` in [0, 1].
      targets: what `targets` gave for this objective.
      term_weights: in place of `objective.term_weights()`; values may be traced, so that one
        compiled program serves many weightings.
      parts: whether images are `(..., P, H, W, 3)`, P parts of one picture each, as large as all of
        them, and the photo's features in `targets.content` alike.  Of every picture there is then
        one value.

    Returns:
      `(...)` and a dict from the terms' names (`content/conv4_2`, `style/conv1_1`,
      `total_variation`, `range`) to `(...)`.
    """
    weights = objective.term_weights() if term_weights is None else term_weights
    images = as_images(images)
    _check_complete(objective, targets, weights)

    def joined(maps: jax.Array) -> jax.Array:
        # No loss but the total variation asks where in a picture a position is.
        return maps.reshape(*maps.shape[:-4], -1, *maps.shape[-2:]) if parts else maps

    found = _features(objective, params, images, objective.layers)
    found = {layer: joined(of_layer) for layer, of_layer in found.items()}
    content_loss = (
        losses.gatys_content if objective.formulation == "gatys" else losses.feature_reconstruction
    )
    raw = {
        f"content/{layer}": content_loss(found[layer], joined(targets.content[layer]))
        for layer in objective.content_layers
    }
    for layer in objective.style_layers:
        raw[f"style/{layer}"] = _style_term(
            objective, found[layer], targets.style[layer], targets.regions.get(layer)
        )
    for name in raw:
        kind, layer = name.split("/")
        if layer in targets.sizes:
            # All losses are of the second degree in features, but those of Gram matrices.
            degree = 4 if kind == "style" and objective.style_statistics == "gram" else 2
            raw[name] = raw[name] * (1.0 / targets.sizes[layer] ** degree)
    if "total_variation" in weights:
        scale = 255.0**2 * (0.5 if objective.formulation == "johnson_code" else 1.0)
        variation = losses.total_variation(images)
        raw["total_variation"] = scale * (jnp.sum(variation, -1) if parts else variation)
    images = joined(images)
    if "range" in weights:
        pixels = images.astype(jnp.float32)
        outside = 255.0 * (pixels - jnp.clip(pixels, 0.0, 1.0))
        raw["range"] = jnp.sum(jnp.square(outside), axis=(-3, -2, -1))
    if objective.formulation == "normalized":
        for name in {"total_variation", "range"} & set(raw):
            raw[name] = raw[name] / (255.0**2 * math.prod(images.shape[-3:]))
    terms = {name: jnp.asarray(weights[name], jnp.float32) * value for name, value in raw.items()}
    if not terms:
        return jnp.zeros(images.shape[:-3], jnp.float32), terms
    return functools.reduce(operator.add, terms.values()), terms


def _check_complete(
    objective: Objective, targets: Targets, weights: Mapping[str, ArrayLike]
) -> None:
    """Raises `ValueError` unless every layer has a target, and every term a weight."""
    for kind, layers, known in (
        ("content", objective.content_layers, targets.content),
        ("style", objective.style_layers, targets.style),
    ):
        for layer in layers:
            if layer not in known:
                raise ValueError(
                    f"the targets have no {kind} at {layer}: make them with the same objective"
                )
            if f"{kind}/{layer}" not in weights:
                raise ValueError(f"term_weights has no {kind}/{layer}")
