"""Stylise pictures of any size with a trained network, in one pass (Johnson et al. 2016).

--input is a photo, a folder of photos, or - for a picture from standard input. The styles that are
shipped are shown by --list, and on your own photo by --sheet.
"""

import dataclasses
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import __version__, color, console, flags, stylization
from perceptual_jax.errors import UserError, usage_errors
from perceptual_jax.io import images, network_files, regions, resources, sheets
from perceptual_jax.io.network_files import TrainedNetwork
from perceptual_jax.networks import StyleNetwork

_PIPE = "-"
_SHEET_SIDE = 320


def define_flags(define: flags.Flags) -> None:
    define.group("Pictures")
    define.text(
        "input",
        "rocket",
        "The photo: a file, the name of one in examples/content, a folder of photos, or - for "
        "standard input.",
    )
    define.text(
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
    define.names(
        "style",
        None,
        "A style of the network, or several to be mixed (wave:0.7,starry_night:0.3); with "
        "--content_mask one for each region. By default the network's first.",
    )
    define.text(
        "network",
        None,
        "A trained network: a file of --mode=train_transform, a .pth of PyTorch's example "
        "fast_neural_style, or a shipped one. By default the shipped one that has the styles.",
    )
    define.number("strength", 1.0, "From 0, the photo, to 1, the full style.")
    define.choice(
        "keep_colors",
        "none",
        flags.KEEP_COLORS,
        "Keep the photo's colours: luminance takes the style's light and dark alone; histogram "
        "gives the result the photo's mean and covariance of colours.",
    )
    define.names(
        "content_mask",
        None,
        "For each style a picture that is white where it applies; where none does, the photo "
        "stays. One fewer than styles leaves the rest of the photo to the last.",
    )
    define.group("What else")
    define.switch("list", False, "Show the shipped styles, and do nothing else.")
    define.switch("sheet", False, "Write one picture with the photo in every style.")
    define.integer(
        "tile_size",
        1024,
        "Largest side that is computed at once, in pixels, a multiple of 4: larger pictures are "
        "done in tiles, in as much memory as one takes.",
        least=128,
    )
    define.integer(
        "batch_size",
        None,
        "Pictures of equal size done at once. By default 8, on a CPU 1.",
        least=1,
    )
    define.choice("dtype", "float32", ["float32", "bfloat16"], "What convolutions compute in.")


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
    if values.input != _PIPE and Path(values.input).expanduser().is_dir():
        return _stylize_folder(values, trained, look)
    return _stylize_one(values, trained, look)


def _listing() -> str:
    lines = []
    for name in network_files.shipped("style"):
        lines += [f"{style:24} (--network={name})" for style in network_files.load(name).styles]
    return "\n".join(lines) or "no network is shipped: train one with --mode=train_transform"


def _network(values: Any, styles: Sequence[str]) -> TrainedNetwork:
    """The network that was asked for, or the shipped one that has all the styles."""
    if values.network:
        trained = network_files.load(values.network)
    else:
        shipped = [network_files.load(name) for name in network_files.shipped("style")]
        if not shipped:
            raise UserError("no network is shipped: train one with --mode=train_transform")
        fitting = [trained for trained in shipped if set(styles) <= set(trained.styles)]
        trained = (fitting or shipped)[0]
    if unknown := [style for style in styles if style not in trained.styles]:
        raise UserError(
            f"the network has no style {', '.join(unknown)}, but {', '.join(trained.styles)}; "
            "--mode=train_transform trains one for any painting"
        )
    return trained


def _look(values: Any, trained: TrainedNetwork, names: Sequence[tuple[str, float]]) -> _Look:
    if not isinstance(trained.network, StyleNetwork):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    chosen = names or [(trained.styles[0], 1.0)]
    one_hot = np.eye(len(trained.styles), dtype=np.float32)
    rows = [one_hot[trained.styles.index(name)] for name, _ in chosen]
    masks = values.content_mask or []
    if masks:
        regions.check_count(masks, len(chosen), of="styles")
    else:
        shares = np.array([weight for _, weight in chosen], np.float32)
        rows = [shares @ np.stack(rows) / shares.sum()]
    network = trained.network.clone(dtype=values.dtype)
    return _Look(network, rows, masks, values.strength, values.keep_colors)


def _label(look: _Look, trained: TrainedNetwork) -> str:
    used = np.sum(look.weights, axis=0)
    return "-".join(name for name, weight in zip(trained.styles, used, strict=True) if weight > 0)


def _stylize_one(values: Any, trained: TrainedNetwork, look: _Look) -> int:
    began = time.monotonic()
    piped = values.input == _PIPE
    name = Path("stdin.png" if piped else values.input)
    output = values.output or (_PIPE if piped else f"{name.stem}-{_label(look, trained)}.png")
    if output != _PIPE:
        images.check_writable(output)
    photo = _read_input(values)
    with console.interruptible() as interrupts:
        result = _stylized(values, trained, look, photo.rgb, interrupts)
    if result is None:
        raise KeyboardInterrupt
    _write_output(output, result, photo.alpha, _settings(values, trained))
    height, width = result.shape[:2]
    message = f"{output}: {width}x{height}, {time.monotonic() - began:.1f} s"
    print(message, file=sys.stderr if output == _PIPE else sys.stdout)
    return 0


def _read_input(values: Any) -> images.Picture:
    if values.input != _PIPE:
        return _sized(images.read_picture(resources.picture(values.input, "content")), values)
    with tempfile.NamedTemporaryFile(prefix="stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        return _sized(images.read_picture(file.name), values)


def _sized(picture: images.Picture, values: Any) -> images.Picture:
    return picture.fit(values.image_size) if values.image_size else picture


def _write_output(
    output: str, image: np.ndarray, alpha: np.ndarray | None, settings: dict[str, Any]
) -> None:
    if output != _PIPE:
        images.write(output, image, alpha=alpha, settings=settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        images.write(path, image, alpha=alpha, settings=settings)
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.buffer.flush()


def _settings(values: Any, trained: TrainedNetwork) -> dict[str, Any]:
    return {
        "program": f"perceptual_jax {__version__}",
        "mode": "stylize",
        **flags.asked(values),
        "styles_of_network": trained.styles,
    }


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
        bar = console.ProgressBar(len(parts) * len(look.weights)) if len(parts) > 1 else None
        for index, weights in enumerate(look.weights):
            tiles = stylization.stylize_tiles(
                trained.variables,
                photo,
                network=look.network,
                style_weights=weights,
                tile=values.tile_size,
            )
            for number, tile in enumerate(tiles, start=1):
                height, width = tile.pixels.shape[:2]
                part = np.s_[tile.top : tile.top + height, tile.left : tile.left + width]
                result[part] += (
                    tile.pixels * masks[index][part][..., None] if masks else tile.pixels
                )
                if bar:
                    bar.update(1, f"tile {number} of {len(parts)}", {})
                if interrupts:
                    return None
        if bar:
            bar.close()
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


def _stylize_folder(values: Any, trained: TrainedNetwork, look: _Look) -> int:
    """Every photo of a folder; one that cannot be read is told at the end."""
    folder = Path(values.input).expanduser()
    if not values.output or values.output == _PIPE:
        raise UserError(f"--input={values.input} is a folder: give a folder with --output")
    output = Path(values.output).expanduser()
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in resources.PICTURE_SUFFIXES
    )
    if not files:
        raise UserError(f"there is no picture in {folder}")
    settings = _settings(values, trained)
    failed: list[str] = []
    done = 0
    bar = console.ProgressBar(len(files))
    with console.interruptible() as interrupts:
        for group in _equal_sized(values, look, files, failed):
            for path, photo, result in _results(values, trained, look, group, interrupts):
                target = output / path.relative_to(folder)
                if target.suffix.lower() not in images.WRITABLE_SUFFIXES:
                    target = target.with_suffix(".png")
                try:
                    images.write(target, result, alpha=photo.alpha, settings=settings)
                    done += 1
                except UserError as error:
                    failed.append(str(error))
            bar.update(len(group), f"{done} done", {})
            if interrupts:
                break
    bar.close()
    print(f"{output}: {done} of {len(files)} pictures")
    for line in failed:
        print(f"left out: {line}", file=sys.stderr)
    if interrupts:
        return interrupts.exit_code
    return 2 if failed and not done else 0


def _equal_sized(
    values: Any, look: _Look, files: Sequence[Path], failed: list[str]
) -> Iterator[list[tuple[Path, images.Picture]]]:
    """Photos in groups that can be done at once: equal in size, next to each other, in one tile."""
    largest = values.batch_size or (1 if jax.default_backend() == "cpu" else 8)
    if look.masks or look.keep_colors != "none":
        largest = 1
    group: list[tuple[Path, images.Picture]] = []
    for path in files:
        try:
            picture = _sized(images.read_picture(path), values)
        except UserError as error:
            failed.append(str(error))
            continue
        shape = picture.rgb.shape
        if group and (
            len(group) == largest
            or group[0][1].rgb.shape != shape
            or max(shape[:2]) > values.tile_size
        ):
            yield group
            group = []
        group.append((path, picture))
    if group:
        yield group


def _results(
    values: Any,
    trained: TrainedNetwork,
    look: _Look,
    group: Sequence[tuple[Path, images.Picture]],
    interrupts: console.Interrupts,
) -> Iterator[tuple[Path, images.Picture, np.ndarray]]:
    if len(group) == 1:
        path, picture = group[0]
        result = _stylized(values, trained, look, picture.rgb, interrupts)
        if result is not None:
            yield path, picture, result
        return
    batch = np.stack([picture.rgb for _, picture in group])
    results = np.array(
        stylization.stylize_batch(
            trained.variables, batch, network=look.network, style_weights=look.weights[0]
        )
    )
    for (path, picture), result in zip(group, results, strict=True):
        yield path, picture, _finished(look, result, picture.rgb, ())


def _write_sheet(values: Any, trained: TrainedNetwork, look: _Look) -> int:
    """The photo in every style of the network, beside its paintings."""
    output = values.output or f"{Path(values.input).stem}-sheet.png"
    images.check_writable(output)
    if values.input != _PIPE and Path(values.input).expanduser().is_dir():
        raise UserError("--sheet takes one photo, not a folder")
    picture = _read_input(values).rgb
    side = values.image_size or _SHEET_SIDE
    photo = images.fit(picture, side)
    cells, labels = [photo], ["photo"]
    bar = console.ProgressBar(len(trained.styles))
    with console.interruptible() as interrupts:
        rows_of_styles = np.eye(len(trained.styles), dtype=np.float32)
        for row, name in zip(rows_of_styles, trained.styles, strict=True):
            one = dataclasses.replace(look, weights=[row], masks=[])
            result = _stylized(values, trained, one, photo, interrupts)
            if result is None:
                raise KeyboardInterrupt
            cells.append(result)
            labels.append(name)
            bar.update(1, name, {})
    bar.close()
    root = math.ceil(math.sqrt(len(cells)))
    columns = min((root, root + 1), key=lambda columns: -len(cells) % columns)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    captions = [labels[start : start + columns] for start in range(0, len(cells), columns)]
    picture_sheet = sheets.sheet(rows, captions=captions)
    images.write(output, picture_sheet, settings=_settings(values, trained))
    print(f"{output}: {len(trained.styles)} styles")
    return 0
