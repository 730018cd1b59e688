"""Pack photos into ArrayRecord shards of small JPEGs to train on, which are less to read.

Photos that cannot be read are left out and named. The same photos always give the same shards, and
a run that is interrupted leaves none.
"""

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perceptual_jax.cli import console, flags
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.interrupts import Interrupts, interruptible
from perceptual_jax.cli.messages import say
from perceptual_jax.io import images, storage
from perceptual_jax.io.storage import FileError
from perceptual_jax.training import photos

# Grain reads single records, in any order; and a JPEG does not become smaller.
_SHARD_OPTIONS = "group_size:1,uncompressed"


def define_flags(define: flags.Flags) -> None:
    define.group("Files")
    define.string(
        "input",
        None,
        "The photos: a folder, searched with its subfolders, a pattern, or a .txt file of paths.",
    )
    define.string("output", None, "The folder for the shards; it may begin with gs://.")
    define.group("Photos")
    define.integer(
        "image_size",
        288,
        "Short side to which photos are reduced, in pixels: 9/8 of the crop to train on. Smaller "
        "ones stay as they are.",
        least=images.MIN_PHOTO_SIDE,
    )
    define.integer("quality", 90, "Of the JPEGs, up to 100.", least=1)
    define.group("Work")
    define.integer("photos_per_shard", 2000, "Photos in a shard; the last has the rest.", least=1)
    define.integer("workers", 0, "Threads that decode; 0 for one per processor.", least=0)


def main(values: Any) -> int:
    if not values.input or not values.output:
        raise UserError("--input and --output are needed: see --mode=prepare_data --help")
    if values.quality > 100:
        raise UserError(f"--quality={values.quality} is more than 100")
    # For all of the program: filters cannot be changed back while threads read.
    warnings.filterwarnings("ignore", module="PIL")
    source = photos.source(values.input)
    output = _new_folder(values.output)
    skipped: list[FileError] = []
    with interruptible() as interrupts, _staging(output) as folder:
        jpegs = _jpegs(source, values, skipped, interrupts)
        shards = _write_shards(jpegs, Path(folder), values.photos_per_shard)
        if interrupts:
            say(f"interrupted: {output} has no shards", aside=True)
            return interrupts.exit_code
        if not shards:
            raise UserError(f"none of the {len(source)} photos can be used: {skipped[0]}")
        size = sum(shard.stat().st_size for shard in shards)
        _publish(shards, output)
    for error in skipped:
        say(f"skipped: {error}", aside=True)
    say(
        f"{output}: photos {len(source) - len(skipped)}, skipped {len(skipped)}, "
        f"shards {len(shards)}, {size / 1e6:.1f} MB"
    )
    return 0


def _jpegs(
    source: photos.Photos, values: Any, skipped: list[FileError], interrupts: Interrupts
) -> Iterator[bytes]:
    """The good photos in their order as small JPEGs; errors of the others go to `skipped`."""
    # Imported only here, since it is slow.
    import grain

    def jpeg(index: int) -> bytes | FileError:
        try:
            photo = source.read(index, short_side=values.image_size, enlarge=False)
        except FileError as error:
            return error
        return images.encode_jpeg(photo, quality=values.quality)

    workers = values.workers or os.cpu_count() or 1
    # A few more than workers, so that none waits while another reads a large photo.
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=4 * workers)
    results = grain.MapDataset.range(len(source)).map(jpeg).to_iter_dataset(options)
    with console.ProgressBar(len(source), description="reading") as bar:
        for number, result in enumerate(results, 1):
            if interrupts:
                return
            if isinstance(result, FileError):
                skipped.append(result)
            else:
                yield result
            bar.update(1, f"{number}/{len(source)} photos", {"skipped": len(skipped)})


def _new_folder(place: str) -> Path:
    with storage.access(place):
        folder = storage.any_path(place)
        folder.mkdir(parents=True, exist_ok=True)
        suffixes = {path.suffix for path in folder.iterdir()}
    if suffixes & {*photos.SHARD_SUFFIXES}:
        raise UserError(f"{place} has shards already: remove them, or choose another --output")
    return folder


def _staging(output: Path) -> "tempfile.TemporaryDirectory[str]":
    """A folder for unfinished shards: within `output`, or on this machine if that is remote."""
    parent = None if storage.is_remote(output) else os.fspath(output)
    with storage.access(os.fspath(output)):
        return tempfile.TemporaryDirectory(prefix=".prepare_data-", dir=parent)


def _write_shards(jpegs: Iterator[bytes], folder: Path, photos_per_shard: int) -> list[Path]:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise UserError(
            f"shards cannot be written here ({error}): train on the folder of photos itself"
        ) from error
    shards: list[Path] = []
    for first in jpegs:
        path = folder / f"{len(shards)}.array_record"
        try:
            writer = array_record_module.ArrayRecordWriter(os.fspath(path), _SHARD_OPTIONS)
            for jpeg in itertools.chain([first], itertools.islice(jpegs, photos_per_shard - 1)):
                writer.write(jpeg)
            writer.close()
        except RuntimeError as error:
            raise UserError(
                f"cannot write shards ({error}): make room, or choose another place"
            ) from error
        shards.append(path)
    return shards


def _publish(shards: list[Path], output: Path) -> None:
    """Gives all shards their names, which say how many belong together."""
    for number, shard in enumerate(shards):
        name = f"photos-{number:05d}-of-{len(shards):05d}{photos.SHARD_SUFFIXES[0]}"
        if storage.is_remote(output):
            storage.put(shard, os.fspath(output / name))
        else:
            shard.replace(output / name)
