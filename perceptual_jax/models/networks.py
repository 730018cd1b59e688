"""Image transformation networks, as Flax Linen modules: Johnson et al. 2016, and one for any style.

Images are `(N, H, W, 3)`, RGB, in [0, 1], on both sides, of any height and width; outputs are
float32 and not clipped. The fields of a module are numbers and names only, so that a file can hold
them.

The defaults depart from the paper, whose forms are options: instance normalisation instead of batch
normalisation (Ulyanov et al. 2016), with a row of parameters for each style (conditional instance
normalisation, Dumoulin et al. 2017); nearest-neighbour upsampling and a convolution instead of the
transposed convolution, which leaves a checkerboard; reflection padding at every convolution; a
linear output, since a tanh saturates before it has learnt.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax import losses, vgg
from perceptual_jax.losses import Moments
from perceptual_jax.models.layers import (
    NORMALIZATIONS,
    UPSAMPLINGS,
    Convolution,
    Normalization,
    Residual,
    conv_norm_relu,
)
from perceptual_jax.ops import pad
from perceptual_jax.ops.checks import as_images, check_settings, setting

FACTORS = (4, 8)

_OUTPUTS = ("linear", "tanh")

# What departs from our defaults in both of the paper's networks.
_OF_PAPER: dict[str, Any] = {"normalization": "batch", "upsampling": "transposed", "output": "tanh"}

# The paper pads once: five unpadded residual blocks take away 40 pixels on each side.
PAPER_PADDING = 40

# Scale of what is added to the bicubic enlargement. The output layer sums thousands of features,
# and a step of Adam moves each of its weights by about the learning rate: with a scale ten times as
# large, a training at 1e-3 diverged after 450 steps and left all of the last ReLUs dead.
ADDED_SCALE = 0.0025


class StyleNetwork(nn.Module):
    """The network for style transfer (Johnson et al. 2016, supplement, table 1).

    A 9x9 convolution, two of stride 2, residual blocks, two upsamplings, a 9x9 convolution;
    normalisation and ReLU after every one but the last.

    Attributes:
      styles: number of styles, each with its own parameters of normalisation.
      width: channels of the first layer; the residual blocks have four times as many.
      residual_blocks: number of residual blocks.
      normalization: `"instance"`; `"batch"` as in the paper, for one style.
      upsampling: `"nearest"`; `"transposed"` as in the paper.
      padding: `"reflect"` at every convolution; `"once"`, 40 pixels before the first, as in the
        paper, where convolutions pad with zeros and those of residual blocks not at all.
      output: `"linear"`, or `"tanh"`, scaled to [0, 1], as in the paper.
      dtype: of the convolutions; parameters and statistics are float32.
    """

    styles: int = 1
    width: int = 32
    residual_blocks: int = 5
    normalization: str = setting("", default="instance", choices=NORMALIZATIONS)
    upsampling: str = setting("", default="nearest", choices=tuple(UPSAMPLINGS))
    padding: str = setting("", default="reflect", choices=("reflect", "once"))
    output: str = setting("", default="linear", choices=_OUTPUTS)
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        style_weights: Any = None,
        *,
        train: bool = False,
        size: Any = None,
    ) -> jax.Array:
        """Stylises images `(N, H, W, 3)`.

        Args:
          images: in [0, 1]; the result is float32, and not clipped.
          style_weights: of each style, `(styles,)` or `(N, styles)`; needed for several styles.
          train: whether gradients are fast, for reverse mode only, and batch normalisation uses the
            statistics of the batch and updates the running ones in the collection `batch_stats`.
          size: `(height, width)` of the pictures, if they are in the top left of `images` and the
            rest of these is filler; networks that `fits_frames` give the same as without it.

        Raises:
          ValueError: options, images or weights that do not fit.
        """
        check_settings(self)
        _check_frames(self, size)
        if self.normalization != "instance" and self.styles != 1:
            raise ValueError("several styles need normalization='instance'")
        once = self.padding == "once"
        if once and self.residual_blocks != 5:
            raise ValueError("padding='once' is for five residual blocks, as in the paper")
        images = _checked_images(images, least=smallest_side(self))
        count, height, width = images.shape[:3]
        weights = checked_style_weights(style_weights, count, self.styles)

        options: dict[str, Any] = {"train": train, "dtype": self.dtype}
        outer, inner = ("zeros", "none") if once else ("reflect", "reflect")
        conv: Any = functools.partial(Convolution, padding=outer, **options)
        norm = functools.partial(Normalization, self.normalization, self.styles, **options)
        residual = functools.partial(Residual, self.normalization, self.styles, inner, **options)

        def layer(x: jax.Array, convolution: Convolution, name: str) -> jax.Array:
            nonlocal size
            x = conv_norm_relu(x, convolution, norm(name=name), weights, size)
            size = convolution.scaled(size)
            return x

        x = _centred(images).astype(self.dtype)
        if once:
            x = pad.reflect_pad(x, PAPER_PADDING)
        x = layer(x, conv(self.width, size=9, name="conv1"), "norm1")
        x = layer(x, conv(2 * self.width, stride=2, name="conv2"), "norm2")
        x = layer(x, conv(4 * self.width, stride=2, name="conv3"), "norm3")
        for index in range(1, self.residual_blocks + 1):
            x = residual(name=f"residual{index}")(x, weights, size)
        for index, features in enumerate((2 * self.width, self.width), start=1):
            up = conv(features, upsampling=self.upsampling, name=f"up{index}")
            x = layer(x, up, f"up_norm{index}")
        x = conv(3, size=9, scale=0.5, name="output")(x, size)
        return _pixels(x, self.output)[:, :height, :width]


def paper_style_network(*, styles: int = 1) -> StyleNetwork:
    """The style network exactly as in the supplement of Johnson et al. 2016."""
    return StyleNetwork(styles=styles, **_OF_PAPER, padding="once")


class SuperResolutionNetwork(nn.Module):
    """The network for super-resolution x4 and x8 (Johnson et al. 2016, supplement, table 2).

    A 9x9 convolution, residual blocks, an upsampling for each factor of two, a 9x9 convolution;
    ReLU after every one but the last.

    Attributes:
      factor: 4 or 8.
      width: channels of every layer.
      residual_blocks: number of residual blocks.
      normalization: `"none"`; `"batch"` as in the paper.
      upsampling: `"nearest"`; `"subpixel"`; or `"transposed"` as in the paper.
      padding: `"reflect"`; `"zeros"` as in the paper.
      output: `"linear"`; `"tanh"`, scaled to [0, 1], as in the paper.
      skip: whether the result is added to the bicubic enlargement, which the network then need not
        learn; not in the paper.
      dtype: of the convolutions; parameters are float32.
    """

    factor: int = setting("", default=4, choices=FACTORS)
    width: int = 64
    residual_blocks: int = 4
    normalization: str = setting("", default="none", choices=("none", "batch"))
    upsampling: str = setting("", default="nearest", choices=tuple(UPSAMPLINGS))
    padding: str = setting("", default="reflect", choices=("reflect", "zeros"))
    output: str = setting("", default="linear", choices=_OUTPUTS)
    skip: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, size: Any = None) -> jax.Array:
        """Enlarges images `(N, H, W, 3)` by the factor; `train`, `size` as of `StyleNetwork`.

        Raises:
          ValueError: options or images that do not fit.
        """
        check_settings(self)
        if self.skip and self.output != "linear":
            raise ValueError("skip=True needs output='linear'")
        _check_frames(self, size)
        images = _checked_images(images, least=smallest_side(self))

        options: dict[str, Any] = {"train": train, "dtype": self.dtype}
        conv: Any = functools.partial(Convolution, padding=self.padding, **options)
        norm = functools.partial(Normalization, self.normalization, **options)
        residual = functools.partial(Residual, self.normalization, padding=self.padding, **options)

        given = size
        x = _centred(images).astype(self.dtype)
        x = conv_norm_relu(x, conv(self.width, size=9, name="conv1"), norm(name="norm1"), size=size)
        for index in range(1, self.residual_blocks + 1):
            x = residual(name=f"residual{index}")(x, size=size)
        for index in range(1, self.factor.bit_length()):
            up = conv(self.width, upsampling=self.upsampling, name=f"up{index}")
            x = conv_norm_relu(x, up, norm(name=f"up_norm{index}"), size=size)
            size = up.scaled(size)
        x = conv(3, size=9, scale=1.0 if self.skip else 0.5, name="output")(x, size)
        if not self.skip:
            return _pixels(x, self.output)
        return bicubic(images, self.factor, given) + ADDED_SCALE * x.astype(jnp.float32)


def paper_super_resolution_network(factor: int) -> SuperResolutionNetwork:
    """The network for x4 or x8 exactly as in the supplement of Johnson et al. 2016."""
    return SuperResolutionNetwork(factor=factor, **_OF_PAPER, padding="zeros", skip=False)


# What the decoder gets, and what it computes last: the layers of VGG whose moments are transported.
# Li et al. 2017 transport five, each with an encoder and a decoder of its own; the one decoder drew
# a grid when it was trained with relu3_1 and relu2_1 as well.
TRANSPORTED = ("relu4_1", "relu1_1")

# Some directions in which VGG's features vary the decoder hardly knows.  With the ridge of the loss
# the last transport magnifies what is left there, which is a grid of the upsampling.
_RIDGES = dict(zip(TRANSPORTED, (1e-3, 5e-2), strict=True))

# Of VGG; with maxima, less of a photo can be told from its features.
ENCODER_POOLING = "avg"

# Positions of the deepest layer are 8 pixels apart.
UNIVERSAL_GRID = vgg.stride(TRANSPORTED[0])


def encode(
    params: vgg.Params,
    images: Any,
    layers: Sequence[str],
    *,
    dtype: Any = jnp.float32,
    size: Any = None,
) -> dict[str, jax.Array]:
    """VGG's features of images `(..., H, W, 3)`, as decoders are trained to invert them."""
    return vgg.features(params, images, layers, pooling=ENCODER_POOLING, dtype=dtype, size=size)


