"""Damaged files of every kind that is read: what cannot be read is a `FileError`, and soon.

The damage is random, from seeds.  More of it: raise `SEEDS`.
"""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image, ImageCms

from perceptual_jax.io import images
from perceptual_jax.io.storage import FileError
from perceptual_jax.models import networks
from perceptual_jax.pretrained import tensorfile, torch_pickle, transformer_net, vgg
from perceptual_jax.pretrained.networks import TrainedNetwork, load_network, save
from tests import reference
from tests.pretrained import torchwriter

SEEDS = range(2)
# A file here takes milliseconds; what hangs, or counts to a number in the file, takes for ever.
SECONDS = 10.0


def flip_bits(content: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(0, len(content), size=random.integers(1, 8)):
        content[place] ^= 1 << random.integers(8)


def truncate(content: bytearray, random: np.random.Generator) -> None:
    del content[random.integers(len(content)) :]


def insert(content: bytearray, random: np.random.Generator) -> None:
    place = random.integers(len(content) + 1)
    content[place:place] = random.bytes(int(random.integers(1, 200)))


def repeat(content: bytearray, random: np.random.Generator) -> None:
    start, stop = sorted(random.integers(0, len(content) + 1, size=2))
    content[stop:stop] = content[start:stop] * random.integers(1, 4)


def change_lengths(content: bytearray, random: np.random.Generator) -> None:
    """Numbers of 1 to 8 bytes near the start, where headers are, to the extremes."""
    for _ in range(random.integers(1, 4)):
        width = int(random.choice([1, 2, 4, 8]))
        place = int(random.integers(min(len(content), 600)))
        number = [0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1][random.integers(4)]
        content[place : place + width] = number.to_bytes(width, "little")


def change_digits(content: bytearray, random: np.random.Generator) -> None:
    """Numbers that are written as text, in the headers of weights."""
    digits = [place for place, byte in enumerate(content[:3000]) if chr(byte).isdigit()]
    for place in random.choice(digits, size=min(2, len(digits))) if digits else ():
        content[place : place + 1] = random.choice([b"0", b"9", b"-1", b"1e9", b"99999999999"])


DAMAGE = {
    damage.__name__: damage
    for damage in (flip_bits, truncate, insert, repeat, change_lengths, change_digits)
}


def picture(format: str, mode: str, **options: Any) -> bytes:
    pixels = (255 * reference.random_images(24, 32, 4)).astype(np.uint8)
    image = Image.fromarray(pixels).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # The orientation.
    deep = Image.fromarray((65535 * reference.random_images(24, 32)).astype(np.uint16))
    grey = io.BytesIO()
    deep.save(grey, "PNG")
    floats = io.BytesIO()
    Image.fromarray(reference.random_images(24, 32)).save(floats, "TIFF")
    found = {
        "jpg": picture("JPEG", "RGB", exif=exif, icc_profile=profile),
        "cmyk.jpg": picture("JPEG", "CMYK"),
        "progressive.jpg": picture("JPEG", "RGB", progressive=True),
        "png": picture("PNG", "RGBA", icc_profile=profile, exif=exif),
        "palette.png": picture("PNG", "P"),
        "deep.png": grey.getvalue(),
        "tif": picture("TIFF", "RGB", icc_profile=profile),
        "lzw.tif": picture("TIFF", "RGBA", compression="tiff_lzw"),
        "deflate.tif": picture("TIFF", "L", compression="tiff_adobe_deflate"),
        "float.tif": floats.getvalue(),
        "gif": picture("GIF", "P"),
        "bmp": picture("BMP", "RGB"),
        "webp": picture("WEBP", "RGBA", exif=exif),
        "lossless.webp": picture("WEBP", "RGB", lossless=True),
    }
    Image.init()
    if "AVIF" in Image.SAVE:
        found["avif"] = picture("AVIF", "RGB")
    return found


def weights(folder: Path) -> dict[str, bytes]:
    network = networks.StyleNetwork(styles=2, width=2, residual_blocks=0)
    shapes = jax.eval_shape(lambda: networks.initial_variables(network, seed=0))
    trained = TrainedNetwork(
        network=network,
        variables=reference.random_variables(shapes),
        styles=("a", "b"),
        thumbnails=(np.zeros((8, 9, 3), np.uint8),) * 2,
        settings={"steps": 5},
    )
    save(folder / "network.safetensors", trained)
    # A VGG of few channels: what reads it finds out last of all that its shapes are others.
    tree = reference.random_vgg(depths=(2, 1), widths=(3, 4))
    tensors = {f"{layer}/{part}": x for layer, parts in tree.items() for part, x in parts.items()}
    about = {"format": vgg.FORMAT, "version": vgg.VERSION, "name": "", "source": "", "license": ""}
    tensorfile.write(folder / "vgg.safetensors", tensors, about)
    state = {
        "features.0.weight": reference.random_images(4, 3, 3, 3),
        "features.0.bias": np.arange(4, dtype=np.float16),
        "features.2.weight": np.arange(6).reshape(2, 3),
    }
    safetensors.numpy.save_file(state, folder / "state.safetensors")
    torchwriter.write_zip(folder / "zip.pth", torchwriter.state_dict(state))
    torchwriter.write_zip(folder / "deflated.pth", torchwriter.state_dict(state), compression=8)
    torchwriter.write_legacy(folder / "legacy.pth", torchwriter.state_dict(state))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_photo(path: Path) -> Any:
    return images.read_photo(path.read_bytes(), str(path), short_side=16, least=1)


PICTURE_READERS: tuple[Callable[[Path], Any], ...] = (
    images.read_picture,
    images.read_mask,
    read_photo,
    images.read_settings,
)
WEIGHT_READERS: tuple[Callable[[Path], Any], ...] = (
    load_network,
    vgg.load_vgg,
    torch_pickle.read,
    lambda path: torch_pickle.read_state_dict(path, transformer_net.is_used),
)


def check(content: bytes, path: Path, readers: tuple[Callable[[Path], Any], ...]) -> None:
    path.write_bytes(content)
    for reader in readers:
        began = time.monotonic()
        message = ""
        try:
            reader(path)
        except FileError as error:
            message = str(error)
        assert "\n" not in message
        assert time.monotonic() - began < SECONDS, reader


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", pictures())
def test_pictures(name: str, damage: str, tmp_path: Path) -> None:
    intact = pictures()[name]
    for seed in SEEDS:
        content = bytearray(intact)
        DAMAGE[damage](content, np.random.default_rng(seed))
        check(bytes(content), tmp_path / name, PICTURE_READERS)


@pytest.fixture(scope="module")
def intact_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return weights(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("damage", DAMAGE)
def test_weights(damage: str, tmp_path: Path, intact_weights: dict[str, bytes]) -> None:
    for name, intact in intact_weights.items():
        for seed in SEEDS:
            content = bytearray(intact)
            DAMAGE[damage](content, np.random.default_rng(seed))
            check(bytes(content), tmp_path / name, WEIGHT_READERS)
