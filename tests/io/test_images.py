"""Specifications of `perceptual_jax.io.images`: every file is made here, pixel by pixel."""

import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from perceptual_jax.io import decoding, images
from perceptual_jax.io.storage import FileError

RED, GREEN, WHITE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)
SUFFIXES_THAT_LOSE_NOTHING = [".png", ".tif", ".tiff", ".bmp"]
SUFFIXES_WITH_SETTINGS = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"]


def noise(*shape: int, levels: int = 256) -> np.ndarray:
    return (
        np.random.default_rng(0)
        .integers(0, levels, shape)
        .astype(np.uint16 if levels > 256 else np.uint8)
    )


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps well: (H, W, 3) uint8, a different ramp in each channel."""
    y, x = np.mgrid[:height, :width]
    ramps = [x / (width - 1), y / (height - 1), (x + y) / (width + height - 2)]
    return np.rint(255 * np.stack(ramps, axis=-1)).astype(np.uint8)


def png(pixels: np.ndarray, colour_type: int, *, extra: bytes = b"", size: Any = None) -> bytes:
    """A PNG of 16 bits by hand, as Pillow writes none in colour; `size` lies about (W, H)."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", *(size or (width, height)), 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [png_chunk(b"IHDR", header), extra, png_chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def icc_profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 ICC profile of a display (or printer, for CMYK): header, table of tags, data."""
    tags = {b"wtpt": icc_xyz(0.9642, 1.0, 0.8249)} | tags
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, offset + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", offset + len(data), b"", 0x02100000, kind, space, connection
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


def icc_xyz(*xyz: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">iii", *(round(v * 65536) for v in xyz))


def icc_gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(columns: str, gamma: float) -> bytes:
    """sRGB's primaries (D50, as ICC wants them) in the order of `columns`, and a gamma curve."""
    primaries = {
        "r": icc_xyz(0.4360747, 0.2225045, 0.0139322),
        "g": icc_xyz(0.3850649, 0.7168786, 0.0971045),
        "b": icc_xyz(0.1430804, 0.0606169, 0.7141733),
    }
    tags = {
        f"{name}XYZ".encode(): primaries[column]
        for name, column in zip("rgb", columns, strict=True)
    }
    return icc_profile(
        b"RGB ", b"XYZ ", tags | {f"{name}TRC".encode(): icc_gamma(gamma) for name in "rgb"}
    )


def srgb_encoded(linear: np.ndarray) -> np.ndarray:
    """The sRGB curve of IEC 61966-2-1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def alpha_of(path: Path) -> np.ndarray:
    alpha = images.read_picture(path).alpha
    assert alpha is not None
    assert alpha.dtype == np.float32
    return alpha


# --- reading: what the pixels are ---------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES_THAT_LOSE_NOTHING)
def test_eight_bit_colours_are_read_exactly(tmp_path, suffix):
    pixels = noise(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    image = images.read(tmp_path / f"a{suffix}")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, pixels.astype(np.float32) / 255)


@pytest.mark.parametrize("options", [("JPEG", {"quality": 100}), ("WEBP", {"lossless": True})])
def test_the_content_tells_the_format_not_the_suffix(tmp_path, options):
    pixels = smooth(16, 24)
    Image.fromarray(pixels).save(tmp_path / "a.png", options[0], **options[1])
    np.testing.assert_allclose(images.read(tmp_path / "a.png"), pixels / 255, atol=0.05)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = images.read_picture(tmp_path / "a.gif")
    np.testing.assert_array_equal(picture.rgb, np.full((3, 4, 3), RED, np.float32))
    assert picture.alpha is None


ORIENTATIONS = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    stored = smooth(16, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a{suffix}", exif=exif, quality=100)
    expected = ORIENTATIONS[orientation](stored) / 255
    image = images.read(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(
        image, expected, atol=0 if suffix in (".png", ".tif") else 0.05, rtol=1e-6
    )


def test_orientation_applies_to_alpha_and_to_sixteen_bits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba, grey = noise(3, 5, 4), noise(3, 5, levels=65536)
    Image.fromarray(rgba).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(grey).save(tmp_path / "b.png", exif=exif)
    np.testing.assert_allclose(
        alpha_of(tmp_path / "a.png"), np.rot90(rgba[..., 3], -1) / 255, rtol=1e-6
    )
    np.testing.assert_allclose(
        images.read(tmp_path / "b.png")[..., 1], np.rot90(grey, -1) / 65535, rtol=1e-6
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16"])
def test_orientation_applies_to_every_mode_of_tiff(tmp_path, mode):
    """Pillow reads the uncompressed ones of some modes in another way."""
    stored = noise(3, 5, levels=65536) if mode == "I;16" else noise(3, 5, 4)
    image = Image.fromarray(stored)
    if mode in ("L", "CMYK"):
        image = image.convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "plain.tif")
    image.save(tmp_path / "turned.tif", exif=exif)
    np.testing.assert_array_equal(
        images.read(tmp_path / "turned.tif"), np.rot90(images.read(tmp_path / "plain.tif"), -1)
    )


def test_broken_exif_does_not_hide_the_pixels(tmp_path):
    pixels = noise(3, 4, 3)
    Image.fromarray(pixels).save(
        tmp_path / "a.png", exif=b"Exif\0\0MM\0*nonsense" + bytes(range(60))
    )
    np.testing.assert_allclose(images.read(tmp_path / "a.png"), pixels / 255, rtol=1e-6)


def test_grey_becomes_three_equal_channels(tmp_path):
    pixels = noise(4, 6)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_allclose(
        images.read(tmp_path / "a.png"), np.stack([pixels / 255] * 3, -1), rtol=1e-6
    )


def test_one_bit_is_black_and_white(tmp_path):
    pixels = noise(4, 9, levels=2).astype(bool)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        images.read(tmp_path / "a.png")[..., 0], pixels.astype(np.float32)
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_read_in_full(tmp_path, suffix):
    pixels = noise(4, 6, levels=65536)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    image = images.read(tmp_path / f"a{suffix}")
    assert image.shape == (4, 6, 3)
    np.testing.assert_array_equal(np.rint(image[..., 2].astype(np.float64) * 65535), pixels)


def test_sixteen_bit_colour_keeps_its_upper_eight_bits(tmp_path):
    pixels = noise(4, 6, 3, levels=65536)
    (tmp_path / "a.png").write_bytes(png(pixels, colour_type=2))
    np.testing.assert_allclose(images.read(tmp_path / "a.png"), (pixels >> 8) / 255, rtol=1e-6)


def grey_tiff(
    path: Path, values: np.ndarray, *, bits: int, signed: bool = False, white_is_zero: bool = False
) -> Path:
    """An uncompressed TIFF as scanners and microscopes write it."""
    height, width = values.shape
    data = values.tobytes()
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 0 if white_is_zero else 1),
        (273, 8 + 2 + 12 * 10 + 4),
        (277, 1),
        (278, height),
        (279, len(data)),
        (339, 3 if values.dtype.kind == "f" else 2 if signed else 1),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(header + directory + bytes(4) + data)
    return path


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (np.array([[0, 13107, 65535]], "<u2"), {"bits": 16}, [0, 0.2, 1]),
        (
            np.array([[0, 13107, 65535]], "<u2"),
            {"bits": 16, "white_is_zero": True},
            [1, 0.8, 0],
        ),
        (np.array([[0, 32767]], "<i2"), {"bits": 16, "signed": True}, [0, 1]),
        # Two values of 12 bits in three bytes: 0 and 4095.
        (np.array([[0x00, 0x0F, 0xFF]], "u1"), {"bits": 12}, [0, 1]),
        (np.array([[0, 0.25, 1]], "<f4"), {"bits": 32}, [0, 0.25, 1]),
        (np.array([[0, 51, 255]], "<f4"), {"bits": 32}, [0, 0.2, 1]),
        (np.array([[0, 0.25, 1]], "<f4"), {"bits": 32, "white_is_zero": True}, [1, 0.75, 0]),
    ],
    ids=["16 bits", "white is 0", "signed", "12 bits", "floats", "floats of 0..255", "float white"],
)
def test_grey_tiff_says_what_white_is(tmp_path, values, options, expected):
    path = grey_tiff(tmp_path / "a.tif", values, **options)
    if options["bits"] == 12:
        content = bytearray(path.read_bytes())
        content[18:22] = struct.pack("<I", 2)  # The width: two values in three bytes.
        path.write_bytes(content)
    np.testing.assert_allclose(images.read(path)[0, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.array([[-1000, 5]], "<i2"), {"bits": 16, "signed": True}, "from -1000 to 5"),
        (np.array([[0, 4000.0]], "<f4"), {"bits": 32}, "up to 4000"),
        (np.array([[0, np.inf]], "<f4"), {"bits": 32}, "up to inf"),
    ],
)
def test_grey_tiff_without_a_known_white_is_refused(tmp_path, values, options, message):
    path = grey_tiff(tmp_path / "a.tif", values, **options)
    with pytest.raises(FileError, match=message) as error:
        images.read(path)
    assert one_line(error, path)


def test_a_tiff_whose_strips_end_before_the_picture_is_incomplete(tmp_path):
    """Of a few bytes: Pillow alone would make 3 x 50 million black pixels of it."""
    path = grey_tiff(tmp_path / "a.tif", np.array([[0, 1, 2]], "u1"), bits=8)
    content = path.read_bytes().replace(
        struct.pack("<HHII", 257, 4, 1, 1), struct.pack("<HHII", 257, 4, 1, 50_000_000)
    )
    path.write_bytes(content)
    with pytest.raises(FileError, match="its pixels end before the picture does"):
        images.read(path)


def test_a_tiff_that_pillow_cannot_read_says_what_kind_it_may_be(tmp_path):
    path = grey_tiff(tmp_path / "a.tif", np.ones((2, 2), "<f8"), bits=64)
    with pytest.raises(FileError, match="8 or 16 bits a channel"):
        images.read(path)


def test_integers_in_32_bits_count_as_sixteen_or_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 65535, 13107]], np.int32)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(images.read(tmp_path / "a.tif")[0, :, 0], [0, 1, 0.2], rtol=1e-6)
    Image.fromarray(np.array([[0, 65536]], np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(FileError, match="from 0 to 65536"):
        images.read(tmp_path / "b.tif")


def test_float_tiff_is_clipped_and_nan_refused(tmp_path):
    Image.fromarray(np.array([[-1, 0.25, 3]], np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif")[0, :, 0], [0, 0.25, 1])
    Image.fromarray(np.array([[np.nan, 0.5]], np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(FileError, match="NaN"):
        images.read(tmp_path / "b.tif")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_read(tmp_path):
    Image.fromarray(smooth(32, 48)).save(tmp_path / "a.avif", quality=95)
    image = images.read(tmp_path / "a.avif")
    np.testing.assert_allclose(image, smooth(32, 48) / 255, atol=0.05)


def test_heic_without_its_package_says_which_one(tmp_path):
    """Where pillow-heif is installed, what is no more than a header is damaged."""
    (tmp_path / "a.heic").write_bytes(bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(60))
    with pytest.raises(FileError, match=r"pillow-heif|damaged|not a picture"):
        images.read(tmp_path / "a.heic")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_a_pipe_is_read_and_a_device_is_not(tmp_path):
    pixels = noise(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "fifo")
    content = (tmp_path / "a.png").read_bytes()
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(content))
    writer.start()
    image = images.read(tmp_path / "fifo")
    writer.join()
    np.testing.assert_allclose(image, pixels / 255, rtol=1e-6)
    with pytest.raises(FileError, match="device"):
        images.read("/dev/zero")


# --- reading: transparency ----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_transparent_parts_are_composited_over_white(tmp_path, suffix):
    Image.fromarray(np.array([[[255, 0, 51, 51], [9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8)).save(
        tmp_path / f"a{suffix}"
    )
    picture = images.read_picture(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(alpha_of(tmp_path / f"a{suffix}"), [[0.2, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(picture.rgb[0, ::2], [(1, 0, 0.2), [9 / 255] * 3], atol=1e-6)
    assert picture.rgb.dtype == np.float32
    # Alpha 51/255 is 0.2: 0.2 * (1, 0, 0.2) + 0.8.
    over_white = [(1, 0.8, 0.84), WHITE, [9 / 255] * 3]
    np.testing.assert_allclose(images.read(tmp_path / f"a{suffix}")[0], over_white, atol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_reading_and_writing_keeps_every_pixel_and_its_alpha(tmp_path, suffix):
    pixels = noise(16, 16, 4)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", lossless=True, exact=True)
    picture = images.read_picture(tmp_path / f"a{suffix}")
    images.write(tmp_path / "b.png", picture.rgb, alpha=picture.alpha)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), pixels)


def test_transparent_parts_continue_the_colours_of_visible_ones():
    """A half of a picture is red, the other transparent and black, and nothing of that remains."""
    rgb = np.zeros((20, 31, 3), np.float32)
    rgb[:, :15] = (0.8, 0.1, 0.1)
    alpha = np.zeros((20, 31), np.float32)
    alpha[:, :15] = 1.0
    filled = images.Picture(rgb, alpha).fill_transparent()
    np.testing.assert_allclose(filled.rgb, np.broadcast_to([0.8, 0.1, 0.1], rgb.shape), atol=1e-6)
    np.testing.assert_array_equal(filled.alpha, alpha)


def test_filling_keeps_what_is_visible_and_a_picture_without_it():
    rgb = smooth(8, 9).astype(np.float32) / 255
    alpha = np.zeros((8, 9), np.float32)
    picture = images.Picture(rgb, alpha)
    np.testing.assert_array_equal(picture.fill_transparent().rgb, rgb)
    alpha[2:5, 3:4] = 0.25
    np.testing.assert_array_equal(picture.fill_transparent().rgb[2:5, 3:4], rgb[2:5, 3:4])
    assert images.Picture(rgb, None).fill_transparent().rgb is rgb


def test_resizing_mixes_no_transparent_colour_into_a_soft_edge(tmp_path):
    rgb = np.zeros((40, 40, 3), np.float32)
    rgb[:, :23] = (0.2, 0.6, 0.4)
    alpha = np.zeros((40, 40), np.float32)
    alpha[:, :20], alpha[:, 20:23] = 1.0, (0.75, 0.5, 0.25)
    for side in (17, 90):
        fitted = images.Picture(rgb, alpha).fit(side)
        np.testing.assert_allclose(
            fitted.rgb, np.broadcast_to([0.2, 0.6, 0.4], fitted.rgb.shape), atol=1e-5
        )


def test_grey_with_alpha(tmp_path):
    Image.fromarray(np.array([[[0, 51], [255, 255]]], np.uint8), "LA").save(tmp_path / "a.png")
    np.testing.assert_allclose(images.read(tmp_path / "a.png")[0], [[0.8] * 3, WHITE], rtol=1e-6)
    np.testing.assert_allclose(alpha_of(tmp_path / "a.png"), [[0.2, 1]], rtol=1e-6)


def test_an_alpha_channel_that_is_opaque_everywhere_is_none(tmp_path):
    Image.new("RGBA", (3, 2), (1, 2, 3, 255)).save(tmp_path / "a.png")
    assert images.read_picture(tmp_path / "a.png").alpha is None


@pytest.mark.parametrize(
    ("transparency", "alpha"),
    [(None, None), (0, [0, 1, 1]), (bytes([51, 255, 0]), [0.2, 1, 0])],
    ids=["opaque", "one transparent colour", "an alpha for each colour"],
)
def test_palette(tmp_path, transparency, alpha):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 255, 255, 255])
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    picture = images.read_picture(tmp_path / "a.png")
    weights = np.array(alpha or [1, 1, 1])[:, None]
    np.testing.assert_allclose(
        images.read(tmp_path / "a.png")[0],
        np.array([RED, GREEN, WHITE]) * weights + 1 - weights,
        atol=1e-6,
    )
    assert (picture.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_allclose(alpha_of(tmp_path / "a.png"), [alpha], rtol=1e-6)


def test_one_transparent_value_in_sixteen_bit_grey(tmp_path):
    key = png_chunk(b"tRNS", struct.pack(">H", 40000))
    (tmp_path / "a.png").write_bytes(png(np.array([[40000, 40001]]), colour_type=0, extra=key))
    np.testing.assert_array_equal(alpha_of(tmp_path / "a.png"), [[0, 1]])
    image = images.read(tmp_path / "a.png")
    np.testing.assert_allclose(image[0, :, 0], [1, 40001 / 65535], rtol=1e-6)


# --- reading: colour spaces ---------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_cmyk_without_a_profile(tmp_path, suffix):
    # (1 - C)(1 - K): full cyan, half magenta, no ink, half black.
    inks = [(255, 0, 0, 0), (0, 128, 0, 0), (0, 0, 0, 0), (0, 0, 0, 128)]
    for number, ink in enumerate(inks):
        Image.new("CMYK", (8, 8), ink).save(tmp_path / f"{number}{suffix}")
        c, m, y, k = np.array(ink) / 255
        expected = np.array([(1 - c) * (1 - k), (1 - m) * (1 - k), (1 - y) * (1 - k)])
        image = images.read(tmp_path / f"{number}{suffix}")
        np.testing.assert_allclose(image, np.broadcast_to(expected, (8, 8, 3)), atol=2 / 255)


def test_an_rgb_profile_is_converted_to_srgb(tmp_path):
    pixels = noise(4, 6, 3)
    linear = rgb_profile("rgb", gamma=1.0)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=linear)
    np.testing.assert_allclose(
        images.read(tmp_path / "a.png"), srgb_encoded(pixels / 255), atol=1.5 / 255
    )


def test_a_profile_with_its_primaries_swapped_swaps_the_channels(tmp_path):
    pixels = noise(4, 6, 4)
    pixels[..., :3] = 255 * (pixels[..., :3] > 127)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=rgb_profile("gbr", gamma=2.2))
    picture = images.read_picture(tmp_path / "a.png")
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(picture.rgb, pixels[..., [2, 0, 1]] / 255, atol=1.5 / 255)
    np.testing.assert_allclose(alpha_of(tmp_path / "a.png"), alpha[..., 0], rtol=1e-6)


def test_an_srgb_profile_changes_nothing(tmp_path):
    pixels = noise(4, 6, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=srgb)
    np.testing.assert_allclose(images.read(tmp_path / "a.png"), pixels / 255, atol=1.5 / 255)


@pytest.mark.parametrize("channels", [(), (2,)], ids=["grey", "grey and alpha"])
@pytest.mark.parametrize("kind", ["grey profile", "rgb profile"])
def test_grey_files_may_carry_a_grey_or_an_rgb_profile(tmp_path, kind, channels):
    pixels = noise(4, 6, *channels)
    if kind == "grey profile":
        profile = icc_profile(b"GRAY", b"XYZ ", {b"kTRC": icc_gamma(1.8)})
    else:
        profile = rgb_profile("rgb", gamma=1.8)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    alpha = pixels[..., 1] / 255 if channels else np.ones((4, 6))
    grey = srgb_encoded(((pixels[..., 0] if channels else pixels) / 255) ** 1.8)
    expected = np.stack([grey * alpha + 1 - alpha] * 3, axis=-1)
    np.testing.assert_allclose(images.read(tmp_path / "a.png"), expected, atol=1.5 / 255)


def test_a_cmyk_profile_decides_what_the_inks_look_like(tmp_path):
    # A table with two nodes per ink into Lab: cyan prints black, the other inks print nothing.
    lab = np.zeros((2, 2, 2, 2, 3), np.uint8)
    lab[..., 1:] = 128
    lab[0, ..., 0] = 255
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + matrix
        + identity * 4
        + lab.tobytes()
        + identity * 3
    )
    profile = icc_profile(b"CMYK", b"Lab ", {b"A2B0": table})
    for ink, expected in [((0, 0, 0, 0), 1.0), ((255, 0, 0, 0), 0.0), ((0, 255, 255, 255), 1.0)]:
        Image.new("CMYK", (4, 4), ink).save(tmp_path / "a.tif", icc_profile=profile)
        image = images.read(tmp_path / "a.tif")
        np.testing.assert_allclose(image, np.full((4, 4, 3), expected), atol=2 / 255)


@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile",
        rgb_profile("gbr", 2.2)[:150],
        icc_profile(b"GRAY", b"XYZ ", {b"kTRC": icc_gamma(1)}),
    ],
    ids=["nonsense", "cut short", "of another kind"],
)
def test_a_profile_that_cannot_apply_is_ignored(tmp_path, profile):
    pixels = noise(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_allclose(images.read(tmp_path / "a.png"), pixels / 255, rtol=1e-6)


# --- reading: masks -----------------------------------------------------------------------


def test_a_mask_is_luminance_times_alpha(tmp_path):
    pixels = [
        (255, 255, 255, 255),
        (0, 0, 0, 0),
        (255, 255, 255, 51),
        (255, 0, 0, 255),
        (102, 102, 102, 255),
    ]
    Image.fromarray(np.array([pixels], np.uint8)).save(tmp_path / "a.png")
    mask = images.read_mask(tmp_path / "a.png")
    assert mask.dtype == np.float32
    np.testing.assert_allclose(mask, [[1, 0, 0.2, 0.2126, 0.4]], rtol=1e-6)
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(images.read_mask(tmp_path / "b.png"), [[0, 1]])


# --- reading: photos to train on ----------------------------------------------------------


def photo_of(path: Path, **options: Any) -> np.ndarray:
    return images.read_photo(path.read_bytes(), str(path), **options)


def test_a_photo_of_the_size_that_is_needed_is_read_exactly(tmp_path):
    pixels = noise(20, 31, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    photo = photo_of(tmp_path / "a.png", short_side=20)
    assert photo.dtype == np.uint8
    np.testing.assert_array_equal(photo, pixels)


@pytest.mark.parametrize(
    ("size", "short_side", "enlarge", "expected"),
    [
        ((100, 150), 40, True, (40, 60)),
        ((150, 100), 40, True, (60, 40)),
        ((30, 45), 40, True, (40, 60)),
        ((30, 45), 40, False, (30, 45)),
        ((100, 150), 40, False, (40, 60)),
        ((427, 640), 288, True, (288, 432)),  # 431.66
    ],
)
def test_the_short_side_of_a_photo(tmp_path, size, short_side, enlarge, expected):
    Image.fromarray(smooth(*size)).save(tmp_path / "a.png")
    photo = photo_of(tmp_path / "a.png", short_side=short_side, enlarge=enlarge)
    assert photo.shape == (*expected, 3)
    np.testing.assert_allclose(photo / 255.0, smooth(*expected) / 255, atol=0.02)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "I;16", "F"])
def test_a_photo_is_understood_as_a_picture_is(tmp_path, mode):
    image = Image.fromarray(smooth(48, 64))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(smooth(48, 64)[..., 1]))
    elif mode == "I;16":
        image = Image.fromarray(smooth(48, 64)[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(smooth(48, 64)[..., 0].astype(np.float32) / 255)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.tif", exif=exif)
    expected = images.resize(images.read(tmp_path / "a.tif"), (32, 24))
    photo = photo_of(tmp_path / "a.tif", short_side=24)
    # A rounding before and after the filter, and of alpha or of black.
    np.testing.assert_allclose(photo / 255.0, expected, atol=2.5 / 255)


def test_a_photo_with_a_profile_is_converted_to_srgb(tmp_path):
    linear = rgb_profile("rgb", gamma=1.0)
    Image.fromarray(np.full((20, 30, 3), 100, np.uint8)).save(
        tmp_path / "a.png", icc_profile=linear
    )
    photo = photo_of(tmp_path / "a.png", short_side=16)
    expected = srgb_encoded(np.full((16, 24, 3), 100 / 255))
    np.testing.assert_allclose(photo / 255.0, expected, atol=1.5 / 255)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path, monkeypatch):
    decoded = []
    upright = decoding.upright

    def noted(image: Image.Image) -> Image.Image:
        decoded.append(image.size)
        return upright(image)

    monkeypatch.setattr(decoding, "upright", noted)
    Image.fromarray(smooth(800, 1200)).save(tmp_path / "a.jpg", quality=95)
    photo = photo_of(tmp_path / "a.jpg", short_side=50)
    # An eighth would be 100, twice what is needed.
    assert decoded == [(150, 100)]
    np.testing.assert_allclose(photo / 255.0, smooth(50, 75) / 255, atol=0.03)


def test_a_photo_is_resized_with_antialiasing(tmp_path):
    # Every eighth column is white: a filter without antialiasing would see all or nothing of it.
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[:, ::8] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    photo = photo_of(tmp_path / "a.png", short_side=16)
    np.testing.assert_allclose(photo[:, 1:-1], 255 / 8, atol=5)


@pytest.mark.parametrize(("short_side", "expected"), [(10, (10, 15)), (40, (40, 60))])
def test_the_fewest_pixels_are_those_of_the_file(tmp_path, short_side, expected):
    Image.fromarray(smooth(20, 30)).save(tmp_path / "a.png")
    photo = photo_of(tmp_path / "a.png", short_side=short_side, least=20)
    assert photo.shape == (*expected, 3)
    with pytest.raises(FileError, match=r"a\.png is too small, 30x20: leave it out"):
        photo_of(tmp_path / "a.png", short_side=short_side, least=21)


def test_fewer_pixels_than_by_default_may_do(tmp_path):
    Image.fromarray(noise(5, 7, 3)).save(tmp_path / "a.png")
    assert photo_of(tmp_path / "a.png", short_side=5, least=5).shape == (5, 7, 3)
    with pytest.raises(FileError, match="too small, 7x5"):
        photo_of(tmp_path / "a.png", short_side=5)


# Which is not silenced, and would be an error here.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture"),
        (b"a thousand words\n" * 100, "not a picture"),
        (png(noise(1, 1, 3), colour_type=2, size=(13_300, 13_300)), "larger than 175 megapixels"),
        (png(noise(1, 1, 3), colour_type=2, size=(60_000, 60_000)), "larger than 175 megapixels"),
        (png(noise(20, 20, 3), colour_type=2)[:-200], "damaged or incomplete"),
        (png(noise(15, 20, 3), colour_type=2), "too small, 20x15"),
        (png(noise(16, 257, 3), colour_type=2), "a strip, 257x16"),
    ],
    ids=["empty", "text", "huge", "bomb", "cut short", "small", "strip"],
)
def test_what_is_no_photo_is_reported_in_one_line(content, message):
    with pytest.raises(FileError, match=message) as error:
        images.read_photo(content, "gs://bucket/a.png", short_side=16)
    assert str(error.value).startswith("gs://bucket/a.png is ")
    assert "\n" not in str(error.value)


def test_reading_a_photo_leaves_the_filters_of_warnings_alone(tmp_path):
    """Threads would put them back in the wrong order."""
    Image.fromarray(noise(20, 20, 3)).save(tmp_path / "a.png")
    before = warnings.filters
    photo_of(tmp_path / "a.png", short_side=20)
    assert warnings.filters is before


def test_an_encoded_photo_reads_as_it_was():
    photo = smooth(32, 48)
    fine, coarse = (images.encode_jpeg(photo, quality=quality) for quality in (95, 30))
    assert len(coarse) < len(fine)
    read = images.read_photo(fine, "a", short_side=32)
    np.testing.assert_allclose(read.astype(float), photo, atol=12)


# --- reading: what goes wrong -------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[FileError], path: Path) -> bool:
    return str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "function", [images.read, images.read_picture, images.read_mask, images.read_settings]
)
def test_what_is_not_a_picture_is_reported_in_one_line(tmp_path, function):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("a thousand words\n" * 100)
    for name, message in [
        ("missing.png", "there is no file"),
        ("", "is a folder"),
        ("empty.png", "is empty"),
        ("text.jpg", "not a picture that can be read"),
    ]:
        with pytest.raises(FileError, match=message) as error:
            function(tmp_path / name)
        assert one_line(error, tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_file_cut_short_is_reported_in_one_line(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FileError, match=r"cut short|incomplete") as error:
        images.read(path)
    assert one_line(error, path)


@pytest.mark.parametrize("size", [(13_300, 13_300), (60_000, 60_000)], ids=["ours", "Pillow's"])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png(noise(1, 1, 3), colour_type=2, size=size))
    with pytest.raises(FileError, match="larger than 175 megapixels") as error:
        images.read(tmp_path / "a.png")
    assert one_line(error, tmp_path / "a.png")


def test_a_large_picture_below_the_limit_is_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow warns above it, refuses twice it.
    Image.new("RGB", (6, 5), "red").save(tmp_path / "a.png")
    assert images.read(tmp_path / "a.png").shape == (5, 6, 3)


# --- sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "long_side", "expected"),
    [
        ((100, 200), 50, (25, 50)),
        ((200, 100), 50, (50, 25)),
        ((333, 500), 512, (341, 512)),  # 340.99
        ((30, 40), 80, (60, 80)),
        ((1, 1000), 10, (1, 10)),
        ((7, 7), 7, (7, 7)),
    ],
)
def test_size_for(size, long_side, expected):
    assert images.size_for(size, long_side) == expected


def test_fit_keeps_the_aspect_of_colours_and_alpha():
    rgb = smooth(20, 30).astype(np.float32) / np.float32(255)
    picture = images.Picture(rgb, np.ones((20, 30), np.float32))
    fitted = picture.fit(60)
    np.testing.assert_array_equal(fitted.rgb, images.resize(picture.rgb, (40, 60)))
    assert fitted.alpha is not None
    assert fitted.alpha.shape == (40, 60)
    assert images.Picture(picture.rgb, None).fit(60).alpha is None


def test_eight_bits_are_the_nearest_levels():
    values = np.array([-0.2, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 1.3], np.float32)
    assert images.eight_bits(values).tolist() == [0, 0, 0, 1, 255, 255]


def test_resize_keeps_a_constant_and_the_rank():
    for shape in [(20, 30), (20, 30, 3), (20, 30, 5)]:
        for size in [(7, 11), (40, 61)]:
            result = images.resize(np.full(shape, 0.3, np.float32), size)
            assert result.shape == size + shape[2:]
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, 0.3, rtol=1e-5)


def test_resize_to_the_same_size_is_the_identity():
    image = noise(5, 6, 3).astype(np.float32) / 255
    np.testing.assert_array_equal(images.resize(image, (5, 6)), image)


def test_resize_is_antialiased():
    # Every eighth column is white: a filter without antialiasing would see all or nothing of it.
    image = np.zeros((64, 64), np.float32)
    image[:, ::8] = 1.0
    np.testing.assert_allclose(images.resize(image, (8, 8))[:, 1:-1], 1 / 8, atol=0.02)


def test_resize_clips_the_overshoot_of_the_filter():
    step = np.zeros((8, 8, 3), np.float32)
    step[:, 4:] = 1.0
    result = images.resize(step, (32, 32))
    assert result.min() == 0.0
    assert result.max() == 1.0


# --- writing ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES_THAT_LOSE_NOTHING)
@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_write_rounds_to_the_nearest_of_256_levels(tmp_path, suffix, shape):
    image = np.random.default_rng(0).uniform(-0.2, 1.2, shape)
    images.write(tmp_path / f"a{suffix}", image)
    stored = np.asarray(Image.open(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(stored, np.floor(np.clip(image, 0, 1) * 255 + 0.5))


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_write_formats_that_lose_a_little(tmp_path, suffix):
    image = smooth(32, 48).astype(np.float32) / 255
    images.write(tmp_path / f"a{suffix}", image)
    np.testing.assert_allclose(images.read(tmp_path / f"a{suffix}"), image, atol=0.05)


def test_jpeg_keeps_colour_at_full_resolution_and_follows_the_quality(tmp_path):
    image = noise(64, 64, 3).astype(np.float32) / 255
    images.write(tmp_path / "fine.jpg", image)
    images.write(tmp_path / "coarse.jpg", image, quality=30)
    assert np.abs(images.read(tmp_path / "fine.jpg") - image).mean() < 0.02
    assert (tmp_path / "coarse.jpg").stat().st_size < (tmp_path / "fine.jpg").stat().st_size / 2


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 6)])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_kept_where_the_format_can(tmp_path, suffix, shape):
    alpha = noise(4, 6).astype(np.float32) / 255
    images.write(tmp_path / f"a{suffix}", np.zeros(shape), alpha=alpha)
    np.testing.assert_allclose(alpha_of(tmp_path / f"a{suffix}"), alpha, atol=1e-6)
    over_white = np.stack([1 - alpha] * 3, -1)
    np.testing.assert_allclose(images.read(tmp_path / f"a{suffix}"), over_white, atol=1e-6)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_alpha_becomes_white_where_the_format_cannot(tmp_path, suffix):
    images.write(tmp_path / f"a{suffix}", np.zeros((8, 8, 3)), alpha=np.full((8, 8), 0.2))
    np.testing.assert_allclose(images.read(tmp_path / f"a{suffix}"), 0.8, atol=2 / 255)


SETTINGS = {
    "mode": "gatys",
    "steps": 500,
    "weights": {"relu1_1": 0.2},
    "style": "tempête.jpg",
    "tv": None,
}


@pytest.mark.parametrize("suffix", SUFFIXES_WITH_SETTINGS)
@pytest.mark.parametrize("alpha", [None, np.full((8, 8), 0.2)])
def test_settings_come_back(tmp_path, suffix, alpha):
    images.write(tmp_path / f"a{suffix}", np.zeros((8, 8, 3)), alpha=alpha, settings=SETTINGS)
    assert images.read_settings(tmp_path / f"a{suffix}") == SETTINGS


def test_png_says_what_made_it(tmp_path):
    images.write(tmp_path / "a.png", np.zeros((2, 2)), settings={"output": Path("b.png")})
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["Software"].startswith("perceptual_jax ")
        assert image.info["perceptual_jax"] == '{"output": "b.png"}'


def test_files_without_settings_have_none(tmp_path):
    images.write(tmp_path / "a.bmp", np.zeros((2, 2)), settings=SETTINGS)
    images.write(tmp_path / "a.png", np.zeros((2, 2)))
    exif = Image.Exif()
    exif[0x010E], exif[0x0131] = '{"a": 1}', "a camera"
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg", exif=exif)
    for name in ("a.bmp", "a.png", "a.jpg"):
        assert images.read_settings(tmp_path / name) is None


def test_write_makes_folders_and_leaves_only_the_file(tmp_path):
    images.write(tmp_path / "a" / "b" / "c.png", np.zeros((2, 2)))
    images.write(str(tmp_path / "a" / "b" / "c.png"), np.ones((2, 2)))
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.png"]
    np.testing.assert_array_equal(images.read(tmp_path / "a" / "b" / "c.png"), 1)


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    images.write(tmp_path / "a.png", np.zeros((2, 2)))
    before = (tmp_path / "a.png").read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(FileError, match="No space left") as error:
        images.write(tmp_path / "a.png", np.ones((2, 2)))
    assert one_line(error, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits are POSIX's")
def test_permissions_follow_the_umask(tmp_path):
    umask = os.umask(0o027)
    try:
        images.write(tmp_path / "a.png", np.zeros((2, 2)))
    finally:
        os.umask(umask)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("suffix", "largest"), [(".webp", 16_383), (".jpg", 65_500)])
def test_what_a_format_cannot_hold_is_reported(tmp_path, suffix, largest):
    images.write(tmp_path / f"a{suffix}", np.zeros((1, largest)))
    for size in [(1, largest + 1), (largest + 1, 1)]:
        with pytest.raises(FileError, match=rf"{largest}.*\.png"):
            images.write(tmp_path / f"b{suffix}", np.zeros(size))
        with pytest.raises(FileError, match=rf"{largest}.*\.png"):
            images.check_size(tmp_path / f"b{suffix}", size)
        images.check_size(tmp_path / "b.png", size)


@pytest.mark.parametrize(
    "function", [images.check_writable, lambda path: images.write(path, np.zeros((2, 2)))]
)
def test_paths_that_cannot_be_written(tmp_path, function):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name, message in [
        ("a.gif", r"\.png, \.jpg, \.jpeg, \.webp, \.tif, \.tiff, \.bmp"),
        ("a", "suffix"),
        ("folder.png", "is a folder"),
        ("file/a.png", "cannot write"),
    ]:
        with pytest.raises(FileError, match=message) as error:
            function(tmp_path / name)
        assert one_line(error, tmp_path / name)


def test_check_writable_makes_the_folder_and_touches_nothing(tmp_path):
    (tmp_path / "a.png").write_text("as it was")
    images.check_writable(tmp_path / "a.png")
    images.check_writable(tmp_path / "new" / "a.png")
    assert (tmp_path / "a.png").read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "new"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), "uint8"),
        (np.full((4, 4, 3), 128.0), "divide 0..255 by 255"),
        (np.zeros((1, 4, 4, 3)), "one at a time"),
        (np.zeros((3, 4, 4)), r"\(H, W, 3\)"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.zeros((0, 4, 3)), "empty"),
    ],
)
def test_write_refuses_arrays_that_are_not_images(tmp_path, image, message):
    with pytest.raises(ValueError, match=message):
        images.write(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_other_arguments_are_checked(tmp_path):
    image = np.zeros((4, 4, 3))
    with pytest.raises(ValueError, match=r"images\.resize"):
        images.write(tmp_path / "a.png", image, alpha=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="quality"):
        images.write(tmp_path / "a.jpg", image, quality=0)
    with pytest.raises(ValueError, match="uint8"):
        images.resize(image.astype(np.uint8), (2, 2))
    with pytest.raises(ValueError, match="at least 1"):
        images.resize(image, (0, 2))
    with pytest.raises(ValueError, match="at least 1"):
        images.read_photo(b"", "a", short_side=0)
    with pytest.raises(ValueError, match="at least 1"):
        images.size_for((10, 10), 0)