class Decoder(nn.Module):
    """VGG-16 up to relu4_1 mirrored: 3x3 convolutions and ReLU, upsampling in place of pooling.

    2.9 million parameters; and in the collection `units` how large the features of `TRANSPORTED`
    are (`vgg.layer_sizes`), by which they are divided where the decoder computes.

    Attributes:
      width: channels of VGG's first block; the next ones have 2, 4 and 8 times as many.
      dtype: of the convolutions; parameters are float32.
    """

    width: int = 64
    dtype: str = "float32"

    padding = "reflect"

    @nn.compact
    def __call__(
        self,
        features: jax.Array,
        change: Callable[[str, jax.Array, Any], jax.Array] = lambda layer, features, size: features,
        *,
        train: bool = False,
        size: Any = None,
    ) -> jax.Array:
        """Images `(N, 8 h, 8 w, 3)`, not clipped, of VGG's features `(N, h, w, C)` of relu4_1.

        Args:
          features: sides of 2 or more.
          change: makes of each of `TRANSPORTED`, its features and their size those to go on with.
          train: whether gradients are fast, for reverse mode only.
          size: of the features, if they are in the top left, as in `ops.pad`.
        """

        def layer(x: jax.Array, name: str, features: int, *, scale: float = 2.0**0.5) -> jax.Array:
            # A block of VGG begins after its pooling; mirrored, it ends before the upsampling.
            upsampling = "nearest" if name in ("conv3_3", "conv2_2", "conv1_2") else ""
            options: dict[str, Any] = {"scale": scale, "train": train, "dtype": self.dtype}
            nonlocal size
            convolution = Convolution(features, upsampling=upsampling, name=name, **options)
            x = convolution(x, size)
            size = convolution.scaled(size)
            return x

        deepest, finest = (
            self.variable("units", name, jnp.ones, (), jnp.float32).value for name in TRANSPORTED
        )
        x = change(TRANSPORTED[0], features, size)
        x = (x * (1.0 / deepest)).astype(self.dtype)
        for name, times in (
            ("conv4_1", 4),
            ("conv3_3", 4),
            ("conv3_2", 4),
            ("conv3_1", 2),
            ("conv2_2", 2),
            ("conv2_1", 1),
            ("conv1_2", 1),
        ):
            x = nn.relu(layer(x, name, times * self.width))
        x = change(TRANSPORTED[1], x * finest.astype(x.dtype), size)
        x = (x * (1.0 / finest)).astype(self.dtype)
        return _pixels(layer(x, "conv1_1", 3, scale=0.5), "linear")


