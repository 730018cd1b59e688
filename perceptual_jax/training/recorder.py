"""A run folder: the settings of a run, what was measured, and its pictures."""

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perceptual_jax.io import storage
from perceptual_jax.io.storage import FileError

_log = logging.getLogger(__name__)


class RunFolder(contextlib.AbstractContextManager["RunFolder"]):
    """`config.json`, `metrics.jsonl`, `terms.png` and `previews/` in one folder.

    A folder that holds a run already is begun anew, since its metrics belong to other settings,
    unless the same run goes on from `resume_step`: then the metrics up to that step stay.

    A folder in a bucket (`gs://...`), where files can be replaced but not appended to, is kept on
    the local disk, and copied there by `publish`.

    Args:
      folder: made if it is not there.
      config: written to `config.json`.
      plot: whether the terms are drawn when the folder is closed.
      resume_step: the step from which a run goes on.
      tensorboard: whether events are written for TensorBoard, too.

    Raises:
      FileError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        plot: bool = True,
        resume_step: int = 0,
        tensorboard: bool = False,
    ) -> None:
        self._plot = plot
        self._events: Any = None
        self._warned = False
        self._bucket = str(folder).rstrip("/") if storage.is_remote(folder) else None
        self._local = tempfile.TemporaryDirectory(prefix="run-") if self._bucket else None
        self._published: dict[Path, tuple[int, int]] = {}
        self.folder = storage.local_path(self._local.name if self._local else folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._bucket and resume_step:
                storage.get(f"{self._bucket}/metrics.jsonl", self.folder / "metrics.jsonl")
            text = json.dumps(config, indent=2, default=str)
            metrics = self.folder / "metrics.jsonl"
            self._history = _metrics_until(metrics, resume_step)
            lines = "".join(json.dumps(line) + "\n" for line in self._history)
            # Replaced as a whole, since a run can be killed while it begins.
            for path, content in {self.folder / "config.json": text + "\n", metrics: lines}.items():
                with storage.atomic_write(path) as file:
                    file.write_text(content, encoding="utf-8")
            if tensorboard:
                self._events = _event_file(self.folder / "tensorboard", resume_step)
        except OSError as error:
            raise FileError(f"cannot write to {folder}: {error.strerror or error}") from error

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Adds lines to `metrics.jsonl`, each with the time of day; warns once if it cannot."""
        now = time.time()
        self._history += map(dict, metrics)
        try:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                for line in metrics:
                    file.write(json.dumps({**strict(line), "time": round(now, 3)}) + "\n")
            if self._events:
                for line in metrics:
                    self._events.write_event(_event(line, now))
                self._events.flush()
        except OSError as error:  # No run may end for lack of room for a line.
            if not self._warned:
                _log.warning("what is measured cannot be kept in %s: %s", self.folder, error)
            self._warned = True

    def publish(self) -> None:
        """Copies what is new to the bucket, if the folder is in one; warns if it cannot."""
        if not self._bucket:
            return
        for path in filter(Path.is_file, self.folder.rglob("*")):
            status = path.stat()
            version = status.st_mtime_ns, status.st_size
            if self._published.get(path) == version:
                continue
            try:
                storage.put(path, f"{self._bucket}/{path.relative_to(self.folder).as_posix()}")
            except FileError as error:  # It is tried again.
                _log.warning("%s", error)
                return
            self._published[path] = version

    def preview_path(self, step: int) -> Path:
        return self.folder / "previews" / f"{step:06d}.png"

    def close(self) -> None:
        """Draws the terms over the iterations, and publishes."""
        if self._events:
            with contextlib.suppress(OSError):  # `record` has warned of it.
                self._events.close()
        if self._plot and len(self._history) > 1:
            try:
                _plot(self._history, self.folder / "terms.png")
            except Exception as error:  # Nothing may be lost for a drawing.
                _log.warning("the terms cannot be drawn: %s", error)
        self.publish()
        if self._local:
            self._local.cleanup()


def strict(record: Mapping[str, Any]) -> dict[str, Any]:
    """With null for what is not finite: JSON has no word for it, and strict readers stop at NaN."""
    return json.loads(json.dumps(record), parse_constant=lambda name: None)


def _metrics_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines up to a step of a run that goes on, without a last one that was cut off."""
    if not step or not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return [
        line
        for line in lines
        if isinstance(line, dict)
        and {"total", "terms"} <= line.keys()
        and isinstance(line.get("step"), int)
        and line["step"] <= step
    ]


def _event_file(folder: Path, resume_step: int) -> Any:
    """A file of events for TensorBoard, in which a run goes on from a step.

    Not a `SummaryWriter`: its thread ends with a traceback where a disk is full, and then the run
    waits for it without end.
    """
    # Imported only here, since it is slow.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder.mkdir(exist_ok=True)
    events = EventsWriter(str(folder / "events"))
    if resume_step:
        start = SessionLog(status=SessionLog.START)
        events.write_event(Event(step=resume_step, session_log=start))
    return events


def _event(line: Mapping[str, Any], now: float) -> Any:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    values = {"total": line["total"], **line["terms"]}
    tags = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return Event(wall_time=now, step=line["step"], summary=Summary(value=tags))


def _plot(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    # Imported only here, since it is slow, and not through pyplot, which keeps figures and looks
    # for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    steps = [line["step"] for line in history]
    for name in ("total", *history[0]["terms"]):
        values = [line["total"] if name == "total" else line["terms"][name] for line in history]
        style = {"color": "black", "linewidth": 2.0} if name == "total" else {"linewidth": 1.0}
        axes.plot(steps, values, label=name, **style)
    axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.set_ylabel("weighted term of the objective")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
