"""Measure super-resolution on photos: PSNR, SSIM and LPIPS of networks and bicubic enlargement.

Each photo is cropped to a multiple of the factor, reduced, enlarged again and compared with itself,
in 8 bits, without a border as wide as the factor: by PSNR and SSIM on the luma, where more is
better, and by LPIPS (AlexNet) on the colours, where less is.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import alexnet, color, metrics, models
from perceptual_jax.cli import console, flags
from perceptual_jax.cli.errors import UserError, leaving_out, report_left_out
from perceptual_jax.cli.interrupts import interruptible
from perceptual_jax.cli.messages import printable, say, show
from perceptual_jax.io import image_grid, images, storage
from perceptual_jax.models import networks
from perceptual_jax.pretrained.metrics import LPIPS_LAYERS, load_lpips
from perceptual_jax.pretrained.networks import TrainedNetwork, load_superres
from perceptual_jax.training import degradation, recorder, train_losses

# Side of the middle of each picture that is shown, in pixels, and how much larger it is shown.
_CROP, _ZOOM = 112, 2

# PSNR, SSIM and LPIPS of each result for a photo, by its label.
Row = dict[str, dict[str, float]]


def define_flags(define: flags.Flags) -> None:
    define.group("What is measured")
    define.string("data", None, "A folder of photos, such as Set5.")
    flags.factor(define)
    define.list(
        "network",
        ["pixel", "feature"],
        "Networks to measure: feature, pixel, or files of --mode=train_superres.",
    )
    define.enum(
        "degradation",
        "blur",
        list(degradation.SIGMAS),
        "How photos are reduced: blur, with sigma 1 before the bicubic reduction, as in the paper; "
        "bicubic, without it, as in benchmarks.",
    )
    define.boolean(
        "match_histogram",
        False,
        "Give every colour channel of a result the distribution that it has in the small picture.",
    )
    define.group("Results")
    define.string(
        "workdir",
        None,
        "Folder for table.md, results.json and crops.png, by default runs/evaluate-xFACTOR.",
    )


def main(values: Any) -> int:
    if not values.data:
        raise UserError("--data is missing: give a folder of photos")
    folder = storage.local_path(values.data)
    files = storage.pictures_in(folder)
    if not values.network:
        raise UserError("--network is empty: give feature, pixel or a file")
    labels = _short(values.network, taken="bicubic")
    trained = {label: load_superres(name, values.factor) for name, label in labels.items()}
    of_lpips = load_lpips()
    names = (printable(str(path.relative_to(folder))) for path in files)
    titles = _short(names, taken="mean")
    rows: dict[str, Row] = {}
    crops: list[list[np.ndarray]] = []
    failed: list[str] = []
    with console.ProgressBar(len(files)) as bar, interruptible() as interrupts:
        for path, title in zip(files, titles.values(), strict=True):
            with leaving_out(failed, path):
                photo = _cropped(images.read(path), values.factor, path)
                results = _results(values, photo, trained)
                truth = train_losses.unit_range(photo)
                rows[title] = {
                    label: _quality(of_lpips, result, truth, values.factor)
                    for label, result in results.items()
                }
                crops.append([_middle(picture) for picture in (*results.values(), truth)])
            bar.update(1, path.stem, {})
            if interrupts:
                break
    if interrupts:
        say(f"interrupted: {len(rows)} of {len(files)} photos are measured", aside=True)
    if rows:
        workdir = storage.local_path(values.workdir or f"runs/evaluate-x{values.factor}")
        _write(
            workdir, {**rows, "mean": _mean(list(rows.values()))}, crops, values.flag_values_dict()
        )
    return interrupts.exit_code or report_left_out(failed, done=rows)


def _results(
    values: Any, photo: np.ndarray, trained: Mapping[str, TrainedNetwork]
) -> dict[str, np.ndarray]:
    """The bicubic enlargement of the reduced photo, and that of each network."""
    sigma = degradation.SIGMAS[values.degradation]
    small = train_losses.unit_range(degradation.degrade(photo, values.factor, sigma=sigma))
    bicubic = np.clip(networks.bicubic(small[None], values.factor)[0], 0.0, 1.0)
    results = {"bicubic": np.asarray(bicubic)}
    for label, found in trained.items():
        tiles = models.enlarge_tiles(found.variables, small, network=found.network)
        result = models.assemble(tiles, photo.shape)
        if values.match_histogram:
            result = np.asarray(jax.jit(color.match_histogram)(result, small))
        results[label] = result
    return results


def _short(names: Iterable[str], *, taken: str) -> dict[str, str]:
    """Each name without folder and suffix, if that is neither another's nor `taken`."""
    stems = {name: Path(name).stem for name in names}
    known = [*stems.values(), taken]
    return {name: stem if known.count(stem) == 1 else name for name, stem in stems.items()}


def _cropped(photo: np.ndarray, factor: int, path: Path) -> np.ndarray:
    """In 8 bits, to sides that are multiples of the factor, at the bottom and right."""
    height, width = (side // factor * factor for side in photo.shape[:2])
    # What LPIPS needs within the border; SSIM and the networks need less.
    least = alexnet.smallest_side(LPIPS_LAYERS["alex"]) + 2 * factor
    if min(height, width) < least:
        least = -(-least // factor) * factor
        raise UserError(f"{path} is too small to be measured: both sides need {least} pixels")
    return images.eight_bits(photo[:height, :width])


def _quality(
    of_lpips: metrics.Params, result: np.ndarray, truth: np.ndarray, factor: int
) -> dict[str, float]:
    psnr, ssim = metrics.y_psnr_ssim(result, truth, border=factor)
    inside = np.s_[factor:-factor, factor:-factor]
    rounded = train_losses.unit_range(images.eight_bits(result))
    lpips = _lpips(of_lpips, rounded[inside], truth[inside])
    return {"psnr": float(psnr), "ssim": float(ssim), "lpips": float(lpips)}


_lpips = jax.jit(metrics.lpips)


def _mean(rows: list[Row]) -> Row:
    return {
        label: {kind: float(np.mean([row[label][kind] for row in rows])) for kind in of_label}
        for label, of_label in rows[0].items()
    }


def _middle(picture: np.ndarray) -> np.ndarray:
    """The middle of a picture, whose pixels are shown as squares."""
    top, left = (max(0, side - _CROP) // 2 for side in picture.shape[:2])
    crop = picture[top : top + _CROP, left : left + _CROP]
    return crop.repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)


def _write(
    folder: Path, rows: dict[str, Row], crops: list[list[np.ndarray]], settings: dict[str, Any]
) -> None:
    labels = list(rows["mean"])
    lines = [f"| PSNR (dB) / SSIM / LPIPS | {' | '.join(labels)} |", f"|---|{'---|' * len(labels)}"]
    for name, row in rows.items():
        cells = ["{psnr:.2f} / {ssim:.4f} / {lpips:.4f}".format(**row[label]) for label in labels]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    # The PSNR of a perfect result is infinite.
    record = {"settings": settings, "results": recorder.strict(rows)}
    texts = {"table.md": table, "results.json": json.dumps(record, indent=2, default=str)}
    for name, text in texts.items():
        with storage.atomic_write(folder / name) as file:
            file.write_text(text + "\n", encoding="utf-8")
    sheet = image_grid.draw(crops, row_labels=list(rows)[:-1], column_labels=[*labels, "photo"])
    images.write(folder / "crops.png", sheet, settings=settings)
    show(f"{table}\n")
    say(f"{folder}: table.md, results.json, crops.png")
