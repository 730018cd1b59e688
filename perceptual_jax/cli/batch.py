"""Pictures from a file, a folder or a pipe: read, processed in batches of equal size, and written.

A picture of a folder that cannot be read or processed does not end the work on the others.
"""

import contextlib
import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from perceptual_jax.cli import console
from perceptual_jax.cli.errors import UserError, message
from perceptual_jax.cli.interrupts import Interrupts, interruptible
from perceptual_jax.io import images, resources
from perceptual_jax.io.images import Picture
from perceptual_jax.io.storage import pictures_in

PIPE = "-"

_Tile = TypeVar("_Tile")

# Processes pictures of one size. Gives one result for each, or None if it was interrupted.
Apply = Callable[[Sequence[Picture], Interrupts], list[Picture] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """How every picture is processed.

    Attributes:
      apply: makes the results.
      label: what the name of a result ends in, by default: `INPUT-LABEL.png`.
      settings: written into every result.
      batch_size: pictures of equal size given to `apply` at once.
      largest_side: of the pictures in a batch, in pixels; larger ones are processed alone.
      prepare: applied to each picture as soon as it is read.
    """

    apply: Apply
    label: str
    settings: dict[str, Any]
    batch_size: int = 1
    largest_side: int = 1024
    prepare: Callable[[Picture], Picture] = lambda picture: picture


def is_folder(name: str) -> bool:
    """Whether `--input` is a folder of pictures."""
    return name != PIPE and Path(name).expanduser().is_dir()


def read(name: str) -> Picture:
    """The picture in a file, behind the name of an example, or on standard input.

    Raises:
      FileError: as `images.read_picture`.
    """
    if name != PIPE:
        return images.read_picture(resources.picture(name, "content"))
    with tempfile.NamedTemporaryFile(prefix="stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        return images.read_picture(file.name)


def with_progress(tiles: Iterable[_Tile], count: int, interrupts: Interrupts) -> Iterator[_Tile]:
    """The tiles of a picture until it is interrupted, with a bar if there are several."""
    with console.ProgressBar(count) if count > 1 else contextlib.nullcontext() as bar:
        for number, tile in enumerate(tiles, start=1):
            yield tile
            if bar:
                bar.update(1, f"tile {number} of {count}", {})
            if interrupts:
                return


def run(job: Job, source: str, output: str | None) -> int:
    """Processes what `--input` and `--output` name.

    Args:
      job: how.
      source: a file, the name of an example, a folder, or `PIPE`.
      output: a file, a folder for a folder, or `PIPE`; None for `SOURCE-LABEL.png`, or for `PIPE`
        after a pipe.

    Returns:
      The exit code for the shell.

    Raises:
      UserError, FileError: nothing can be read or written there.
    """
    return (_folder if is_folder(source) else _one)(job, source, output)


def _one(job: Job, source: str, output: str | None) -> int:
    began = time.monotonic()
    if output is None:
        output = PIPE if source == PIPE else f"{Path(source).stem}-{job.label}.png"
    if output != PIPE:
        images.check_writable(output)
    picture = job.prepare(read(source))
    with interruptible() as interrupts:
        results = job.apply([picture], interrupts)
    if results is None:
        print("interrupted", file=sys.stderr)
        return interrupts.exit_code
    write(output, results[0], job.settings)
    height, width = results[0].rgb.shape[:2]
    line = f"{output}: {width}x{height}, {time.monotonic() - began:.1f} s"
    print(line, file=sys.stderr if output == PIPE else sys.stdout)
    return 0


def write(output: str, picture: Picture, settings: dict[str, Any]) -> None:
    """To a file, or as PNG to standard output.

    Raises:
      FileError: as `images.write`.
    """
    if output != PIPE:
        images.write(output, picture.rgb, alpha=picture.alpha, settings=settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        images.write(path, picture.rgb, alpha=picture.alpha, settings=settings)
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.buffer.flush()


def _folder(job: Job, source: str, output: str | None) -> int:
    """Processes every picture of a folder, and names those that were left out at the end."""
    folder = Path(source).expanduser()
    if not output or output == PIPE:
        raise UserError(f"--input={source} is a folder: give a folder with --output")
    target = Path(output).expanduser()
    if target.resolve() == folder.resolve():
        raise UserError(f"--output={output} is --input: give another folder, nothing is replaced")
    files = pictures_in(folder, exclude=target)
    images.check_writable(target / "picture.png")
    failed: list[str] = []
    done = 0
    with console.ProgressBar(len(files)) as bar, interruptible() as interrupts:
        for group in _equal_sized(job, files, failed):
            try:
                results = job.apply([picture for _, picture in group], interrupts) or []
            except (UserError, OSError) as error:
                failed += [f"{path}: {message(error)}" for path, _ in group]
                results = []
            for (path, _), result in zip(group, results, strict=False):
                place = target / path.relative_to(folder)
                if place.suffix.lower() not in images.WRITABLE_SUFFIXES:
                    taken = path.with_suffix(".png") in files
                    place = place.with_suffix(f"{path.suffix}.png" if taken else ".png")
                try:
                    write(str(place), result, job.settings)
                    done += 1
                except (UserError, OSError) as error:
                    failed.append(message(error))
            bar.update(len(group), f"{done} done", {})
            if interrupts:
                break
    print(f"{target}: {done} of {len(files)} pictures")
    for line in failed:
        print(f"left out: {line}", file=sys.stderr)
    if interrupts:
        return interrupts.exit_code
    if not failed:
        return 0
    return 1 if done else 2


def _equal_sized(
    job: Job, files: Sequence[Path], failed: list[str]
) -> Iterator[list[tuple[Path, Picture]]]:
    """Neighbouring pictures that can be processed at once: equal in size, and not too large."""
    group: list[tuple[Path, Picture]] = []
    for path in files:
        try:
            picture = images.read_picture(path)
        except (UserError, OSError) as error:
            failed.append(message(error))
            continue
        try:
            picture = job.prepare(picture)
        except (UserError, OSError) as error:
            failed.append(f"{path}: {message(error)}")
            continue
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
