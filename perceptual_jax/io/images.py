"""Pictures in files, read and written, and their sizes.

An image is a float32 array in [0, 1], sRGB, of shape (H, W, 3), or (H, W) for a mask or a grey
picture.  A file that cannot be used raises a `FileError` of one line, an array a `ValueError`.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from perceptual_jax import __version__
from perceptual_jax.io import decoding, storage
from perceptual_jax.io.storage import FileError

MAX_PIXELS = decoding.MAX_PIXELS

WRITABLE_SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
_FORMATS_WITH_ALPHA = ("PNG", "WEBP", "TIFF")

# Pixels that a side can have; the other formats hold more than `MAX_PIXELS` in one.
_LARGEST_SIDES = {"JPEG": 65500, "WEBP": 16383}

# Of a photo to train on.  Fewer pixels show nothing to learn from, and a long strip would fill the
# memory once its short side is enlarged.
MIN_PHOTO_SIDE = 16
MAX_PHOTO_ASPECT = 16

# Those whose values Pillow blends when it resizes; palette indices and single bits it does not.
_MODES_THAT_BLEND = ("L", "LA", "RGB", "RGBA", "CMYK")

_LARGEST_PLAUSIBLE_VALUE = decoding.LARGEST_PLAUSIBLE_VALUE

# Luminance of linear sRGB (IEC 61966-2-1).  It may be applied to encoded values here: masks are
# grey, where any weights that sum to one give the same.
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)

_SOFTWARE = "perceptual_jax"
_EXIF_IMAGE_DESCRIPTION = 0x010E
_EXIF_SOFTWARE = 0x0131


@dataclasses.dataclass(frozen=True)
class Picture:
    """Colours and transparency, apart: `alpha` is not applied to `rgb` (straight alpha)."""

    rgb: np.ndarray
    """(H, W, 3) float32 in [0, 1], sRGB."""

    alpha: np.ndarray | None
    """(H, W) float32 in [0, 1], 1 where opaque; None if all of the file is opaque."""

    def fill_transparent(self) -> "Picture":
        """Continues the colours of the visible parts where alpha is 0.

        What is stored there, often black, would otherwise bleed into the visible parts wherever
        neighbouring pixels are mixed: by a resampling filter or by a convolution.
        """
        if self.alpha is None:
            return self
        return Picture(_filled(self.rgb, self.alpha), self.alpha)

    def over_white(self) -> np.ndarray:
        """The RGB composited over white, without linearising, as browsers do."""
        return _over_white(self.rgb, self.alpha)

    def fit(self, long_side: int) -> "Picture":
        """`fit` of the filled RGB and of alpha."""
        alpha = None if self.alpha is None else fit(self.alpha, long_side)
        return Picture(fit(self.fill_transparent().rgb, long_side), alpha)


def read(path: str | Path) -> np.ndarray:
    """The RGB of a picture over white, (H, W, 3) float32 in [0, 1]; errors as in `read_picture`."""
    return read_picture(path).over_white()


def read_picture(path: str | Path) -> Picture:
    """Reads a JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF or HEIC file, or a pipe that holds one.

    The content decides which, not the suffix.  AVIF needs a Pillow that was built with it, HEIC
    the package pillow-heif (`pip install perceptual_jax[heic]`).

    The EXIF orientation is applied, and an ICC profile (RGB, grey or CMYK) is converted to sRGB
    unless it is broken.  CMYK without a profile is converted by the formula (1 - C)(1 - K).  Of
    an animation, or of several pages, the first is read.

    Grey PNG and TIFF files of 12 and 16 bits are read in full (their ICC profile is not applied).
    Grey floats are clipped to [0, 1]; if they exceed 8, which no overshoot does, they count as
    0..255.  Of RGB in 16 bits, and of grey with alpha, Pillow keeps the upper 8 bits.

    Raises:
      FileError: there is no such file, or it is empty, damaged, larger than `MAX_PIXELS`, or not
        a picture that can be read.
    """
    return Picture(*decoding.decode(path))


def read_mask(path: str | Path) -> np.ndarray:
    """The mask of a region, (H, W) float32 in [0, 1]: the luminance of a picture times its alpha.

    White is inside the region, black or transparent outside.

    Raises:
      FileError: as in `read_picture`.
    """
    rgb, alpha = decoding.decode(path)
    mask = np.clip(rgb @ _LUMINANCE, 0.0, 1.0)
    return mask if alpha is None else mask * alpha


def read_photo(
    content: bytes,
    name: str,
    *,
    short_side: int,
    enlarge: bool = True,
    least: int = MIN_PHOTO_SIDE,
) -> np.ndarray:
    """Reads a photo for training and resizes it, in 8 bits.

    It reads the same files as `read_picture`, faster: a large JPEG is decoded at a half, a quarter
    or an eighth of its size, then resized by an antialiased bicubic filter in 8 bits, and only
    then converted to sRGB.

    Args:
      content: the bytes of the file.
      name: what errors call it.
      short_side: of the result, in pixels; the long side follows from the aspect.
      enlarge: whether a smaller photo is enlarged or keeps its size.
      least: pixels that its sides must have.

    Returns:
      (H, W, 3) uint8, sRGB, over white.

    Raises:
      FileError: as in `read_picture`; or a side is shorter than `least`, or the sides differ by
        more than a factor of `MAX_PHOTO_ASPECT`.
      ValueError: `short_side` is less than 1.
    """
    if short_side < 1:
        raise ValueError(f"short_side must be at least 1, got {short_side}")
    # Not by `decoding.open_picture`, which changes the filters of warnings: threads that read at
    # the same time would restore them in the wrong order.
    with decoding.open_image(io.BytesIO(content), name) as opened:
        if min(opened.size) < least:
            raise FileError(f"{name} is too small, {opened.width}x{opened.height}: leave it out")
        if max(opened.size) > MAX_PHOTO_ASPECT * min(opened.size):
            raise FileError(f"{name} is a strip, {opened.width}x{opened.height}: cut it to a photo")
        # Twice what is needed, so that the quality is that of the filter below.
        opened.draft(None, (2 * short_side, 2 * short_side))
        opened.load()
        image = decoding.upright(opened)
        scale = short_side / min(image.size)
        scale = scale if enlarge else min(scale, 1.0)
        width, height = (round(side * scale) for side in image.size)
        if image.mode in _MODES_THAT_BLEND and "transparency" not in image.info:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            if not image.has_transparency_data:
                # Without floats, which would take as long as decoding a small JPEG.
                return np.array(decoding.to_srgb(image))
        rgb = _over_white(*decoding.rgb_and_alpha(image, name))
    if rgb.shape[:2] != (height, width):
        rgb = resize(rgb, (height, width))
    return eight_bits(rgb)


def encode_jpeg(photo: np.ndarray, *, quality: int) -> bytes:
    """The bytes of a JPEG file of (H, W, 3) uint8, for `read_photo`; `quality` is 1 to 100."""
    encoded = io.BytesIO()
    Image.fromarray(photo).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """The settings that `write` stored in a picture; None if there are none.

    Raises:
      FileError: as in `read_picture`.
    """
    with decoding.open_picture(path) as image:
        text = image.info.get(_SOFTWARE)
        if image.format != "PNG":
            exif = image.getexif()
            ours = str(exif.get(_EXIF_SOFTWARE, "")).startswith(_SOFTWARE)
            text = exif.get(_EXIF_IMAGE_DESCRIPTION) if ours else None
    try:
        settings = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return settings if isinstance(settings, dict) else None


def size_for(height_width: tuple[int, int], long_side: int) -> tuple[int, int]:
    """The (height, width) of the same aspect whose longer side is exactly `long_side` pixels."""
    height, width = height_width
    if min(height, width, long_side) < 1:
        raise ValueError(f"sizes must be at least 1, got {height_width} and {long_side=}")
    scale = long_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: np.ndarray, height_width: tuple[int, int]) -> np.ndarray:
    """Resamples to exactly `height_width` with an antialiased Lanczos filter.

    Args:
      image: (H, W) or (H, W, C) floats in [0, 1], any number of channels.
      height_width: the size of the result, in pixels.

    Returns:
      float32 of the same rank.  The filter overshoots at edges; the result is clipped to [0, 1].

    Raises:
      ValueError: `image` is not floats in [0, 1], or a size is less than 1.
    """
    image = _checked(image, "image")
    height, width = height_width
    if min(height, width) < 1:
        raise ValueError(f"sizes must be at least 1, got {height_width}")
    return np.clip(_resampled(image, height_width, Image.Resampling.LANCZOS), 0.0, 1.0)


def fit(image: np.ndarray, long_side: int) -> np.ndarray:
    """`resize` to the same aspect with a longer side of exactly `long_side` pixels."""
    return resize(image, size_for(image.shape[:2], long_side))


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Floats, clipped to [0, 1], to the nearest of 256 levels, uint8."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def write(
    path: str | Path,
    image: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    settings: dict[str, Any] | None = None,
    quality: int = 95,
) -> None:
    """Writes a picture of 8 bits in the format of the suffix of `path`, see `atomic_write`.

    Args:
      path: ends in one of `WRITABLE_SUFFIXES`.
      image: (H, W, 3) or (H, W) floats in [0, 1]; values a little outside are clipped.
      alpha: (H, W) floats in [0, 1], 1 where opaque, kept in PNG, WebP and TIFF files; for the
        other formats the image is composited over white.
      settings: how the picture was made, for `read_settings`: a dict for JSON; values that JSON
        does not know are stored as their `str`.  BMP cannot keep it.
      quality: 1 to 100, of JPEG and WebP; the other formats are lossless.

    Raises:
      FileError: the suffix is not known, or the file cannot be written.
      ValueError: an array has the wrong shape, dtype or range, or holds NaN.
    """
    path = storage.local_path(path)
    format_name = _format_for(path)
    image = _checked(image, "image")
    if image.ndim == 3 and image.shape[-1] != 3:
        raise ValueError(f"image must have shape (H, W, 3) or (H, W), got {image.shape}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be between 1 and 100, got {quality}")
    image = np.clip(image, 0.0, 1.0)
    if alpha is not None:
        alpha = np.clip(_checked(alpha, "alpha"), 0.0, 1.0)
        if alpha.shape != image.shape[:2]:
            raise ValueError(
                f"alpha must have the size of the image, {image.shape[:2]}, got {alpha.shape}: "
                "pass it through images.resize"
            )
        if format_name in _FORMATS_WITH_ALPHA:
            image = np.dstack([image, alpha])
        else:
            image = _over_white(image, alpha)

    check_size(path, image.shape[:2])
    pixels = Image.fromarray(eight_bits(image))
    # By default colour has half the resolution in JPEG, which shows in thin saturated strokes.
    # Pillow passes over the options that a format does not have.
    options: dict[str, Any] = {"quality": quality, "subsampling": "4:4:4"}
    if format_name == "TIFF":
        options = {"compression": "tiff_adobe_deflate"}
    options |= _metadata(format_name, settings)
    encoded = io.BytesIO()
    try:
        pixels.save(encoded, format_name, **options)
    except (OSError, ValueError) as error:
        # What a format cannot hold, such as 64 kB of settings in JPEG.
        raise FileError(
            f"cannot write {path} as {format_name} ({error}): choose the suffix .png"
        ) from error
    with storage.atomic_write(path) as file:
        file.write_bytes(encoded.getvalue())


def check_writable(path: str | Path) -> None:
    """Finds out, before hours of work, whether `write` will be able to write `path`.

    Missing folders are made; no file is left behind.

    Raises:
      FileError: the suffix is not known, the path is a folder, or its folder cannot be made or
        written to.
    """
    path = storage.local_path(path)
    _format_for(path)
    storage.check_writable(path)


def check_size(path: str | Path, height_width: tuple[int, int]) -> None:
    """Raises `FileError` if the format of `path` cannot hold pictures of this size."""
    format_name = _format_for(Path(path))
    largest = _LARGEST_SIDES.get(format_name)
    if largest and max(height_width) > largest:
        height, width = height_width
        raise FileError(
            f"cannot write {path}: {format_name} holds {largest} pixels a side and the picture has "
            f"{width}x{height}: choose the suffix .png"
        )


def _filled(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours where `alpha` is 0, from means over ever larger blocks of visible pixels."""
    if alpha.all() or not alpha.any():
        return rgb
    size = tuple(-(-side // 2) for side in alpha.shape)
    weight = _resampled(alpha, size, Image.Resampling.BOX)
    colour = _resampled(rgb * alpha[..., None], size, Image.Resampling.BOX)
    colour /= np.maximum(weight, np.finfo(np.float32).tiny)[..., None]
    surroundings = _resampled(_filled(colour, weight), alpha.shape, Image.Resampling.BILINEAR)
    return np.where(alpha[..., None] > 0, rgb, surroundings)


def _resampled(
    image: np.ndarray, height_width: Sequence[int], resampling: Image.Resampling
) -> np.ndarray:
    """Resamples (H, W) or (H, W, C), plane by plane, as Pillow does floats."""
    height, width = height_width
    planes = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    resized = [np.asarray(Image.fromarray(p).resize((width, height), resampling)) for p in planes]
    return np.stack(resized, axis=-1).reshape(height, width, *image.shape[2:])


def _over_white(image: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Composites (H, W) or (H, W, 3)."""
    if alpha is None:
        return image
    if image.ndim == 3:
        alpha = alpha[..., None]
    return image * alpha + (1.0 - alpha)


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """`array` as float32; raises `ValueError` unless it is an image, give or take the range."""
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} must be floats in [0, 1], got {array.dtype}: divide by the range")
    if array.ndim not in (2, 3) or array.size == 0:
        reason = "it is empty" if array.size == 0 else "pass one at a time"
        raise ValueError(f"{name} must be (H, W) or (H, W, C), got {array.shape}: {reason}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    if np.abs(array).max() > _LARGEST_PLAUSIBLE_VALUE:
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {array.min():g} to {array.max():g}: "
            "divide 0..255 by 255"
        )
    return array.astype(np.float32, copy=False)


def _format_for(path: Path) -> str:
    if path.is_dir():
        raise FileError(f"{path} is a folder: give the path of a file, such as {path / 'out.png'}")
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        raise FileError(
            f"cannot tell from the suffix of {str(path)!r} how to write it: "
            f"use one of {', '.join(WRITABLE_SUFFIXES)}"
        )
    return WRITABLE_SUFFIXES[path.suffix.lower()]


def _metadata(format_name: str, settings: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments of Pillow's `save` that store settings: text chunks in PNG, EXIF elsewhere."""
    if settings is None or format_name == "BMP":
        return {}
    software = f"{_SOFTWARE} {__version__}"
    # ASCII with escapes, as the EXIF field demands.
    text = json.dumps(settings, default=str, ensure_ascii=True)
    if format_name == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("Software", software)
        chunks.add_text(_SOFTWARE, text)
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif[_EXIF_SOFTWARE] = software
    exif[_EXIF_IMAGE_DESCRIPTION] = text
    return {"exif": exif}
