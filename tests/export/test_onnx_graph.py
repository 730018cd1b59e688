"""ONNX Runtime's pictures beside ours, for every architecture and option."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from perceptual_jax import load_network, models
from perceptual_jax.export.onnx_graph import to_onnx
from perceptual_jax.models import networks, tiling
from perceptual_jax.models.networks import StyleNetwork, SuperResolutionNetwork
from perceptual_jax.models.stylization import stylize_batch
from perceptual_jax.models.super_resolution import enlarge_batch
from perceptual_jax.pretrained import networks as network_files
from perceptual_jax.pretrained.networks import TrainedNetwork
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SMALL: dict[str, Any] = {"width": 4, "residual_blocks": 1}
ARCHITECTURES = {
    "style": StyleNetwork(**SMALL),
    "no residual blocks": StyleNetwork(width=4, residual_blocks=0),
    "tanh": StyleNetwork(**SMALL, output="tanh"),
    "subpixel": StyleNetwork(**SMALL, upsampling="subpixel"),
    "transposed": StyleNetwork(**SMALL, upsampling="transposed"),
    "batch": StyleNetwork(**SMALL, normalization="batch"),
    "no normalisation": StyleNetwork(**SMALL, normalization="none"),
    "paper": networks.paper_style_network().clone(width=4),
    "x4": SuperResolutionNetwork(**SMALL),
    "x8": SuperResolutionNetwork(**SMALL, factor=8),
    "x4 subpixel": SuperResolutionNetwork(**SMALL, upsampling="subpixel"),
    "x4 zeros": SuperResolutionNetwork(**SMALL, padding="zeros", skip=False),
    "paper x8": networks.paper_super_resolution_network(8).clone(width=4),
}


@functools.cache
def trained(network: Any) -> TrainedNetwork:
    """A network with random variables, none of which is 0 or 1."""
    initial = jax.device_get(networks.initial_variables(network, 0))

    def varied(path: Any, leaf: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(sum(map(ord, jax.tree_util.keystr(path))))
        noise = 0.1 * random.normal(size=leaf.shape).astype(np.float32)
        return np.abs(leaf + noise) if "var" in jax.tree_util.keystr(path) else leaf + noise

    variables = jax.tree_util.tree_map_with_path(varied, initial)
    styles = tuple(f"style {index}" for index in range(getattr(network, "styles", 0)))
    return TrainedNetwork(network=network, variables=variables, styles=styles, settings={})


def computed(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (pictures,) = session.run(None, inputs)
    return np.asarray(pictures)


def ours(network: TrainedNetwork, images: np.ndarray, weights: Any = None) -> np.ndarray:
    if isinstance(network.network, StyleNetwork):
        options = {"network": network.network, "style_weights": weights}
        return np.asarray(stylize_batch(network.variables, images, **options))
    return np.asarray(enlarge_batch(network.variables, images, network=network.network))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pictures_of_every_architecture_and_size(name: str) -> None:
    network = trained(ARCHITECTURES[name])
    model = to_onnx(network)
    least = networks.smallest_side(network.network)
    for size in [(least, least), (least + 2, least + 9), (48, 56), (45, 51)]:
        images = reference.random_images(2, *size, 3)
        # Where nothing normalises, rounding grows with random variables.
        np.testing.assert_allclose(
            computed(model, images=images), ours(network, images), atol=1e-4, err_msg=str(size)
        )


class TestStyles:
    NETWORK = trained(StyleNetwork(styles=3, **SMALL))
    IMAGES = reference.random_images(1, 22, 17, 3)

    @pytest.mark.parametrize("weights", [[0, 1, 0], [0.2, 0.5, 0.3]])
    def test_are_mixed_by_an_input_or_once_for_all(self, weights: list[float]) -> None:
        given = np.array(weights, np.float32)
        wanted = ours(self.NETWORK, self.IMAGES, given)
        by_input = computed(to_onnx(self.NETWORK), images=self.IMAGES, style_weights=given)
        np.testing.assert_allclose(by_input, wanted, atol=1e-5)
        fixed = to_onnx(self.NETWORK, style_weights=weights)
        assert [each.name for each in fixed.graph.input] == ["images"]
        np.testing.assert_allclose(computed(fixed, images=self.IMAGES), wanted, atol=1e-5)

    def test_the_file_says_what_it_is(self) -> None:
        model = to_onnx(self.NETWORK, style_weights=[0.5, 0, 0.5])
        about = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(about["styles"]) == ["style 0", "style 1", "style 2"]
        assert json.loads(about["style_weights"]) == [0.5, 0, 0.5]
        assert about["images"] == "(N, H, W, 3) RGB, [0, 1]"
        assert json.loads(about["architecture"])["width"] == 4
        assert model.producer_name == "perceptual_jax"

    def test_weights_of_another_shape_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"style_weights must be \(3,\), got shape \(2,\)"):
            to_onnx(self.NETWORK, style_weights=[1, 0])


def test_pixels_of_8_bits_are_rounded() -> None:
    network = trained(ARCHITECTURES["style"])
    images = np.random.default_rng(0).integers(0, 256, (1, 24, 30, 3)).astype(np.uint8)
    found = computed(to_onnx(network, pixels="uint8"), images=images)
    assert found.dtype == np.uint8
    wanted = 255 * ours(network, images.astype(np.float32) / 255)
    assert np.abs(found - wanted).max() < 0.501


def test_weights_of_float16_are_half_as_large() -> None:
    network = trained(StyleNetwork(width=16, residual_blocks=1))
    images = reference.random_images(1, 24, 30, 3)
    rounded = jax.tree.map(lambda leaf: np.float32(np.float16(leaf)), network.variables)
    small, large = (to_onnx(network, dtype=dtype) for dtype in ("float16", "float32"))
    assert small.ByteSize() < 0.6 * large.ByteSize()
    wanted = np.asarray(models.stylize(rounded, images, network=network.network))
    np.testing.assert_allclose(computed(small, images=images), wanted, atol=1e-5)


class TestTiles:
    """Statistics of windows from one graph, which another takes, as `models.stylize_tiles` does."""

    NETWORK = trained(StyleNetwork(styles=2, **SMALL))
    WEIGHTS = np.array([0.3, 0.7], np.float32)

    def test_are_those_of_ours(self) -> None:
        image = reference.random_images(1, 70, 300, 3)[0]
        network = self.NETWORK
        weights: Any = {"style_weights": self.WEIGHTS}
        together, given = (to_onnx(network, statistics=each) for each in ("together", "given"))
        windows = np.stack([image[:, :150], image[:, 148:298]])  # Starts are multiples of 4.
        statistics = computed(together, images=windows, **weights)
        assert statistics.shape == (2, 4 + 8 + 16 + 2 * 16 + 8 + 4)
        tiles = tiling.computed(
            image,
            tiling.tiles(image.shape[:2], network.network, 128),
            lambda tile: computed(given, images=tile, statistics=statistics, **weights),
        )
        wanted = models.stylize_tiles(
            network.variables, image, network=network.network, tile=128, **weights
        )
        found, ours = (tiling.assemble(each, image.shape) for each in (tiles, wanted))
        np.testing.assert_allclose(found, ours, atol=1e-4)

    def test_need_instance_normalisation(self) -> None:
        with pytest.raises(ValueError, match="statistics='given' needs normalization='instance'"):
            to_onnx(trained(ARCHITECTURES["x4"]), statistics="given")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_may_stay_in_the_networks_own_file(dtype: str, tmp_path: Path) -> None:
    original = trained(StyleNetwork(width=16, residual_blocks=1))
    network_files.save(tmp_path / "own.safetensors", original, dtype=dtype)
    network = load_network(tmp_path / "own.safetensors")
    model = to_onnx(network, weights_file=tmp_path / "own.safetensors")
    assert model.ByteSize() < 20_000
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    images = reference.random_images(1, 24, 30, 3)
    (found,) = session.run(None, {"images": images})
    np.testing.assert_allclose(found, ours(network, images), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"pixels": "int8"}, {"dtype": "bfloat16"}, {"statistics": "none"}]
)
def test_what_there_is_not_is_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be"):
        to_onnx(trained(ARCHITECTURES["style"]), **options)


def test_the_shipped_styles() -> None:
    network = load_network("styles")
    weights = network.style_weights({"wave": 0.6, "poppies": 0.4}, stroke_size=400)
    images = reference.random_images(1, 61, 40, 3)
    found = computed(to_onnx(network), images=images, style_weights=weights)
    np.testing.assert_allclose(found, ours(network, images, weights), atol=1e-3)


def test_operators_are_those_that_browsers_have() -> None:
    """Of the WebGPU build of ONNX Runtime 1.20; and none pads one side more than the other."""
    known = {
        *("Add", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose"),
        *("DepthToSpace", "Identity", "InstanceNormalization", "MatMul", "Mul", "Pad", "Relu"),
        *("Reshape", "Resize", "Round", "Shape", "Slice", "Sub", "Tanh", "Transpose"),
    }
    for network in ARCHITECTURES.values():
        for node in to_onnx(trained(network)).graph.node:
            assert node.op_type in known
            for attribute in node.attribute:
                if attribute.name == "pads":
                    assert len(set(attribute.ints)) == 1
