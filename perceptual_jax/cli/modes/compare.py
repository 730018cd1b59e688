"""Compare two pictures, or the pictures of two folders: PSNR, SSIM, LPIPS and DISTS.

--mode=compare A B: of folders, the pictures that are called alike are compared, in any format.
Colours count, over white where a picture is transparent, and so does all of the picture. Of PSNR
and SSIM more is better, LPIPS and DISTS are distances.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from perceptual_jax import metrics
from perceptual_jax.cli import batch, console, flags, memory
from perceptual_jax.cli.errors import UserError, leaving_out, report_left_out, usage_errors
from perceptual_jax.cli.interrupts import interruptible
from perceptual_jax.cli.messages import printable, say, show
from perceptual_jax.io import storage
from perceptual_jax.pretrained.metrics import load_dists, load_lpips
from perceptual_jax.pretrained.vgg import is_here
from perceptual_jax.training import recorder


class _Metric(NamedTuple):
    label: str
    digits: int
    apply: Callable[[Any, Any, Any], jax.Array]
    """Of parameters and two pictures."""
    load: Callable[[str], Any]
    """The parameters, from `--vgg`."""


_METRICS = {
    "psnr": _Metric("PSNR (dB)", 2, lambda _, x, y: metrics.psnr(x, y), lambda _: {}),
    "ssim": _Metric("SSIM", 4, lambda _, x, y: metrics.ssim(x, y), lambda _: {}),
    "lpips": _Metric("LPIPS", 4, metrics.lpips, lambda _: load_lpips()),
    "lpips_vgg": _Metric(
        "LPIPS (VGG-16)", 4, metrics.lpips, lambda vgg: load_lpips("vgg", vgg=vgg)
    ),
    "dists": _Metric("DISTS", 4, metrics.dists, lambda vgg: load_dists(vgg=vgg)),
}

_OF_VGG = ("lpips_vgg", "dists")

# The metrics of each pair, by its name.
Rows = dict[str, dict[str, float]]


def define_flags(define: flags.Flags) -> None:
    define.group("Pictures")
    define.string("input", None, "A: a file, a name from examples/content, a folder, or -.")
    define.string("reference", None, "B: what it is compared with, likewise.")
    define.positional("input", "reference")
    define.group("What is measured")
    define.list(
        "metrics",
        None,
        f"Of {', '.join(_METRICS)}; lpips is by AlexNet. By default all, but the last two only if "
        "they need no download.",
    )
    define.string(
        "vgg",
        "vgg16-torchvision",
        "For lpips_vgg and dists: vgg16-torchvision (fetched once), or a file of it.",
    )
    define.group("Results")
    define.string(
        "output", None, "A .json file for the numbers beside the table, or - for standard output."
    )


def main(values: Any) -> int:
    if not (values.input and values.reference):
        raise UserError("two pictures or two folders are needed: --mode=compare A B")
    if values.output not in (None, batch.PIPE):
        if not values.output.endswith(".json"):
            raise UserError(f"--output={values.output} must end in .json")
        storage.check_writable(storage.local_path(values.output))
    failed: list[str] = []
    in_folders = batch.is_folder(values.input)
    if in_folders != batch.is_folder(values.reference):
        folder, other = (values.input, values.reference)[:: 1 if in_folders else -1]
        raise UserError(
            f"{folder} is a folder and {other} is not: give two pictures or two folders"
        )
    if in_folders:
        pairs = _pairs(values.input, values.reference, failed)
    else:
        pairs = {batch.stem_of(values.input): (values.input, values.reference)}
    measure = _Measure(_names(values), values.vgg)
    rows: Rows = {}
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(console.ProgressBar(len(pairs))) if in_folders else None
        interrupts = stack.enter_context(interruptible())
        for name, pair in pairs.items():
            with leaving_out(failed, pair[0]) if in_folders else contextlib.nullcontext():
                rows[name] = measure(*pair)
            if bar:
                bar.update(1, name, {})
            if interrupts:
                break
    if interrupts:
        say(f"interrupted: {len(rows)} of {len(pairs)} pairs are compared", aside=True)
    if rows:
        _write(values, rows, in_folders=in_folders)
    return interrupts.exit_code or report_left_out(failed, done=rows)


def _names(values: Any) -> list[str]:
    """The metrics that are asked for, or that need no download."""
    if values.metrics is not None:
        if unknown := [name for name in values.metrics if name not in _METRICS]:
            raise UserError(f"--metrics={unknown[0]}: there are {', '.join(_METRICS)}")
        if not values.metrics:
            raise UserError(f"--metrics is empty: give some of {', '.join(_METRICS)}")
        return list(dict.fromkeys(values.metrics))
    if is_here(values.vgg):
        return list(_METRICS)
    say(
        f"without {' and '.join(_OF_VGG)}, for which {values.vgg} is not here: "
        f"--metrics={','.join(_METRICS)} fetches it once (0.55 GB)",
        aside=True,
    )
    return [name for name in _METRICS if name not in _OF_VGG]


def _pairs(first: str, second: str, failed: list[str]) -> dict[str, tuple[str, str]]:
    """The pictures of two folders that have one path, or else one but for the suffix.

    Those without a partner, or with several, go to `failed`.
    """
    folders = [storage.local_path(name) for name in (first, second)]
    found = [
        {str(path.relative_to(folder)): path for path in storage.pictures_in(folder)}
        for folder in folders
    ]
    pairs = {}
    for key in (str, lambda name: str(Path(name).with_suffix(""))):
        groups = [_grouped(paths, key) for paths in found]
        for shared in groups[0].keys() & groups[1].keys():
            names = [group[shared] for group in groups]
            if all(len(of_folder) == 1 for of_folder in names):
                partners = [paths.pop(name) for paths, (name,) in zip(found, names, strict=True)]
                pairs[printable(names[0][0])] = (str(partners[0]), str(partners[1]))
    for paths, other in zip(found, reversed(folders), strict=True):
        failed += [
            printable(f"{path}: there is not one picture of that name in {other}")
            for path in paths.values()
        ]
    return dict(sorted(pairs.items()))


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


class _Measure:
    """Reads and compares two pictures; each size is compiled once."""

    def __init__(self, names: Sequence[str], vgg: str) -> None:
        with usage_errors():
            self._params = {name: jax.device_put(_METRICS[name].load(vgg)) for name in names}
        self._compiled = functools.cache(self._compile)

    def __call__(self, first: str, second: str) -> dict[str, float]:
        pictures = [batch.read(name).over_white() for name in (first, second)]
        sizes = [f"{width}x{height}" for height, width, _ in (x.shape for x in pictures)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{first} has {sizes[0]} pixels and {second} {sizes[1]}: only pictures of one size "
                "can be compared"
            )
        found = {}
        for name, params in self._params.items():
            with usage_errors():
                compiled = self._compiled(name, pictures[0].shape)
            found[name] = float(compiled(params, *pictures))
        return found

    def _compile(self, name: str, shape: tuple[int, ...]) -> Any:
        """The program for pictures of a shape, if there is memory for it."""
        picture = jax.ShapeDtypeStruct(shape, np.float32)
        program = jax.jit(_METRICS[name].apply)
        compiled = program.lower(self._params[name], picture, picture).compile()
        available = memory.available_bytes()
        analysis: Any = compiled.memory_analysis()
        needed = analysis.temp_size_in_bytes
        if available is not None and needed > available:
            raise UserError(
                f"{name} of {shape[1]}x{shape[0]} needs {needed / 1e9:.1f} GB of memory, and "
                f"{available / 1e9:.1f} GB are free: give other --metrics, or smaller pictures"
            )
        return compiled


def _write(values: Any, rows: Rows, *, in_folders: bool) -> None:
    """The table and, if that is asked for, the numbers as JSON; only one on standard output."""
    record: dict[str, Any] = {"settings": flags.record("compare", values), "results": rows}
    shown = dict(rows)
    if in_folders:
        names = next(iter(rows.values()))
        mean = {name: float(np.mean([row[name] for row in rows.values()])) for name in names}
        record["mean"] = shown["mean"] = mean
    # The PSNR of equal pictures is infinite.
    text = json.dumps(recorder.strict(record), indent=2)
    if values.output == batch.PIPE:
        show(text)
    else:
        show(_table(shown))
    if values.output not in (None, batch.PIPE):
        with storage.atomic_write(storage.local_path(values.output)) as file:
            file.write_text(text + "\n", encoding="utf-8")


def _table(rows: Rows) -> str:
    names = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(_METRICS[name].label for name in names)} |"]
    lines.append(f"|---|{'---|' * len(names)}")
    for title, row in rows.items():
        cells = [f"{row[name]:.{_METRICS[name].digits}f}" for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)
