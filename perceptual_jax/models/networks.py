"""Image transformation networks (Johnson et al. 2016), as Flax Linen modules.

Images are `(N, H, W, 3)`, RGB, in [0, 1], on both sides, of any height and width; outputs are not
clipped.  The modules are fields of numbers and names alone, so that a file can hold them.

Departures from the paper, each the default and each with the paper's form as an option: instance
normalisation for batch normalisation (Ulyanov et al. 2016), with a row of parameters for each style
(conditional instance normalisation, Dumoulin et al. 2017); nearest-neighbour upsampling and a
convolution for the transposed convolution, which leaves a checkerboard; reflection padding at every
convolution; a linear output, since a tanh saturates before it has learnt.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from perceptual_jax import vgg
from perceptual_jax.models.layers import (
    NORMALIZATIONS,
    UPSAMPLINGS,
    Convolution,
    Normalization,
    Residual,
)
from perceptual_jax.ops import pad

PADDINGS = ("reflect", "once")
OUTPUTS = ("linear", "tanh")
FACTORS = (4, 8)

# The paper pads once, by what five unpadded residual blocks and their two halvings take away.
_PAPER_PADDING = 40

# Of what is added to the bicubic enlargement.  The output layer sums thousands of features, and
# each step of Adam moves all of its weights by as much as the learning rate: ten times larger, a
# training at 1e-3 broke down after 450 steps, all of its last ReLUs dead.
_ADDED_SCALE = 0.0025


class StyleNetwork(nn.Module):
    """The network for style transfer (Johnson et al. 2016, supplement, table 1).

    A 9x9 convolution, two of stride 2, residual blocks, two upsamplings, a 9x9 convolution;
    normalisation and ReLU after every one but the last.

    Attributes:
      styles: how many styles it has, each with its own parameters of normalisation.
      width: channels of the first layer; the middle has four times as many.
      residual_blocks: how many.
      normalization: `"instance"`; `"batch"` as in the paper, for one style.
      upsampling: `"nearest"`; `"transposed"` as in the paper.
      padding: `"reflect"` at every convolution; `"once"`, 40 pixels before the first, as in the
        paper, where convolutions pad with zeros and those of residual blocks not at all.
      output: `"linear"`, or `"tanh"`, scaled to [0, 1], as in the paper.
      dtype: what convolutions compute in; parameters and statistics are float32.
    """

    styles: int = 1
    width: int = 32
    residual_blocks: int = 5
    normalization: str = "instance"
    upsampling: str = "nearest"
    padding: str = "reflect"
    output: str = "linear"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: jax.Array, style_weights: Any = None, *, train: bool = False
    ) -> jax.Array:
        """Stylises images.

        Args:
          images: `(N, H, W, 3)` in [0, 1].
          style_weights: how much of each style, `(styles,)` or `(N, styles)`; one by default, if
            there is one.
          train: whether batch normalisation uses the batch's statistics, and updates the running
            ones in the collection `batch_stats`.

        Returns:
          `(N, H, W, 3)`, not clipped.

        Raises:
          ValueError: a layout, dtype or size that it cannot take, or weights that do not fit.
        """
        _check_options(self)
        check_images(images, least=smallest_side(self))
        height, width = images.shape[1:3]
        weights = _style_weights(style_weights, len(images), self.styles)
        once = self.padding == "once"
        outer = "zeros" if once else "reflect"
        inner = "none" if once else "reflect"

        def normalized(x: jax.Array, name: str) -> jax.Array:
            norm = Normalization(self.normalization, self.styles, train, self.dtype, name=name)
            return nn.relu(norm(x, weights))

        def convolved(x: jax.Array, channels: int, name: str, **options: Any) -> jax.Array:
            options = {
                "padding": outer,
                "train": train,
                "dtype": self.dtype,
                "name": name,
                **options,
            }
            return Convolution(channels, **options)(x)

        x = _centred(images).astype(self.dtype)
        if once:
            x = pad.reflect_pad(x, _PAPER_PADDING)
        x = normalized(convolved(x, self.width, "conv1", size=9), "norm1")
        x = normalized(convolved(x, 2 * self.width, "conv2", stride=2), "norm2")
        x = normalized(convolved(x, 4 * self.width, "conv3", stride=2), "norm3")
        for index in range(1, self.residual_blocks + 1):
            x = Residual(
                self.normalization, self.styles, inner, train, self.dtype, name=f"residual{index}"
            )(x, weights)
        x = convolved(x, 2 * self.width, "up1", upsampling=self.upsampling)
        x = normalized(x, "up_norm1")
        x = convolved(x, self.width, "up2", upsampling=self.upsampling)
        x = normalized(x, "up_norm2")
        x = convolved(x, 3, "output", size=9, scale=0.5)
        return _pixels(x, self.output)[:, :height, :width]


def paper_style_network(styles: int = 1) -> StyleNetwork:
    """The style network exactly as in the supplement of Johnson et al. 2016."""
    return StyleNetwork(
        styles=styles,
        normalization="batch",
        upsampling="transposed",
        padding="once",
        output="tanh",
    )


class SuperResolutionNetwork(nn.Module):
    """The network for super-resolution x4 and x8 (Johnson et al. 2016, supplement, table 2).

    A 9x9 convolution, residual blocks, an upsampling for each factor of two, a 9x9 convolution;
    ReLU after every one but the last.

    Attributes:
      factor: 4 or 8.
      width: channels.
      residual_blocks: how many.
      normalization: `"none"`; `"batch"` as in the paper.
      upsampling: `"nearest"`; `"subpixel"`; or `"transposed"` as in the paper.
      padding: `"reflect"`; `"zeros"` as in the paper.
      output: `"linear"`; `"tanh"`, scaled to [0, 1], as in the paper.
      skip: whether what the network computes is added to the bicubic enlargement, which it then
        need not learn; not in the paper.
      dtype: what convolutions compute in.
    """

    factor: int = 4
    width: int = 64
    residual_blocks: int = 4
    normalization: str = "none"
    upsampling: str = "nearest"
    padding: str = "reflect"
    output: str = "linear"
    skip: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Enlarges images.

        Args:
          images: `(N, H, W, 3)` in [0, 1].
          train: whether batch normalisation uses the batch's statistics, and updates the running
            ones in the collection `batch_stats`.

        Returns:
          `(N, factor H, factor W, 3)`, not clipped.

        Raises:
          ValueError: a layout, dtype or size that it cannot take.
        """
        _check_enlarging(self)
        check_images(images, least=smallest_side(self))
        none = jnp.ones((len(images), 1))

        def normalized(x: jax.Array, name: str) -> jax.Array:
            norm = Normalization(self.normalization, 1, train, self.dtype, name=name)
            return nn.relu(norm(x, none))

        def convolved(x: jax.Array, channels: int, name: str, **options: Any) -> jax.Array:
            options = {
                "padding": self.padding,
                "train": train,
                "dtype": self.dtype,
                "name": name,
                **options,
            }
            return Convolution(channels, **options)(x)

        x = _centred(images).astype(self.dtype)
        x = normalized(convolved(x, self.width, "conv1", size=9), "norm1")
        for index in range(1, self.residual_blocks + 1):
            x = Residual(
                self.normalization, 1, self.padding, train, self.dtype, name=f"residual{index}"
            )(x, none)
        for index in range(1, self.factor.bit_length()):
            x = convolved(x, self.width, f"up{index}", upsampling=self.upsampling)
            x = normalized(x, f"up_norm{index}")
        scale = 1.0 if self.skip else 0.5
        x = convolved(x, 3, "output", size=9, scale=scale)
        if not self.skip:
            return _pixels(x, self.output)
        return enlarge(images, self.factor) + _ADDED_SCALE * x.astype(jnp.float32)


