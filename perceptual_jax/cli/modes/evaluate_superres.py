"""Measure super-resolution on photos: PSNR and SSIM of the networks and of bicubic enlargement.

Each photo is cropped to a multiple of the factor, made small, enlarged again and compared with what
it was, on the luma of 8 bits, without a border as wide as the factor.
"""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import color, metrics
from perceptual_jax.cli import console, flags, superres_flags
from perceptual_jax.cli.errors import UserError
from perceptual_jax.io import image_grid, images
from perceptual_jax.io.storage import pictures_in
from perceptual_jax.models import networks, super_resolution
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.training import degradation, recorder, train_losses

# Of the middle of each picture, in pixels, and how much larger it is shown.
_CROP, _ZOOM = 112, 2


def define_flags(define: flags.Flags) -> None:
    define.group("What is measured")
    define.string("data", None, "A folder of photos, such as Set5.")
    superres_flags.define_factor(define)
    define.list(
        "network",
        ["pixel", "feature"],
        "Networks to measure: feature, pixel, or files of --mode=train_superres.",
    )
    define.enum(
        "degradation",
        "blur",
        list(degradation.SIGMAS),
        "How small pictures are made: blur, of sigma 1 before the bicubic reduction, as in the "
        "paper; bicubic, by that alone, as benchmarks are.",
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
    superres_flags.check_factor(values)
    if not values.data:
        raise UserError("--data is missing: give a folder of photos")
    data = Path(values.data).expanduser()
    files = pictures_in(data)
    if not values.network:
        raise UserError("--network is empty: give feature, pixel or a file")
    trained = {
        name: pretrained_networks.load_superres(name, values.factor) for name in values.network
    }
    labels = _short(trained, taken="bicubic")
    titles = _short((str(path.relative_to(data)) for path in files), taken="mean")
    rows: dict[str, dict[str, dict[str, float]]] = {}
    pictures: list[list[np.ndarray]] = []
    with contextlib.closing(console.ProgressBar(len(files))) as bar:
        for path in files:
            truth = _cropped(images.read(path), values.factor, path)
            sigma = degradation.SIGMAS[values.degradation]
            small = train_losses.unit_range(degradation.degrade(truth, values.factor, sigma=sigma))
            found = {"bicubic": np.clip(networks.enlarge(small[None], values.factor)[0], 0.0, 1.0)}
            for name, network in trained.items():
                result = np.empty(truth.shape, np.float32)
                for tile in super_resolution.enlarge_tiles(
                    network.variables, small, network=network.network
                ):
                    result[tile.place] = tile.pixels
                if values.match_histogram:
                    result = np.asarray(jax.jit(color.match_histogram)(result, small))
                found[labels[name]] = result
            rows[titles[str(path.relative_to(data))]] = {
                label: _measured(result, train_losses.unit_range(truth), values.factor)
                for label, result in found.items()
            }
            pictures.append(
                [
                    _middle(np.asarray(shown))
                    for shown in (*found.values(), train_losses.unit_range(truth))
                ]
            )
            bar.update(1, path.stem, {})
    rows["mean"] = _mean(list(rows.values()))
    folder = Path(values.workdir or f"runs/evaluate-x{values.factor}").expanduser()
    _write(folder, rows, pictures, flags.as_dict(values))
    return 0


def _short(names: Iterable[str], *, taken: str) -> dict[str, str]:
    """Each name without folder and suffix, where that does not make it another's or `taken`."""
    stems = {name: Path(name).stem for name in names}
    known = [*stems.values(), taken]
    return {name: stem if known.count(stem) == 1 else name for name, stem in stems.items()}


def _cropped(photo: np.ndarray, factor: int, path: Path) -> np.ndarray:
    """In 8 bits, to sides that are multiples of the factor, at the bottom and right."""
    height, width = (side // factor * factor for side in photo.shape[:2])
    # SSIM needs 11 pixels within the border, the networks 5 of the small picture.
    if min(height, width) < max(11 + 2 * factor, 5 * factor):
        raise UserError(f"{path} is too small to be measured: leave it out")
    return images.eight_bits(photo[:height, :width])


def _measured(result: Any, truth: np.ndarray, factor: int) -> dict[str, float]:
    psnr, ssim = metrics.y_psnr_ssim(result, truth, border=factor)
    return {"psnr": float(psnr), "ssim": float(ssim)}


def _mean(rows: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        label: {
            name: float(np.mean([row[label][name] for row in rows])) for name in ("psnr", "ssim")
        }
        for label in rows[0]
    }


def _middle(picture: np.ndarray) -> np.ndarray:
    """Its pixels as squares: what a network does can only be judged pixel by pixel."""
    top, left = (max(0, side - _CROP) // 2 for side in picture.shape[:2])
    crop = picture[top : top + _CROP, left : left + _CROP]
    return crop.repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)


def _write(
    folder: Path,
    rows: dict[str, dict[str, dict[str, float]]],
    pictures: list[list[np.ndarray]],
    settings: dict[str, Any],
) -> None:
    labels = list(rows["mean"])
    lines = [
        f"| PSNR (dB) / SSIM | {' | '.join(labels)} |",
        f"|---|{'---|' * len(labels)}",
    ]
    for name, row in rows.items():
        cells = [f"{row[label]['psnr']:.2f} / {row[label]['ssim']:.4f}" for label in labels]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    # A picture that came out exactly has an infinite PSNR.
    record = json.dumps(
        {"settings": settings, "results": recorder.strict(rows)}, indent=2, default=str
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(table + "\n", encoding="utf-8")
        (folder / "results.json").write_text(record + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    crops = image_grid.draw(pictures, row_labels=list(rows)[:-1], column_labels=[*labels, "photo"])
    images.write(folder / "crops.png", crops, settings=settings)
    print(f"{table}\n\n{folder}: table.md, results.json, crops.png")
