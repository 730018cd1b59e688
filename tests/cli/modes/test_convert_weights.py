"""--mode=convert_weights: any VGG file into ours."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import vgg
from perceptual_jax.cli import main
from perceptual_jax.io import images
from perceptual_jax.pretrained import tensorfile, torchvision
from perceptual_jax.pretrained.vgg import load_vgg, save
from tests import reference


def convert(*arguments: object) -> int:
    return main.main(["run.py", "--mode=convert_weights", *map(str, arguments)])


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return reference.random_images(height, width, 3, seed=seed)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a VGG-16 with four channels in each layer, which is then what is expected."""
    monkeypatch.setattr(torchvision, "_CHANNELS", (4,) * 5)
    path = tmp_path / "small.safetensors"
    params = reference.random_vgg(widths=(4,) * 5)
    save(path, params, name="small", source="random", license="CC0-1.0", dtype="float32")
    return path


def test_converts_a_named_network_exactly(tmp_path: Path) -> None:
    output = tmp_path / "copy.safetensors"
    assert convert("--input=vgg16", f"--output={output}") == 0
    original, copy = load_vgg("vgg16"), load_vgg(output)
    assert original.keys() == copy.keys()
    for name, part in original.items():
        for leaf, array in part.items():
            np.testing.assert_array_equal(copy[name][leaf], array)


def test_normalises_over_a_folder_of_photos(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    images.write(photos / "0.png", noise(0, 40, 48))
    images.write(photos / "sub" / "1.png", noise(1, 80, 96))
    images.write(photos / ".hidden" / "2.png", noise(2, 40, 48))
    output = tmp_path / "normalised.safetensors"
    arguments = [f"--normalize={photos}", "--image_size=48", f"--output={output}"]
    assert convert(f"--input={small}", *arguments) == 0
    assert "VGG-16" in capsys.readouterr().out
    assert "normalised over 2 photos" in tensorfile.read(output)[1]["source"]
    original, normalised = load_vgg(small), load_vgg(output)
    ratio = normalised["conv1_1"]["kernel"] / original["conv1_1"]["kernel"]
    # One factor for each filter.
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1, :1, :1], ratio.shape), rtol=1e-5)
    # By which its mean activation over both photos is 1.
    means = []
    for path in (photos / "0.png", photos / "sub" / "1.png"):
        photo = jnp.asarray(images.resize(images.read(path), (40, 48)))
        means.append(vgg.features(normalised, photo, ["relu1_1"])["relu1_1"].mean((0, 1)))
    np.testing.assert_allclose(np.mean(means, axis=0), 1, rtol=1e-4)


def test_photos_that_cannot_be_read_are_left_out_and_named(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    images.write(photos / "good.png", noise(0, 16, 16))
    (photos / "bad.png").write_text("a thousand words")
    arguments = [f"--input={small}", f"--normalize={photos}", "--image_size=16"]
    output = tmp_path / "out.safetensors"
    assert convert(*arguments, f"--output={output}") == 1
    assert f"left out: {photos / 'bad.png'} is not a picture" in capsys.readouterr().err
    assert "normalised over 1 photos" in tensorfile.read(output)[1]["source"]

    (photos / "good.png").unlink()
    assert convert(*arguments, f"--output={tmp_path / 'none.safetensors'}") == 2
    assert "none of the 1 photos can be read: " in capsys.readouterr().err
    assert not (tmp_path / "none.safetensors").exists()


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
