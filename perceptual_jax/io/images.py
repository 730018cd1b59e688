"""Pictures in files: the one room that knows about uint8, EXIF, ICC profiles, alpha and CMYK.

Outside of it an image is a float32 array in [0, 1], sRGB, of shape (H, W, 3), or (H, W) for a
mask or a grey picture.  Whatever is wrong with a file is told as a `FileError` in one line;
whatever is wrong with an array is a `ValueError`.
"""

import contextlib
import dataclasses
import io
import json
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from perceptual_jax import __version__
from perceptual_jax.io.storage import FileError

# Above the largest camera sensors sold (151 megapixels), and 2.1 GB as float32.  It stays below
# the 179 megapixels that Pillow itself refuses, so that no setting of Pillow's, which all of the
# process would share, needs to change.
MAX_PIXELS = 175_000_000

# Pillow reads more, some of it by running another program (PostScript through Ghostscript), which
# a picture from a stranger should not be able to ask for.
READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")

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

# Of a photo to train on.  Fewer pixels show nothing to learn from; a strip that is enlarged until
# its short side is long enough would fill the memory.
MIN_PHOTO_SIDE = 16
MAX_PHOTO_ASPECT = 16

# Those that Pillow resizes as colours: indices into a palette and single bits it does not blend.
_MODES_THAT_BLEND = ("L", "LA", "RGB", "RGBA", "CMYK")

# An image optimised without bounds leaves [0, 1] by tenths; one in 0..255 holds tens.
_LARGEST_PLAUSIBLE_VALUE = 8.0

# Luminance of linear sRGB (IEC 61966-2-1), applied to the encoded values: a mask is painted in
# greys, for which any weights that sum to one agree.
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)

