"""Stylise pictures of any size with a trained network, in one pass (Johnson et al. 2016).

--input is a photo, a folder of photos, or - for a picture from standard input. The styles that are
shipped are shown by --list, and on your own photo by --sheet.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import __version__, color
from perceptual_jax.cli import batch as batch_lib
from perceptual_jax.cli import console, flags, memory
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.io import image_grid, images
from perceptual_jax.io import masks as regions
from perceptual_jax.io.storage import pictures_in
from perceptual_jax.models import stylization
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained.networks import TrainedNetwork

_SHEET_SIDE = 320


def define_flags(define: flags.Flags) -> None:
    define.group("Pictures")
    define.string(
        "input",
        "rocket",
        "The photo: a file, the name of one in examples/content, a folder of photos, or - for "
        "standard input.",
    )
    define.string(
        "output",
        None,
        "The picture to write, format by suffix, or - for PNG on standard output; for a folder of "
        "photos a folder. By default INPUT-STYLE.png here, or - for -.",
    )
    define.integer(
        "image_size",
        None,
        "Long side of the result, in pixels, by default that of the photo. Strokes have a fixed "
        "size in pixels: a smaller picture has larger ones.",
        least=16,
    )
    define.group("Style")
    define.list(
        "style",
        None,
        "A style of the network, or several to be mixed (wave:0.7,starry_night:0.3); with "
        "--content_mask one for each region. By default the network's first.",
    )
    define.string(
        "network",
        None,
        "A trained network: a file of --mode=train_transform, a .pth of PyTorch's example "
        "fast_neural_style, or a shipped one. By default the shipped one that has the styles.",
    )
    define.float("strength", 1.0, "From 0, the photo, to 1, the full style.")
    define.enum(
        "keep_colors",
        "none",
        flags.KEEP_COLORS,
        "Keep the photo's colours: luminance takes the style's light and dark alone; histogram "
        "gives the result the photo's mean and covariance of colours.",
    )
    define.list(
        "content_mask",
        None,
        "For each style a picture that is white where it applies; where none does, the photo "
        "stays. One fewer than styles leaves the rest of the photo to the last.",
    )
    define.group("What else")
    define.boolean("list", False, "Show the shipped styles, and do nothing else.")
    define.boolean(
        "sheet", False, "Write one picture with the photo, or all of a folder, in every style."
    )
    define.integer(
        "tile_size",
        1024,
        "Largest side that is computed at once, in pixels, a multiple of 4: larger pictures are "
        "done in tiles, in as much memory as one of 1536 pixels takes, beside the picture; in less "
        "if less than 512.",
        least=128,
    )
    flags.inference(define)


@dataclasses.dataclass(frozen=True)
class _Look:
    """What is to be done to a photo.

    Attributes:
      network: that of the styles.
      weights: of the styles: one mix, or with masks one for each region.
      masks: files that say where each applies, as `regions.read_all` takes them; or none.
      strength: of the whole, from 0 to 1.
      keep_colors: one of `flags.KEEP_COLORS`.
    """

    network: StyleNetwork
    weights: list[np.ndarray]
    masks: list[str]
    strength: float
    keep_colors: str


def main(values: Any) -> int | None:
    if values.list:
        print(_listing())
        return None
    if values.strength > 1:
        raise UserError(f"--strength={values.strength} must be between 0 and 1")
    names = flags.weighted_names(values.style) if values.style else []
    trained = _network(values, [name for name, _ in names])
    look = _look(values, trained, names)
    with usage_errors():
        stylization.tiles_of((1, 1), look.network, values.tile_size)
    if values.sheet:
        return _write_sheet(values, trained, look)
    plain = not look.masks and look.keep_colors == "none"
    work = batch_lib.Job(
        apply=functools.partial(_apply, values, trained, look),
        label=_label(look, trained),
        settings=_settings(values, trained),
        batch_size=flags.batch_size_of(values) if plain else 1,
        largest_side=values.tile_size,
        prepare=functools.partial(_sized, values),
    )
    return batch_lib.run(work, values.input, values.output)


def _listing() -> str:
    lines = []
    for name in pretrained_networks.shipped("style"):
        lines += [
            f"{style:24} (--network={name})"
            for style in pretrained_networks.load_network(name).styles
        ]
    return "\n".join(lines) or "no network is shipped: train one with --mode=train_transform"


def _network(values: Any, styles: Sequence[str]) -> TrainedNetwork:
    """The network that was asked for, or the shipped one that has all the styles."""
    if values.network:
        trained = pretrained_networks.load_network(values.network)
    else:
        shipped = [
            pretrained_networks.load_network(name) for name in pretrained_networks.shipped("style")
        ]
        if not shipped:
            raise UserError("no network is shipped: train one with --mode=train_transform")
        fitting = [trained for trained in shipped if set(styles) <= set(trained.styles)]
        trained = (fitting or shipped)[0]
    if unknown := [style for style in styles if style not in trained.styles]:
        raise UserError(
            f"the network has no style {', '.join(unknown)}, but {', '.join(trained.styles)}; "
            "--mode=gatys takes any painting at once, --mode=train_transform trains one for it"
        )
    return trained


def _look(values: Any, trained: TrainedNetwork, names: Sequence[tuple[str, float]]) -> _Look:
    if not isinstance(trained.network, StyleNetwork):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    chosen = names or [(trained.styles[0], 1.0)]
    one_hot = np.eye(len(trained.styles), dtype=np.float32)
    rows = [one_hot[trained.styles.index(name)] for name, _ in chosen]
    masks = values.content_mask or []
    if masks and values.sheet:
        raise UserError("--sheet shows every style on all of a photo: leave out --content_mask")
    if masks:
        regions.check_count(masks, len(chosen), of="styles")
        if len({weight for _, weight in chosen}) > 1:
            raise UserError(
                "--content_mask says how much of each style there is where: leave out the weights "
                f"of --style={','.join(values.style)}"
            )
    else:
        shares = np.array([weight for _, weight in chosen], np.float32)
        rows = [shares @ np.stack(rows) / shares.sum()]
    network = trained.network.clone(dtype=values.dtype)
    return _Look(network, rows, masks, values.strength, values.keep_colors)


def _label(look: _Look, trained: TrainedNetwork) -> str:
    used = np.sum(look.weights, axis=0)
    return "-".join(name for name, weight in zip(trained.styles, used, strict=True) if weight > 0)


def _sized(values: Any, picture: images.Picture) -> images.Picture:
    size = picture.rgb.shape[:2]
    if values.image_size:
        size = images.size_for(size, values.image_size)
    memory.check_picture(size)
    return picture.fit(values.image_size) if values.image_size else picture


def _settings(values: Any, trained: TrainedNetwork) -> dict[str, Any]:
    return {
        "program": f"perceptual_jax {__version__}",
        "mode": "stylize",
        **flags.as_dict(values),
        "styles_of_network": trained.styles,
    }


def _apply(
    values: Any,
    trained: TrainedNetwork,
    look: _Look,
    pictures: Sequence[images.Picture],
    interrupts: console.Interrupts,
) -> list[images.Picture] | None:
    """What is made of pictures of one size, or None if it was interrupted."""
    if len(pictures) == 1:
        result = _stylized(values, trained, look, pictures[0].rgb, interrupts)
        return None if result is None else [dataclasses.replace(pictures[0], rgb=result)]
    batch = np.stack([picture.rgb for picture in pictures])
    with usage_errors():
        results = np.array(
            stylization.stylize_batch(
                trained.variables, batch, network=look.network, style_weights=look.weights[0]
            )
        )
    return [
        dataclasses.replace(picture, rgb=_finished(look, result, picture.rgb, ()))
        for picture, result in zip(pictures, results, strict=True)
    ]


def _stylized(
    values: Any,
    trained: TrainedNetwork,
    look: _Look,
    photo: np.ndarray,
    interrupts: console.Interrupts,
) -> np.ndarray | None:
    """The finished picture, or None if it was interrupted."""
    masks = _masks(look, photo.shape[:2])
    result = photo * (1.0 - np.sum(masks, axis=0))[..., None] if masks else np.zeros_like(photo)
    with usage_errors():
        parts = stylization.tiles_of(photo.shape[:2], look.network, values.tile_size)
        tiles = (
            (index, tile)
            for index, weights in enumerate(look.weights)
            for tile in stylization.stylize_tiles(
                trained.variables,
                photo,
                network=look.network,
                style_weights=weights,
                tile=values.tile_size,
            )
        )
        count = len(parts) * len(look.weights) if len(parts) > 1 else 1
        for index, tile in batch_lib.with_progress(tiles, count, interrupts):
            share = masks[index][tile.place][..., None] if masks else 1.0
            result[tile.place] += share * tile.pixels
    if interrupts:
        return None
    return _finished(look, result, photo, parts)


def _masks(look: _Look, size: Any) -> list[np.ndarray]:
    """How much of each style every pixel gets, 1 at most in all; empty where there are no masks."""
    if not look.masks:
        return []
    masks = regions.read_all(look.masks, len(look.weights), size)
    total = np.maximum(np.sum(masks, axis=0), 1.0)
    return [mask / total for mask in masks]


def _finished(
    look: _Look, result: np.ndarray, photo: np.ndarray, parts: Sequence[Any]
) -> np.ndarray:
    """With the photo's colours and as much of the photo itself as was asked for."""
    if look.keep_colors == "histogram":
        result = np.array(jax.jit(color.match_statistics)(result, photo))
    elif look.keep_colors == "luminance":
        for row, column in parts:  # In parts, since JAX would hold several copies of the whole.
            part = np.s_[row.kept_start : row.kept_stop, column.kept_start : column.kept_stop]
            result[part] = color.replace_luminance(photo[part], result[part])
    if look.strength < 1:
        result *= look.strength
        result += (1.0 - look.strength) * photo
    return result


