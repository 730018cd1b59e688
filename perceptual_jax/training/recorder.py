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
        self._bucket = str(folder).rstrip("/") if storage.is_remote(folder) else None
        self._local = tempfile.TemporaryDirectory(prefix="run-") if self._bucket else None
        self._published: dict[Path, tuple[int, int]] = {}
        self.folder = storage.local_path(self._local.name if self._local else folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._bucket and resume_step:
                storage.get(f"{self._bucket}/metrics.jsonl", self.folder / "metrics.jsonl")
            text = json.dumps(config, indent=2, default=str)
            (self.folder / "config.json").write_text(text + "\n", encoding="utf-8")
            metrics = self.folder / "metrics.jsonl"
            self._history = _metrics_until(metrics, resume_step)
            # Replaced as a whole, since a run can be killed while it begins.
            with storage.atomic_write(metrics) as file:
                lines = "".join(json.dumps(line) + "\n" for line in self._history)
                file.write_text(lines, encoding="utf-8")
            if tensorboard:
                # Only where it is wanted: it is slow to import.
                from tensorboardX import SummaryWriter

                self._events = SummaryWriter(
                    str(self.folder / "tensorboard"), purge_step=resume_step or None
                )
        except OSError as error:
            raise FileError(f"cannot write to {folder}: {error.strerror or error}") from error

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Adds lines to `metrics.jsonl`, each with the time of day."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            for line in metrics:
                self._history.append(dict(line))
                file.write(json.dumps({**strict(line), "time": round(time.time(), 3)}) + "\n")
                if self._events:
                    for name, value in {"total": line["total"], **line["terms"]}.items():
                        self._events.add_scalar(name, value, line["step"])

    def publish(self) -> None:
        """Copies what is new to the bucket, if the folder is in one."""
        if not self._bucket:
            return
        for path in filter(Path.is_file, self.folder.rglob("*")):
            status = path.stat()
            version = status.st_mtime_ns, status.st_size
            if self._published.get(path) != version:
                storage.put(path, f"{self._bucket}/{path.relative_to(self.folder).as_posix()}")
                self._published[path] = version

    def preview_path(self, step: int) -> Path:
        return self.folder / "previews" / f"{step:06d}.png"

    def close(self) -> None:
        """Draws the terms over the iterations, and publishes."""
        if self._events:
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
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return [line for line in lines if line["step"] <= step]


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