def transported(
    layer: str, features: jax.Array, of: Moments, style: Moments, *, train: bool = False
) -> jax.Array:
    """Features `(N, H, W, C)` of one of `TRANSPORTED`, moved from some moments to others, float32.

    Moments are those of each image, `(N, C)` and `(N, C, C)`, or have a leading axis of 1, or none.
    With `train` the map counts as constant: its gradient is dear.
    """
    transport = losses.optimal_transport(of, style, ridge=_RIDGES[layer])
    if train:
        transport = jax.lax.stop_gradient(transport)
    moved = jnp.matmul(features, transport.matrix[..., None, :, :].astype(features.dtype))
    return moved.astype(jnp.float32) + transport.offset[..., None, None, :]


class UniversalNetwork(nn.Module):
    """Any painting without training: universal style transfer (Li et al. 2017).

    VGG-16 encodes the photo, `losses.optimal_transport` gives its features the moments of the
    painting's, and the decoder makes a picture of them.  Its variables are those that
    `universal.variables` puts together: the decoder's, and the collections `encoder` and `styles`.

    The photo's moments are by default those of each image.  If the collection `statistics` is
    mutable, they are those of all images together, and are stored there; if it is given, they are
    read from there.  The tiles of one picture so share the statistics of the whole.

    Attributes:
      styles: number of paintings.
      width: of the decoder.
      dtype: of the convolutions; parameters and moments are float32.
    """

    styles: int = 1
    width: int = 64
    dtype: str = "float32"

    # VGG pads with zeros, as it was trained.
    padding = "zeros"

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        style_weights: Any = None,
        *,
        train: bool = False,
        size: Any = None,
    ) -> jax.Array:
        """Stylises images `(N, H, W, 3)`, as `StyleNetwork` does.

        With `train` the maps of the transport count as constants.
        """
        images = _checked_images(images, least=smallest_side(self))
        count, height, width = images.shape[:3]
        weights = checked_style_weights(style_weights, count, self.styles)
        shared = style_weights is None or jnp.ndim(style_weights) == 1

        def change(layer: str, features: jax.Array, size: Any) -> jax.Array:
            paintings: Moments = self.get_variable("styles", layer)
            # Without an axis for images that are styled alike: on a mesh it would not be sharded
            # as theirs is.
            if shared:
                style = losses.blend_moments(paintings, weights[0])
            else:
                style = jax.vmap(losses.blend_moments, (None, 0))(paintings, weights)
            of = self._moments(layer, features, size)
            return transported(layer, features, of, style, train=train)

        padded = pad.edge_pad_to(images, UNIVERSAL_GRID, size)
        positions = None if size is None else [-(-side // UNIVERSAL_GRID) for side in size]
        encoder: Any = self.get_variable("encoder", "vgg")
        size = positions and [UNIVERSAL_GRID * side for side in positions]
        features = encode(encoder, padded, TRANSPORTED[:1], dtype=self.dtype, size=size)
        decoder = Decoder(self.width, self.dtype, name="decoder")
        pictures = decoder(features[TRANSPORTED[0]], change, train=train, size=positions)
        return pictures[:, :height, :width]

    def _moments(self, layer: str, features: jax.Array, size: Any) -> Moments:
        if self.has_variable("statistics", layer):
            shared: Moments = self.get_variable("statistics", layer)
            return shared
        mask = None
        if size is not None:
            mask = pad.inside_of(features.shape, size)[None, ..., 0].astype(jnp.float32)
            mask = jnp.broadcast_to(mask, features.shape[:-1])
        if not self.is_mutable_collection("statistics"):
            return losses.moments(features, mask=mask)
        features, mask = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), (features, mask))
        together = losses.moments(features, mask=mask)
        self.put_variable("statistics", layer, together)
        return together


