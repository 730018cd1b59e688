"""Pictures from a file, a folder or a pipe: read, processed in batches of equal size, and written.

A picture of a folder that cannot be read or processed does not end the work on the others.
"""

import collections
import contextlib
import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from perceptual_jax.cli import console
from perceptual_jax.cli.errors import UserError, leaving_out, report_left_out, usage_errors
from perceptual_jax.cli.interrupts import Interrupts, interruptible
from perceptual_jax.cli.messages import say, standard_output
from perceptual_jax.io import images, resources
from perceptual_jax.io.images import Picture
from perceptual_jax.io.storage import FileError, local_path, pictures_in
from perceptual_jax.models import tiling
from perceptual_jax.models.networks import Network
from perceptual_jax.pretrained.networks import TrainedNetwork

PIPE = "-"

_Tile = TypeVar("_Tile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """How every picture is processed.

    Attributes:
      apply: makes a result of each of some pictures of one size, or none if it was interrupted.
      label: of the name that a result has by default, `INPUT-LABEL.png`.
      settings: written into every result.
      batch_size: pictures of equal size given to `apply` at once.
      largest_side: in pixels; larger pictures are processed alone.
      prepare: applied to each picture as soon as it is read.
      scale: by which a result is larger than its prepared picture.
    """

    apply: Callable[[Sequence[Picture], Interrupts], list[Picture] | None]
    label: str
    settings: dict[str, Any]
    batch_size: int = 1
    largest_side: int = 1024
    prepare: Callable[[Picture], Picture] = lambda picture: picture
    scale: int = 1


def is_folder(name: str) -> bool:
    """Whether `--input`, which may be `PIPE`, is a folder of pictures."""
    return name != PIPE and local_path(name).is_dir()


def read(name: str) -> Picture:
    """The picture in a file, behind the name of an example, or on standard input.

    Every photo that a mode works on is read here: it has colours where it is transparent, too,
    which networks and filters mix with those of its visible parts.
    """
    if name != PIPE:
        return images.read_picture(resources.picture(name, "content")).fill_transparent()
    if sys.stdin is None:
        raise UserError("standard input is closed: give a file in place of -")
    with tempfile.NamedTemporaryFile(prefix="stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        return images.read_picture(file.name).fill_transparent()


def stem_of(name: str) -> str:
    """What the name of a result begins with: `photo` of `in/photo.jpg`, `stdin` of a pipe."""
    path = Path(name)
    # A shell calls `<(command)` `/dev/fd/63`.
    is_nameless = name == PIPE or (path.is_fifo() and path.name.isdecimal())
    return "stdin" if is_nameless else path.stem


def with_progress(tiles: Iterable[_Tile], count: int, interrupts: Interrupts) -> Iterator[_Tile]:
    """The tiles of a picture until it is interrupted, with a bar if there are several."""
    with console.ProgressBar(count) if count > 1 else contextlib.nullcontext() as bar:
        for number, tile in enumerate(tiles, start=1):
            yield tile
            if bar:
                bar.update(1, f"tile {number} of {count}", {})
            if interrupts:
                return


def prepared(trained: TrainedNetwork, values: Any) -> TrainedNetwork:
    """The network on the device, computing in `--dtype`; `--tile_size` is checked against it."""
    check_tile_size(values, trained.network)
    return dataclasses.replace(
        trained,
        network=trained.network.clone(dtype=values.dtype),
        variables=jax.device_put(trained.variables),
    )


def check_tile_size(values: Any, network: Network) -> None:
    """Raises `UserError` if a network cannot compute tiles of `--tile_size`."""
    with usage_errors():
        tiling.tiles((1, 1), network, values.tile_size)


def results(
    photos: Sequence[np.ndarray],
    interrupts: Interrupts,
    trained: TrainedNetwork,
    tile_size: int,
    *,
    frames: tiling.Frames | None,
    at_once: Callable[..., jax.Array],
    in_tiles: Callable[..., Iterable[tiling.Tile]],
    scale: int = 1,
) -> list[np.ndarray]:
    """What a network makes of photos of one size, nothing if it was interrupted.

    Several are computed `at_once`, from `(N, H, W, 3)` to `(N, scale H, scale W, 3)`; a single one
    `in_tiles`, with a bar.  Both get the `frames`, if there are other pictures.
    """
    variables, network = trained.variables, trained.network
    height, width = photos[0].shape[:2]
    with usage_errors():
        if len(photos) > 1:
            array, size = tiling.framed(np.stack(photos), frames)
            computed = np.array(at_once(variables, array, network=network, size=size))
            return list(computed[:, : scale * height, : scale * width])
        count = len(tiling.tiles((height, width), network, tile_size))
        tiles = in_tiles(variables, photos[0], network=network, tile=tile_size, frames=frames)
        tiles = with_progress(tiles, count, interrupts)
        result = tiling.assemble(tiles, (scale * height, scale * width, 3))
    return [] if interrupts else [result]


def frames_for(source: str, network: Network) -> tiling.Frames | None:
    """Frames for the pictures of a folder; a single one is computed in its own size."""
    return tiling.Frames(network) if is_folder(source) else None


def run(job: Job, source: str, output: str | None) -> int:
    """Processes what `--input` and `--output` name, and returns the exit code for the shell."""
    return (_folder if is_folder(source) else _one)(job, source, output)


def output_of(source: str, output: str | None, label: str) -> str:
    """`--output` if it can be written; by default `SOURCE-LABEL.png`, or `PIPE` after a pipe."""
    output = output or (PIPE if source == PIPE else f"{stem_of(source)}-{label}.png")
    if output != PIPE:
        images.check_writable(output)
    elif sys.stdout is None:
        raise UserError("standard output is closed: give a file with --output")
    return output


def _one(job: Job, source: str, output: str | None) -> int:
    began = time.monotonic()
    output = output_of(source, output, job.label)
    picture = job.prepare(read(source))
    height, width = picture.rgb.shape[:2]
    if output != PIPE:
        images.check_size(output, (job.scale * height, job.scale * width))
    say(f"compiling for {width}x{height}", aside=True)
    with interruptible() as interrupts:
        results = job.apply([picture], interrupts)
    if not results:
        say("interrupted", aside=True)
        return interrupts.exit_code
    write(output, results[0], job.settings)
    height, width = results[0].rgb.shape[:2]
    seconds = time.monotonic() - began
    say(f"{output}: {width}x{height}, {seconds:.1f} s", aside=output == PIPE)
    return interrupts.exit_code


def write(output: str, picture: Picture, settings: dict[str, Any]) -> None:
    """Writes to a file, or as PNG to standard output."""
    if output != PIPE:
        images.write(output, picture.rgb, alpha=picture.alpha, settings=settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        images.write(path, picture.rgb, alpha=picture.alpha, settings=settings)
        with standard_output():
            sys.stdout.buffer.write(path.read_bytes())
            sys.stdout.buffer.flush()


def _folder(job: Job, source: str, output: str | None) -> int:
    """Processes every picture of a folder, and names those that were left out at the end."""
    folder = local_path(source)
    if not output or output == PIPE:
        raise UserError(f"--input={source} is a folder: give a folder with --output")
    target = local_path(output)
    if target.resolve() == folder.resolve():
        raise UserError(f"--output={output} is --input: give another folder, nothing is replaced")
    files = pictures_in(folder, exclude=target)
    images.check_writable(target / "picture.png")
    names = collections.Counter(path.with_suffix("") for path in files)
    failed: list[str] = []
    done = replaced = 0
    with console.ProgressBar(len(files)) as bar, interruptible() as interrupts:
        for group in _equal_sized(job, files, failed):
            results: list[Picture] = []
            with leaving_out(failed, *(path for path, _ in group)):
                results = job.apply([picture for _, picture in group], interrupts) or []
            for (path, _), result in zip(group, results, strict=False):
                place = target / path.relative_to(folder)
                held = is_held(place, result.rgb.shape[:2])
                if not held:
                    taken = names[path.with_suffix("")] > 1
                    place = place.with_suffix(f"{path.suffix}.png" if taken else ".png")
                with leaving_out(failed, place):
                    write(str(place), result, job.settings)
                    done += 1
                    replaced += not held
            bar.update(len(group), f"{done} done", {})
            if interrupts:
                break
    in_png = f", {replaced} as .png, since their own formats cannot hold them" if replaced else ""
    say(f"{target}: {done} of {len(files)} pictures{in_png}")
    code = report_left_out(failed, done)
    return interrupts.exit_code or code


def is_held(path: Path, height_width: tuple[int, int]) -> bool:
    """Whether the format of a path can be written, and hold pictures of this size."""
    try:
        images.check_size(path, height_width)
    except FileError:
        return False
    return True


def _equal_sized(
    job: Job, files: Sequence[Path], failed: list[str]
) -> Iterator[list[tuple[Path, Picture]]]:
    """Neighbouring pictures that can be processed at once: equal in size, and not too large."""
    group: list[tuple[Path, Picture]] = []
    for path in files:
        with leaving_out(failed, path):
            picture = job.prepare(read(str(path)))
            shape = picture.rgb.shape
            if group and (
                len(group) == job.batch_size
                or group[0][1].rgb.shape != shape
                or max(shape[:2]) > job.largest_side
            ):
                yield group
                group = []
            group.append((path, picture))
    if group:
        yield group
