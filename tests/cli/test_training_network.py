"""The network of a training run: which crops it takes, how it begins, and what its file says."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from perceptual_jax.cli import training_network
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.training_flags import RunOptions, TrainSettings
from perceptual_jax.models import networks
from perceptual_jax.models.networks import StyleNetwork, SuperResolutionNetwork
from perceptual_jax.pretrained.networks import load_network
from tests import enlargers

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONFIG = TrainSettings(steps=9, image_size=32, batch_size=1, dtype="bfloat16")


class TestCrop:
    @pytest.mark.parametrize(
        ("network", "sides"),
        [
            (StyleNetwork(), [32, 33, 5]),
            (networks.paper_style_network(), [41]),
            (SuperResolutionNetwork(factor=4), [20, 36, 288]),
            (SuperResolutionNetwork(factor=8), [40, 144]),
        ],
    )
    def test_of_these_sides_fit(self, network: Any, sides: list[int]) -> None:
        for side in sides:
            training_network.check_crop(network, side)

    @pytest.mark.parametrize(
        ("network", "side", "message"),
        [
            (StyleNetwork(), 4, "needs crops of 5 pixels: raise --image_size=4"),
            (networks.paper_style_network(), 40, "needs crops of 41 pixels: raise --image_size=40"),
            (SuperResolutionNetwork(factor=4), 16, "needs crops of 20 pixels: raise"),
            (SuperResolutionNetwork(factor=8), 32, "needs crops of 40 pixels: raise"),
            (SuperResolutionNetwork(factor=4), 34, "--image_size=34 must be a multiple of 4, the"),
            (SuperResolutionNetwork(factor=8), 44, "--image_size=44 must be a multiple of 8, the"),
        ],
    )
    def test_of_other_sides_are_refused(self, network: Any, side: int, message: str) -> None:
        with pytest.raises(UserError, match=message):
            training_network.check_crop(network, side)


def test_a_new_one_follows_from_the_seed() -> None:
    network = SuperResolutionNetwork(width=2, residual_blocks=0)
    found = training_network.new(network, CONFIG)
    assert found.network == network.clone(dtype="bfloat16")
    assert (found.styles, found.settings) == ((), {})
    expected = networks.initial_variables(network, seed=0)
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected)


def test_a_trained_one_goes_on_as_it_is_and_remembers_its_steps() -> None:
    before = enlargers.random_enlarger()
    found = training_network.continued(before, CONFIG)
    assert found.network == before.network.clone(dtype="bfloat16")
    assert found.settings == {"steps_before": before.steps}
    assert found.variables is before.variables


class TestFile:
    def test_has_the_settings_without_folders(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "new" / "network.safetensors"
        settings = {"data": "/home/me/photos", "style": ["/tmp/wave.jpg", "the_kiss"], "seed": 3}
        trained = training_network.continued(enlargers.random_enlarger(), CONFIG)
        trained.settings.update(settings)
        options = RunOptions(workdir="runs/x4", output=str(output))
        training_network.write(trained, options, step=5, steps=9)
        found = load_network(output).settings
        expected = {"data": "photos", "style": ["wave.jpg", "the_kiss"], "seed": 3, "steps": 5}
        assert found.items() >= expected.items()
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{output}: 5 of 9 steps"
        assert lines[1:] == [
            "Stopped early. The same command with --workdir=runs/x4 goes on from there."
        ]

    def test_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("a file")
        options = RunOptions(workdir="a", output=str(tmp_path / "taken" / "network.safetensors"))
        trained = training_network.continued(enlargers.random_enlarger(), CONFIG)
        with pytest.raises(UserError, match=r"^cannot write .*another --output writes it from the"):
            training_network.write(trained, options, step=9, steps=9)
