"""Independent arithmetic for the tests: float64 NumPy, written from the definitions.

Nothing here imports the package, so that no mistake can be on both sides of a comparison.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

VGG16_DEPTHS = (2, 2, 3, 3, 3)
VGG19_DEPTHS = (2, 2, 4, 4, 4)
VGG_WIDTHS = (64, 128, 256, 512, 512)

Params = dict[str, dict[str, np.ndarray]]


def random_vgg(
    depths: Sequence[int] = VGG16_DEPTHS, widths: Sequence[int] = (4, 5, 6, 7, 8), seed: int = 0
) -> Params:
    """A VGG with He-initialised kernels and small biases; by default a tiny one."""
    generator = np.random.default_rng(seed)
    params: Params = {
        "normalization": {
            "mean": np.array([0.48, 0.46, 0.41], np.float32),
            "std": np.array([0.25, 0.2, 0.3], np.float32),
        }
    }
    inputs = 3
    for block, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        for index in range(1, depth + 1):
            kernel = generator.standard_normal((3, 3, inputs, width), np.float32)
            bias = generator.standard_normal(width, np.float32)
            params[f"conv{block}_{index}"] = {
                "kernel": kernel * np.float32(np.sqrt(2 / (9 * inputs))),
                "bias": bias * np.float32(0.1),
            }
            inputs = width
    return params


def random_alexnet(widths: Sequence[int] = (3, 4, 5, 4, 3), seed: int = 0) -> Params:
    """An AlexNet with He-initialised kernels and small biases, of these channels."""
    generator = np.random.default_rng(seed)
    params: Params = {"normalization": random_vgg((1,), (3,))["normalization"]}
    inputs = 3
    for index, (side, width) in enumerate(zip((11, 5, 3, 3, 3), widths, strict=True), start=1):
        kernel = generator.standard_normal((side, side, inputs, width), np.float32)
        params[f"conv{index}"] = {
            "kernel": kernel * np.float32(np.sqrt(2 / (side**2 * inputs))),
            "bias": generator.standard_normal(width, np.float32) * np.float32(0.1),
        }
        inputs = width
    return params


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    """Uniform noise in [0, 1]."""
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def random_variables(shapes: Any, seed: int = 0) -> Any:
    """Of a network, from the shapes of its variables, also where they begin as zeros and ones."""
    generator = np.random.default_rng(seed)

    def random(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        noise = generator.normal(size=leaf.shape).astype(np.float32)
        if name in ("bias", "mean"):
            return 0.1 * noise
        if name in ("scale", "var"):
            return np.exp(0.3 * noise)
        return noise * np.float32(1 / np.sqrt(np.prod(leaf.shape[:3])))

    return jax.tree_util.tree_map_with_path(random, shapes)


def convolve(images: np.ndarray, kernel: np.ndarray, padding: str) -> np.ndarray:
    """Cross-correlation of `(N, H, W, C)`: each output is a sum over its window."""
    rows, columns = kernel.shape[:2]
    if padding == "SAME":
        around = [(0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)]
        images = np.pad(images, around)
    windows = np.lib.stride_tricks.sliding_window_view(images, (rows, columns), axis=(1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows, kernel, optimize=True)


def bicubic(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic resizing of `(N, H, W, C)`, as floats: not rounded between the axes."""
    size, filter = (width, height), Image.Resampling.BICUBIC
    channels = np.moveaxis(np.asarray(images, np.float32), -1, 1)
    resized = [
        [np.asarray(Image.fromarray(channel).resize(size, filter)) for channel in image]
        for image in channels
    ]
    return np.moveaxis(np.array(resized), 1, -1)


def pool(images: np.ndarray, pooling: str) -> np.ndarray:
    """2x2 pooling of `(N, H, W, C)`, one block after the other."""
    count, height, width, channels = images.shape
    pooled = np.empty((count, height // 2, width // 2, channels), images.dtype)
    for y in range(height // 2):
        for x in range(width // 2):
            block = images[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            pooled[:, y, x] = block.max((1, 2)) if pooling == "max" else block.mean((1, 2))
    return pooled


def l2_pool(images: np.ndarray) -> np.ndarray:
    """Root of the weighted mean square of 3x3 windows, two apart, of `(N, H, W, C)`."""
    line = np.hanning(5)[1:-1]
    window = np.outer(line, line) / np.outer(line, line).sum()
    squares = np.pad(np.square(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(squares, (3, 3), axis=(1, 2))[:, ::2, ::2]
    return np.sqrt(np.einsum("nhwcij,ij->nhwc", windows, window))


def alexnet_features(params: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """`relu1` to `relu5` of the network for `(N, H, W, 3)`."""
    mean, std = (np.asarray(params["normalization"][part], np.float64) for part in ("mean", "std"))
    x = (np.asarray(images, np.float64) - mean) / std
    found = {}
    for index in range(1, 6):
        layer = params[f"conv{index}"]
        if index in (2, 3):
            windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
            x = windows[:, ::2, ::2].max((-2, -1))
        kernel = np.asarray(layer["kernel"], np.float64)
        if index == 1:
            x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
            x = convolve(x, kernel, "VALID")[:, ::4, ::4]
        else:
            x = convolve(x, kernel, "SAME")
        x = np.maximum(x + np.asarray(layer["bias"], np.float64), 0)
        found[f"relu{index}"] = x
    return found


def vgg_features(params: Any, images: np.ndarray, pooling: str) -> dict[str, np.ndarray]:
    """Every layer of the network for `(N, H, W, 3)`."""
    mean, std = (
        np.asarray(params["normalization"][part], np.float64).reshape(3) for part in ("mean", "std")
    )
    x = (np.asarray(images, np.float64) - mean) / std
    found = {}
    for block in range(1, 6):
        index = 1
        while f"conv{block}_{index}" in params:
            layer = params[f"conv{block}_{index}"]
            kernel = np.asarray(layer["kernel"], np.float64)
            x = convolve(x, kernel, "SAME") + np.asarray(layer["bias"], np.float64)
            found[f"conv{block}_{index}"] = x
            x = np.where(x > 0, x, 0)
            found[f"relu{block}_{index}"] = x
            index += 1
        x = pool(x, pooling)
        found[f"pool{block}"] = x
    return found


def gram(features: np.ndarray) -> np.ndarray:
    """`F F^T` of one `(H, W, C)`, not divided by anything."""
    channels_by_positions = np.asarray(features, np.float64).reshape(-1, features.shape[-1]).T
    return channels_by_positions @ channels_by_positions.T
