"""`--mode=superres` as a person uses it: flags in, files out.

The network is a tiny one with random weights: what is looked at is what happens around it.
"""

import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from perceptual_jax import color
from perceptual_jax.cli import main
from perceptual_jax.io import images
from perceptual_jax.models import networks, super_resolution
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.pretrained import networks as pretrained_networks
from tests import enlargers, reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

Captured = pytest.CaptureFixture[str]

PROGRAM = Path(__file__).parents[3] / "run.py"
TRAINED = {factor: enlargers.random_enlarger(factor) for factor in (4, 8)}
PHOTO = 0.2 + 0.6 * reference.random_images(17, 23, 3, seed=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a photo and a network for each factor."""
    monkeypatch.chdir(tmp_path)
    images.write("photo.png", PHOTO)
    for factor, trained in TRAINED.items():
        pretrained_networks.save(f"x{factor}.safetensors", trained, dtype="float32")
    return tmp_path


def run(*arguments: str) -> int:
    return main.main(["run.py", "--mode=superres", "--network=x4.safetensors", *arguments])


def made(*arguments: str, source: str = "photo.png") -> np.ndarray:
    """The picture that a successful run writes."""
    assert run(f"--input={source}", "--output=out.png", *arguments) == 0
    return images.read("out.png")


def expected(source: str | Path = "photo.png", factor: int = 4) -> np.ndarray:
    trained = TRAINED[factor]
    batch = images.read(source)[None]
    enlarged = super_resolution.enlarge_batch(trained.variables, batch, network=trained.network)
    return np.asarray(enlarged[0])


def assert_alike(found: np.ndarray, wanted: np.ndarray) -> None:
    """Up to the rounding to 8 bits."""
    np.testing.assert_allclose(found, wanted, atol=0.5 / 255 + 1e-4)


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}


class TestResult:
    @pytest.mark.parametrize("factor", [4, 8])
    def test_is_the_networks_and_factor_times_as_large(self, factor: int) -> None:
        found = made(f"--factor={factor}", f"--network=x{factor}.safetensors")
        assert found.shape == (factor * 17, factor * 23, 3)
        assert_alike(found, expected(factor=factor))
        photo = images.read("photo.png")
        bicubic = np.clip(reference.bicubic(photo[None], factor * 17, factor * 23)[0], 0, 1)
        assert np.abs(found - bicubic).mean() > 0.02

    def test_of_a_large_picture_is_done_in_tiles(self, capsys: Captured) -> None:
        images.write("large.png", reference.random_images(45, 79, 3))
        found = made("--tile_size=32", source="large.png")
        assert "tile 10 of 10" in capsys.readouterr().err
        assert_alike(found, expected("large.png"))

    def test_keeps_transparency(self) -> None:
        """Of a picture whose left is transparent."""
        opaque = np.broadcast_to(np.arange(23) >= 10, (17, 23)).astype(np.float32)
        images.write("cut.png", PHOTO, alpha=opaque)
        made(source="cut.png")
        alpha = images.read_picture("out.png").alpha
        assert alpha is not None
        assert alpha.shape == (4 * 17, 4 * 23)
        np.testing.assert_allclose(alpha, images.resize(opaque, alpha.shape), atol=0.51 / 255)
        assert (alpha[:, : 4 * 9] < 0.1).all()
        assert (alpha[:, 4 * 11 :] > 0.9).all()

    def test_colours_stay_what_they_are_under_alpha(self) -> None:
        pretrained_networks.save("zero.safetensors", enlargers.zero_enlarger())
        red = (200, 10, 30, 128)
        Image.new("RGBA", (8, 6), red).save("red.png")
        assert run("--input=red.png", "--network=zero.safetensors", "--output=out.png") == 0
        with Image.open("out.png") as found:
            assert found.getcolors() == [(32 * 24, red)]

    def test_what_is_transparent_does_not_bleed_in(self) -> None:
        alpha = np.broadcast_to(np.arange(23) < 10, (17, 23)).astype(np.float32)
        found = []
        for hidden in (0.0, 1.0):
            photo = np.where(alpha[..., None] > 0, PHOTO, np.float32(hidden))
            images.write("cut.png", photo, alpha=alpha)
            assert run("--input=cut.png", "--output=out.png") == 0
            found.append(images.read_picture("out.png").rgb)
        np.testing.assert_array_equal(found[0], found[1])

    def test_of_a_grey_picture_is_grey(self) -> None:
        """The mean of what the network makes of it, which has colours."""
        images.write("grey.png", PHOTO[..., 0])
        of_network = expected("grey.png")
        assert np.ptp(of_network, axis=-1).max() > 0.1
        found = made(source="grey.png")
        np.testing.assert_array_equal(found, found[..., :1].repeat(3, axis=-1))
        assert_alike(found, of_network.mean(-1, keepdims=True).repeat(3, axis=-1))

    def test_matches_histograms_on_request(self) -> None:
        photo = images.read("photo.png")
        matched = made("--match_histogram")
        assert_alike(matched, np.asarray(color.match_histogram(expected(), photo)))
        ranks = np.linspace(0, 1, 11)
        wanted = np.quantile(photo, ranks, axis=(0, 1))
        near = np.quantile(matched, ranks, axis=(0, 1))
        np.testing.assert_allclose(near, wanted, atol=0.01)
        assert np.abs(np.quantile(made(), ranks, axis=(0, 1)) - wanted).max() > 0.05

    def test_in_bfloat16_is_nearly_the_same(self) -> None:
        difference = np.abs(made("--dtype=bfloat16") - expected())
        assert 1e-4 < difference.mean() < 0.02

    def test_is_named_after_the_picture_and_the_factor(self, capsys: Captured) -> None:
        assert run("--input=photo.png") == 0
        assert images.read("photo-x4.png").shape == (68, 92, 3)
        assert capsys.readouterr().out.startswith("photo-x4.png: 92x68, ")

    def test_says_how_it_was_made(self) -> None:
        made("--match_histogram")
        settings = images.read_settings("out.png")
        assert settings is not None
        assert settings["program"].startswith("perceptual_jax ")
        expected_settings = {"mode": "superres", "factor": 4, "network": "x4.safetensors"}
        assert settings.items() >= {**expected_settings, "match_histogram": True}.items()

    def test_pipes(self) -> None:
        """In a process of its own, whose standard streams are bytes."""
        finished = subprocess.run(
            [
                sys.executable,
                str(PROGRAM),
                "--mode=superres",
                "--input=-",
                "--network=x4.safetensors",
            ],
            input=Path("photo.png").read_bytes(),
            capture_output=True,
            check=True,
        )
        with Image.open(io.BytesIO(finished.stdout)) as picture:
            assert picture.format == "PNG"
            found = np.asarray(picture, np.float32) / np.float32(255)
        assert_alike(found, expected())
        first, last = finished.stderr.splitlines()
        assert first == b"compiling for 23x17"
        assert last.startswith(b"-: 92x68, ")


class TestFolders:
    @pytest.fixture(autouse=True)
    def photos(self, folder: Path) -> None:
        """Two of one size, one of another in a subfolder, one broken, one too small."""
        (folder / "in" / "deep").mkdir(parents=True)
        for name in ("a.png", "b.png"):
            images.write(f"in/{name}", np.roll(PHOTO, ord(name[0]), axis=1))
        images.write("in/deep/c.jpg", PHOTO[:11])
        images.write("in/small.png", PHOTO[:4])
        Path("in/bad.png").write_bytes(b"not a picture")
        Path("in/notes.txt").write_text("not a picture either", encoding="utf-8")

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_keep_their_subfolders_and_leave_out_what_cannot_be_done(
        self, batch_size: int, capsys: Captured
    ) -> None:
        assert run("--input=in", "--output=out", f"--batch_size={batch_size}") == 1
        found = sorted(path for path in Path("out").rglob("*") if path.is_file())
        assert found == [Path("out/a.png"), Path("out/b.png"), Path("out/deep/c.jpg")]
        for name in ("a.png", "b.png"):
            assert_alike(images.read(f"out/{name}"), expected(f"in/{name}"))
        assert images.read("out/deep/c.jpg").shape == (44, 92, 3)
        captured = capsys.readouterr()
        assert captured.out == "out: 3 of 5 pictures\n"
        left_out = [line for line in captured.err.splitlines() if line.startswith("left out: ")]
        assert sorted(line.split()[2].rstrip(":") for line in left_out) == [
            str(Path("in/bad.png")),
            str(Path("in/small.png")),
        ]
        assert any("both sides need at least 5" in line for line in left_out)

    def test_of_which_nothing_can_be_done_fail(self, capsys: Captured) -> None:
        for path in (Path("in/a.png"), Path("in/b.png"), Path("in/deep/c.jpg")):
            path.unlink()
        assert run("--input=in", "--output=out") == 2
        assert "out: 0 of 2 pictures" in capsys.readouterr().out
        assert not list(Path("out").iterdir())

    def test_name_those_that_would_become_too_large(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        monkeypatch.setattr(images, "MAX_PIXELS", 16 * 11 * 23)
        assert run("--input=in/deep", "--output=out") == 0
        assert run("--input=in", "--output=out") == 1
        assert f"left out: {Path('in/a.png')}: the result would have 92x68 pixels" in (
            capsys.readouterr().err
        )


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--factor=5"], "--factor=5: must be 4 or 8"),
            (["--factor=3"], "--factor=3: must be 4 or 8"),
            (["--factor=8"], "x4.safetensors enlarges by 4, not by 8"),
            (["--network=style.safetensors"], "is not a network for super-resolution"),
            (["--network=nowhere"], "there is no network 'nowhere'"),
            (["--network=photo.png"], "photo.png is damaged, or not a file of torch.save"),
            (["--network=deep.safetensors", "--tile_size=38"], "tile must be above 38"),
            (["--input=strip.png", "--tile_size=32"], "are too small: both sides need at least 5"),
            (["--input=tiny.png"], "images of 4x23 are too small: both sides need at least 5"),
            (["--input=nowhere.png"], "there is no picture 'nowhere.png'"),
            (["--input=in"], "--input=in is a folder: give a folder with --output"),
            (["--input=empty", "--output=out"], "there is no picture in empty"),
            (["--output=out.txt"], "out.txt"),
            (["--output=empty"], "empty"),
        ],
    )
    def test_end_in_one_line_and_nothing_is_written(
        self, arguments: list[str], message: str, folder: Path, capsys: Captured
    ) -> None:
        for name in ("in", "empty"):
            (folder / name).mkdir()
        images.write("in/photo.png", PHOTO)
        images.write("tiny.png", PHOTO[:4])
        images.write("strip.png", np.tile(PHOTO[:4], (1, 3, 1)))
        style = StyleNetwork(width=2, residual_blocks=0)
        variables = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, np.float32),
            jax.eval_shape(lambda: networks.initial_variables(style, seed=0)),
        )
        pretrained_networks.save(
            "style.safetensors",
            dataclasses.replace(TRAINED[4], network=style, variables=variables, styles=("wave",)),
        )
        pretrained_networks.save(
            "deep.safetensors", enlargers.random_enlarger(width=1, residual_blocks=6)
        )
        before = files()
        assert run("--input=photo.png", *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        # What had begun has lines of its own.
        (error,) = [line for line in err.splitlines() if not re.match("compiling|$", line)]
        assert error.startswith("error: ")
        assert message in error
        assert files() == before

    @pytest.mark.parametrize(("limit", "code"), [(68 * 92, 0), (68 * 92 - 1, 2)])
    def test_of_a_result_that_would_be_too_large(
        self, limit: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        monkeypatch.setattr(images, "MAX_PIXELS", limit)
        assert run("--input=photo.png", "--output=out.png") == code
        assert Path("out.png").exists() == (code == 0)
        message = f"error: the result would have 92x68 pixels, more than {limit} in all: "
        assert capsys.readouterr().err.startswith(message if code else "")