def _write_sheet(values: Any, trained: TrainedNetwork, look: _Look) -> int:
    """Photos in every style of the network: one in a block with captions, several in rows."""
    source = values.input
    name = Path(source).expanduser().resolve().name if source != batch_lib.PIPE else ""
    output = values.output or (f"{Path(name).stem}-sheet.png" if name else batch_lib.PIPE)
    if output != batch_lib.PIPE:
        images.check_writable(output)
    several = batch_lib.is_folder(source)
    sources = [source]
    if several:
        folder = Path(source).expanduser()
        sources = [str(path) for path in pictures_in(folder, exclude=Path(output))]
    side = values.image_size or _SHEET_SIDE
    labels = ["photo", *trained.styles]
    rows_of_styles = np.eye(len(trained.styles), dtype=np.float32)
    rows: list[list[np.ndarray]] = []
    bar = console.ProgressBar(len(sources) * len(trained.styles))
    with console.interruptible() as interrupts:
        for each in sources:
            photo = images.fit(batch_lib.read(each).rgb, side)
            rows.append([photo])
            for weights, style in zip(rows_of_styles, trained.styles, strict=True):
                one = dataclasses.replace(look, weights=[weights], masks=[])
                result = _stylized(values, trained, one, photo, interrupts)
                if result is None:
                    bar.close()
                    print("interrupted", file=sys.stderr)
                    return interrupts.exit_code
                rows[-1].append(result)
                bar.update(1, style, {})
    bar.close()
    if several:
        drawn = image_grid.draw(rows, column_labels=[label.replace("_", " ") for label in labels])
    else:
        drawn = _block(rows[0], labels)
    batch_lib.write(output, images.Picture(drawn, None), _settings(values, trained))
    told = sys.stderr if output == batch_lib.PIPE else sys.stdout
    print(f"{output}: {len(trained.styles)} styles", file=told)
    return 0


def _block(cells: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """About as many columns as rows, with the fewest empty cells."""
    root = math.ceil(math.sqrt(len(cells)))
    columns = min((root, root + 1), key=lambda columns: -len(cells) % columns)
    starts = range(0, len(cells), columns)
    return image_grid.draw(
        [cells[start : start + columns] for start in starts],
        captions=[labels[start : start + columns] for start in starts],
    )