def paper_super_resolution_network(factor: int) -> SuperResolutionNetwork:
    """The network for x4 or x8 exactly as in the supplement of Johnson et al. 2016."""
    return SuperResolutionNetwork(
        factor=factor,
        normalization="batch",
        upsampling="transposed",
        padding="zeros",
        output="tanh",
        skip=False,
    )


def enlarge(images: jax.Array, factor: int) -> jax.Array:
    """Bicubic enlargement, `(N, H, W, C) -> (N, factor H, factor W, C)`: Keys' cubic, a = -0.5."""
    count, height, width, channels = images.shape
    shape = (count, factor * height, factor * width, channels)
    return jax.image.resize(images.astype(jnp.float32), shape, method="cubic")


def _check_enlarging(network: SuperResolutionNetwork) -> None:
    if network.factor not in FACTORS:
        raise ValueError(f"factor must be 4 or 8, got {network.factor}")
    _check_choice("normalization", network.normalization, ("none", "batch"))
    _check_choice("upsampling", network.upsampling, tuple(UPSAMPLINGS))
    _check_choice("padding", network.padding, ("reflect", "zeros"))
    _check_choice("output", network.output, OUTPUTS)
    if network.skip and network.output != "linear":
        raise ValueError("skip=True needs output='linear'")


def reach(network: StyleNetwork | SuperResolutionNetwork) -> int:
    """How many pixels away from an output pixel an input pixel can still change it directly.

    In pixels of the input; beside what it changes through the statistics of normalisation.
    """
    if isinstance(network, SuperResolutionNetwork):
        # 9x9 and the residual blocks at the input's size, the upsamplings at it and above, of
        # which the first counts 1, the others together 1; 9x9 at the output's size.
        return 4 + 2 * network.residual_blocks + 2 + 1
    # 9x9 at full size; 3x3 at full and at half size; two 3x3 at a quarter for each residual block;
    # the upsamplings' at a quarter and at half, further by a pixel of the result where each of its
    # pixels sees three of the input's; 9x9 at full size.
    upsamplings = 4 + 2 + (3 if network.upsampling == "subpixel" else 0)
    return 4 + 1 + 2 + 8 * network.residual_blocks + upsamplings + 4


