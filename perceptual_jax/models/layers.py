"""The layers that image transformation networks are made of, as Flax Linen modules.

Feature maps are `(N, H, W, C)`; parameters are float32, whatever the convolutions compute in.
"""

import functools

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

# PyTorch's, whose networks can be loaded, and the original's.
_EPSILON = 1e-5


class Convolution(nn.Module):
    """A convolution and its bias.

    Attributes:
      features: output channels.
      size: side of the kernel, odd.
      stride: 1 or 2.
      padding: `"reflect"`, `"zeros"`, or `"none"`.
      upsampling: what doubles height and width before: one of `UPSAMPLINGS`, or `""`. Size 3,
        stride 1; it brings its own padding.
      scale: of the initial kernel, relative to one that keeps the variance.
      train: whether its gradients are to be fast, for which it gives up forward mode.
      dtype: what it computes in.
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
    def __call__(self, x: jax.Array) -> jax.Array:
        each = 4 if self.upsampling == "subpixel" else 1
        shape = (self.size, self.size, x.shape[-1], each * self.features)
        initial = nn.initializers.variance_scaling(self.scale**2, "fan_in", "normal")
        kernel = self.param("kernel", initial, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        bias = bias.reshape(1, 1, 1, -1)
        conv2d = conv.conv2d_reverse if self.train else conv.fast_conv2d
        if self.upsampling:
            return UPSAMPLINGS[self.upsampling](x, kernel, conv2d=conv2d) + bias
        margin = self.size // 2
        if self.padding == "reflect":
            x = (pad.reflect_pad_reverse if self.train else pad.reflect_pad)(x, margin)
        elif self.padding == "zeros":
            x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        if self.stride == 1:
            return conv2d(x, kernel, padding="VALID") + bias
        return conv.conv2d(x, kernel, stride=self.stride, padding="VALID") + bias


class InstanceNorm(nn.Module):
    """Conditional instance normalisation: statistics of each image, scale and shift of each style.

    Statistics are float32.  Where the collection `statistics` is mutable, they are those of all the
    images together, and are put there; where it is given, they are taken from there.  So the tiles
    of one picture share the statistics of the whole.

    Attributes:
      styles: rows of parameters.
    """

    styles: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, style_weights: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (self.styles, channels))
        bias = self.param("bias", nn.initializers.zeros, (self.styles, channels))
        values = x.astype(jnp.float32)
        if self.has_variable("statistics", "mean") and not self.is_initializing():
            mean: jax.Array = self.get_variable("statistics", "mean")
            variance: jax.Array = self.get_variable("statistics", "variance")
        else:
            together = self.is_mutable_collection("statistics") and not self.is_initializing()
            axes = (0, 1, 2) if together else (1, 2)
            mean = jnp.mean(values, axes, keepdims=True)
            variance = jnp.mean(jnp.square(values - mean), axes, keepdims=True)
            if together:
                self.put_variable("statistics", "mean", mean)
                self.put_variable("statistics", "variance", variance)
        # An accelerator would round the parameters to 8 or 11 bits in a matrix product.
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
    def __call__(self, x: jax.Array, style_weights: jax.Array) -> jax.Array:
        if self.kind == "instance":
            return InstanceNorm(self.styles, name="instance")(x, style_weights)
        if self.kind == "batch":
            return nn.BatchNorm(
                use_running_average=not self.train,
                momentum=0.9,
                epsilon=_EPSILON,
                dtype=self.dtype,
                name="batch",
            )(x)
        return x


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input passes unchanged; no ReLU after the sum.

    Without padding the input is cropped to the smaller result (Johnson et al. 2016, supplement).
    """

    normalization: str
    styles: int = 1
    padding: str = "reflect"
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, style_weights: jax.Array) -> jax.Array:
        y = x
        for index in (1, 2):
            y = Convolution(
                x.shape[-1],
                padding=self.padding,
                train=self.train,
                dtype=self.dtype,
                name=f"conv{index}",
            )(y)
            y = Normalization(
                self.normalization, self.styles, self.train, self.dtype, name=f"norm{index}"
            )(y, style_weights)
            if index == 1:
                y = nn.relu(y)
        lost = (x.shape[1] - y.shape[1]) // 2
        return x[:, lost : x.shape[1] - lost, lost : x.shape[2] - lost] + y
