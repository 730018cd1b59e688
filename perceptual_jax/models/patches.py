"""Any painting without training for it: a photo repainted with patches of the painting.

Features of VGG-16, moved to the painting's by optimal transport, tell of every part of the photo
which patch of the painting is most like it (as Chen & Schmidt 2016 exchange features).  The picture
has the strokes of those patches, pixel by pixel, where they lie (as Efros & Freeman 2001 quilt
textures), and their colours along the photo's edges (a guided filter, He et al. 2010).

A large picture is looked at at a size of `LOOKED_AT` or less, and painted at its own.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax import losses, vgg
from perceptual_jax.models import networks, tiling
from perceptual_jax.models.tiling import Tile
from perceptual_jax.models.variation import LUMINANCE
from perceptual_jax.ops.checks import as_images

# VGG's layer that patches are compared by, the pixels between its positions, which are called
# cells here, and how many of its principal components in the painting; and how much luminance
# counts beside one of these: without it, flat parts that are dark are painted with light ones.
LAYER = "relu3_1"
_CELL = vgg.stride(LAYER)
_COMPONENTS, _LIGHT = 24, 2.0

# The longest side, in pixels, of what is looked at.
LOOKED_AT = 1024

# Mirrored pixels around what is looked at, as far as VGG's zero padding shows.
_MARGIN = 32

# Sides of what is looked at are rounded up to a multiple of this, in pixels, since every size has
# to be compiled; as many rows of a picture are painted at once.
_FRAME = 64

# Cells of a patch along each axis.
_PATCH = 3

# Every second cell of the painting is compared with every cell of the photo.
_STRIDE = 2

# A cell of the photo is flat as far as the square of its features is below so much of the mean.
# Flat parts would repeat a single patch: there they begin as pieces of the painting about as large
# as such blocks of cells, by lot one of those that are nearly as like it as the best, less this
# share.
_FLAT, _BLOCK, _TOLERANCE = 0.3, 8, 0.3

# In so many sweeps each cell then takes what is most like it, which counts less where it is flat,
# or what continues a neighbour; to continue all four is worth so much.
_SWEEPS, _COHERENCE = 8, 0.4

# Of the Gaussian that parts colours from strokes, and of the guided filter's, in cells; and of that
# over blocks.
_SIGMA = 1.0

# The variance of luminance from which on the filter takes what it sees for an edge.
_EDGE = 1e-3

# Overlapping patches are averaged, which weakens strokes by this much where they differ.
_STROKES = 1.25

_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))


class _Plan(NamedTuple):
    """How a picture is painted with a painting, margins included.

    Attributes:
      patches: of each cell's patch, the cell of the painting in its middle, `(h, w, 2)`, int32.
      gain: colours are `gain * luminance + offset`, `(h, w, 3)`.
      offset: of the same shape.
      strokes: the painting less its colours, as large as it is painted, `(H', W', 3)`.
    """

    patches: jax.Array
    gain: jax.Array
    offset: jax.Array
    strokes: jax.Array


def repaint(
    params: vgg.Params,
    image: Any,
    paintings: Sequence[Any],
    *,
    style_weights: Any = None,
    dtype: Any = jnp.float32,
) -> np.ndarray:
    """A photo repainted with patches of paintings.

    Args:
      params: of VGG-16, as `load_vgg` gives them; or frozen by `vgg.freeze`, which is faster.
      image: the photo, `(H, W, 3)` in [0, 1], of any height and width.
      paintings: each `(H', W', 3)` in [0, 1]; a larger one gives larger strokes.
      style_weights: how much of each painting, `(paintings,)`, as ratios; may be left out for a
        single one.
      dtype: of VGG's features.

    Returns:
      `(H, W, 3)` float32 in [0, 1], NumPy: not every size is compiled for.

    Raises:
      ValueError: an image, paintings or weights that do not fit.
    """
    options: Any = {"style_weights": style_weights, "dtype": dtype}
    return tiling.assemble(repaint_rows(params, image, paintings, **options), np.shape(image))


def repaint_rows(
    params: vgg.Params,
    image: Any,
    paintings: Sequence[Any],
    *,
    style_weights: Any = None,
    dtype: Any = jnp.float32,
) -> Iterator[Tile]:
    """The picture of `repaint` in bands of rows from the top, `number_of_bands` of them.

    Beside the picture itself it takes the memory of what is looked at and of a band.
    """
    image, *paintings = (_checked_image(x) for x in (image, *paintings))
    weights = np.asarray(networks.checked_style_weights(style_weights, 1, len(paintings))[0])
    if not (weights.min() >= 0 and 0 < weights.sum() < np.inf):
        raise ValueError(f"style_weights must be at least 0, and not all 0, got {weights}")
    factor = _factor(image.shape)
    framed = _framed(image, factor * _FRAME, margin=factor * _MARGIN)
    seen = _smaller(framed, factor)
    features = _features(params, seen, dtype=dtype)
    plans = [
        _plan(params, seen, features, _framed(painting, factor * _CELL), factor=factor, dtype=dtype)
        for painting, weight in zip(paintings, weights, strict=True)
        if weight
    ]
    shares = jnp.asarray(weights[weights != 0] / weights.sum())
    height, width = image.shape[:2]
    band = factor * _FRAME
    for number in range(number_of_bands(image.shape)):
        top = number * band
        rows = framed[factor * _MARGIN + top :][:band]
        painted = _paint(rows, plans, shares, number, factor=factor)
        yield Tile(top, 0, np.asarray(painted)[: height - top, :width])


def number_of_bands(height_width: Sequence[int]) -> int:
    """How many tiles `repaint_rows` yields for a picture `(H, W, ...)`."""
    return math.ceil(height_width[0] / (_FRAME * _factor(height_width)))


def _factor(height_width: Sequence[int]) -> int:
    """By which a picture is larger than what is looked at of it."""
    return math.ceil(max(height_width[:2]) / LOOKED_AT)


def _checked_image(image: Any) -> np.ndarray:
    array = np.asarray(as_images(image), np.float32)
    if array.ndim != 3:
        raise ValueError(f"images must be (height, width, 3), got shape {array.shape}")
    return array


def _framed(image: np.ndarray, multiple: int, *, margin: int = 0) -> np.ndarray:
    """Mirrored outwards by a margin, and on until the sides are multiples of a number."""
    sides = [(margin, margin + -(side + 2 * margin) % multiple) for side in image.shape[:2]]
    # Of a painting at least one patch.
    least = _PATCH * multiple if not margin else 0
    sides = [
        (before, max(after, least - side))
        for (before, after), side in zip(sides, image.shape[:2], strict=True)
    ]
    return np.pad(image, (*sides, (0, 0)), mode="symmetric")


def _smaller(image: Any, factor: int) -> Any:
    """The means of blocks of `factor` pixels a side."""
    if factor == 1:
        return image
    height, width = (side // factor for side in image.shape[:2])
    return image.reshape(height, factor, width, factor, -1).mean((1, 3))


@functools.partial(jax.jit, static_argnames="dtype")
def _features(params: vgg.Params, image: jax.Array, *, dtype: Any) -> jax.Array:
    """Those that patches are compared by, `(h, w, C)`."""
    found = vgg.features(params, image, [LAYER], pooling="avg", dtype=dtype)
    return found[LAYER].astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=("factor", "dtype"))
def _plan(
    params: vgg.Params,
    seen: jax.Array,
    features: jax.Array,
    painting: jax.Array,
    *,
    factor: int,
    dtype: Any,
) -> _Plan:
    """Of a photo as it is looked at and its features, and a painting as large as it is painted."""
    small = _smaller(painting, factor)
    margin = _MARGIN // _CELL
    mirrored = jnp.pad(small, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), "symmetric")
    of_painting = _features(params, mirrored, dtype=dtype)[margin:-margin, margin:-margin]
    luminance, light = ((_smaller(x, _CELL) @ LUMINANCE)[..., None] for x in (seen, small))
    patches = _matched(*_descriptors(features, of_painting, luminance, light))
    colours = _blurred(_smaller(small, _CELL), _SIGMA)
    strokes = painting - jax.image.resize(colours, painting.shape, "linear")
    gain, offset = _guided(_gathered(colours, patches, 1), luminance)
    return _Plan(patches, gain, offset, strokes)


def _descriptors(
    of_photo: jax.Array, of_painting: jax.Array, luminance: jax.Array, light: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What cells are compared by, `(h, w, C)` and `(h', w', C)`, luminance last.

    Args:
      of_photo: features, and so is `of_painting`.
      luminance: of the photo's cells, `(h, w, 1)`.
      light: that of the painting's.
    """
    moments = losses.moments(of_painting)
    variances, directions = jnp.linalg.eigh(moments.covariance)
    least = 1e-2 * jnp.mean(variances)
    scales = jax.lax.rsqrt(variances[-_COMPONENTS:] + least)
    basis = directions[:, -_COMPONENTS:] * scales[None]
    scale = _LIGHT / (jnp.std(light) + 1e-3)
    middle, mean = moments.mean[None, None], jnp.mean(light)
    of_photo, of_painting = (
        jnp.concatenate([(x - middle) @ basis, scale * (y - mean)], -1)
        for x, y in ((of_photo, luminance), (of_painting, light))
    )
    transport = losses.optimal_transport(losses.moments(of_photo), losses.moments(of_painting))
    return of_photo @ transport.matrix + transport.offset[None, None], of_painting


