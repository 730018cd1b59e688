"""Decoding with Pillow: what EXIF orientation, ICC profile, alpha and depth of a file amount to.

`images` is made of these functions.  Whatever Pillow raises becomes a `FileError` about the file.
"""

import contextlib
import functools
import io
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from perceptual_jax.io import storage
from perceptual_jax.io.storage import FileError

# More than the largest camera sensors sold (151 megapixels), and 2.1 GB as float32.  Less than the
# 179 megapixels that Pillow itself refuses, whose setting all of the process would share.
MAX_PIXELS = 175_000_000

# Pillow reads more, some of it by running another program (PostScript through Ghostscript), which
# a stranger's picture must not be able to start.
READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF")

# Optimisation without bounds leaves [0, 1] by tenths; an image in 0..255 has values of tens.
LARGEST_PLAUSIBLE_VALUE = 8.0

# A pipe is held in memory; as many bytes as the largest picture without compression.
_MAX_PIPE_BYTES = 4 * MAX_PIXELS

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_SAMPLE_FORMAT = 339


def decode(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The RGB and the alpha in a file, see `rgb_and_alpha`; errors as in `open_picture`."""
    with open_picture(path) as opened:
        opened.load()
        return rgb_and_alpha(upright(opened), path)


@contextlib.contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """A picture opened by Pillow; whatever is raised until it is closed becomes a `FileError`.

    Raises:
      FileError: there is no such file, or it is empty, damaged, larger than `MAX_PIXELS`, or not
        a picture that can be read.
    """
    path = storage.local_path(path)
    with _file_errors(path), warnings.catch_warnings():
        if path.is_dir():
            raise FileError(f"{path} is a folder: give the path of a picture in it")
        if not path.exists():
            raise FileError(f"there is no file {path}: check the path")
        # Pillow warns of odd metadata and of large pictures, and the user can do nothing about
        # either.  Other warnings stay: all threads of the process share the filters.
        warnings.filterwarnings("ignore", module="PIL")
        # Given a path, Pillow 11 to 13 map some TIFF files into memory and rotate them wrongly.
        with _opened(path) as file, open_image(file, path) as image:
            yield image


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file or, held in memory since Pillow needs to go back, of a pipe."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise FileError(f"{path} is a device or a socket: give a file or a pipe")
    with path.open("rb") as file:
        content: IO[bytes] = file
        if stat.S_ISFIFO(mode):
            content = io.BytesIO(file.read(_MAX_PIPE_BYTES))
        if not content.read(1):
            raise FileError(f"{path} is empty: copy or download it again")
        content.seek(0)
        yield content


@contextlib.contextmanager
def open_image(file: IO[bytes], name: str | Path) -> Iterator[Image.Image]:
    """An image opened by Pillow; whatever is raised until it is closed is a `FileError` of `name`.

    It leaves the filters of warnings alone, which all threads share.
    """
    with _file_errors(name), _identified(file, name) as image:
        if image.width * image.height > MAX_PIXELS:  # Pillow itself only warns.
            raise Image.DecompressionBombError
        # Pillow would fill in what no strip covers with black, 175 megapixels of it if told so.
        if image.format == "TIFF":
            boxes = [tile[1] for tile in image.tile]  # type: ignore[attr-defined]
            if sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) < image.width * image.height:
                raise OSError("its pixels end before the picture does")
        yield image


def _identified(file: IO[bytes], name: str | Path) -> Image.Image:
    """`Image.open`, which says of a kind of picture that it does not know which one that is."""
    try:
        return Image.open(file, formats=_readable_formats())
    except UnidentifiedImageError as error:
        file.seek(0)
        start = file.read(12)
        if start[4:8] == b"ftyp":
            remedy = "pip install pillow-heif (the extra [heic]), or save it as JPEG"
            raise FileError(f"{name} is a HEIC or AVIF picture: {remedy}") from error
        if start[:4] in (b"II*\0", b"MM\0*"):
            raise FileError(
                f"{name} stores its pixels in a way that cannot be read, such as colours in "
                "floats: save it with 8 or 16 bits a channel"
            ) from error
        raise


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    """Those that are installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in READABLE_FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def _file_errors(name: str | Path) -> Iterator[None]:
    try:
        yield
    except (FileError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise FileError(
            f"{name} is larger than {MAX_PIXELS / 1e6:g} megapixels: "
            "make a smaller copy and use that"
        ) from error
    except UnidentifiedImageError as error:
        raise FileError(
            f"{name} is not a picture that can be read, or is cut short at its start: "
            f"use a {', '.join(_readable_formats()[:-1])} or {_readable_formats()[-1]} file"
        ) from error
    except PermissionError as error:
        raise FileError(f"{name} may not be read: change its permissions") from error
    except Exception as error:
        # Damage makes Pillow raise OSError, SyntaxError, struct.error, ValueError and others.
        raise FileError(
            f"{name} is damaged or incomplete ({error}): copy or download it again"
        ) from error


def rgb_and_alpha(image: Image.Image, name: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB as it is stored under any transparency, and alpha, which is None if all is opaque.

    Args:
      image: decoded, in any mode.
      name: what errors call it.

    Returns:
      (H, W, 3), sRGB, and (H, W), float32 in [0, 1].
    """
    if image.mode == "F" or image.mode.startswith("I"):
        grey, alpha = _deep_grey(image, name)
        rgb = np.repeat(grey[..., None], 3, axis=-1)
    else:
        alpha = None
        if image.has_transparency_data:
            alpha = _unit_range(image.convert("RGBA").getchannel("A"))
        rgb = _unit_range(to_srgb(image))
    return rgb, None if alpha is None or np.all(alpha == 1.0) else alpha


def _unit_range(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float32) / np.float32(255)


def upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation, in place, so that the tags of a TIFF file are kept."""
    # Broken EXIF raises SyntaxError, struct.error, TypeError...; the pixels are good.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _deep_grey(image: Image.Image, name: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey (H, W) in [0, 1] of an image of more than 8 bits, and its alpha."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        if np.isnan(values).any():
            raise FileError(f"{name} holds NaN: save it again with values between 0 and 1")
        white = 255.0 if values.max() > LARGEST_PLAUSIBLE_VALUE else 1.0
        if values.max() > 255:
            raise FileError(
                f"{name} holds floats up to {values.max():g}: save it again with values between 0 "
                "and 1"
            )
    else:
        bits, signed = _bits(tags)
        # Pillow keeps some files of 16 bits in "I", its signed integers of 32 bits.
        if bits > 16:
            bits, signed = 16, False
        white = 2.0 ** (bits - signed) - 1
        if values.min() < 0 or values.max() > white:
            raise FileError(
                f"{name} holds integers from {values.min()} to {values.max()}: "
                f"save it again with values between 0 and {white:g}"
            )
    grey = np.clip(values.astype(np.float32) / np.float32(white), 0.0, 1.0)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # WhiteIsZero, which Pillow applies to 8 bits alone.
        grey = 1.0 - grey
    # A PNG may name one value that stands for transparent.
    transparent = image.info.get("transparency")
    return grey, None if transparent is None else (values != transparent).astype(np.float32)


def _bits(tags: Mapping[int, tuple[int, ...]]) -> tuple[int, bool]:
    """Bits of a sample, by the tags of a TIFF file, and whether they are signed."""
    (bits,) = tags.get(_TIFF_BITS_PER_SAMPLE, (16,))
    (sample_format,) = tags.get(_TIFF_SAMPLE_FORMAT, (1,))
    return bits, sample_format == 2


def to_srgb(image: Image.Image) -> Image.Image:
    """An image of 8 bits in any mode as RGB in the sRGB colour space, without its alpha."""
    kind = {"CMYK": "CMYK", "1": "L", "L": "L", "LA": "L"}.get(image.mode, "RGB")
    if profile_bytes := image.info.get("icc_profile"):
        # A broken profile, or one for another kind of image, is ignored.
        with contextlib.suppress(OSError, TypeError, ValueError, ImageCms.PyCMSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
            space = profile.profile.xcolor_space.strip()
            profile_kind = {"CMYK": "CMYK", "GRAY": "L", "RGB": "RGB"}.get(space, "")
            # Grey files often have an RGB profile, which is meant for R = G = B.
            if profile_kind == kind or (profile_kind, kind) == ("RGB", "L"):
                srgb = ImageCms.createProfile("sRGB")
                transform = ImageCms.buildTransform(profile, srgb, profile_kind, "RGB")
                return transform.apply(image.convert(profile_kind))
    return image.convert("RGB")
