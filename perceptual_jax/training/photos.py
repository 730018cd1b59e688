"""Photos to train on: found in folders, lists and shards, then cropped and batched by Grain.

Which photo an example shows, and its crop and flip, follow from the seed and the example's running
number alone.  So a run can be interrupted anywhere and resumed, and any number of processes and
threads makes the same batches.
"""

import codecs
import collections
import contextlib
import dataclasses
import hashlib
import io
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perceptual_jax.io import images, storage
from perceptual_jax.io.storage import FileError

if TYPE_CHECKING:
    import grain

SHARD_SUFFIXES = (".array_record", ".arrayrecord")
LIST_SUFFIX = ".txt"
_SUFFIXES = (*storage.PICTURE_SUFFIXES, *SHARD_SUFFIXES)

# Johnson et al. 2016 squeeze every photo into the square that the network is trained on.  A crop
# keeps the aspect; an eighth more than the crop lets it differ from epoch to epoch, and most of the
# photo is still in it.
SHORT_SIDE_PER_CROP = 1.125

# Of how many files `Photos.fingerprint` reads so many bytes: what it takes is not noticed.
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 20

_WILDCARDS = set("*?[")

# Of a list: a million paths.  What is larger, or has no end, is none.
_MAX_LIST_BYTES = 1 << 28

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """Photos by number, in files or in records of shards, as `source` makes them.

    Any number of threads may read at the same time.

    Attributes:
      count: how many there are.
      content: gives the bytes of a photo's file: a JPEG, PNG...
      name: gives the name of a photo: its path, or its place in a shard.
      files: which hold the photos.
    """

    count: int
    content: Callable[[int], bytes]
    name: Callable[[int], str]
    files: Sequence[Path] = ()
    _skipped: dict[int, str] = dataclasses.field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.content(index)

    @property
    def skipped(self) -> dict[str, str]:
        """Why `read_or_next` has replaced photos so far, by their names."""
        return {self.name(index): reason for index, reason in sorted(self._skipped.items())}

    def fingerprint(self) -> dict[str, Any]:
        """By which other photos are told from these: `{"count": ..., "bytes": ..., "sha256": ...}`.

        The digest is of the files' names, seen from the first one, their sizes, and what
        `_SAMPLES` of them, evenly spread, begin with; in a bucket of the names alone.
        """
        digest, total = hashlib.sha256(), 0
        for number, file in enumerate(self.files):
            size, start = 0, b""
            with contextlib.suppress(OSError):  # It will be skipped, and named, when it is read.
                if not storage.is_remote(file) and file.is_file():
                    size = file.stat().st_size
                    if number % -(-len(self.files) // _SAMPLES) == 0:
                        with file.open("rb") as opened:
                            start = opened.read(_SAMPLE_BYTES)
            total += size
            name = os.path.relpath(file, self.files[0].parent)
            digest.update(repr((os.fsencode(name), size)).encode() + start)
        return {"count": self.count, "bytes": total, "sha256": digest.hexdigest()}

    def read(self, index: int, *, short_side: int, **options: Any) -> np.ndarray:
        """The pixels of a photo, (H, W, 3) uint8; options are those of `images.read_photo`.

        Raises:
          FileError: it cannot be used, whatever the reason.
        """
        name = self.name(index)
        try:
            content = self[index]
        except (IndexError, MemoryError):
            raise
        except Exception as error:
            # Each kind of storage has errors of its own.
            raise FileError(f"{name} cannot be read ({error}): check what holds it") from error
        return images.read_photo(content, name, short_side=short_side, **options)

    def read_or_next(self, index: int, *, short_side: int, **options: Any) -> np.ndarray:
        """The pixels of a photo, or of the next that can be used, around the end.

        A bad photo does not end days of training, and the same photo takes its place each time.  A
        warning is logged once for each.

        Raises:
          FileError: none can be used.
        """
        for candidate in itertools.chain(range(index, self.count), range(index)):
            if candidate in self._skipped:
                continue
            try:
                return self.read(candidate, short_side=short_side, **options)
            except FileError as error:
                reason = str(error)
                # Of the threads that read it at the same time, the first one warns.
                if self._skipped.setdefault(candidate, reason) is reason:
                    _log.warning("skipped, the next photo takes its place: %s", reason)
        raise FileError(f"none of the {self.count} photos can be used: {self._skipped[index]}")


def source(data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Photos:
    """Finds photos.

    Args:
      data: a folder, see `storage.pictures_in`; a list of photos, which is a .txt file or a pipe
        with a path on each line (see `_listed`); a file of ArrayRecord shards, or their folder; a
        pattern (`photos/*.jpg`, `photos/**/*.jpg`), which finds no hidden files, nor those of
        hidden folders; or a sequence of such.  Paths may begin with `gs://`.

    Returns:
      The photos, sorted by path within a folder, else in the order given.  Each counts once,
      however many links and places lead to it.

    Raises:
      FileError: there is no such place, it cannot be opened, or holds no photos.
    """
    places = [data] if isinstance(data, (str, os.PathLike)) else data
    paths = _each_once(path for place in places for path in _found(os.fspath(place)))
    if not paths:
        raise FileError("no place with photos was given: give a folder")
    shards = [path for path in paths if _ends_in(SHARD_SUFFIXES, path)]
    if not shards:
        return Photos(
            len(paths), lambda i: _content(paths[i]), lambda i: os.fspath(paths[i]), paths
        )
    if len(shards) < len(paths):
        raise FileError(f"{data} holds pictures beside ArrayRecord shards: give one or the other")
    return _in_shards(shards)


def batches(
    source: Photos,
    *,
    batch_size: int,
    crop: int,
    seed: int,
    parts: int = 1,
    short_side: int | None = None,
    side_of: Callable[[int], int] | None = None,
    flip: bool = True,
    transform: Callable[[np.ndarray, int], dict[str, np.ndarray]] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 4,
    prefetch: int = 8,
) -> "grain.IterDataset[dict[str, np.ndarray]]":
    """Endless batches of cropped photos, all photos once per epoch in an order of its own.

    With P processes of batch size B, the examples of batch b of process p are numbered from
    (b P + p) B: the batches b of all processes together are batch b of one process with a batch
    size of P B.

    Args:
      source: the photos.
      batch_size: examples in a batch of this process.
      crop: side of the square that is cut out at random, in pixels.
      parts: how many examples in a row are crops of one photo.
      seed: 0 to 2^32 - 1, of the order, the crops and the flips.
      short_side: to which larger photos are reduced; none is enlarged, and those smaller than the
        crop are skipped. By default all photos are resized to what `side_of` gives.
      side_of: gives the short side of a photo, at least that of the crop, by the running number of
        its first example; by default `SHORT_SIDE_PER_CROP` times the crop.
      flip: whether to mirror half of the examples.
      transform: makes more entries of an example from its photo, (crop, crop, 3) uint8, and its
        running number.
      process_index, process_count: which of how many processes this is.
      num_threads: threads that decode, each a batch at a time; 0 to decode in `next`.
      prefetch: batches to make ahead; 0 to decode in `next`.

    Returns:
      A Grain dataset of `{"photos": (batch_size, crop, crop, 3) uint8, "index": (batch_size,)
      int64}` and the entries of `transform`; with several parts all are `(batch_size / parts,
      parts, ...)`.  `index` is the running number of an example, over all epochs and processes.
      Its iterator has `get_state` and `set_state`: the state is the number of batches so far, and
      so the same in all processes.

    Raises:
      ValueError: a number is out of its range.
    """
    # Imported only here, since it is slow.
    import grain

    if min(batch_size, crop) < 1:
        raise ValueError(f"sizes must be at least 1, got {batch_size=} and {crop=}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"there is no process {process_index} of {process_count}")
    if parts < 1 or batch_size % parts:
        raise ValueError(f"{batch_size=} must be a multiple of {parts=}")
    if short_side is not None and short_side < crop:
        raise ValueError(f"crops of {crop} pixels do not fit into photos of {short_side=}")

    def read(index: int, number: int) -> np.ndarray:
        if short_side is not None:
            return source.read_or_next(index, short_side=short_side, enlarge=False, least=crop)
        side = side_of(number) if side_of else round(SHORT_SIDE_PER_CROP * crop)
        return source.read_or_next(index, short_side=side)

    def example(photo: np.ndarray, number: int) -> dict[str, np.ndarray]:
        square = _cropped(photo, crop, np.random.default_rng((seed, number)), flip=flip)
        entries = {"photos": square, "index": np.asarray(number, np.int64)}
        return entries | transform(square, number) if transform else entries

    def examples(turn: int, index: int) -> dict[str, np.ndarray]:
        photo = read(index, turn * parts)
        found = [example(photo, turn * parts + part) for part in range(parts)]
        if parts == 1:
            return found[0]
        return {name: np.stack([entries[name] for entries in found]) for name in found[0]}

    # Batches are made before processes take their shares, and `examples` gets the number of a
    # photo in the endless sequence: neither the epoch nor the process enters.
    dataset = (
        grain.MapDataset.range(len(source))
        .shuffle(seed)
        .repeat()
        .map_with_index(examples)
        .batch(batch_size // parts, drop_remainder=True)
    )
    return dataset[process_index::process_count].to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    )


def _cropped(
    photo: np.ndarray, size: int, random: np.random.Generator, *, flip: bool
) -> np.ndarray:
    """A random (size, size, 3) square of a photo; with `flip`, mirrored half of the time."""
    height, width = photo.shape[:2]
    top = random.integers(height - size, endpoint=True)
    left = random.integers(width - size, endpoint=True)
    square = photo[top : top + size, left : left + size]
    if flip and random.integers(2):
        square = square[:, ::-1]
    # A view would keep all of the photo in memory.
    return np.ascontiguousarray(square)


def _found(place: str) -> list[Path]:
    """The paths of photos or shards at one place, see `source`."""
    with storage.access(place):
        path = storage.any_path(place)
        if path.is_dir():
            found = storage.pictures_in(path, suffixes=_SUFFIXES)
            _check_all_shards(found)
        elif not path.exists() and _WILDCARDS & set(place):
            found = _matching(path)
        elif not path.exists():
            raise FileError(f"there is no {place}: check the path")
        elif not storage.is_remote(path) and not (path.is_file() or path.is_fifo()):
            raise FileError(f"{place} is a device or a socket: give a folder, or a list of photos")
        elif _ends_in([LIST_SUFFIX], path) or (not storage.is_remote(path) and path.is_fifo()):
            found = _listed(path)
        else:
            found = [path] if _ends_in(_SUFFIXES, path) else []
    if not found:
        raise FileError(
            f"there are no photos in {place}: give a folder with {', '.join(_SUFFIXES)} files, "
            f"or a {LIST_SUFFIX} file of their paths"
        )
    return found


def _each_once(paths: Iterable[Path]) -> list[Path]:
    """Without those that are another name, by links, of one before."""
    real: dict[str, Path] = {}
    for path in paths:
        name = os.fspath(path)
        real.setdefault(name if storage.is_remote(name) else os.path.realpath(name), path)
    return list(real.values())


def _matching(pattern: Path) -> list[Path]:
    """The files that a pattern finds, sorted by path."""
    first = next(i for i, part in enumerate(pattern.parts) if _WILDCARDS & set(part))
    folder, parts = pattern.parents[len(pattern.parts) - first - 1], pattern.parts[first:]
    if parts[-1] == "**":  # Which by itself finds folders alone.
        parts = (*parts, "*")
    return sorted(
        path
        for path in folder.glob("/".join(parts))
        if _ends_in(_SUFFIXES, path)
        and not any(part.startswith(".") for part in path.parts[first:])
        and (storage.is_remote(path) or path.is_file())
    )


def _listed(file: Path) -> list[Path]:
    """The photos of a list, each a line of text: UTF-8, or UTF-16 as Windows writes it.

    Paths are relative to the folder of the list, those of a pipe to the current one, and may begin
    with a `~`.  Spaces and quotes around a path are taken away, and lines that are empty or begin
    with # are skipped, unless there is a file of that very name.
    """
    is_pipe = not storage.is_remote(file) and file.is_fifo()
    with file.open("rb") as opened:
        data = opened.read(_MAX_LIST_BYTES + 1)
    text = _decoded(data)
    if text is None or len(data) > _MAX_LIST_BYTES:
        raise FileError(
            f"{file} is no list of photos: that is a text file with a path on each line, in UTF-8 "
            "or UTF-16"
        )
    folder = Path() if is_pipe else file.parent
    lines = (line.removesuffix("\n") for line in io.StringIO(text, newline=None))
    return [path for line in lines if (path := _entry(line, folder))]


def _decoded(data: bytes) -> str | None:
    """The text that the bytes hold, if they do."""
    encoding, errors = "utf-8-sig", "surrogateescape"  # As Python gives names of files.
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, errors = "utf-16", "strict"
    elif 6 * data.count(0) > len(data):  # Of European letters half of the bytes are.
        little = data[1::2].count(0) > data[::2].count(0)
        encoding, errors = "utf-16-le" if little else "utf-16-be", "strict"
    try:
        text = data.decode(encoding, errors)
    except UnicodeDecodeError:
        return None
    return None if re.search("[\0-\x08\x0e-\x1f]", text) else text


def _entry(line: str, folder: Path) -> Path | None:
    """The photo that a line of a list names, see `_listed`."""
    stripped = line.strip()
    quote = stripped[:1] if stripped[:1] in ("'", '"') and len(stripped) > 1 else ""
    name = stripped[1:-1] if quote and stripped.endswith(quote) else stripped
    # Other names are not looked for, which would take a while for a hundred thousand.
    if name != line or name.startswith(("#", "~")):
        for literal in (line, stripped):
            if stripped and os.path.lexists(folder / literal):
                return folder / literal
    if not name or stripped.startswith("#"):
        return None
    path = storage.any_path(name)
    return path if storage.is_remote(name) else folder / path


def _content(path: Path) -> bytes:
    if not storage.is_remote(path) and path.exists() and not path.is_file():
        raise OSError("it is no regular file")  # A pipe or a device could be read forever.
    return path.read_bytes()


def _ends_in(suffixes: Sequence[str], path: Path) -> bool:
    return path.suffix.lower() in suffixes


def _check_all_shards(paths: Sequence[Path]) -> None:
    """Raises if a folder of shards was copied only in part."""
    totals = [
        (path.parent, int(match[1]))
        for path in paths
        if _ends_in(SHARD_SUFFIXES, path) and (match := re.fullmatch(r".*-\d+-of-(\d+)", path.stem))
    ]
    for (folder, total), count in collections.Counter(totals).items():
        if count != total:
            raise FileError(
                f"{folder} holds {count} of {total} shards: copy all of them, or make them again"
            )


def _in_shards(paths: Sequence[Path]) -> Photos:
    with storage.access(os.fspath(paths[0])):
        import grain

        records = grain.sources.ArrayRecordDataSource([os.fspath(path) for path in paths])
    if len(records) == 0:
        raise FileError(f"there are no photos in {paths[0]}: make it again")
    return Photos(
        len(records), records.__getitem__, lambda i: f"photo {i} of {paths[0]}", files=paths
    )
