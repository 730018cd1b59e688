"""The layers of image transformation networks, as Flax Linen modules.

Feature maps are `(N, H, W, C)`. Parameters are float32, whatever the convolutions compute in. Where
a layer takes a `size`, that is the height and width of the pictures in the top left of the maps, as
in `ops.pad`; the layers of one compiled program so compute pictures of many sizes.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from perceptual_jax.ops import conv, pad, upsample

NORMALIZATIONS = ("instance", "batch", "none")
UPSAMPLINGS = {
    "nearest": upsample.nearest_conv2d,
    "transposed": upsample.transposed_conv2d,
    "subpixel": upsample.subpixel_conv2d,
}

# Of PyTorch, whose networks can be loaded, and of Ulyanov et al. 2016.
_EPSILON = 1e-5


class Convolution(nn.Module):
    """A convolution and its bias.

    Attributes:
      features: output channels.
      size: side of the kernel, odd.
      stride: 1 or 2.
      padding: `"reflect"`, `"zeros"`, or `"none"`.
      upsampling: one of `UPSAMPLINGS`, which doubles height and width and pads in its own way, or
        `""`; of size 3 and stride 1.
      scale: of the initial kernel, relative to one that keeps the variance.
      train: whether gradients are fast; they are then for reverse mode only.
      dtype: of its computation.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: str = "reflect"
    upsampling: str = ""
    scale: float = 1.0
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, size: Any = None) -> jax.Array:
        phases = 4 if self.upsampling == "subpixel" else 1
        shape = (self.size, self.size, x.shape[-1], phases * self.features)
        initial = nn.initializers.variance_scaling(self.scale**2, "fan_in", "normal")
        kernel = self.param("kernel", initial, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        bias = bias.astype(self.dtype).reshape(1, 1, 1, -1)
        conv2d = conv.conv2d_reverse if self.train else conv.fast_conv2d
        if self.upsampling:
            options = {} if size is None else {"size": size}
            return UPSAMPLINGS[self.upsampling](x, kernel, conv2d=conv2d, **options) + bias
        margin = self.size // 2
        if self.padding == "reflect" and self.train:
            x = pad.reflect_pad_reverse(x, margin)
        elif self.padding == "reflect":
            x = pad.reflect_pad(x, margin, size)
        elif self.padding == "zeros":
            x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        if self.stride == 1:
            return conv2d(x, kernel, padding="VALID") + bias
        return conv.conv2d(x, kernel, stride=self.stride, padding="VALID") + bias

    def scaled(self, size: Any) -> Any:
        """The size of what it makes of pictures of a size, padded by reflection."""
        if size is None:
            return None
        return tuple(2 * side if self.upsampling else -(-side // self.stride) for side in size)


class InstanceNorm(nn.Module):
    """Conditional instance normalisation (Dumoulin et al. 2017): a scale and shift for each style.

    Statistics are float32, and by default those of each image. If the collection `statistics` is
    mutable, they are those of all images together, and are stored there; if it is given, they are
    read from there. The tiles of one picture so share the statistics of the whole.

    Attributes:
      styles: rows of parameters.
    """

    styles: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, style_weights: jax.Array, size: Any = None) -> jax.Array:
        shape = (self.styles, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        values = x.astype(jnp.float32)
        if self.has_variable("statistics", "mean") and not self.is_initializing():
            mean: jax.Array = self.get_variable("statistics", "mean")
            variance: jax.Array = self.get_variable("statistics", "variance")
        else:
            together = self.is_mutable_collection("statistics") and not self.is_initializing()
            axes = (0, 1, 2) if together else (1, 2)
            inside = None if size is None else pad.inside_of(x.shape, size)
            mean = jnp.mean(values, axes, keepdims=True, where=inside)
            variance = jnp.mean(jnp.square(values - mean), axes, keepdims=True, where=inside)
            if together:
                self.put_variable("statistics", "mean", mean)
                self.put_variable("statistics", "variance", variance)
        # By default an accelerator rounds the factors of a matrix product to 8 or 11 bits.
        mix = functools.partial(jnp.matmul, style_weights, precision=jax.lax.Precision.HIGHEST)
        factor = mix(scale)[:, None, None] * jax.lax.rsqrt(variance + _EPSILON)
        return ((values - mean) * factor + mix(bias)[:, None, None]).astype(x.dtype)


class Normalization(nn.Module):
    """Instance, batch or no normalisation, as one of `NORMALIZATIONS`."""

    kind: str
    styles: int = 1
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, style_weights: Any = None, size: Any = None) -> jax.Array:
        if self.kind == "instance":
            return InstanceNorm(self.styles, name="instance")(x, style_weights, size)
        if self.kind == "batch":
            return nn.BatchNorm(
                use_running_average=not self.train,
                momentum=0.9,
                epsilon=_EPSILON,
                dtype=self.dtype,
                name="batch",
            )(x)
        return x


def conv_norm_relu(
    x: jax.Array,
    convolution: Convolution,
    normalization: Normalization,
    style_weights: Any = None,
    size: Any = None,
) -> jax.Array:
    """A convolution, normalisation and ReLU."""
    y = normalization(convolution(x, size), style_weights, convolution.scaled(size))
    return nn.relu(y)


class Residual(nn.Module):
    """Two 3x3 convolutions whose result is added to the input; no ReLU after the sum.

    Without padding the input is cropped to the smaller result (Johnson et al. 2016, supplement).
    """

    normalization: str
    styles: int = 1
    padding: str = "reflect"
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, style_weights: Any = None, size: Any = None) -> jax.Array:
        features = x.shape[-1]
        options: dict[str, Any] = {"train": self.train, "dtype": self.dtype}
        conv = functools.partial(Convolution, features, padding=self.padding, **options)
        norm = functools.partial(Normalization, self.normalization, self.styles, **options)
        y = conv_norm_relu(x, conv(name="conv1"), norm(name="norm1"), style_weights, size)
        y = norm(name="norm2")(conv(name="conv2")(y, size), style_weights, size)
        lost = (x.shape[1] - y.shape[1]) // 2
        return x[:, lost : x.shape[1] - lost, lost : x.shape[2] - lost] + y
