"""--mode=convert_weights: any VGG file into ours."""

from pathlib import Path

import numpy as np
import pytest

from perceptual_jax.cli import main
from perceptual_jax.io import images
from perceptual_jax.pretrained import vgg as pretrained_vgg


def convert(*arguments: object) -> int:
    return main.main(["run.py", "--mode=convert_weights", *map(str, arguments)])


def test_converts_a_named_network_exactly(tmp_path: Path) -> None:
    output = tmp_path / "copy.safetensors"
    assert convert("--input=vgg16", f"--output={output}") == 0
    original, copy = pretrained_vgg.load_vgg("vgg16"), pretrained_vgg.load_vgg(output)
    assert original.keys() == copy.keys()
    for name, part in original.items():
        for leaf, array in part.items():
            np.testing.assert_array_equal(copy[name][leaf], array)


def test_normalises_over_a_folder_of_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for seed in range(2):
        noise = np.random.default_rng(seed).uniform(0, 1, (40, 48, 3)).astype(np.float32)
        images.write(photos / f"{seed}.png", noise)
    output = tmp_path / "normalised.safetensors"
    arguments = [f"--normalize={photos}", "--image_size=48", f"--output={output}"]
    assert convert("--input=vgg16", *arguments) == 0
    assert "VGG-16" in capsys.readouterr().out
    original, normalised = pretrained_vgg.load_vgg("vgg16"), pretrained_vgg.load_vgg(output)
    ratio = normalised["conv1_1"]["kernel"] / original["conv1_1"]["kernel"]
    # One factor for each filter.
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1, :1, :1], ratio.shape), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "--input"),
        (["--input=vgg16", "--output=x.pth"], ".safetensors"),
        (["--input=nowhere.pth", "--output=x.safetensors"], "nowhere.pth"),
        (["--input=vgg16", "--output=x.safetensors", "--normalize=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert convert(*arguments) == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