_SOFTWARE = "perceptual_jax"
_EXIF_IMAGE_DESCRIPTION = 0x010E
_EXIF_SOFTWARE = 0x0131


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as the networks want it, and the transparency to give back to the result."""

    rgb: np.ndarray
    """(H, W, 3) float32 in [0, 1], sRGB; transparent parts are composited over white."""

    alpha: np.ndarray | None
    """(H, W) float32 in [0, 1], 1 where opaque; None if all of the file is opaque."""

    def fit(self, long_side: int) -> "Picture":
        """Colours and alpha through `fit`."""
        return Picture(
            fit(self.rgb, long_side), None if self.alpha is None else fit(self.alpha, long_side)
        )


def read(path: str | Path) -> np.ndarray:
    """The colours of a picture, (H, W, 3) float32 in [0, 1]: `read_picture(path).rgb`."""
    return read_picture(path).rgb


def read_picture(path: str | Path) -> Picture:
    """Reads a JPEG, PNG, WebP, TIFF, GIF or BMP file, told by its content and not by its suffix.

    The EXIF orientation is applied, an embedded ICC profile (RGB, grey or CMYK) is converted to
    sRGB, and one that is broken is ignored.  CMYK without a profile is converted by the textbook
    formula.  Of an animation, or of several pages, the first is read.

    Precision is what Pillow keeps.  Grey PNG and TIFF files of 16 bits are read in full (their
    ICC profile is not applied), float TIFF files are clipped to [0, 1]; 16-bit colour, and 16-bit
    grey with an alpha channel, is cut by Pillow to its upper 8 bits.

    Raises:
      FileError: there is no such file, or it is empty, damaged, larger than `MAX_PIXELS`, or not
        a picture that can be read.
    """
    colour, alpha = _decode(path)
    return Picture(_over_white(colour, alpha), alpha)


def read_mask(path: str | Path) -> np.ndarray:
    """A region mask, (H, W) float32 in [0, 1]: the luminance of a picture times its alpha.

    White is inside, black or transparent outside.

    Raises:
      FileError: as in `read_picture`.
    """
    colour, alpha = _decode(path)
    mask = np.clip(colour @ _LUMINANCE, 0.0, 1.0)
    return mask if alpha is None else mask * alpha


def read_photo(
    content: bytes,
    name: str,
    *,
    short_side: int,
    enlarge: bool = True,
    least: int = MIN_PHOTO_SIDE,
) -> np.ndarray:
    """Reads a photo to train on at the size that is needed, (H, W, 3) uint8, sRGB, over white.

    The same files are understood as by `read_picture`, faster: a JPEG much too large is decoded at
    a half, a quarter or an eighth of its size, and the rest of the way is an antialiased bicubic
    filter in 8 bits, before the colours are converted.

    Args:
      content: what is in the file.
      name: what errors call it.
      short_side: of the result, in pixels; the long side follows from the aspect.
      enlarge: whether a smaller photo is enlarged to it or stays as it is.
      least: pixels that its sides have to have.

    Raises:
      FileError: as in `read_picture`; or a side is shorter than `least`, or the sides differ by
        more than a factor of `MAX_PHOTO_ASPECT`.
      ValueError: `short_side` is less than 1.
    """
    if short_side < 1:
        raise ValueError(f"short_side must be at least 1, got {short_side}")
    # Pillow's warnings are not silenced here: threads that read at the same time would put the
    # filters of the process back in the wrong order.
    file = io.BytesIO(content)
    with _told_as_file_error(name), Image.open(file, formats=READABLE_FORMATS) as opened:
        _check_pixels(opened)
        if min(opened.size) < least:
            raise FileError(f"{name} is too small, {opened.width}x{opened.height}: leave it out")
        if max(opened.size) > MAX_PHOTO_ASPECT * min(opened.size):
            raise FileError(f"{name} is a strip, {opened.width}x{opened.height}: cut it to a photo")
        # Twice what is needed, so that the quality is the filter's and not that of the decoder.
        opened.draft(None, (2 * short_side, 2 * short_side))
        opened.load()
        image = _upright(opened)
        scale = short_side / min(image.size)
        if not enlarge:
            scale = min(scale, 1.0)
        width, height = (round(side * scale) for side in image.size)
        if image.mode in _MODES_THAT_BLEND and "transparency" not in image.info:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            if not image.has_transparency_data:
                # Without floats, which would take as long as decoding a small JPEG.
                return np.array(_to_srgb(image))
        rgb = _over_white(*_colour_and_alpha(image, name))
    if rgb.shape[:2] != (height, width):
        rgb = resize(rgb, (height, width))
    return eight_bits(rgb)


def encode_jpeg(photo: np.ndarray, *, quality: int) -> bytes:
    """The content of a JPEG file of (H, W, 3) uint8, for `read_photo`; `quality` is 1 to 100."""
    encoded = io.BytesIO()
    Image.fromarray(photo).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """The settings that `write` stored in a picture; None if there are none.

    Raises:
      FileError: as in `read_picture`.
    """
    with _opened(path) as image:
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

    def resized(channel: np.ndarray) -> np.ndarray:
        plane = Image.fromarray(np.ascontiguousarray(channel))
        return np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS))

    if image.ndim == 2:
        result = resized(image)
    else:
        result = np.stack([resized(image[..., i]) for i in range(image.shape[-1])], axis=-1)
    return np.clip(result, 0.0, 1.0)


def fit(image: np.ndarray, long_side: int) -> np.ndarray:
    """`resize` to the `size_for` a long side: the same aspect."""
    height, width = image.shape[:2]
    return resize(image, size_for((height, width), long_side))


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Floats to the nearest of 256 levels, uint8; what lies outside of [0, 1] is clipped."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def write(
    path: str | Path,
    image: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    settings: dict[str, Any] | None = None,
    quality: int = 95,
) -> None:
    """Writes a picture of 8 bits in the format that the suffix of `path` names.

    The file appears whole or not at all: an older one is replaced only by a finished one.
    Folders that are missing are made.

    Args:
      path: ends in one of `WRITABLE_SUFFIXES`.
      image: (H, W, 3) or (H, W) floats in [0, 1]; what an optimiser left outside is clipped.
      alpha: (H, W) floats in [0, 1], 1 where opaque, kept in PNG, WebP and TIFF files; for the
        other formats the image is composited over white.
      settings: how the picture was made, for `read_settings`: a dict for JSON, in which anything
        that JSON does not know is stored as its `str`.  BMP has no place for it.
      quality: 1 to 100, of JPEG and WebP; the other formats lose nothing.

    Raises:
      FileError: the suffix is not known, or the file cannot be written.
      ValueError: an array has the wrong shape, dtype or range, or holds NaN.
    """
    path = Path(path).expanduser()
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

    pixels = Image.fromarray(eight_bits(image))
    options = _encoder_options(format_name, quality) | _metadata(format_name, settings)
    encoded = io.BytesIO()
    try:
        pixels.save(encoded, format_name, **options)
    except (OSError, ValueError) as error:
        # What a format cannot hold: a side longer than 16383 in WebP, 64 kB of settings in JPEG.
        raise FileError(
            f"cannot write {path} as {format_name} ({error}): choose the suffix .png"
        ) from error
    with _file_beside(path) as file:
        file.write_bytes(encoded.getvalue())
        file.replace(path)


def check_writable(path: str | Path) -> None:
    """Finds out before hours of work whether `write` will be able to write `path`.

    Folders that are missing are made; no file is left behind.

    Raises:
      FileError: the suffix is not known, the path is a folder, or its folder cannot be made or
        written to.
    """
    path = Path(path).expanduser()
    _format_for(path)
    with _file_beside(path):
        pass


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """A picture opened by Pillow; whatever is raised until it is closed becomes a `FileError`."""
    path = Path(path).expanduser()
    with _told_as_file_error(path), warnings.catch_warnings():
        if path.is_dir():
            raise FileError(f"{path} is a folder: give the path of a picture in it")
        if not path.exists():
            raise FileError(f"there is no file {path}: check the path")
        if path.stat().st_size == 0:
            raise FileError(f"{path} is empty: copy or download it again")
        # Pillow warns of odd metadata and of large pictures, neither of which the user needs to
        # mend.  Its warnings only: filters are shared by all threads of the process.
        warnings.filterwarnings("ignore", module="PIL")
        # Not by its path: Pillow 11 to 13 then map some TIFF files, and turn them wrongly.
        with path.open("rb") as file, Image.open(file, formats=READABLE_FORMATS) as image:
            _check_pixels(image)
            yield image


@contextlib.contextmanager
def _told_as_file_error(name: str | Path) -> Iterator[None]:
    """Within it, whatever Pillow raises becomes a `FileError` about the file of this name."""
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
            f"use a {', '.join(READABLE_FORMATS[:-1])} or {READABLE_FORMATS[-1]} file"
        ) from error
    except PermissionError as error:
        raise FileError(f"{name} may not be read: change its permissions") from error
    except Exception as error:
        # Pillow meets damage with OSError, SyntaxError, struct.error, ValueError and others.
        raise FileError(
            f"{name} is damaged or incomplete ({error}): copy or download it again"
        ) from error


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError


def _decode(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The whole of a picture: as `_colour_and_alpha`."""
    with _opened(path) as opened:
        opened.load()
        return _colour_and_alpha(_upright(opened), path)


