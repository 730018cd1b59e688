"""Checkpoints of a training run: written in the background, whole or not at all, checked when read.

Orbax writes them, each into a folder that gets its name once everything is in it.  It does not
notice a flipped bit, though, casts to another dtype in silence, and names no leaf that is missing,
so every checkpoint also records the dtype, the shape and the SHA-256 of each of its leaves.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from perceptual_jax.io import storage
from perceptual_jax.io.storage import FileError

_logger = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint that was read, and is as it was saved.

    `position` is that of this process, or the common one if the run had another number of
    processes.  It and `settings` went through JSON.
    """

    step: int
    state: Any
    position: dict[str, Any]
    settings: dict[str, Any]


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The checkpoints of one run folder: `<folder>/checkpoints/<step>/`.

    With several processes, each calls every method in the same order, sees the same folder, and
    holds the whole of each leaf.  Without `only_read`, opening removes what an interrupted write
    left behind, and no other program may be writing.

    Args:
      folder: the run folder, on a disk or in a bucket (`gs://...`).
      keep: how many checkpoints stay, the newest.
      only_read: nothing will be saved.

    Raises:
      FileError: the folder cannot be read or written.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, keep: int = 3, only_read: bool = False
    ) -> None:
        # Imported only here, since it is slow.
        from orbax.checkpoint import v1 as ocp

        logging.getLogger("absl").addFilter(_not_from_orbax)
        path = storage.any_path(folder) / "checkpoints"
        # Orbax wants it absolute, as a bucket is; `absolute` would take that for a local folder.
        self._folder = path if path.is_absolute() else path.absolute()
        self._held: int | None = None
        self._write: Any = None
        self._damaged: list[int] = []
        try:
            self._orbax = ocp.training.Checkpointer(
                self._folder,
                # The trainer decides when, and `save` insists; by itself Orbax would delete none.
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=ocp.training.preservation_policies.LatestN(keep),
                cleanup_tmp_directories=not only_read,
            )
        except Exception as error:  # It looks at all that is there, damaged or not.
            raise FileError(f"cannot open the checkpoints of {folder}: {_reason(error)}") from error

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, state: Any, position: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        """Copies the state, and writes it in the background; the state may be donated at once.

        Waits for the write before this one to end.  A step that was saved or read last is not
        written again.

        Args:
          step: how many steps were made.
          state: a tree of arrays, none of them empty.
          position: where this process is in its data; JSON, as `settings` is.
          settings: what the run was begun with.

        Raises:
          FileError: this write cannot begin, or the one before it failed.
        """
        if step == self._held:
            return
        self.wait()
        # JAX lends its own memory where that is the host's, and a step that donates the state
        # writes over it.
        host = _by_name(jax.device_get(state))
        leaves = {name: np.array(leaf, order="C") for name, leaf in host.items()}
        contents = {
            "settings": settings,
            "positions": [json.loads(text) for text in of_all_processes(json.dumps(position))],
            "leaves": {name: _description(leaf) for name, leaf in leaves.items()},
        }
        contents = json.loads(json.dumps(contents))  # As it will be read, so that it hashes alike.
        with self._writing():
            # They are newer than what training went on from, so they would count as the newest.
            for damaged in self._damaged:
                self._orbax.delete(damaged, missing_ok=True)
            self._damaged.clear()
            self._write = self._orbax.save_async(
                step,
                leaves,
                force=True,
                custom_metadata={"contents": contents, "sha256": _seal(contents)},
            )
        self._held = step

    def latest(self, like: Any) -> Restored | None:
        """Reads the newest checkpoint that is whole, if there is one; warns of each that is not.

        Args:
          like: a tree as the one that was saved, of arrays or of what describes them: shapes,
            dtypes and shardings.

        Raises:
          FileError: all are damaged; or the state has other leaves than the one that was saved; or
            the run had another number of processes, which were not at the same position.
        """
        self.wait()
        expected = _by_name(like)
        steps = self._steps()
        if len(set(of_all_processes(json.dumps(steps)))) > 1:
            raise FileError(
                f"the processes find different checkpoints in {self._folder}: it has to be a "
                "folder that all of them share"
            )
        self._damaged, reasons = [], []
        for step in steps:
            contents, leaves, damage = {}, {}, ""
            try:
                contents = self._contents(step)
                self._refuse_others(step, contents, expected)
                leaves = self._leaves(step, contents)
            except _DamagedError as error:
                damage = str(error)
            # What one process cannot read, none may go on from.
            reasons = [reason for reason in of_all_processes(damage) if reason]
            if not reasons:
                self._held = step
                placed = [
                    jax.make_array_from_process_local_data(leaf.sharding, leaves[name], leaf.shape)
                    for name, leaf in expected.items()
                ]
                state = jax.tree.unflatten(jax.tree.structure(like), placed)
                positions = contents["positions"]
                position = positions[jax.process_index() % len(positions)]
                return Restored(step, state, position, contents["settings"])
            _logger.warning("checkpoint %d in %s is damaged: %s", step, self._folder, reasons[0])
            self._damaged.append(step)
        if not steps:
            return None
        raise FileError(
            f"no checkpoint in {self._folder} can be read ({reasons[0]}): delete that folder, or "
            "choose another, to begin anew"
        )

    def settings(self) -> dict[str, Any] | None:
        """The settings of the newest checkpoint whose metadata is whole; reads no arrays.

        So a setting that changed can be refused before anything is compiled.
        """
        for step in self._steps():
            with contextlib.suppress(_DamagedError):
                return self._contents(step)["settings"]
        return None

    def wait(self) -> None:
        """Returns once what was saved is on disk; raises `FileError` if it is not."""
        write, self._write = self._write, None
        with self._writing():
            try:
                if write is not None:
                    write.result()  # Which also ends a thread of its own.
            finally:
                self._orbax.wait()

    def close(self) -> None:
        """Waits as `wait` does, and ends the threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def _steps(self) -> list[int]:
        return sorted((checkpoint.step for checkpoint in self._orbax.checkpoints), reverse=True)

    def _contents(self, step: int) -> dict[str, Any]:
        with _reading():
            metadata = self._orbax.checkpointables_metadata(step).custom_metadata or {}
        contents = metadata.get("contents")
        if contents is None or metadata.get("sha256") != _seal(contents):
            raise _DamagedError("its metadata is missing or not what was written")
        return contents

    def _refuse_others(
        self, step: int, contents: Mapping[str, Any], expected: Mapping[str, Any]
    ) -> None:
        """Raises for an intact checkpoint of another run: the one before it would be no better."""
        where = f"checkpoint {step} in {self._folder}"
        positions = contents["positions"]
        count = len(positions)
        # A position that all processes share, as that of `photos.batches`, serves any number.
        if count != jax.process_count() and positions.count(positions[0]) < count:
            raise FileError(
                f"{where} is of a run with {count} processes, this one has {jax.process_count()}: "
                "resume with as many, or begin anew in another folder"
            )
        found = {
            _today(name): f"{dtype}{shape}"
            for name, (dtype, shape, _) in contents["leaves"].items()
        }
        wanted = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in expected.items()}
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise FileError(
                    f"{where} is of another network or optimiser: it has "
                    f"{found.get(name, 'nothing')} as {name}, where this run has "
                    f"{wanted.get(name, 'nothing')}; resume with the settings that it was begun "
                    "with, or begin anew in another folder"
                )

    def _leaves(self, step: int, contents: Mapping[str, Any]) -> dict[str, np.ndarray]:
        abstract = {
            name: np.empty(shape, dtype) for name, (dtype, shape, _) in contents["leaves"].items()
        }
        with _reading():
            leaves = self._orbax.load(step, abstract)
        for name, description in contents["leaves"].items():
            if _description(leaves[name]) != description:
                raise _DamagedError(f"{name} is not what was written")
        return {_today(name): leaf for name, leaf in leaves.items()}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # Of the disk, TensorStore, a barrier.
            self._held = None
            raise FileError(f"cannot write to {self._folder}: {_reason(error)}") from error


class _DamagedError(Exception):
    """A checkpoint that is not as it was saved; says what is wrong with it."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Damaged files make its parsers stumble in every way there is.
        raise _DamagedError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """The first cause, in a line: Orbax wraps it in pages, TensorStore in the names of files."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) < 200 else f"{line[:80]} ... {line[-120:]}"


def _today(name: str) -> str:
    """The name that a leaf has today: `ema` was called `average` when older runs were begun."""
    return f"ema/{name.removeprefix('average/')}" if name.startswith("average/") else name


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Keeps Orbax quiet: what it logs as an error it also raises, and a `FileError` says it."""
    return f"{os.sep}orbax{os.sep}checkpoint{os.sep}" not in record.pathname


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, as `weights/conv1/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _description(leaf: np.ndarray) -> list[Any]:
    digest = hashlib.sha256(leaf.reshape(-1).view(np.uint8).data).hexdigest()
    return [leaf.dtype.name, list(leaf.shape), digest]


def _seal(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def of_all_processes(text: str) -> list[str]:
    """The text that each process gives, in every process; all have to call it."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    data = np.frombuffer(text.encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.int32(data.size)).max())
    # In whole blocks, since every other length is another program to compile.
    padded = np.zeros(max(1, -(-longest // 4096)) * 4096, np.uint8)
    padded[: data.size] = data
    return [
        row.tobytes().rstrip(b"\0").decode() for row in multihost_utils.process_allgather(padded)
    ]
