"""Where the styles of `--mode=stylize` come from: a trained network, or paintings themselves."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from perceptual_jax import vgg
from perceptual_jax.cli import batch
from perceptual_jax.cli.errors import UserError
from perceptual_jax.io import images, resources
from perceptual_jax.io.storage import FileError
from perceptual_jax.models import universal
from perceptual_jax.models.networks import (
    TRANSPORTED,
    AnyStyleNetwork,
    Decoder,
    StyleNetwork,
    UniversalNetwork,
)
from perceptual_jax.pretrained.networks import TrainedNetwork, load_network, shipped, style_name
from perceptual_jax.pretrained.vgg import load_vgg

NONE_SHIPPED = "no network is shipped: train one with --mode=train_transform"

# Of photos, by default: what looks best with the shipped network, which repeats itself without, and
# with the transport, which does not, and makes blotches of what it is given.
VARIATION, VARIATION_OF_PAINTINGS = 0.5, 0.2

# Of a painting that no network was trained for, the long sides at which it is looked at, in pixels.
_STROKE_SIZES = (128, 1024)


class StyleSource(NamedTuple):
    """Styles, and the network that paints them.

    Attributes:
      styles: by the names that `--style` gives them.
      titles: of the styles, in a picture or the name of a file.
      network: of the kind that `at` gives.
      stroke_sizes: those that it knows, ascending, in pixels; empty if there is but one.
      variation: of photos, by default.
      at: gives the network for a size of strokes; None if there is but one.
    """

    styles: tuple[str, ...]
    titles: tuple[str, ...]
    network: AnyStyleNetwork
    stroke_sizes: tuple[int, ...]
    variation: float
    at: Callable[[float | None], TrainedNetwork]


def find(values: Any, names: Sequence[str]) -> StyleSource:
    """The network that is given, or the first shipped one that has all styles, or their paintings.

    Raises:
      UserError: there is none, or one of the names is neither a style nor a picture.
    """
    networks = [values.network] if values.network else shipped("style")
    candidates = [load_network(name) for name in networks]
    for trained in candidates:
        if isinstance(trained.network, StyleNetwork) and set(names) <= set(trained.styles):
            return _of_network(batch.prepared(trained, values))
    if not candidates:
        raise UserError(NONE_SHIPPED)
    if not isinstance(candidates[0].network, StyleNetwork | Decoder):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    if values.network and isinstance(candidates[0].network, StyleNetwork):
        raise UserError(
            f"--network={values.network} has no style {_unknown(names, candidates[0])}, but "
            f"{', '.join(candidates[0].styles)}; without --network a painting's file is a style"
        )
    return _paintings(values, names, candidates[0])


def _of_network(trained: TrainedNetwork) -> StyleSource:
    return StyleSource(
        styles=trained.styles,
        titles=trained.styles,
        network=trained.network,
        stroke_sizes=trained.stroke_sizes,
        variation=VARIATION,
        at=lambda stroke_size: trained,
    )


def _unknown(names: Sequence[str], trained: TrainedNetwork) -> str:
    return ", ".join(name for name in names if name not in trained.styles)


def _paintings(values: Any, names: Sequence[str], trained: TrainedNetwork) -> StyleSource:
    """Paintings as styles: without training, by `models.universal`.

    Args:
      trained: the decoder that is given, or the network that has not all of them.
    """
    if not names:
        raise UserError("--style is missing: give a painting")
    try:
        paths = [resources.picture(name, "styles") for name in names]
    except FileError as error:
        known = ", ".join(trained.styles or resources.example_names("styles"))
        raise UserError(
            f"there is neither a style nor a picture {_unknown(names, trained)}: give the file of "
            f"a painting, or one of {known}"
        ) from error
    decoder = trained if values.network else load_network("decoder")
    paintings = [images.read(path) for path in paths]
    network = UniversalNetwork(styles=len(names), width=decoder.network.width)
    batch.check_tile_size(values, network)
    params = vgg.freeze(load_vgg("vgg16"), TRANSPORTED, dtype=values.dtype)
    moments_of = jax.jit(functools.partial(universal.style_moments, dtype=values.dtype))

    @functools.lru_cache(maxsize=1)
    def looked_at(side: int) -> TrainedNetwork:
        moments = [moments_of(params, images.fit(painting, side)) for painting in paintings]
        variables = universal.variables(params, decoder.variables, moments)
        trained = TrainedNetwork(
            network=network, variables=variables, styles=tuple(names), settings={}
        )
        return batch.prepared(trained, values)

    return StyleSource(
        styles=tuple(names),
        titles=tuple(style_name(batch.stem_of(name)) for name in names),
        network=network,
        stroke_sizes=_STROKE_SIZES,
        variation=VARIATION_OF_PAINTINGS,
        at=lambda stroke_size: looked_at(round(stroke_size or _STROKE_SIZES[-1])),
    )
