"""Trained networks as ONNX graphs; needs the package `onnx`.

A graph is built node by node, of operators that every runtime knows, the web build of ONNX Runtime
among them: borders are mirrored by `Pad`, and convolutions pad on all sides alike or not at all.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from perceptual_jax import __version__
from perceptual_jax.models import networks
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.ops.upsample import NEAREST_TAPS
from perceptual_jax.pretrained import tensorfile
from perceptual_jax.pretrained.networks import TrainedNetwork

# Of the operators; the newest that runtimes of 2022 know.
_OPSET = 17
# Of the file format that goes with them.
_IR_VERSION = 8

_EPSILON = 1e-5  # Of every normalisation, as in `models.layers`.

PIXELS = ("float", "uint8")

# Where the mean and variance of an instance normalisation come from: each picture has its own; all
# pictures have one, and the graph gives these instead of pictures; or they are an input.
STATISTICS = ("each", "together", "given")


def to_onnx(
    trained: TrainedNetwork,
    *,
    style_weights: Any = None,
    pixels: str = "float",
    dtype: str = "float32",
    statistics: str = "each",
    weights_file: Path | None = None,
) -> onnx.ModelProto:
    """A network as an ONNX graph for pictures of any number, height and width.

    It takes `images` and gives `pictures`, both `(N, H, W, 3)`, RGB: what `models.stylize` or
    `models.enlarge` gives, clipped, and rounded if pixels are integers.

    Args:
      trained: the network, of any architecture.
      style_weights: of the rows of a style network, as `trained.style_weights` gives them; by
        default the graph has an input for them, `style_weights` `(rows,)`, if there are several.
      pixels: `"float"` in [0, 1], or `"uint8"`.
      dtype: of the weights in the file, `"float32"`, or `"float16"`, half as large: they are cast
        when a runtime loads them, and everything is computed in float32.
      statistics: of instance normalisation, for pictures in tiles (`models.stylize_tiles`):
        `"each"`; `"together"`, where the graph gives `statistics` `(2, channels)`, the means and
        variances of every normalisation, one after the other, over all pictures; or `"given"`,
        where it takes them.
      weights_file: the network's own file, in which the weights stay, in its dtype: the graph
        refers to it by its name. Several graphs so share one file.

    Raises:
      ValueError: weights or settings that do not fit.
    """
    if pixels not in PIXELS:
        raise ValueError(f"pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, got {statistics!r}")
    network = trained.network
    if statistics != "each" and network.normalization != "instance":
        raise ValueError(f"statistics={statistics!r} needs normalization='instance'")
    rows = network.styles if isinstance(network, StyleNetwork) else 0
    if style_weights is not None:
        style_weights = np.asarray(style_weights, np.float32)
        if style_weights.shape != (rows,):
            raise ValueError(f"style_weights must be ({rows},), got shape {style_weights.shape}")
    elif rows == 1:
        style_weights = np.ones(1, np.float32)

    graph = _Graph(trained.variables, style_weights, np.dtype(dtype), statistics, weights_file)
    integers = pixels == "uint8"
    x = graph.add("Cast", "images", to=TensorProto.FLOAT) if integers else "images"
    x = graph.add("Mul", x, graph.constant(1 / 255)) if integers else x
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    build = _style_network if isinstance(network, StyleNetwork) else _super_resolution_network
    x = build(graph, network, x)
    kind = TensorProto.UINT8 if integers else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("images", kind, ["N", "H", "W", 3])]
    if rows and style_weights is None:
        inputs.append(helper.make_tensor_value_info("style_weights", TensorProto.FLOAT, [rows]))
    if statistics == "together":
        stacked = [
            graph.add("Concat", *found, axis=1) for found in zip(*graph.moments, strict=True)
        ]
        x = graph.add("Concat", *stacked, axis=0)
        graph.add("Reshape", x, graph.integer([2, -1]), output="statistics")
        output = helper.make_tensor_value_info("statistics", TensorProto.FLOAT, [2, graph.channels])
    else:
        _to_pictures(graph, x, crop=isinstance(network, StyleNetwork), integers=integers)
        scale = getattr(network, "factor", 1)
        sides = [side if scale == 1 else f"{scale}{side}" for side in "HW"]
        output = helper.make_tensor_value_info("pictures", kind, ["N", *sides, 3])
    if statistics == "given":
        shape = [2, graph.channels]
        inputs.append(helper.make_tensor_value_info("statistics", TensorProto.FLOAT, shape))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "perceptual_jax", inputs, [output], graph.initializers),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="perceptual_jax",
        producer_version=__version__,
    )
    about = {
        "kind": type(network).__name__,
        "architecture": json.dumps(networks.describe(network), sort_keys=True),
        "styles": json.dumps(trained.styles),
        "stroke_sizes": json.dumps(trained.stroke_sizes),
        "images": f"(N, H, W, 3) RGB, {'0..255' if integers else '[0, 1]'}",
    }
    if style_weights is not None:
        about["style_weights"] = json.dumps(style_weights.round(6).tolist())
    helper.set_model_props(model, about)
    if weights_file is None:  # The checker would look for the file in the working directory.
        onnx.checker.check_model(model)
    return model


def _to_pictures(graph: "_Graph", x: str, *, crop: bool, integers: bool) -> None:
    """The output `pictures`, clipped and channels last, from pixels of the network."""
    x = graph.add("Clip", x, graph.constant(0.0), graph.constant(1.0))
    x = graph.add("Transpose", x, perm=[0, 2, 3, 1])
    if crop:
        sides = graph.add("Slice", graph.add("Shape", "images"), *graph.integers([1], [3]))
        x = graph.add("Slice", x, graph.integer([0, 0]), sides, graph.integer([1, 2]))
    if integers:
        x = graph.add("Round", graph.add("Mul", x, graph.constant(255.0)))
        x = graph.add("Cast", x, to=TensorProto.UINT8)
    graph.add("Identity", x, output="pictures")


class _Graph:
    """Nodes, and the tensors that they take, of channels first."""

    def __init__(
        self,
        variables: Any,
        style_weights: np.ndarray | None,
        dtype: np.dtype[Any],
        statistics: str,
        weights_file: Path | None,
    ):
        self.variables = variables
        self.style_weights = style_weights
        self.dtype = dtype
        self.statistics = statistics
        self.weights_file = weights_file
        # Of the normalisations so far: names of means and variances (1, C, 1, 1); all their C.
        self.moments: list[tuple[str, str]] = []
        self.channels = 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._stored: dict[Any, str] = {}

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node; gives the name of its output."""
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def tensor(self, values: Any) -> str:
        """Values that are kept as they are, once."""
        values = np.asarray(values)
        key = (values.tobytes(), values.shape, values.dtype.str)
        if key not in self._stored:
            self._stored[key] = f"tensor_{len(self._stored)}"
            self.initializers.append(numpy_helper.from_array(values, self._stored[key]))
        return self._stored[key]

    def constant(self, value: float) -> str:
        return self.tensor(np.float32(value))

    def integer(self, values: Sequence[int]) -> str:
        return self.tensor(np.array(values, np.int64))

    def integers(self, *values: Sequence[int]) -> list[str]:
        return [self.integer(each) for each in values]

    def weights(self, values: Any) -> str:
        """Values of the network, in the file's dtype."""
        stored = self.tensor(np.ascontiguousarray(values, self.dtype))
        if self.dtype == np.float32:
            return stored
        return self.add("Cast", stored, to=TensorProto.FLOAT)

    def leaves(self, collection: str, *path: str) -> Any:
        found = self.variables[collection]
        for name in path:
            found = found[name]
        return found

    def leaf(self, *path: str, axes: Sequence[int] = ()) -> str:
        """A leaf of the variables, with its axes in this order, from the file if there is one."""
        values = np.asarray(self.leaves(*path))
        if self.weights_file is None:
            return self.weights(values.transpose(axes) if axes else values)
        name = "/".join(path)
        if name not in self._stored:
            self._stored[name] = name
            self.initializers.append(_external(self.weights_file, name))
        kept = self.add("Cast", name, to=TensorProto.FLOAT)
        return self.add("Transpose", kept, perm=list(axes)) if axes else kept

    def padded(self, x: str, margin: int, mode: str = "reflect") -> str:
        pads = self.integer([0, 0, margin, margin, 0, 0, margin, margin])
        return self.add("Pad", x, pads, mode=mode)

    def convolution(
        self, x: str, *path: str, padding: str, stride: int = 1, upsampling: str = ""
    ) -> str:
        """`models.layers.Convolution`."""
        place = ("params", *path)
        leaves = self.leaves(*place)
        size, _, _, features = leaves["kernel"].shape
        options: dict[str, Any] = {"kernel_shape": [size, size]}
        bias = "" if upsampling == "subpixel" else self.leaf(*place, "bias")
        if upsampling == "transposed":
            # Tap (k, l) of the kernel goes to (2 i - 1 + k, 2 j - 1 + l), as with a padding of 1.
            weights = self.leaf(*place, "kernel", axes=[2, 3, 0, 1])
            options |= {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
            return self.add("ConvTranspose", x, weights, bias, **options)
        if upsampling == "nearest":
            return self._nearest(x, leaves["kernel"].shape, self.leaf(*place, "kernel"), bias)
        if features == 3 and padding == "reflect":
            return self._few_outputs(x, leaves["kernel"].shape, self.leaf(*place, "kernel"), bias)
        margin = size // 2
        if padding == "reflect" or upsampling:
            x = self.padded(x, margin)
        elif padding == "zeros":
            options["pads"] = [margin] * 4
        options["strides"] = [stride, stride]
        if upsampling == "subpixel":
            bias = self.weights(np.tile(leaves["bias"], features // len(leaves["bias"])))
        weights = self.leaf(*place, "kernel", axes=[3, 2, 0, 1])
        x = self.add("Conv", x, weights, bias, **options)
        return self.add("DepthToSpace", x, blocksize=2) if upsampling == "subpixel" else x

    def _few_outputs(self, x: str, shape: Sequence[int], kernel: str, bias: str) -> str:
        """A large kernel with few outputs, padded by reflection.

        A runtime's matrix product would have as many rows as there are outputs, and gather all of
        the kernel's positions for each pixel. Here it has those of all columns of the kernel, each
        gathers one column, and the results are added where they belong.
        """
        size, _, inputs, outputs = shape
        x = self.padded(x, size // 2)
        kernel = self.add("Transpose", kernel, perm=[1, 3, 2, 0])
        kernel = self.add("Reshape", kernel, self.integer([size * outputs, inputs, size, 1]))
        x = self.add("Conv", x, kernel, kernel_shape=[size, 1])
        total = ""
        for column in range(size):
            stop = column + 1 - size or np.iinfo(np.int32).max
            bounds = [column * outputs, column], [(column + 1) * outputs, stop], [1, 3]
            part = self.add("Slice", x, *self.integers(*bounds))
            total = self.add("Add", total, part) if total else part
        bias = self.add("Reshape", bias, self.integer([outputs, 1, 1]))
        return self.add("Add", total, bias)

    def _nearest(self, x: str, shape: Sequence[int], kernel: str, bias: str) -> str:
        """`ops.upsample.nearest_conv2d`: all four phases as one 2x2 convolution.

        Runtimes fold what is made of the kernel when they load the graph. Phases are stored in the
        reverse order: what `DepthToSpace` makes of them then only has to be cropped.
        """
        _, _, inputs, outputs = shape
        taps = NEAREST_TAPS[::-1]
        # (phases of rows and columns, neighbours, taps) of the 3x3 kernel.
        fold = np.einsum("psk,qtl->pqstkl", taps, taps).reshape(16, 9)
        kernel = self.add("Reshape", kernel, self.integer([9, inputs * outputs]))
        kernel = self.add("MatMul", self.tensor(fold), kernel)
        kernel = self.add("Reshape", kernel, self.integer([4, 2, 2, inputs, outputs]))
        kernel = self.add("Transpose", kernel, perm=[0, 4, 3, 1, 2])
        kernel = self.add("Reshape", kernel, self.integer([4 * outputs, inputs, 2, 2]))
        bias = self.add("Concat", bias, bias, bias, bias, axis=0)
        x = self.add("Conv", self.padded(x, 1, "edge"), kernel, bias, kernel_shape=[2, 2])
        x = self.add("DepthToSpace", x, blocksize=2)
        return self.add("Slice", x, *self.integers([1, 1], [-1, -1], [2, 3]))

    def normalization(self, x: str, kind: str, *path: str) -> str:
        """`models.layers.Normalization`."""
        if kind == "none":
            return x
        place = (*path, kind)
        table = [("params", *place, name) for name in ("scale", "bias")]
        if kind == "batch":
            table += [("batch_stats", *place, name) for name in ("mean", "var")]
            stored = [self.leaf(*each) for each in table]
            return self.add("BatchNormalization", x, *stored, epsilon=_EPSILON)
        if self.style_weights is None:
            mixed = [self.add("MatMul", "style_weights", self.leaf(*each)) for each in table]
        else:
            mixed = [self.weights(self.style_weights @ self.leaves(*each)) for each in table]
        if self.statistics == "each":
            return self.add("InstanceNormalization", x, *mixed, epsilon=_EPSILON)
        channels = self.leaves(*table[0]).shape[1]
        if self.statistics == "together":
            mean = self.add("ReduceMean", x, axes=[0, 2, 3])
            centred = self.add("Sub", x, mean)
            variance = self.add("ReduceMean", self.add("Mul", centred, centred), axes=[0, 2, 3])
            self.moments.append((mean, variance))
        else:
            bounds = self.integers([self.channels], [self.channels + channels], [1])
            own = self.add("Slice", "statistics", *bounds)
            rows = [self.integers([row], [row + 1], [0]) for row in (0, 1)]
            mean, variance = (self.add("Slice", own, *row) for row in rows)
        self.channels += channels
        flat = [self.add("Reshape", each, self.integer([channels])) for each in (mean, variance)]
        return self.add("BatchNormalization", x, *mixed, *flat, epsilon=_EPSILON)

    def residual(self, x: str, kind: str, name: str, padding: str) -> str:
        """`models.layers.Residual`."""
        y = self.convolution(x, name, "conv1", padding=padding)
        y = self.add("Relu", self.normalization(y, kind, name, "norm1"))
        y = self.convolution(y, name, "conv2", padding=padding)
        y = self.normalization(y, kind, name, "norm2")
        if padding == "none":
            x = self.add("Slice", x, *self.integers([2, 2], [-2, -2], [2, 3]))
        return self.add("Add", x, y)

    def centred(self, images: str) -> str:
        half = self.add("Sub", images, self.constant(0.5))
        return self.add("Mul", half, self.constant(4.0))

    def pixels(self, x: str, output: str) -> str:
        """The last layer's numbers to pixels."""
        scale = 0.5 if output == "tanh" else 0.25
        x = self.add("Tanh", x) if output == "tanh" else x
        return self.add("Add", self.add("Mul", x, self.constant(scale)), self.constant(0.5))


def _style_network(graph: _Graph, network: StyleNetwork, images: str) -> str:
    once = network.padding == "once"
    outer, inner = ("zeros", "none") if once else ("reflect", "reflect")
    kind = network.normalization

    def layer(x: str, conv: str, norm: str, **options: Any) -> str:
        x = graph.convolution(x, conv, padding=outer, **options)
        return graph.add("Relu", graph.normalization(x, kind, norm))

    x = graph.centred(images)
    x = graph.padded(x, networks.PAPER_PADDING) if once else x
    x = layer(x, "conv1", "norm1")
    x = layer(x, "conv2", "norm2", stride=2)
    x = layer(x, "conv3", "norm3", stride=2)
    for index in range(1, network.residual_blocks + 1):
        x = graph.residual(x, kind, f"residual{index}", inner)
    for index in (1, 2):
        x = layer(x, f"up{index}", f"up_norm{index}", upsampling=network.upsampling)
    if graph.statistics == "together":
        return x  # Of which nothing is taken: nothing is normalised any more.
    return graph.pixels(graph.convolution(x, "output", padding=outer), network.output)


def _external(file: Path, name: str) -> onnx.TensorProto:
    """A tensor that stays in a file of ours."""
    dtype, shape, start, stop = tensorfile.places(file)[name]
    kinds = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
    tensor = onnx.TensorProto(
        name=name, data_type=kinds[dtype], dims=shape, data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": file.name, "offset": start, "length": stop - start}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _super_resolution_network(graph: _Graph, network: Any, images: str) -> str:
    kind, padding = network.normalization, network.padding

    def layer(x: str, conv: str, norm: str, **options: Any) -> str:
        x = graph.convolution(x, conv, padding=padding, **options)
        return graph.add("Relu", graph.normalization(x, kind, norm))

    x = layer(graph.centred(images), "conv1", "norm1")
    for index in range(1, network.residual_blocks + 1):
        x = graph.residual(x, kind, f"residual{index}", padding)
    for index in range(1, network.factor.bit_length()):
        x = layer(x, f"up{index}", f"up_norm{index}", upsampling=network.upsampling)
    x = graph.convolution(x, "output", padding=padding)
    if not network.skip:
        return graph.pixels(x, network.output)
    scales = graph.tensor(np.array([1, 1, network.factor, network.factor], np.float32))
    options: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
    large = graph.add(
        "Resize", images, "", scales, coordinate_transformation_mode="half_pixel", **options
    )
    return graph.add("Add", large, graph.add("Mul", x, graph.constant(networks.ADDED_SCALE)))