def smallest_side(network: StyleNetwork | SuperResolutionNetwork) -> int:
    """The fewest pixels that both sides of an image need, for reflection to mirror them."""
    return _PAPER_PADDING + 1 if network.padding == "once" else 5


def check_images(images: Any, *, least: int) -> None:
    """Raises `ValueError` unless images are `(N, H, W, 3)`, sides `least` or more, as VGG's too."""
    vgg.check_images(images)
    shape = jnp.shape(images)
    if len(shape) != 4:
        raise ValueError(f"images must be (N, height, width, 3), got shape {shape}")
    if min(shape[1:3]) < least:
        raise ValueError(
            f"images of {shape[1]}x{shape[2]} are too small: both sides need at least {least}"
        )


def _check_options(network: StyleNetwork) -> None:
    _check_choice("normalization", network.normalization, NORMALIZATIONS)
    _check_choice("upsampling", network.upsampling, tuple(UPSAMPLINGS))
    _check_choice("padding", network.padding, PADDINGS)
    _check_choice("output", network.output, OUTPUTS)
    if network.normalization != "instance" and network.styles != 1:
        raise ValueError("several styles need normalization='instance'")
    if network.padding == "once" and network.residual_blocks != 5:
        raise ValueError("padding='once' is for five residual blocks, as in the paper")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")


def _style_weights(weights: Any, count: int, styles: int) -> jax.Array:
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
    """Pixels to numbers around 0, of the size that `_pixels` turns back."""
    return (images - 0.5) * 4.0


def _pixels(x: jax.Array, output: str) -> jax.Array:
    """The last layer's numbers to pixels in [0, 1], float32."""
    x = x.astype(jnp.float32)
    return 0.5 + 0.5 * jnp.tanh(x) if output == "tanh" else 0.5 + 0.25 * x


def initial_variables(network: StyleNetwork | SuperResolutionNetwork, seed: int) -> Any:
    """Random variables to begin a training with."""
    side = max(64, smallest_side(network))
    images = np.zeros((1, side, side, 3), np.float32)
    inputs: tuple[np.ndarray, ...] = (images,)
    if isinstance(network, StyleNetwork):
        inputs = (images, np.ones(network.styles, np.float32))
    return jax.jit(network.init)(jax.random.key(seed), *inputs)


def describe(network: nn.Module) -> dict[str, Any]:
    """The fields of a network that are not what it computes in, to be kept in a file."""
    fields = type(network).__dataclass_fields__
    return {
        name: getattr(network, name) for name in fields if name not in ("dtype", "parent", "name")
    }


def of_variables(variables: Any) -> StyleNetwork:
    """The default network with as many styles, channels and residual blocks as its variables."""
    params = variables["params"]
    return StyleNetwork(
        styles=params["norm1"]["instance"]["scale"].shape[0],
        width=params["conv1"]["kernel"].shape[-1],
        residual_blocks=sum(name.startswith("residual") for name in params),
    )


def with_more_styles(params: Any, rows: int) -> Any:
    """Parameters for `rows` more styles, which begin as the mean of those that are there."""

    def grow(path: Sequence[Any], leaf: jax.Array) -> jax.Array:
        if not is_style_parameter(path):
            return leaf
        return jnp.concatenate([leaf, jnp.tile(jnp.mean(leaf, 0, keepdims=True), (rows, 1))])

    return jax.tree_util.tree_map_with_path(grow, params)


def is_style_parameter(path: Sequence[Any]) -> bool:
    """Whether the leaf at a path of the parameter tree belongs to the normalisation of styles."""
    return any(getattr(key, "key", None) == "instance" for key in path)


def is_inner_kernel(path: Sequence[Any]) -> bool:
    """Whether the leaf at a path of the parameter tree is a kernel, of all but the output layer."""
    names = [getattr(key, "key", None) for key in path]
    return names[-1] == "kernel" and "output" not in names
