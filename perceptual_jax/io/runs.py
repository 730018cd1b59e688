"""A run folder: what was asked, what was measured, and the pictures on the way."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from perceptual_jax.errors import UserError


class RunFolder:
    """`config.json`, `metrics.jsonl`, `terms.png` and `previews/` in one folder.

    A folder that holds a run already is begun anew: its metrics would belong to other settings.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], *, plot: bool = True) -> None:
        self._plot = plot
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(config, indent=2, default=str)
            (self.folder / "config.json").write_text(text + "\n", encoding="utf-8")
            self._metrics: IO[str] = (self.folder / "metrics.jsonl").open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write to --workdir={folder}: {error.strerror}") from error
        self._history: list[dict[str, Any]] = []

    def record(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Adds lines to `metrics.jsonl`, each with the time of day; flushed, so none is lost."""
        for line in metrics:
            self._history.append(dict(line))
            self._metrics.write(json.dumps({**line, "time": round(time.time(), 3)}) + "\n")
        self._metrics.flush()

    def preview_path(self, step: int) -> Path:
        return self.folder / "previews" / f"{step:06d}.png"

    def close(self) -> None:
        """Draws the terms over the iterations, and closes the metrics."""
        self._metrics.close()
        if self._plot and len(self._history) > 1:
            _plot(self._history, self.folder / "terms.png")


def _plot(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    # Only here, and not through pyplot: importing it costs half a second, which every start of the
    # program would pay, and pyplot keeps figures and looks for a screen.
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
