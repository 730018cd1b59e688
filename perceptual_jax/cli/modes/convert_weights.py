"""Convert VGG weights from torchvision's files into this project's, optionally normalised.

Every mode takes the resulting safetensors file by --vgg. PyTorch is not needed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from perceptual_jax import vgg
from perceptual_jax.cli import flags
from perceptual_jax.cli.errors import UserError, leaving_out, report_left_out
from perceptual_jax.cli.messages import say
from perceptual_jax.io import images
from perceptual_jax.io.storage import local_path, pictures_in
from perceptual_jax.pretrained.vgg import load_vgg, save


def define_flags(define: flags.Flags) -> None:
    define.group("Files")
    define.string(
        "input",
        None,
        "The weights: a .pth or .safetensors state dict in torchvision's layout, a file in our "
        "format, or a name (vgg16, vgg16-torchvision, vgg19-torchvision).",
    )
    define.string("output", None, "The .safetensors file to write.")
    define.enum("dtype", "float32", ["float32", "float16"], "How the weights are stored.")
    define.group("Normalisation (Gatys et al. 2016)")
    define.string(
        "normalize", None, "Folder of photos over which filters are rescaled to mean activation 1."
    )
    define.enum("pooling", "max", ["max", "avg"], "The pooling for which it is normalised.")
    define.integer("image_size", 256, "Long side to which the photos are resized.", least=16)


def main(values: Any) -> int:
    if not values.input or not values.output:
        raise UserError("--input and --output are needed: see --mode=convert_weights --help")
    output = local_path(values.output)
    if output.suffix != ".safetensors":
        raise UserError(f"--output={output} must end in .safetensors")
    params = load_vgg(values.input)
    source = f"converted from {Path(values.input).name}"
    failed: list[str] = []
    if values.normalize:
        files = pictures_in(local_path(values.normalize))
        photos = _photos(files, values.image_size, failed)
        params = vgg.normalize_filters(params, photos, pooling=values.pooling)
        source += f", normalised over {len(files) - len(failed)} photos"
    save(
        output,
        params,
        name=output.stem,
        source=source,
        license="that of the input",
        dtype=values.dtype,
    )
    count = sum(np.size(array) for part in params.values() for array in part.values())
    layers = sum(name.startswith("conv") for name in params)
    say(f"{output}: VGG-{layers + 3}, {count:,} parameters as {values.dtype}")
    return report_left_out(failed, done=True)


def _photos(files: Sequence[Path], long_side: int, failed: list[str]) -> Iterator[np.ndarray]:
    """The photos that can be read, resized; why others cannot goes to `failed`."""
    for path in tqdm.tqdm(files, unit="photo"):
        with leaving_out(failed, path):
            yield images.fit(images.read(path), long_side)
    if len(failed) == len(files):
        raise UserError(f"none of the {len(files)} photos can be read: {failed[0]}")
