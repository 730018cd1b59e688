"""VGG-16 and VGG-19 features as a function of a parameter tree (Simonyan & Zisserman 2015).

Images are `(..., H, W, 3)`, RGB, in [0, 1]; the normalisation that the weights were trained with
is part of the tree, so that weights and preprocessing cannot be mismatched.  Layers have the
literature's names: `conv3_2` is the convolution's output before the ReLU, `relu3_2` after it,
`pool3` ends the third block.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from perceptual_jax.ops import conv, pad, pool
from perceptual_jax.ops.checks import as_images, check_large_enough
from perceptual_jax.ops.conv import FrozenKernel

Params = Mapping[str, Mapping[str, Any]]

# Of each the plain form, and the one for reverse mode alone.
POOLINGS = {
    "max": (pool.max_pool, pool.max_pool_reverse),
    "avg": (pool.average_pool, pool.average_pool_reverse),
}
# DISTS has its own, which keeps an odd last row or column.
_POOLINGS: dict[str, tuple[Callable[[jax.Array], jax.Array], ...]] = {
    **POOLINGS,
    "l2": (pool.l2_pool, pool.l2_pool),
}


def layer_names(params: Params) -> list[str]:
    """Every layer that `features` can give for these parameters, in order of computation."""
    names = []
    for block in range(1, 6):
        index = 1
        while f"conv{block}_{index}" in params:
            names += [f"conv{block}_{index}", f"relu{block}_{index}"]
            index += 1
        if index > 1:
            names.append(f"pool{block}")
    return names


def stride(layer: str) -> int:
    """Pixels per position of a layer: 2^(b - 1) in block b, 2^b at `pool<b>`."""
    match = re.fullmatch(r"(?:conv|relu)([1-5])_\d+|pool([1-5])", layer)
    if not match:
        raise ValueError(f"there is no layer {layer!r}: names are like conv3_2, relu3_2, pool3")
    block, pool_block = match.groups()
    return 2 ** int(pool_block) if pool_block else 2 ** (int(block) - 1)


def layer_shape(height_width: Sequence[int], layer: str) -> tuple[int, int]:
    """Height and width of a layer's activations for an image of `height_width` pixels."""
    height, width = height_width
    return height // stride(layer), width // stride(layer)


def smallest_side(layers: Iterable[str]) -> int:
    """The fewest pixels that both sides of an image need for all of `layers` to exist."""
    return max((stride(layer) for layer in layers), default=1)


def check_layers(params: Params, layers: Iterable[str]) -> None:
    """Raises `ValueError` for a layer that the network does not have."""
    known = layer_names(params)
    unknown = [layer for layer in layers if layer not in known]
    if unknown:
        raise ValueError(
            f"this network has no layer {', '.join(unknown)}; it has {', '.join(known)}"
        )


def freeze(params: Params, layers: Iterable[str], *, dtype: Any = jnp.float32) -> Params:
    """The network prepared for loops in which its parameters stay as they are.

    `features` of the result is faster, most of all its gradient inside a compiled loop.  What that
    gives up: forward-mode differentiation (`jax.jvp`, `jax.hessian`), the gradient with respect to
    the parameters, which is zero, and other platforms than this process's default backend.  Every
    kernel up to the deepest of `layers` becomes a `FrozenKernel`, two to four times as large.

    Args:
      params: VGG parameters; kernels that are frozen already are kept.
      layers: that will be asked for.
      dtype: that `features` will be asked to compute in.

    Raises:
      ValueError: a layer that the network does not have.
    """
    layers = tuple(layers)
    check_layers(params, layers)
    names = layer_names(params)
    count = max((names.index(layer) + 1 for layer in layers), default=0)
    result = dict(params)
    for name in names[:count]:
        if name.startswith("conv"):
            kernel = params[name]["kernel"]
            if not isinstance(kernel, FrozenKernel):
                kernel = conv.freeze(kernel, dtype=dtype)
            result[name] = {**params[name], "kernel": kernel}
    return result