def _matched(of_photo: jax.Array, of_painting: jax.Array) -> jax.Array:
    """For each cell of the photo the painting's whose patch is most like it, `(h, w, 2)`."""
    wanted, offered = _patches(of_photo), _patches(of_painting)
    last = _cell(offered.shape[0] - 2, offered.shape[1] - 2)
    of_wanted, of_offered = _squares(wanted), _squares(offered)
    flat = _FLAT / (_FLAT + _squares(_patches(of_photo[..., :-1])))
    most_like = _most_like(wanted, offered, of_offered)
    pieces = jnp.clip(_pieces(wanted, flat[..., None], offered), 1, last)
    cells = jnp.where(flat[..., None] > 0.5, pieces, most_like)

    def likeness(cells: jax.Array, beside: Sequence[jax.Array]) -> jax.Array:
        rows, columns = cells[..., 0], cells[..., 1]
        products = jnp.sum(wanted * offered[rows, columns], -1)
        like = (1.0 - flat) * 2.0 * products / (of_wanted + of_offered[rows, columns])
        agree = sum(jnp.all(cells == each, -1).astype(jnp.float32) for each in beside)
        return like + _COHERENCE / len(beside) * agree

    def sweep(number: int, cells: jax.Array) -> jax.Array:
        # Neighbours that both moved would miss each other: every other cell does.
        even = (jnp.arange(cells.shape[0])[:, None] + jnp.arange(cells.shape[1])[None]) % 2
        moves = even == number % 2
        beside = [_beside(cells, step) - _cell(*step) for step in _NEIGHBOURS]
        best, most = cells, likeness(cells, beside)
        for candidate in (most_like, *beside):
            candidate = jnp.clip(candidate, 1, last)
            like = likeness(candidate, beside)
            better = moves & (like > most)
            best = jnp.where(better[..., None], candidate, best)
            most = jnp.where(better, like, most)
        return best

    return jax.lax.fori_loop(0, _SWEEPS, sweep, cells)


