"""Write a trained network as a file for other programs: ONNX, or StableHLO for JAX.

ONNX runs in ONNX Runtime, on servers, phones and in browsers, without Python; it needs the extra
perceptual-jax[export]. Pictures may have any number, height and width.
"""

from typing import Any

import numpy as np

from perceptual_jax.cli import flags
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.messages import say
from perceptual_jax.io import storage
from perceptual_jax.io.storage import local_path
from perceptual_jax.models.networks import Decoder, StyleNetwork
from perceptual_jax.pretrained.networks import TrainedNetwork, load_network

_SUFFIXES = (".onnx", ".stablehlo")


def define_flags(define: flags.Flags) -> None:
    define.group("Files")
    define.string(
        "network",
        "styles",
        "A trained network: a file of --mode=train_transform or train_superres, a .pth of "
        "PyTorch's example fast_neural_style, or a shipped one (styles, superres-x4-pixel).",
    )
    define.string(
        "output", None, "The file to write: NAME.onnx, or NAME.stablehlo. By default NETWORK.onnx."
    )
    define.group("Style")
    define.list(
        "style",
        None,
        "A style of the network, or several to be mixed (wave:0.7,starry_night:0.3). By default "
        "an ONNX file of several styles takes their weights as an input.",
    )
    define.integer(
        "stroke_size",
        None,
        "With --style: the size of the strokes, in pixels, as of --mode=stylize. By default the "
        "middle one of those that the network has.",
        least=1,
    )
    define.group("ONNX")
    define.enum(
        "pixels", "float", ["float", "uint8"], "Pictures in [0, 1], or in 0..255, on both sides."
    )
    define.enum(
        "dtype",
        "float32",
        ["float32", "float16"],
        "How the weights are stored; everything is computed in float32.",
    )


def main(values: Any) -> None:
    trained = load_network(values.network)
    if isinstance(trained.network, Decoder):
        raise UserError(
            f"--network={values.network} is a decoder, which is no network without VGG and a "
            "painting: give one for style transfer or super-resolution"
        )
    output = local_path(values.output or f"{local_path(values.network).stem}.onnx")
    if output.suffix not in _SUFFIXES:
        raise UserError(f"--output={output} must end in {' or '.join(_SUFFIXES)}")
    style_weights = _style_weights(values, trained)
    if output.suffix == ".onnx":
        data = _as_onnx(values, trained, style_weights)
    else:
        data = _as_stablehlo(values, trained, style_weights)
    with storage.atomic_write(output) as file:
        file.write_bytes(data)
    say(f"{output}: {len(data) / 1e6:.1f} MB")


def _style_weights(values: Any, trained: TrainedNetwork) -> np.ndarray | None:
    if not values.style:
        if values.stroke_size:
            raise UserError("--stroke_size is for a --style: give one")
        return None
    if not isinstance(trained.network, StyleNetwork):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    with usage_errors():
        mix = flags.mixed(flags.weighted_names(values.style))
        return trained.style_weights(mix, stroke_size=values.stroke_size)


def _as_onnx(values: Any, trained: TrainedNetwork, style_weights: np.ndarray | None) -> bytes:
    try:
        from perceptual_jax.export.onnx_graph import to_onnx
    except ModuleNotFoundError as error:
        raise UserError(
            f"ONNX needs the package {error.name}: pip install 'perceptual-jax[export]'"
        ) from error
    model = to_onnx(trained, style_weights=style_weights, pixels=values.pixels, dtype=values.dtype)
    return bytes(model.SerializeToString())


def _as_stablehlo(values: Any, trained: TrainedNetwork, style_weights: np.ndarray | None) -> bytes:
    from perceptual_jax.export.stablehlo import to_stablehlo

    if (values.pixels, values.dtype) != ("float", "float32"):
        raise UserError("--pixels and --dtype are for ONNX: StableHLO has floats on both sides")
    if style_weights is None and getattr(trained.network, "styles", 1) > 1:
        raise UserError(f"StableHLO holds one style: give --style, of {', '.join(trained.styles)}")
    return to_stablehlo(trained, style_weights=style_weights)
