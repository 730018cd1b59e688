"""Makes the stored pairs of the tests of LPIPS and DISTS, and compares with the authors' programs.

    peer/bin/pip install lpips==0.1.4 DISTS_pytorch==0.1 torchvision safetensors
    python benchmarks/perceptual_pairs.py --torch-python=peer/bin/python \
        --networks=networks.safetensors

The file has torchvision's AlexNet and VGG-16, in float32; `weights/embed_metrics.py` leaves it.  No
test can have the VGG-16, which this package does not bring: the authors' LPIPS-VGG and DISTS are
computed a second time with the embedded Oxford weights, whose features mean nothing to the heads,
while the arithmetic is the same.

Writes `tests/perceptual_pairs.png` and `.json`, and prints the table of docs/metrics.md.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from peer_process import Peer
from PIL import Image, ImageFilter
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout that this is in.

from perceptual_jax import metrics
from perceptual_jax.pretrained import metrics as pretrained
from perceptual_jax.pretrained import vgg
from tests import perceptual_pairs
from tests.perceptual_pairs import COLUMNS, PHOTOS, SIZE

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "benchmarks" / "peers" / "metrics_torch.py"

# Of a photo, the corner of the part that is taken, once it is 200 pixels high.
CORNERS = {"astronaut": (20, 60), "coffee": (60, 110)}

# The convolutions in torchvision's `vgg16().features`.
INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def distorted(photo: Image.Image, kind: str, strength: float) -> Image.Image:
    if kind == "noise":  # Of this standard deviation, in levels of 8 bits.
        noise = np.random.default_rng(0).normal(size=(*reversed(photo.size), 3)) * strength
        return Image.fromarray(np.clip(np.asarray(photo) + noise, 0, 255).round().astype(np.uint8))
    if kind == "blur":  # Gaussian, of this standard deviation in pixels.
        return photo.filter(ImageFilter.GaussianBlur(strength))
    if kind == "jpeg":  # Of this quality.
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=int(strength))
        return Image.open(file).convert("RGB")
    return photo


def draw() -> Image.Image:
    """A row for each photo, a column for each distortion."""
    height, width = SIZE
    sheet = Image.new("RGB", (width * len(COLUMNS), height * len(PHOTOS)))
    for row, name in enumerate(PHOTOS):
        photo = Image.open(ROOT / "examples" / "content" / f"{name}.jpg").convert("RGB")
        photo = photo.resize((photo.width * 200 // photo.height, 200), Image.Resampling.LANCZOS)
        top, left = CORNERS[name]
        photo = photo.crop((left, top, left + width, top + height))
        for column, (kind, strength) in enumerate(COLUMNS):
            sheet.paste(distorted(photo, kind, strength), (column * width, row * height))
    return sheet


def with_oxford(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The file of networks with another VGG-16 in it."""
    params = perceptual_pairs.oxford_behind_torchvisions_normalization()
    layers = [layer for name, layer in params.items() if name.startswith("conv")]
    result = dict(tensors)
    for index, layer in zip(INDICES, layers, strict=True):
        kernel = layer["kernel"].transpose(3, 2, 0, 1)
        result[f"vgg16/features.{index}.weight"] = np.ascontiguousarray(kernel)
        result[f"vgg16/features.{index}.bias"] = layer["bias"]
    return result


def measured(arguments: argparse.Namespace, networks: Path, folder: Path) -> dict[str, Any]:
    """What the authors' programs say of all pairs, by metric, and their `versions`."""
    images, references = perceptual_pairs.pairs()
    for name, pictures in (("images", images), ("references", references)):
        np.save(folder / f"{name}.npy", np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    found: dict[str, Any] = {}
    with contextlib.closing(Peer([arguments.torch_python, PEER, f"--networks={networks}"])) as peer:
        found["versions"] = peer.greeting
        for metric in ("lpips_alex", "lpips_vgg", "lpips_alex_map", "dists"):
            files = {name: str(folder / f"{name}.npy") for name in ("images", "references")}
            peer.ask(metric=metric, output=str(folder / "values.npy"), **files)
            found[metric] = np.load(folder / "values.npy").squeeze()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch-python", required=True, help="see the head of the program")
    parser.add_argument("--networks", type=Path, required=True, help="see the head of the program")
    arguments = parser.parse_args()

    draw().save(perceptual_pairs.SHEET, optimize=True)
    tensors = load_file(arguments.networks)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        oxford = folder / "oxford.safetensors"
        save_file(with_oxford(tensors), oxford)
        true, test = (measured(arguments, file, folder) for file in (arguments.networks, oxford))
    record = {
        "versions": true["versions"],
        "lpips_alex": true["lpips_alex"].tolist(),
        "lpips_alex_map": perceptual_pairs.some_of_map(true["lpips_alex_map"]).tolist(),
        "lpips_vgg": true["lpips_vgg"].tolist(),
        "dists": true["dists"].tolist(),
        "lpips_vgg of Oxford": test["lpips_vgg"].tolist(),
        "dists of Oxford": test["dists"].tolist(),
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    perceptual_pairs.VALUES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print_agreement(tensors, true)


@contextlib.contextmanager
def vgg16_file(tensors: dict[str, np.ndarray]) -> Iterator[Path]:
    """The VGG-16 of a file of networks, as `load_vgg` takes it."""
    prefix = "vgg16/"
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "vgg16.safetensors"
        about = {"name": "vgg16", "source": "torchvision", "license": "BSD-3-Clause"}
        vgg.save(path, vgg.from_torchvision(state), **about, dtype="float32")
        yield path


def print_agreement(tensors: dict[str, np.ndarray], true: dict[str, Any]) -> None:
    with vgg16_file(tensors) as path:
        lpips_vgg, dists = pretrained.load_lpips("vgg", vgg=path), pretrained.load_dists(vgg=path)
    pairs = perceptual_pairs.pairs()
    lpips_alex = pretrained.load_lpips()
    # Accelerators round the features of both programs, each in its own way.
    with jax.default_matmul_precision("highest"):
        ours = {
            "lpips_alex": metrics.lpips(lpips_alex, *pairs),
            "lpips_alex_map": metrics.lpips(lpips_alex, *pairs, spatial=True),
            "lpips_vgg": metrics.lpips(lpips_vgg, *pairs),
            "dists": metrics.dists(dists, *pairs),
        }
    print("| metric | values | largest difference | mean difference |\n|---|---|---|---|")
    for metric, values in ours.items():
        theirs = true[metric]
        difference = np.abs(np.asarray(values) - theirs)
        print(
            f"| {metric} | {theirs.min():.4f} to {theirs.max():.4f} | {difference.max():.1e} "
            f"| {difference.mean():.1e} |"
        )


if __name__ == "__main__":
    main()