def _pieces(wanted: jax.Array, flat: jax.Array, offered: jax.Array) -> jax.Array:
    """A cell of the painting for each of the photo, `(h, w, 2)`, which together are pieces of it.

    They are like what is flat around them, `(h, w, 1)`, so that neighbours agree on colours.
    """
    blocks, weights = (_blurred(_smaller(x, _BLOCK), _SIGMA) for x in (flat * wanted, flat))
    # Of a piece all is compared: what is within it, and the squares of that.
    within, squares = (_blurred(x, _BLOCK / 4) for x in (offered, _squares(offered)[..., None]))
    middles = _most_like(blocks / weights, within, squares[..., 0], tolerance=_TOLERANCE)
    block, step = _nearest_middles(*middles.shape[:2])
    return middles[block[..., 0], block[..., 1]] + step


def _nearest_middles(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each cell the block whose middle is nearest, and the steps from there, `(h, w, 2)` int32.

    Middles lie anywhere within blocks, so that pieces do not form a grid.
    """
    blocks = np.moveaxis(np.mgrid[:rows, :columns], 0, -1)
    middles = _BLOCK * blocks + np.random.default_rng(0).integers(_BLOCK, size=blocks.shape)
    cells = np.moveaxis(np.mgrid[: _BLOCK * rows, : _BLOCK * columns], 0, -1)
    around = np.moveaxis(np.mgrid[-1:2, -1:2], 0, -1).reshape(9, 1, 1, 2)
    candidates = np.clip(cells // _BLOCK + around, 0, [rows - 1, columns - 1])
    distances = np.square(cells - middles[candidates[..., 0], candidates[..., 1]]).sum(-1)
    nearest = distances.argmin(0)[None, ..., None]
    block = np.take_along_axis(candidates, nearest, 0)[0]
    step = cells - middles[block[..., 0], block[..., 1]]
    return block.astype(np.int32), step.astype(np.int32)


def _most_like(
    wanted: jax.Array, offered: jax.Array, squares: jax.Array, *, tolerance: float = 0.0
) -> jax.Array:
    """For each patch `(h, w, C)` the place of that `(h', w', C)` which is most like it.

    That is where `2 a b / (a a + b b)` is largest: flat parts are most like flat ones.  `squares`,
    `(h', w')`, are the `b b`.  With a tolerance it is any, by lot, of those that are nearly as like
    it, less this share.
    """
    # Not those of which a part lies outside.
    coarse = offered[1:-1:_STRIDE, 1:-1:_STRIDE]
    columns = coarse.shape[1]
    coarse = coarse.reshape(-1, coarse.shape[-1])
    squares = squares[1:-1:_STRIDE, 1:-1:_STRIDE].reshape(1, -1)

    def of_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        patches, key = row
        like = 2.0 * (patches @ coarse.T) / (_squares(patches)[:, None] + squares)
        if tolerance:
            like *= 1.0 + tolerance * jax.random.uniform(key, like.shape)
        return jnp.argmax(like, -1)

    keys = jax.random.split(jax.random.key(0), len(wanted))
    found = jax.lax.map(of_row, (wanted, keys)).astype(jnp.int32)
    return jnp.stack([found // columns, found % columns], -1) * _STRIDE + 1


def _squares(patches: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(patches), -1) + 1e-6


def _patches(descriptors: jax.Array) -> jax.Array:
    """The patch around each cell, as a vector of length 1 on average, `(h, w, 9 C)`."""
    steps = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    patches = jnp.concatenate([_beside(descriptors, step) for step in steps], -1)
    return patches * patches.shape[-1] ** -0.5


def _cell(row: int, column: int) -> jax.Array:
    return jnp.array([[[row, column]]], jnp.int32)


def _beside(x: jax.Array, step: tuple[int, int]) -> jax.Array:
    """What is a step of rows and columns away, of `(h, w, C)`; at a border the border itself."""
    height, width = x.shape[:2]
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), "edge")
    return padded[1 + step[0] :, 1 + step[1] :][:height, :width]


def _gathered(picture: jax.Array, patches: jax.Array, cell: int) -> jax.Array:
    """The overlapping patches of a picture, averaged: `(h, w, 2)` to `(cell h, cell w, 3)`.

    They count less towards their borders.
    """
    height, width = (side // cell for side in picture.shape[:2])
    blocks = picture.reshape(height, cell, width, cell, 3).swapaxes(1, 2)
    distances = np.arange(_PATCH * cell) + 0.5
    tent = np.minimum(distances, _PATCH * cell - distances).reshape(_PATCH, cell)
    tent = np.asarray(tent / tent.sum(0), np.float32)
    total: Any = 0.0
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            # The part of a patch that is a step off its middle comes from that much before; none
            # reaches over the painting's border.
            cells = _beside(patches, (-row, -column)) + _cell(row, column)
            weights = (tent[1 + row][:, None] * tent[1 + column])[None, None, ..., None]
            total += weights * blocks[cells[..., 0], cells[..., 1]]
    height, width = patches.shape[:2]
    return total.swapaxes(1, 2).reshape(height * cell, width * cell, 3)


def _guided(colours: jax.Array, luminance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gain and offset of colours that are linear in luminance `(h, w, 1)` near every cell."""
    mean, mean_colours, squares, products = (
        _blurred(x, _SIGMA)
        for x in (luminance, colours, luminance * luminance, luminance * colours)
    )
    gain = (products - mean * mean_colours) / (squares - mean * mean + _EDGE)
    return _blurred(gain, _SIGMA), _blurred(mean_colours - gain * mean, _SIGMA)


def _blurred(x: jax.Array, sigma: float) -> jax.Array:
    """A Gaussian over `(h, w, C)`, borders repeated."""
    reach = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        length = x.shape[axis]
        margins = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        padded = jnp.pad(x, margins, "edge")
        x = sum(
            weight * jax.lax.slice_in_dim(padded, start, start + length, axis=axis)
            for start, weight in enumerate(weights)
        )
    return x


@functools.partial(jax.jit, static_argnames="factor")
def _paint(
    rows: jax.Array, plans: Sequence[_Plan], shares: jax.Array, number: jax.Array, *, factor: int
) -> jax.Array:
    """A band of a picture.

    Args:
      rows: of the photo, margins at the sides included, `(factor _FRAME, W, 3)`.
      plans: those of the paintings.
      shares: how much of each of them.
      number: of the band, from the top.
    """
    luminance = (rows @ LUMINANCE)[:, factor * _MARGIN : -factor * _MARGIN, None]
    colours: Any = 0.0
    strokes: Any = 0.0
    cell = factor * _CELL
    for plan, share in zip(plans, shares, strict=True):
        patches, gain, offset = (_band(x, number) for x in plan[:3])
        gain, offset = (_enlarged(x, cell) for x in (gain, offset))
        colours += share * (gain * luminance + offset)
        strokes += share * _gathered(plan.strokes, patches, cell)[cell:-cell, cell:-cell]
    # Strokes of several paintings do not agree: what is left of them is as strong as those of one.
    strength = _STROKES * jax.lax.rsqrt(jnp.sum(jnp.square(shares)))
    return jnp.clip(colours + strength * strokes, 0.0, 1.0)


def _band(x: jax.Array, number: jax.Array) -> jax.Array:
    """The cells of a band, and one more on each side, `(h + 2, w + 2, C)`."""
    start, count = _MARGIN // _CELL - 1, _FRAME // _CELL
    return jax.lax.dynamic_slice_in_dim(x[:, start:-start], start + number * count, count + 2)


def _enlarged(x: jax.Array, factor: int) -> jax.Array:
    """Linearly, less what surrounds it: `(h + 2, w + 2, C)` to `(factor h, factor w, C)`."""
    height, width, channels = x.shape
    larger = jax.image.resize(x, (height * factor, width * factor, channels), "linear")
    return larger[factor:-factor, factor:-factor]
