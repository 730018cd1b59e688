"""Photos to train on: found in folders, lists and shards, then cropped and batched by Grain.

Which photo an example shows, and its crop and flip, follow from the seed and the example's running
number alone.  So a run can be interrupted anywhere and resumed, and any number of processes and
threads makes the same batches.
"""

import collections
import dataclasses
import itertools
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perceptual_jax.io import images, storage
from perceptual_jax.io.storage import FileError

if TYPE_CHECKING:
    import grain
    from etils import epath

SHARD_SUFFIXES = (".array_record", ".arrayrecord")
LIST_SUFFIX = ".txt"
_SUFFIXES = (*storage.PICTURE_SUFFIXES, *SHARD_SUFFIXES)

# Johnson et al. 2016 squeeze every photo into the square that the network is trained on.  A crop
# keeps the aspect; an eighth more than the crop lets it differ from epoch to epoch, and most of the
# photo is still in it.
SHORT_SIDE_PER_CROP = 1.125

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """Photos by number, in files or in records of shards, as `source` makes them.

    Any number of threads may read at the same time.

    Attributes:
      count: how many there are.
      content: gives the bytes of a photo's file: a JPEG, PNG...
      name: gives the name of a photo: its path, or its place in a shard.
    """

    count: int
    content: Callable[[int], bytes]
    name: Callable[[int], str]
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
      data: a folder, searched with its subfolders but not those whose name begins with a dot; a
        .txt file with a path on each line, relative to its own folder, where blank lines and lines
        that begin with # are skipped; a file of ArrayRecord shards, or their folder; a pattern
        (`photos/**/*.jpg`); or a sequence of such.  Paths may begin with `gs://`.

    Returns:
      The photos, sorted by path within a folder, else in the order given.

    Raises:
      FileError: there is no such place, it cannot be opened, or holds no photos.
    """
    places = [data] if isinstance(data, (str, os.PathLike)) else data
    paths = [path for place in places for path in _found(os.fspath(place))]
    if not paths:
        raise FileError("no place with photos was given: give a folder")
    shards = [path for path in paths if _ends_in(SHARD_SUFFIXES, path)]
    if not shards:
        return Photos(len(paths), lambda i: paths[i].read_bytes(), lambda i: os.fspath(paths[i]))
    if len(shards) < len(paths):
        raise FileError(f"{data} holds pictures beside ArrayRecord shards: give one or the other")
    return _in_shards([os.fspath(path) for path in shards])


def batches(
    source: Photos,
    *,
    batch_size: int,
    crop: int,
    seed: int,
    short_side: int | None = None,
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
      seed: 0 to 2^32 - 1, of the order, the crops and the flips.
      short_side: to which larger photos are reduced; none is enlarged, and those smaller than the
        crop are skipped. By default all photos are resized to `SHORT_SIDE_PER_CROP` times the crop.
      flip: whether to mirror half of the examples.
      transform: makes more entries of an example from its photo, (crop, crop, 3) uint8, and its
        running number.
      process_index, process_count: which of how many processes this is.
      num_threads: threads that decode, each a batch at a time; 0 to decode in `next`.
      prefetch: batches to make ahead; 0 to decode in `next`.

    Returns:
      A Grain dataset of `{"photos": (batch_size, crop, crop, 3) uint8, "index": (batch_size,)
      int64}` and the entries of `transform`.  `index` is the running number of an example, over
      all epochs and processes.  Its iterator has `get_state` and `set_state`: the state is the
      number of batches so far, and so the same in all processes.

    Raises:
      ValueError: a number is out of its range.
    """
    # Imported only here, since it is slow.
    import grain

    if min(batch_size, crop) < 1:
        raise ValueError(f"sizes must be at least 1, got {batch_size=} and {crop=}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"there is no process {process_index} of {process_count}")
    if short_side is None:
        reading: dict[str, Any] = {"short_side": round(SHORT_SIDE_PER_CROP * crop)}
    elif short_side < crop:
        raise ValueError(f"crops of {crop} pixels do not fit into photos of {short_side=}")
    else:
        reading = {"short_side": short_side, "enlarge": False, "least": crop}

    def example(number: int, index: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng((seed, number))
        photo = _cropped(source.read_or_next(index, **reading), crop, random, flip=flip)
        entries = {"photos": photo, "index": np.asarray(number, np.int64)}
        return entries | transform(photo, number) if transform else entries

    # Batches are made before processes take their shares, and `example` gets the number of an
    # element in the endless sequence: neither the epoch nor the process enters.
    dataset = (
        grain.MapDataset.range(len(source))
        .shuffle(seed)
        .repeat()
        .map_with_index(example)
        .batch(batch_size, drop_remainder=True)
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


def _found(place: str) -> list["epath.Path"]:
    """The paths of photos or shards at one place, see `source`."""
    with storage.access(place):
        path = storage.any_path(place)
        if path.is_dir():
            found = storage.pictures_in(path, suffixes=_SUFFIXES)
            _check_all_shards(found)
        elif not path.exists():
            if not set(place) & {"*", "?"}:
                raise FileError(f"there is no {place}: check the path")
            found = _matching(path)
        elif _ends_in([LIST_SUFFIX], path):
            found = _listed(path)
        else:
            found = [path] if _ends_in(_SUFFIXES, path) else []
    if not found:
        raise FileError(
            f"there are no photos in {place}: give a folder with {', '.join(_SUFFIXES)} files, "
            f"or a {LIST_SUFFIX} file of their paths"
        )
    return found


def _matching(pattern: "epath.Path") -> list["epath.Path"]:
    """The photos of a pattern such as `photos/**/*.jpg`; hidden ones are passed over."""
    first = next(i for i, part in enumerate(pattern.parts) if set(part) & {"*", "?"})
    folder = type(pattern)(*pattern.parts[:first])
    rest = "/".join([*pattern.parts[first:], *(["*"] if pattern.name == "**" else [])])
    if storage.is_remote(pattern):
        found = list(folder.glob(rest))
    else:
        # The library refuses `**` everywhere, since it asks a bucket thousands of times.
        paths = Path(os.fspath(folder)).glob(rest)
        found = [type(pattern)(path) for path in paths if path.is_file()]
    return [
        path
        for path in sorted(found)
        if _ends_in(_SUFFIXES, path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _listed(file: "epath.Path") -> list["epath.Path"]:
    lines = [line.strip() for line in file.read_text().splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    return [type(file)(name) if storage.is_remote(name) else file.parent / name for name in names]


def _ends_in(suffixes: Sequence[str], path: "epath.Path") -> bool:
    return path.suffix.lower() in suffixes


def _check_all_shards(paths: Sequence["epath.Path"]) -> None:
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


def _in_shards(paths: Sequence[str]) -> Photos:
    with storage.access(paths[0]):
        import grain

        records = grain.sources.ArrayRecordDataSource(paths)
    if len(records) == 0:
        raise FileError(f"there are no photos in {paths[0]}: make it again")
    return Photos(len(records), records.__getitem__, lambda i: f"photo {i} of {paths[0]}")
