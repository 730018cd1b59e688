"""Trained networks as ONNX graphs; needs the package `onnx`.

A graph is built node by node, of operators that every runtime knows, the web build of ONNX Runtime
among them: borders are mirrored by `Pad`, and convolutions pad on all sides alike or not at all.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from perceptual_jax import __version__
from perceptual_jax.models import networks
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.pretrained.networks import TrainedNetwork

# Of the operators; the newest that runtimes of 2022 know.
_OPSET = 17
# Of the file format that goes with them.
_IR_VERSION = 8

_EPSILON = 1e-5  # Of every normalisation, as in `models.layers`.

PIXELS = ("float", "uint8")


def to_onnx(
    trained: TrainedNetwork,
    *,
    style_weights: Any = None,
    pixels: str = "float",
    dtype: str = "float32",
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

    Raises:
      ValueError: weights or settings that do not fit.
    """
    if pixels not in PIXELS:
        raise ValueError(f"pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    network = trained.network
    rows = network.styles if isinstance(network, StyleNetwork) else 0
    if style_weights is not None:
        style_weights = np.asarray(style_weights, np.float32)
        if style_weights.shape != (rows,):
            raise ValueError(f"style_weights must be ({rows},), got shape {style_weights.shape}")
    elif rows == 1:
        style_weights = np.ones(1, np.float32)

    graph = _Graph(trained.variables, style_weights, np.dtype(dtype))
    integers = pixels == "uint8"
    x = graph.add("Cast", "images", to=TensorProto.FLOAT) if integers else "images"
    x = graph.add("Mul", x, graph.constant(1 / 255)) if integers else x
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    build = _style_network if isinstance(network, StyleNetwork) else _super_resolution_network
    x = build(graph, network, x)
    x = graph.add("Clip", x, graph.constant(0.0), graph.constant(1.0))
    x = graph.add("Transpose", x, perm=[0, 2, 3, 1])
    if isinstance(network, StyleNetwork):
        sides = graph.add("Slice", graph.add("Shape", "images"), *graph.integers([1], [3]))
        x = graph.add("Slice", x, graph.integer([0, 0]), sides, graph.integer([1, 2]))
    if integers:
        x = graph.add("Round", graph.add("Mul", x, graph.constant(255.0)))
        x = graph.add("Cast", x, to=TensorProto.UINT8)
    graph.add("Identity", x, output="pictures")

    kind = TensorProto.UINT8 if integers else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("images", kind, ["N", "H", "W", 3])]
    if rows and style_weights is None:
        inputs.append(helper.make_tensor_value_info("style_weights", TensorProto.FLOAT, [rows]))
    scale = getattr(network, "factor", 1)
    times = "" if scale == 1 else str(scale)
    output = helper.make_tensor_value_info("pictures", kind, ["N", f"{times}H", f"{times}W", 3])
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
    onnx.checker.check_model(model)
    return model


class _Graph:
    """Nodes, and the tensors that they take, of channels first."""

    def __init__(self, variables: Any, style_weights: np.ndarray | None, dtype: np.dtype[Any]):
        self.variables = variables
        self.style_weights = style_weights
        self.dtype = dtype
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

    def padded(self, x: str, margin: int, mode: str = "reflect") -> str:
        pads = self.integer([0, 0, margin, margin, 0, 0, margin, margin])
        return self.add("Pad", x, pads, mode=mode)

    def convolution(
        self, x: str, *path: str, padding: str, stride: int = 1, upsampling: str = ""
    ) -> str:
        """`models.layers.Convolution`."""
        leaves = self.leaves("params", *path)
        kernel, bias = np.asarray(leaves["kernel"]), np.asarray(leaves["bias"])
        options: dict[str, Any] = {"kernel_shape": list(kernel.shape[:2])}
        if upsampling == "transposed":
            # Tap (k, l) of the kernel goes to (2 i - 1 + k, 2 j - 1 + l), as with a padding of 1.
            weights = self.weights(kernel.transpose(2, 3, 0, 1))
            options |= {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
            return self.add("ConvTranspose", x, weights, self.weights(bias), **options)
        if upsampling == "nearest":
            scales = self.tensor(np.array([1, 1, 2, 2], np.float32))
            options_of_resize = {
                "mode": "nearest",
                "nearest_mode": "floor",
                "coordinate_transformation_mode": "asymmetric",
            }
            x = self.add("Resize", x, "", scales, **options_of_resize)
        margin = kernel.shape[0] // 2
        if padding == "reflect" or upsampling:
            x = self.padded(x, margin)
        elif padding == "zeros":
            options["pads"] = [margin] * 4
        options["strides"] = [stride, stride]
        bias = np.tile(bias, kernel.shape[3] // len(bias))
        weights = self.weights(kernel.transpose(3, 2, 0, 1))
        x = self.add("Conv", x, weights, self.weights(bias), **options)
        return self.add("DepthToSpace", x, blocksize=2) if upsampling == "subpixel" else x

    def normalization(self, x: str, kind: str, *path: str) -> str:
        """`models.layers.Normalization`."""
        if kind == "none":
            return x
        leaves = self.leaves("params", *path, kind)
        table = [np.asarray(leaves[name]) for name in ("scale", "bias")]
        if kind == "batch":
            statistics = self.leaves("batch_stats", *path, "batch")
            mean, variance = (np.asarray(statistics[name]) for name in ("mean", "var"))
            stored = [self.weights(values) for values in (*table, mean, variance)]
            return self.add("BatchNormalization", x, *stored, epsilon=_EPSILON)
        if self.style_weights is None:
            mixed = [self.add("MatMul", "style_weights", self.weights(rows)) for rows in table]
        else:
            mixed = [self.weights(self.style_weights @ rows) for rows in table]
        return self.add("InstanceNormalization", x, *mixed, epsilon=_EPSILON)

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
    return graph.pixels(graph.convolution(x, "output", padding=outer), network.output)


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
