"""Where the styles of `--mode=stylize` come from: a trained network, or paintings themselves."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from perceptual_jax import models, vgg
from perceptual_jax.cli import batch
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.interrupts import Interrupts
from perceptual_jax.io import images, masks, resources
from perceptual_jax.io.storage import FileError
from perceptual_jax.models import patches, stylization, universal
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
# with a decoder, which does not, and makes blotches of what it is given.
VARIATION, VARIATION_OF_DECODER = 0.5, 0.2

# Of a painting that no network was trained for, the long sides at which it is looked at, in pixels,
# by a decoder, and where its patches are taken.
_STROKE_SIZES_OF_DECODER = (128, 1024)
_STROKE_SIZES_OF_PATCHES = (64, 4096)

# Mirrored pixels around a picture while it is computed: networks leave a frame along the edges.
_MARGIN = 16


_Paint = Callable[
    [Sequence[np.ndarray], Sequence[Mapping[str, float]], float | None, Interrupts],
    list[np.ndarray],
]


class StyleSource(NamedTuple):
    """Styles, and what paints them.

    Attributes:
      styles: by the names that `--style` gives them.
      titles: of the styles, in a picture or the name of a file.
      stroke_sizes: those that can be painted, ascending, in pixels; empty if there is but one.
      paint: from photos `(H, W, 3)` of one size, how much of each style there is in each region of
        `--content_mask` or in the whole, the size of strokes, None if there is but one, and
        interrupts, to results of the same size, fewer if it was interrupted.
    """

    styles: tuple[str, ...]
    titles: tuple[str, ...]
    stroke_sizes: tuple[int, ...]
    paint: _Paint


def find(values: Any, names: Sequence[str]) -> StyleSource:
    """The network that is given, or the first shipped one that has all styles, or their paintings.

    Raises:
      UserError: there is none, or one of the names is neither a style nor a picture.
    """
    networks = [values.network] if values.network else shipped("style")
    candidates = [load_network(name) for name in networks]
    for trained in candidates:
        if isinstance(trained.network, StyleNetwork) and set(names) <= set(trained.styles):
            return _of_network(values, trained)
    if not candidates:
        raise UserError(NONE_SHIPPED)
    given = candidates[0]
    if not isinstance(given.network, StyleNetwork | Decoder):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    if values.network and isinstance(given.network, StyleNetwork):
        raise UserError(
            f"--network={values.network} has no style {_unknown(names, given)}, but "
            f"{', '.join(given.styles)}; without --network a painting's file is a style"
        )
    if not names:
        raise UserError("--style is missing: give a painting")
    try:
        paintings = [images.read(resources.picture(name, "styles")) for name in names]
    except FileError as error:
        known = ", ".join(given.styles or resources.example_names("styles"))
        raise UserError(
            f"there is neither a style nor a picture {_unknown(names, given)}: give the file of "
            f"a painting, or one of {known}"
        ) from error
    titles = tuple(style_name(batch.stem_of(name)) for name in names)
    if values.network:
        return _of_decoder(values, tuple(names), titles, paintings, given)
    return _of_patches(values, tuple(names), titles, paintings)


def _unknown(names: Sequence[str], trained: TrainedNetwork) -> str:
    return ", ".join(name for name in names if name not in trained.styles)


def _of_network(values: Any, trained: TrainedNetwork) -> StyleSource:
    """The styles that a network was trained for."""
    prepared = batch.prepared(trained, values)
    return StyleSource(
        styles=trained.styles,
        titles=trained.styles,
        stroke_sizes=trained.stroke_sizes,
        paint=_by_network(values, trained.network, lambda stroke_size: prepared, VARIATION),
    )


def _of_decoder(
    values: Any,
    names: tuple[str, ...],
    titles: tuple[str, ...],
    paintings: Sequence[np.ndarray],
    decoder: TrainedNetwork,
) -> StyleSource:
    """Paintings that a decoder makes pictures of, by `models.universal`."""
    network = UniversalNetwork(styles=len(names), width=decoder.network.width)
    batch.check_tile_size(values, network)
    params = vgg.freeze(load_vgg("vgg16"), TRANSPORTED, dtype=values.dtype)
    moments_of = jax.jit(functools.partial(universal.style_moments, dtype=values.dtype))

    @functools.lru_cache(maxsize=1)
    def looked_at(side: int) -> TrainedNetwork:
        moments = [moments_of(params, images.fit(painting, side)) for painting in paintings]
        variables = universal.variables(params, decoder.variables, moments)
        trained = TrainedNetwork(network=network, variables=variables, styles=names, settings={})
        return batch.prepared(trained, values)

    sizes = _STROKE_SIZES_OF_DECODER
    return StyleSource(
        styles=names,
        titles=titles,
        stroke_sizes=sizes,
        paint=_by_network(
            values, network, lambda size: looked_at(round(size or sizes[-1])), VARIATION_OF_DECODER
        ),
    )


def _of_patches(
    values: Any,
    names: tuple[str, ...],
    titles: tuple[str, ...],
    paintings: Sequence[np.ndarray],
) -> StyleSource:
    """Paintings whose patches pictures are painted with, by `models.patches`."""
    params = vgg.freeze(load_vgg("vgg16"), [patches.LAYER], dtype=values.dtype)
    params = jax.device_put(params)

    @functools.lru_cache(maxsize=1)
    def looked_at(side: int) -> list[np.ndarray]:
        return [images.fit(painting, side) for painting in paintings]

    def paint(
        photos: Sequence[np.ndarray],
        mixes: Sequence[Mapping[str, float]],
        stroke_size: float | None,
        interrupts: Interrupts,
    ) -> list[np.ndarray]:
        results = []
        for photo in photos:
            varied = models.vary(photo, amount=values.variation or 0.0, stroke_size=stroke_size)
            pictures = [
                models.repaint_rows(
                    params,
                    varied,
                    looked_at(round(stroke_size or _STROKE_SIZES_OF_PATCHES[-1])),
                    style_weights=[mix.get(name, 0.0) for name in names],
                    dtype=values.dtype,
                )
                for mix in mixes
            ]
            tiles = pictures[0]
            if values.content_mask:
                regions = masks.read_all(values.content_mask, len(mixes), photo.shape[:2])
                tiles = stylization.blend_tiles(photo, pictures, regions)
            count = patches.number_of_bands(photo.shape)
            result = models.assemble(batch.with_progress(tiles, count, interrupts), photo.shape)
            if interrupts:
                break
            results.append(result)
        return results

    return StyleSource(
        styles=names,
        titles=titles,
        stroke_sizes=_STROKE_SIZES_OF_PATCHES,
        paint=paint,
    )


def _by_network(
    values: Any,
    network: AnyStyleNetwork,
    at: Callable[[float | None], TrainedNetwork],
    variation: float,
) -> _Paint:
    """The `paint` of networks of a kind, of which there is one for every size of strokes.

    Args:
      variation: of photos, by default.
    """
    frames = batch.frames_for(values.input, network)
    amount = variation if values.variation is None else values.variation

    def paint(
        photos: Sequence[np.ndarray],
        mixes: Sequence[Mapping[str, float]],
        stroke_size: float | None,
        interrupts: Interrupts,
    ) -> list[np.ndarray]:
        trained = at(stroke_size)
        of_rows = stroke_size if trained.stroke_sizes else None
        style_weights = np.stack([trained.style_weights(mix, stroke_size=of_rows) for mix in mixes])
        in_tiles: Any = functools.partial(models.stylize_tiles, style_weights=style_weights[0])
        if values.content_mask:
            regions = masks.read_all(values.content_mask, len(mixes), photos[0].shape[:2])
            in_tiles = functools.partial(
                models.stylize_regions,
                masks=[_mirrored(mask) for mask in regions],
                style_weights=style_weights,
                background=_mirrored(photos[0]),
            )
        varied = [models.vary(photo, amount=amount, stroke_size=stroke_size) for photo in photos]
        results = batch.results(
            [_mirrored(photo) for photo in varied],
            interrupts,
            trained,
            values.tile_size,
            frames=frames,
            at_once=functools.partial(stylization.stylize_batch, style_weights=style_weights[0]),
            in_tiles=in_tiles,
        )
        inside = slice(_MARGIN, -_MARGIN)
        return [result[inside, inside] for result in results]

    return paint


def _mirrored(values: np.ndarray) -> np.ndarray:
    """With a margin, `(H, W, ...)` to `(H + 2 _MARGIN, W + 2 _MARGIN, ...)`."""
    margins = [(_MARGIN, _MARGIN)] * 2 + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, margins, mode="reflect")
