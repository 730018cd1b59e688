"""`--mode=train_decoder` as a person uses it: photos and paintings in, a decoder out.

What every training does, whatever its network, is in `test_train_transform.py`.
"""

import contextlib
import signal
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from perceptual_jax.cli import main
from perceptual_jax.cli.modes import train_decoder
from perceptual_jax.io import images
from perceptual_jax.models.networks import Decoder
from perceptual_jax.pretrained.networks import load_network, save
from tests import enlargers, reference
from tests.cli.modes.runs import digest, metrics
from tests.signals import stop_after

pytestmark = pytest.mark.usefixtures("compiled_quickly", "compiled_once", "small_examples")

Captured = pytest.CaptureFixture[str]

STEPS = 3
SMALL = (
    "--data=photos",
    "--style=painting.png",
    "--style_size=64",
    "--recolored=1",
    "--image_size=32",
    "--batch_size=2",
    f"--steps={STEPS}",
    "--warmup_steps=0",
    "--checkpoint_every=1",
    "--preview_every=0",
    "--noplot",
    "--store=float32",
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with photos and a painting."""
    found = tmp_path_factory.mktemp("train_decoder")
    for index in range(3):
        photo = reference.random_images(60, 70, 3, seed=index)
        images.write(found / "photos" / f"{index}.png", photo)
    images.write(found / "painting.png", reference.random_images(70, 50, 3, seed=9) ** 2)
    with contextlib.chdir(found):
        save("x4.safetensors", enlargers.random_enlarger())
        yield found


def run(*arguments: str) -> int:
    return main.main(["run.py", "--mode=train_decoder", *SMALL, *arguments])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The folder of a run that nothing stopped, with a preview."""
    assert run("--workdir=whole", "--preview_every=3") == 0
    return folder / "whole"


class TestResult:
    def test_is_a_decoder_with_the_units_of_vgg(self, whole: Path) -> None:
        trained = load_network(whole / "network.safetensors")
        assert trained.network == Decoder()
        units = {name: float(size) for name, size in trained.variables["units"].items()}
        assert units == pytest.approx({"relu4_1": 117.84, "relu1_1": 48.725}, rel=1e-4)

    def test_knows_what_it_was_trained_with(self, whole: Path) -> None:
        settings = load_network(whole / "network.safetensors").settings
        assert settings["style"] == ["painting.png"]
        assert settings["steps"] == STEPS

    def test_records_the_terms_of_both_pictures(self, whole: Path) -> None:
        terms = metrics(whole)[0]["terms"]
        assert {name.split("/")[0] for name in terms} == {"inversion", "content", "style", "range"}

    def test_preview_shows_photos_inverted_and_in_a_style(self, whole: Path) -> None:
        (path,) = (whole / "previews").glob("*.png")
        height, width = images.read(path).shape[:2]
        assert height > 3 * 100
        assert width > 256

    def test_of_a_stopped_run_has_the_same_bits(
        self, whole: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            stop_after(1, signal.SIGINT, patch)
            assert run("--workdir=stopped") == 130
        assert load_network("stopped/network.safetensors").settings["steps"] < STEPS
        assert run("--workdir=stopped") == 0
        assert digest("stopped/network.safetensors") == digest(whole / "network.safetensors")

    def test_goes_on_from_a_decoder(self, whole: Path) -> None:
        network = f"--network={whole / 'network.safetensors'}"
        assert run(network, "--steps=1", "--workdir=on") == 0
        assert load_network("on/network.safetensors").steps == STEPS + 1


class TestPaintings:
    def test_are_seen_at_every_size_and_in_other_colours(self) -> None:
        values = types.SimpleNamespace(style_size=[64, 96], recolored=2)
        found = train_decoder._paintings(values, ["painting.png"], seed=0)
        assert [painting.shape for painting in found] == 3 * [(64, 46, 3)] + 3 * [(96, 69, 3)]
        assert np.abs(found[1] - found[0]).mean() > 0.05
        assert np.abs(found[2] - found[1]).mean() > 0.05


class TestMistakes:
    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--variation=2", "--variation=2.0 must be between 0 and 1"),
            ("--network=x4.safetensors", "--network=x4.safetensors is not a decoder"),
            ("--style=none.png", "there is no picture 'none.png'"),
            ("--style_size=32", "--style_size"),
        ],
    )
    def test_are_told_in_a_sentence(self, flag: str, message: str, capsys: Captured) -> None:
        assert run("--workdir=mistake", flag) == 2
        assert message in capsys.readouterr().err
        assert not Path("mistake").exists()