AnyStyleNetwork = StyleNetwork | UniversalNetwork
Network = AnyStyleNetwork | SuperResolutionNetwork


def transform(
    network: Network, variables: Mapping[str, Any], images: Any, *inputs: Any, size: Any = None
) -> jax.Array:
    """Applies a network to images `(..., H, W, 3)` in [0, 1], and clips the result to [0, 1]."""
    images = as_images(images)
    batch = images.shape[:-3]
    if len(batch) != 1:
        images = images.reshape(-1, *images.shape[-3:])
    outputs: Any = network.apply(variables, images, *inputs, size=size)
    outputs = jnp.clip(outputs, 0.0, 1.0)
    # No reshape where none is needed: JAX does not know how to for every way to shard a batch.
    return outputs if len(batch) == 1 else outputs.reshape(*batch, *outputs.shape[1:])


def bicubic(images: jax.Array, factor: int, size: Any = None) -> jax.Array:
    """Bicubic enlargement, `(N, H, W, C) -> (N, factor H, factor W, C)`: Keys' cubic, a = -0.5.

    Of pictures of a `size` in the top left, if it is given.
    """

    def enlarged(images: jax.Array) -> jax.Array:
        count, height, width, channels = images.shape
        shape = (count, factor * height, factor * width, channels)
        return jax.image.resize(images.astype(jnp.float32), shape, method="cubic")

    if size is None:
        return enlarged(images)
    # At a border the weights of what is inside are divided by their sum, as `resize` does it.
    inside = pad.inside_of(images.shape, size).astype(jnp.float32)[None]
    weights = enlarged(inside)
    return enlarged(images * inside) / jnp.where(weights > 0, weights, 1.0)


