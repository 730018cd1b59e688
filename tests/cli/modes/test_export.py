"""--mode=export: networks as files for other programs."""

from pathlib import Path

import jax
import numpy as np
import onnxruntime
import pytest

from perceptual_jax import models
from perceptual_jax.cli import main
from perceptual_jax.models import networks
from perceptual_jax.models.networks import StyleNetwork, SuperResolutionNetwork
from perceptual_jax.pretrained.networks import TrainedNetwork, save
from tests import reference

Captured = pytest.CaptureFixture[str]

IMAGES = reference.random_images(1, 20, 24, 3)
NETWORK = StyleNetwork(styles=4, width=2, residual_blocks=0)


@pytest.fixture(autouse=True)
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedNetwork:
    """`net.safetensors` in the current folder: two styles at two sizes; and one that enlarges."""
    monkeypatch.chdir(tmp_path)
    variables = jax.device_get(networks.initial_variables(NETWORK, 0))
    variables["params"]["norm1"]["instance"]["bias"] = np.arange(8, dtype=np.float32).reshape(4, 2)
    found = TrainedNetwork(
        network=NETWORK,
        variables=variables,
        styles=("day", "night"),
        stroke_sizes=(100, 400),
        settings={},
    )
    save("net.safetensors", found, dtype="float32")
    larger = SuperResolutionNetwork(width=2, residual_blocks=0)
    save(
        "larger.safetensors",
        TrainedNetwork(
            network=larger,
            variables=networks.initial_variables(larger, 0),
            styles=(),
            settings={},
        ),
    )
    return found


def export(*arguments: str) -> int:
    return main.main(["run.py", "--mode=export", *arguments])


def test_a_mix_of_styles_at_a_size(trained: TrainedNetwork, capsys: Captured) -> None:
    flags = ["--network=net.safetensors", "--style=day:1,night:3", "--stroke_size=200"]
    assert export(*flags, "--output=out/net.onnx") == 0
    assert capsys.readouterr().out.startswith("out/net.onnx: 0.0 MB")
    session = onnxruntime.InferenceSession("out/net.onnx", providers=["CPUExecutionProvider"])
    wanted = models.stylize(
        trained.variables, IMAGES, network=NETWORK, style_weights=[0.125, 0.125, 0.375, 0.375]
    )
    (found,) = session.run(None, {"images": IMAGES})
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_all_styles_have_an_input_for_their_weights() -> None:
    assert export("--network=net.safetensors", "--pixels=uint8", "--dtype=float16") == 0
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    found = {each.name: (each.type, each.shape) for each in session.get_inputs()}
    assert found["style_weights"] == ("tensor(float)", [4])
    assert found["images"] == ("tensor(uint8)", ["N", "H", "W", 3])


def test_an_enlargement() -> None:
    assert export("--network=larger.safetensors", "--output=larger.onnx") == 0
    session = onnxruntime.InferenceSession("larger.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": IMAGES})
    assert found.shape == (1, 80, 96, 3)


def test_stablehlo(trained: TrainedNetwork) -> None:
    flags = ["--network=net.safetensors", "--style=night", "--stroke_size=100"]
    assert export(*flags, "--output=net.stablehlo") == 0
    read = jax.export.deserialize(bytearray(Path("net.stablehlo").read_bytes()))
    wanted = models.stylize(
        trained.variables, IMAGES, network=NETWORK, style_weights=[0, 0, 1.0, 0]
    )
    np.testing.assert_allclose(read.call(IMAGES), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=net.pb"], "must end in .onnx or .stablehlo"),
        (["--style=noon"], "no style noon, but day, night"),
        (["--stroke_size=100"], "--stroke_size is for a --style"),
        (["--network=larger.safetensors", "--style=day"], "is not a network for style transfer"),
        (["--output=net.stablehlo"], "give --style, of day, night"),
        (["--output=net.stablehlo", "--style=day", "--pixels=uint8"], "are for ONNX"),
        (["--network=nothing"], "there is no network 'nothing'"),
        (["--network=decoder"], "--network=decoder is a decoder, which is no network without"),
    ],
)
def test_what_cannot_be_is_refused(flags: list[str], message: str, capsys: Captured) -> None:
    assert export("--network=net.safetensors", *flags) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("net.[!s]*"))
