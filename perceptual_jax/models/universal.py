"""Any painting in one pass, without training for it: universal style transfer (Li et al. 2017).

`transfer_style` is a pure function of pictures.  To stylise many of them, put `variables` together
once, and give them and a `networks.UniversalNetwork` to what applies any style network:
`models.stylize`, `stylize_tiles`, `stylize_regions`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from perceptual_jax import losses, vgg
from perceptual_jax.losses import Moments
from perceptual_jax.models import networks
from perceptual_jax.models.networks import TRANSPORTED, UniversalNetwork


def transfer_style(
    params: vgg.Params,
    decoder: Any,
    images: Any,
    paintings: Sequence[Any],
    *,
    style_weights: Any = None,
) -> jax.Array:
    """Images in the style of paintings; a pure function, to be jitted, mapped and differentiated.

    Args:
      params: of VGG-16, as `load_vgg` gives them: those that the decoder was trained to invert.
      decoder: variables of a `Decoder`, as in `load_network("decoder").variables`.
      images: `(..., H, W, 3)` in [0, 1], of any height and width.
      paintings: each `(H', W', 3)` in [0, 1]; a larger one gives larger strokes.
      style_weights: how much of each painting, `(paintings,)`; may be left out for a single one.

    Returns:
      The same shape, float32 in [0, 1].

    Raises:
      ValueError: images, paintings or weights that do not fit.
    """
    width = params["conv1_1"]["bias"].shape[0]
    network = UniversalNetwork(styles=len(paintings), width=width)
    moments = [style_moments(params, painting) for painting in paintings]
    return networks.transform(network, variables(params, decoder, moments), images, style_weights)


def style_moments(
    params: vgg.Params, painting: Any, *, dtype: Any = jnp.float32
) -> dict[str, Moments]:
    """All that is taken from a painting `(H, W, 3)`: the moments of its features, by layer."""
    features = networks.encode(params, painting, TRANSPORTED, dtype=dtype)
    return {layer: losses.moments(x) for layer, x in features.items()}


def variables(
    params: vgg.Params, decoder: Any, moments: Sequence[Mapping[str, Moments]]
) -> dict[str, Any]:
    """The variables of a `UniversalNetwork`.

    Args:
      params: as for `transfer_style`, and so is `decoder`; or frozen by `vgg.freeze`, which is
        faster, and gives up what that says.
      moments: the `style_moments` of its paintings.
    """
    names = vgg.layer_names(params)
    used = ["normalization", *names[: names.index(TRANSPORTED[0])]]
    return {
        **{name: {"decoder": collection} for name, collection in decoder.items()},
        "encoder": {"vgg": {name: params[name] for name in used if name in params}},
        "styles": jax.tree.map(lambda *arrays: jnp.stack(arrays), *moments),
    }
