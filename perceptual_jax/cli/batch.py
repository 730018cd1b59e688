"""Pictures as a person hands them over: one, a folder of them, or through a pipe.

What is done to them is a function; here they are read, put into batches of equal size, written, and
counted, and one that cannot be read does not end the work on the others.
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
from perceptual_jax.cli.errors import UserError
from perceptual_jax.io import images, resources
from perceptual_jax.io.images import Picture
from perceptual_jax.io.storage import pictures_in

PIPE = "-"

_Tile = TypeVar("_Tile")

# From pictures of one size to as many results, or None if it was interrupted.
Apply = Callable[[Sequence[Picture], console.Interrupts], list[Picture] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is done to every picture.

    Attributes:
      apply: does it.
      label: what a result is called after its picture, where no name was given.
      settings: kept in every result.
      batch_size: pictures of equal size given to `apply` at once.
      largest_side: of pictures in a batch; larger ones are done alone.
      prepare: done to a picture once it is read.
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
      UserError: as `images.read_picture`.
    """
    if name != PIPE:
        return images.read_picture(resources.picture(name, "content"))
    with tempfile.NamedTemporaryFile(prefix="stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        return images.read_picture(file.name)


def watched(tiles: Iterable[_Tile], count: int, interrupts: console.Interrupts) -> Iterator[_Tile]:
    """The tiles of a picture, with a bar if there are several, until it is interrupted."""
    with contextlib.ExitStack() as stack:
        bar = (
            stack.enter_context(contextlib.closing(console.ProgressBar(count)))
            if count > 1
            else None
        )
        for number, tile in enumerate(tiles, start=1):
            yield tile
            if bar:
                bar.update(1, f"tile {number} of {count}", {})
            if interrupts:
                return


def run(work: Work, source: str, output: str | None) -> int:
    """Does the work on what `--input` and `--output` name.

    Args:
      work: what is done.
      source: a file, the name of an example, a folder, or `PIPE`.
      output: a file, a folder for a folder, or `PIPE`; None for a name made of the source's.

    Returns:
      The exit code for the shell.

    Raises:
      UserError: nothing can be read or written there.
      KeyboardInterrupt: one picture was interrupted before there was a result.
    """
    return (_folder if is_folder(source) else _one)(work, source, output)


def _one(work: Work, source: str, output: str | None) -> int:
    began = time.monotonic()
    if output is None:
        output = PIPE if source == PIPE else f"{Path(source).stem}-{work.label}.png"
    if output != PIPE:
        images.check_writable(output)
    picture = work.prepare(read(source))
    with console.interruptible() as interrupts:
        results = work.apply([picture], interrupts)
    if results is None:
        print("interrupted", file=sys.stderr)
        return interrupts.exit_code
    write(output, results[0], work.settings)
    height, width = results[0].rgb.shape[:2]
    message = f"{output}: {width}x{height}, {time.monotonic() - began:.1f} s"
    print(message, file=sys.stderr if output == PIPE else sys.stdout)
    return 0


def write(output: str, picture: Picture, settings: dict[str, Any]) -> None:
    """To a file, or as PNG to standard output.

    Raises:
      UserError: as `images.write`.
    """
    if output != PIPE:
        images.write(output, picture.rgb, alpha=picture.alpha, settings=settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        images.write(path, picture.rgb, alpha=picture.alpha, settings=settings)
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.buffer.flush()


def _folder(work: Work, source: str, output: str | None) -> int:
    """Every picture of a folder; one that cannot be read is told at the end."""
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
    bar = console.ProgressBar(len(files))
    with console.interruptible() as interrupts:
        for group in _equal_sized(work, files, failed):
            try:
                results = work.apply([picture for _, picture in group], interrupts) or []
            except (UserError, OSError) as error:
                failed += [f"{path}: {error}" for path, _ in group]
                results = []
            for (path, _), result in zip(group, results, strict=False):
                place = target / path.relative_to(folder)
                if place.suffix.lower() not in images.WRITABLE_SUFFIXES:
                    taken = path.with_suffix(".png") in files
                    place = place.with_suffix(f"{path.suffix}.png" if taken else ".png")
                try:
                    write(str(place), result, work.settings)
                    done += 1
                except (UserError, OSError) as error:
                    failed.append(str(error))
            bar.update(len(group), f"{done} done", {})
            if interrupts:
                break
    bar.close()
    print(f"{target}: {done} of {len(files)} pictures")
    for line in failed:
        print(f"left out: {line}", file=sys.stderr)
    if interrupts:
        return interrupts.exit_code
    if not failed:
        return 0
    return 1 if done else 2


def _equal_sized(
    work: Work, files: Sequence[Path], failed: list[str]
) -> Iterator[list[tuple[Path, Picture]]]:
    """Pictures in groups that can be done at once: equal in size, next to each other, not large."""
    group: list[tuple[Path, Picture]] = []
    for path in files:
        try:
            picture = images.read_picture(path)
        except (UserError, OSError) as error:
            failed.append(str(error))
            continue
        try:
            picture = work.prepare(picture)
        except (UserError, OSError) as error:
            failed.append(f"{path}: {error}")
            continue
        shape = picture.rgb.shape
        if group and (
            len(group) == work.batch_size
            or group[0][1].rgb.shape != shape
            or max(shape[:2]) > work.largest_side
        ):
            yield group
            group = []
        group.append((path, picture))
    if group:
        yield group