def fits_frames(network: Network) -> bool:
    """Whether one compiled program can compute pictures of many sizes, see `tiling.Frames`."""
    if isinstance(network, UniversalNetwork):
        return True
    return network.padding == "reflect" and network.upsampling != "transposed"


def _check_frames(network: Network, size: Any) -> None:
    if size is not None and not fits_frames(network):
        raise ValueError("size needs padding='reflect' and another upsampling than 'transposed'")


def smallest_side(network: Network) -> int:
    """The fewest pixels that both sides of an image need, for reflection to mirror them."""
    if isinstance(network, UniversalNetwork):
        return UNIVERSAL_GRID + 1  # Of which the deepest layer has two positions.
    return PAPER_PADDING + 1 if network.padding == "once" else 5


def check_sides(height: Any, width: Any, least: int) -> None:
    """Raises `ValueError` if a side of an image is too short."""
    # Each side by itself: of two that are symbolic, none is the smaller.
    if height < least or width < least:
        raise ValueError(
            f"images of {height}x{width} are too small: both sides need at least {least}"
        )


def _checked_images(images: Any, *, least: int) -> jax.Array:
    """Float32 `(N, H, W, 3)`, sides of `least` or more."""
    images = as_images(images)
    shape = images.shape
    if len(shape) != 4:
        raise ValueError(f"images must be (N, height, width, 3), got shape {shape}")
    check_sides(shape[1], shape[2], least)
    return images.astype(jnp.float32)


def checked_style_weights(weights: Any, count: int, styles: int) -> jax.Array:
    """`(N, styles)` in float32."""
    if weights is None:
        if styles != 1:
            raise ValueError(f"style_weights are needed: the network has {styles} styles")
        weights = np.ones(1, np.float32)
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape not in ((styles,), (count, styles)):
        raise ValueError(
            f"style_weights must be ({styles},) or ({count}, {styles}), got shape {weights.shape}"
        )
    return jnp.broadcast_to(weights, (count, styles))


def _centred(images: jax.Array) -> jax.Array:
    """Pixels to numbers from -2 to 2."""
    return (images - 0.5) * 4.0


def _pixels(x: jax.Array, output: str) -> jax.Array:
    """The last layer's numbers to pixels in [0, 1], float32."""
    x = x.astype(jnp.float32)
    return 0.5 + 0.5 * jnp.tanh(x) if output == "tanh" else 0.5 + 0.25 * x


def initial_variables(network: Network | Decoder, seed: int) -> Any:
    """Random variables from which a training starts."""
    key = jax.random.key(seed)
    if isinstance(network, Decoder):
        return jax.jit(network.init)(key, np.zeros((1, 2, 2, 8 * network.width), np.float32))
    side = max(64, smallest_side(network))
    images = np.zeros((1, side, side, 3), np.float32)
    weights = [np.ones(network.styles, np.float32)] if isinstance(network, StyleNetwork) else []
    return jax.jit(network.init)(key, images, *weights)


def describe(network: nn.Module) -> dict[str, Any]:
    """The fields of a network that a file of it holds: all but the dtype that it computes in."""
    fields = type(network).__dataclass_fields__
    return {
        name: getattr(network, name) for name in fields if name not in ("dtype", "parent", "name")
    }


def with_more_styles(params: Any, styles: int, *, sizes: int = 1) -> Any:
    """Parameters with more styles, of `sizes` rows each, which start as the means of the others."""

    def grow(rows: jax.Array) -> jax.Array:
        means = jnp.mean(rows.reshape(-1, sizes, rows.shape[-1]), 0)
        return jnp.concatenate([rows, jnp.tile(means, (styles, 1))])

    return _with_rows(grow, params)


def with_sizes(params: Any, sizes: int) -> Any:
    """Parameters with as many rows, all alike, for each style, where it has one."""
    return _with_rows(lambda rows: jnp.repeat(rows, sizes, 0), params)


def _with_rows(change: Callable[[jax.Array], jax.Array], params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: change(leaf) if is_style_parameter(path) else leaf, params
    )


def is_style_parameter(path: Sequence[Any]) -> bool:
    """Whether the leaf at a path of the parameter tree has a row for each style."""
    return any(getattr(key, "key", None) == "instance" for key in path)


def is_inner_kernel(path: Sequence[Any]) -> bool:
    """Whether the leaf at a path of the parameter tree is a kernel, except the output layer's."""
    names = [getattr(key, "key", None) for key in path]
    return names[-1] == "kernel" and "output" not in names
