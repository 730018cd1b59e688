"""Convert VGG weights from torchvision's files into this project's, optionally normalised.

The result is a safetensors file that --vgg takes in every mode. PyTorch is not needed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from perceptual_jax import vgg
from perceptual_jax.cli import flags
from perceptual_jax.cli.errors import UserError
from perceptual_jax.io import images, resources
from perceptual_jax.pretrained import vgg as pretrained_vgg


def define_flags(define: flags.Flags) -> None:
    define.group("Files")
    define.string(
        "input",
        None,
        "The weights: a .pth or .safetensors state dict in torchvision's layout, a file of ours, "
        "or a name (vgg16, vgg16-torchvision, vgg19-torchvision).",
    )
    define.string("output", None, "The .safetensors file to write.")
    define.enum("dtype", "float32", ["float32", "float16"], "How the weights are stored.")
    define.group("Normalisation (Gatys et al. 2016)")
    define.string(
        "normalize",
        None,
        "A folder of photos: rescale every filter to mean activation 1 over them.",
    )
    define.enum("pooling", "max", ["max", "avg"], "The pooling for which it is normalised.")
    define.integer("image_size", 256, "Long side to which the photos are resized.", least=16)


def main(values: Any) -> None:
    if not values.input or not values.output:
        raise UserError("--input and --output are needed: see --mode=convert_weights --help")
    output = Path(values.output).expanduser()
    if output.suffix != ".safetensors":
        raise UserError(f"--output={output} must end in .safetensors")
    params = pretrained_vgg.load_vgg(values.input)
    source = f"converted from {Path(values.input).name}"
    if values.normalize:
        photos = _photos(Path(values.normalize).expanduser())
        sized = (
            images.fit(photo, values.image_size)
            for photo in map(images.read, tqdm.tqdm(photos, unit="photo"))
        )
        params = vgg.normalize_filters(params, sized, pooling=values.pooling)
        source += f", normalised over {len(photos)} photos"
    pretrained_vgg.save(
        output,
        params,
        name=output.stem,
        source=source,
        license="that of the input",
        dtype=values.dtype,
    )
    count = sum(np.size(array) for part in params.values() for array in part.values())
    layers = sum(name.startswith("conv") for name in params)
    print(f"{output}: VGG-{layers + 3}, {count:,} parameters as {values.dtype}")


def _photos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"--normalize={folder} is not a folder")
    found = [path for path in folder.iterdir() if path.suffix.lower() in resources.PICTURE_SUFFIXES]
    if not found:
        raise UserError(f"there are no pictures in --normalize={folder}")
    return sorted(found)