def features(
    params: Params,
    images: ArrayLike,
    layers: Iterable[str],
    *,
    pooling: str = "max",
    dtype: Any = jnp.float32,
    size: Any = None,
) -> dict[str, jax.Array]:
    """Activations of the asked layers, computed no deeper than the deepest of them.

    Args:
      params: `{"normalization": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel":
        (3, 3, 3, 64), "bias": (64,)}, ...}`, as `perceptual_jax.load_vgg` gives it; whether
        it is VGG-16 or VGG-19 follows from its keys.
      images: `(..., H, W, 3)`, RGB, in [0, 1].
      layers: names such as `conv4_2`, `relu4_2`, `pool4`; see `layer_names`.
      pooling: `"max"` as trained; `"avg"`, which Gatys et al. 2015 prefer for synthesis; or `"l2"`,
        with which DISTS compares pictures (`ops.pool.l2_pool`).
      dtype: what convolutions compute in, `jnp.float32` or `jnp.bfloat16`; also that of the result.
      size: `(height, width)` of the pictures, if they are in the top left of `images` and the rest
        of these is filler, as in `ops.pad`: their activations are the same as without it, and zeros
        around them.

    Returns:
      For each layer, in order of computation, `(..., H', W', C)`.

    Raises:
      ValueError: wrong layout, dtype, range or layer name, or an image too small for a layer.
    """
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    check_layers(params, layers)
    images = as_images(images)
    if pooling not in _POOLINGS:
        raise ValueError(f"pooling must be 'max', 'avg' or 'l2', got {pooling!r}")
    *batch, height, width, _ = images.shape
    needed = smallest_side(layers)
    check_large_enough(height, width, needed, layers)

    mean, std = (
        jnp.asarray(params["normalization"][part], jnp.float32).reshape(1, 1, 1, 3)
        for part in ("mean", "std")
    )
    x = images.reshape(-1, height, width, 3)
    x = _without_filler(((x.astype(jnp.float32) - mean) / std).astype(dtype), size)
    found: dict[str, jax.Array] = {}
    for name in layer_names(params):
        if len(found) == len(set(layers)):
            break
        if name.startswith("conv"):
            layer = jax.tree.map(lambda values: jnp.asarray(values, dtype), dict(params[name]))
            frozen = isinstance(layer["kernel"], FrozenKernel)
            x = (conv.frozen_conv2d if frozen else conv.conv2d)(x, layer["kernel"])
            x = _without_filler(x + layer["bias"].reshape(1, 1, 1, -1), size)
        elif name.startswith("relu"):
            x = jax.nn.relu(x)
        else:
            x = _POOLINGS[pooling][frozen](x)
            odd = 1 if pooling == "l2" else 0
            size = size and [(side + odd) // 2 for side in size]
            x = _without_filler(x, size)
        if name in layers:
            found[name] = x
    return {name: x.reshape(*batch, *x.shape[1:]) for name, x in found.items()}


def _without_filler(x: jax.Array, size: Any) -> jax.Array:
    """Zeros beside pictures of a size, as around them: every convolution pads with zeros."""
    return x if size is None else jnp.where(pad.inside_of(x.shape, size), x, jnp.zeros((), x.dtype))


def layer_sizes(
    params: Params, layers: Iterable[str], *, pooling: str = "max"
) -> dict[str, jax.Array]:
    """How large the activations of layers are: their root mean square on one coloured noise.

    The noise has the spectrum of photos, 1/f, most of it in luminance.  Up to block 4 photos and
    paintings have features about as large, so that a loss of features divided by these sizes has
    one scale for every picture, layer and training of a network.
    """
    found = features(params, _coloured_noise(256), layers, pooling=pooling)
    return {name: jnp.sqrt(jnp.mean(jnp.square(x))) for name, x in found.items()}


def _coloured_noise(side: int) -> np.ndarray:
    """`(side, side, 3)` in [0, 1]: luminance and two differences of colours, each a 1/f noise."""
    noise = np.random.default_rng(0).normal(size=(side, side, 3))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(noise, axes=(0, 1)) / frequency[..., None]
    noise = np.real(np.fft.ifft2(spectrum, axes=(0, 1)))
    noise = noise @ np.array([[0.9, 0.9, 0.9], [0.3, 0.0, -0.3], [0.1, -0.2, 0.1]])
    return np.clip(0.45 + 0.2 * noise / noise.std(), 0.0, 1.0).astype(np.float32)


def normalize_filters(
    params: Params, photos: Iterable[Any], *, pooling: str = "max"
) -> dict[str, dict[str, np.ndarray]]:
    """The network with every filter rescaled to mean activation 1 (Gatys et al. 2016, section 2).

    The mean is over photos and positions, after the ReLU.  What a filter is divided by, the next
    layer's kernel is multiplied with, so that the network computes the same features but for their
    scale.  A filter that never fires keeps its scale.

    Args:
      params: VGG parameters.
      photos: one or more, `(H, W, 3)` in [0, 1]; of few sizes, since every new one is compiled.
      pooling: with which the network will be used.
    """
    layers = [name for name in layer_names(params) if name.startswith("relu")]

    @jax.jit
    def means_of(image: jax.Array) -> dict[str, jax.Array]:
        found = features(params, image, layers, pooling=pooling)
        return {name: jnp.mean(values, axis=(0, 1)) for name, values in found.items()}

    means = [jax.device_get(means_of(jnp.asarray(photo))) for photo in photos]
    if not means:
        raise ValueError("at least one photo is needed")
    result = {"normalization": dict(params["normalization"])}
    before = np.ones(3, np.float32)
    for layer in layers:
        mean = np.mean([of_photo[layer] for of_photo in means], axis=0)
        scale = np.where(mean > 0, mean, 1.0).astype(np.float32)
        name = layer.replace("relu", "conv")
        result[name] = {
            "kernel": np.asarray(params[name]["kernel"]) * before[:, None] / scale,
            "bias": np.asarray(params[name]["bias"]) / scale,
        }
        before = scale
    return result