def _colour_and_alpha(image: Image.Image, name: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H, W, 3) as stored under any transparency, and alpha (H, W) if not all opaque."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey, alpha = _deep_grey(image, name)
        colour = np.repeat(grey[..., None], 3, axis=-1)
    else:
        alpha = None
        if image.has_transparency_data:
            alpha = _unit_range(image.convert("RGBA").getchannel("A"))
        colour = _unit_range(_to_srgb(image))
    return colour, None if alpha is None or np.all(alpha == 1.0) else alpha


def _unit_range(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float32) / np.float32(255)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken EXIF comes as SyntaxError, struct.error, TypeError...; the pixels are good.
        return image


def _deep_grey(image: Image.Image, path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey (H, W) in [0, 1] of an image of more than 8 bits, and its alpha."""
    values = np.asarray(image)
    if image.mode == "F":
        if np.isnan(values).any():
            raise FileError(f"{path} holds NaN: save it again with values between 0 and 1")
        return np.clip(values, 0.0, 1.0), None
    # "I" is Pillow's signed 32 bits, in which it also keeps some files of 16 bits.
    if values.min() < 0 or values.max() > 65535:
        raise FileError(f"{path} holds integers of 32 bits: save it again with 8 or 16 bits")
    # A PNG may name one value that stands for transparent.
    transparent = image.info.get("transparency")
    alpha = None if transparent is None else (values != transparent).astype(np.float32)
    return values.astype(np.float32) / np.float32(65535), alpha


def _to_srgb(image: Image.Image) -> Image.Image:
    """An image of 8 bits in any mode, without its alpha, as RGB in the sRGB colour space."""
    kind = {"CMYK": "CMYK", "1": "L", "L": "L", "LA": "L"}.get(image.mode, "RGB")
    if profile_bytes := image.info.get("icc_profile"):
        # A broken profile, or one for another kind of image, is as good as none.
        with contextlib.suppress(OSError, TypeError, ValueError, ImageCms.PyCMSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
            space = profile.profile.xcolor_space.strip()
            profile_kind = {"CMYK": "CMYK", "GRAY": "L", "RGB": "RGB"}.get(space, "")
            # Grey files often carry an RGB profile, which is meant for R = G = B.
            if profile_kind == kind or (profile_kind, kind) == ("RGB", "L"):
                srgb = ImageCms.createProfile("sRGB")
                transform = ImageCms.buildTransform(profile, srgb, profile_kind, "RGB")
                return transform.apply(image.convert(profile_kind))
    return image.convert("RGB")


def _over_white(image: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Composites (H, W) or (H, W, 3) over white in encoded values, as browsers do."""
    if alpha is None:
        return image
    if image.ndim == 3:
        alpha = alpha[..., None]
    return image * alpha + (1.0 - alpha)


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """`array` as float32 of rank 2 or 3; a `ValueError` if it is not floats in [0, 1] or so."""
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} must be floats in [0, 1], got {array.dtype}: divide by the range")
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} must have shape (H, W) or (H, W, C), got {array.shape}: pass one at a time"
        )
    if array.size == 0:
        raise ValueError(f"{name} is empty, its shape is {array.shape}")
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


def _encoder_options(format_name: str, quality: int) -> dict[str, Any]:
    match format_name:
        case "JPEG":
            # Brush strokes are saturated and thin: halving their colour, the default, shows.
            return {"quality": quality, "subsampling": "4:4:4"}
        case "WEBP":
            return {"quality": quality}
        case "TIFF":
            return {"compression": "tiff_adobe_deflate"}
    return {}


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


@contextlib.contextmanager
def _file_beside(path: Path) -> Iterator[Path]:
    """A new empty file in the folder of `path`, which is made if missing; removed if still there.

    It is made the ordinary way and not by `tempfile`, whose files only their owner may read.
    """
    file = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file.touch(exist_ok=False)
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"cannot write {path} ({reason}): choose another place") from error
