"""`--mode=stylize` as a person uses it: flags in, files out.

The network is a tiny one with random weights: what is looked at is what happens around it.
"""

import concurrent.futures
import dataclasses
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from perceptual_jax import color, models, objective
from perceptual_jax.cli import main
from perceptual_jax.cli.modes import stylize
from perceptual_jax.io import images, resources
from perceptual_jax.models import stylization, universal, vary
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.objective import WASSERSTEIN
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained.vgg import load_vgg
from tests import reference

Captured = pytest.CaptureFixture[str]

PROGRAM = Path(__file__).parents[3] / "run.py"
NETWORK = StyleNetwork(styles=2, width=2, residual_blocks=0)
PHOTO = reference.random_images(37, 53, 3, seed=1)
MASK = np.broadcast_to(np.arange(53) < 20, (37, 53)).astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> pretrained_networks.TrainedNetwork:
    example = np.zeros((1, 16, 16, 3), np.float32)
    initial = jax.jit(NETWORK.init)(jax.random.key(0), example, np.ones(2, np.float32))

    def varied(path: Any, leaf: Any) -> np.ndarray:
        seed = sum(map(ord, jax.tree_util.keystr(path)))
        noise = np.random.default_rng(seed).normal(0, 0.3, leaf.shape)
        return np.asarray(leaf + noise, np.float32)

    return pretrained_networks.TrainedNetwork(
        network=NETWORK,
        variables=jax.tree_util.tree_map_with_path(varied, initial),
        styles=("day", "night"),
        settings={},
    )


@pytest.fixture(autouse=True)
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: pretrained_networks.TrainedNetwork
) -> Path:
    """The current folder, with a photo, a mask and a network; the same network is shipped."""
    monkeypatch.chdir(tmp_path)
    images.write("photo.png", PHOTO)
    images.write("left.png", MASK)
    shipped = tmp_path / "weights" / "networks"
    shipped.mkdir(parents=True)
    pretrained_networks.save("net.safetensors", trained, dtype="float32")
    pretrained_networks.save(shipped / "two.safetensors", trained, dtype="float32")
    real = resources.folder
    monkeypatch.setattr(
        resources, "folder", lambda name: tmp_path / name if name == "weights" else real(name)
    )
    return tmp_path


def run(*arguments: str) -> int:
    return main.main(["run.py", "--mode=stylize", *arguments])


def made(*arguments: str) -> np.ndarray:
    """The picture that a successful run writes."""
    assert run("--input=photo.png", "--output=out.png", *arguments) == 0
    return images.read("out.png")


def expected(
    trained: pretrained_networks.TrainedNetwork, *weights: float, variation: float = 0.5
) -> np.ndarray:
    photo = vary(images.read("photo.png"), amount=variation)
    return painted(trained, photo, weights)


def painted(
    trained: pretrained_networks.TrainedNetwork, photo: np.ndarray, weights: Sequence[float]
) -> np.ndarray:
    """By the network, within a margin that is cut off."""
    mirrored = np.pad(photo, ((16, 16), (16, 16), (0, 0)), mode="reflect")
    pictures = stylization.stylize_batch(
        trained.variables, mirrored[None], network=NETWORK, style_weights=np.array(weights)
    )
    return np.asarray(pictures[0, 16:-16, 16:-16])


def assert_alike(found: np.ndarray, wanted: np.ndarray) -> None:
    """Up to the rounding to 8 bits."""
    np.testing.assert_allclose(found, wanted, atol=0.5 / 255 + 1e-4)


@pytest.fixture
def any_painting(folder: Path) -> np.ndarray:
    """A painting that no network was trained for; VGG and the decoder are the shipped ones."""
    weights = Path(__file__).parents[3] / "weights"
    for name in ("vgg16.safetensors", "networks/decoder.safetensors"):
        (folder / "weights" / name).symlink_to(weights / name)
    painting = reference.random_images(90, 128, 3, seed=4) ** 2
    images.write("painting.png", painting)
    return images.read("painting.png")


class TestAnyPainting:
    def test_is_painted_with_its_patches(self, any_painting: np.ndarray) -> None:
        found = made("--style=painting.png", "--stroke_size=150")
        params = load_vgg("vgg16")
        photo = images.read("photo.png")
        wanted = models.repaint(params, photo, [images.fit(any_painting, 150)])
        assert_alike(found, wanted)
        varied = vary(photo, amount=1, stroke_size=150)
        wanted = models.repaint(params, varied, [images.fit(any_painting, 150)])
        assert_alike(made("--style=painting.png", "--stroke_size=150", "--variation=1"), wanted)

    def test_is_painted_by_a_decoder_that_is_given(self, any_painting: np.ndarray) -> None:
        found = made("--network=decoder", "--style=painting.png", "--stroke_size=150")
        photo = vary(images.read("photo.png"), amount=0.2, stroke_size=150)
        mirrored = np.pad(photo, ((16, 16), (16, 16), (0, 0)), mode="reflect")
        decoder = pretrained_networks.load_network("decoder").variables
        wanted = jax.jit(universal.transfer_style)(
            load_vgg("vgg16"), decoder, mirrored, [images.fit(any_painting, 150)]
        )
        # Two programs round transport in other places.
        assert np.abs(found - wanted[16:-16, 16:-16]).max() < 2 / 255

    def test_a_mask_gives_it_its_region(self, any_painting: np.ndarray) -> None:
        """Outside the photo stays, without the noise."""
        flags = ("--content_mask=left.png", "--variation=1")
        whole = made("--style=painting.png", "--variation=1")
        found = made("--style=painting.png", *flags)
        assert_alike(found, np.where(MASK[..., None] > 0, whole, images.read("photo.png")))

    def test_is_named_in_the_result(self, any_painting: np.ndarray) -> None:
        assert run("--input=photo.png", "--style=./painting.png") == 0
        assert images.read("photo-painting.png").shape == PHOTO.shape

    def test_can_be_mixed_with_that_of_an_example(self, any_painting: np.ndarray) -> None:
        alone = made("--style=painting.png")
        assert run("--input=photo.png", "--style=painting.png:1,wave:3") == 0
        mixed = images.read("photo-painting-wave.png")
        assert np.abs(mixed - alone).mean() > 5 / 255

    def test_needs_no_network_that_lacks_it(
        self, any_painting: np.ndarray, capsys: Captured
    ) -> None:
        assert run("--style=painting.png", "--network=net.safetensors") == 2
        message = "--network=net.safetensors has no style painting.png, but day, night; without"
        assert message in capsys.readouterr().err

    def test_has_to_be_given_to_a_decoder(self, any_painting: np.ndarray, capsys: Captured) -> None:
        assert run("--network=decoder") == 2
        assert capsys.readouterr().err == "error: --style is missing: give a painting\n"

    def test_tiles_lie_on_the_grid_of_vgg(self, any_painting: np.ndarray, capsys: Captured) -> None:
        assert run("--network=decoder", "--style=painting.png", "--tile_size=204") == 2
        assert "tile must be a multiple of 8 above 144" in capsys.readouterr().err


class TestRefine:
    def test_brings_the_painting_out(self, any_painting: np.ndarray) -> None:
        """The objective of --mode=gatys falls."""
        vgg = load_vgg("vgg16")
        painting = images.fit(any_painting, 128)
        targets = jax.jit(objective.targets, static_argnums=0)(
            WASSERSTEIN, vgg, content=images.read("photo.png"), styles=[painting]
        )
        evaluate = jax.jit(objective.evaluate, static_argnums=0)

        def of(picture: np.ndarray) -> float:
            return float(evaluate(WASSERSTEIN, vgg, picture, targets)[0])

        before = of(made("--style=painting.png", "--stroke_size=128"))
        after = of(made("--style=painting.png", "--stroke_size=128", "--refine=4"))
        assert after < 0.8 * before

    def test_needs_the_painting(self, any_painting: np.ndarray, capsys: Captured) -> None:
        assert run("--input=photo.png", "--style=day", "--refine=2") == 2
        assert "--refine needs the painting of day" in capsys.readouterr().err

    def test_is_for_whole_pictures(self, any_painting: np.ndarray, capsys: Captured) -> None:
        flags = ("--style=painting.png", "--content_mask=left.png", "--refine=2")
        assert run("--input=photo.png", *flags) == 2
        assert "--refine is for whole pictures: leave out --content_mask" in capsys.readouterr().err


class TestStyles:
    def test_the_first_is_the_default(self, trained: pretrained_networks.TrainedNetwork) -> None:
        assert_alike(made(), expected(trained, 1, 0))

    def test_one_is_chosen_by_name(self, trained: pretrained_networks.TrainedNetwork) -> None:
        assert_alike(made("--style=night"), expected(trained, 0, 1))

    def test_several_are_mixed_by_their_weights(
        self, trained: pretrained_networks.TrainedNetwork
    ) -> None:
        assert_alike(made("--style=day:3,night:1"), expected(trained, 0.75, 0.25))

    def test_a_mask_gives_each_its_region(
        self, trained: pretrained_networks.TrainedNetwork
    ) -> None:
        found = made("--style=night,day", "--content_mask=left.png")
        wanted = np.where(MASK[..., None] > 0, expected(trained, 0, 1), expected(trained, 1, 0))
        assert_alike(found, wanted)

    def test_outside_of_all_masks_the_photo_stays(
        self, trained: pretrained_networks.TrainedNetwork
    ) -> None:
        found = made("--style=night", "--content_mask=left.png")
        photo = images.read("photo.png")
        assert_alike(found, np.where(MASK[..., None] > 0, expected(trained, 0, 1), photo))

    def test_a_black_mask_is_refused(self, capsys: Captured) -> None:
        images.write("black.png", np.zeros_like(MASK))
        assert run("--input=photo.png", "--style=day", "--content_mask=black.png") == 2
        assert "the mask black.png is black" in capsys.readouterr().err

    def test_an_unknown_one_lists_the_others(self, capsys: Captured) -> None:
        assert run("--style=noon") == 2
        message = (
            "there is neither a style nor a picture noon: give the file of a painting, or one of"
        )
        assert f"{message} day, night" in capsys.readouterr().err

    def test_masks_that_do_not_fit_are_refused(self, capsys: Captured) -> None:
        assert run("--style=day", "--content_mask=left.png,left.png") == 2
        assert "a mask for each of 1 styles" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--style=day:3,night:1", "--content_mask=left.png"], "leave out the weights of"),
            (["--sheet", "--content_mask=left.png"], "--sheet shows every style on all of a photo"),
        ],
    )
    def test_what_masks_leave_no_room_for_is_refused(
        self, flags: list[str], message: str, capsys: Captured
    ) -> None:
        assert run("--input=photo.png", *flags) == 2
        assert message in capsys.readouterr().err

    def test_list_names_all_that_are_shipped(self, capsys: Captured) -> None:
        assert run("--list") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["day", "night"]

    def test_sheet_shows_all(self) -> None:
        assert run("--input=photo.png", "--sheet", "--image_size=64") == 0
        height, width = images.read("photo-sheet.png").shape[:2]
        assert width > 2 * 64
        assert height > 2 * 40

    def test_sheet_has_a_row_for_each_photo_of_a_folder(self) -> None:
        Path("photos").mkdir()
        for name in ("a.png", "b.png", "c.png"):
            shutil.copy("photo.png", f"photos/{name}")
        assert run("--input=photos", "--sheet", "--image_size=64") == 0
        height, width = images.read("photos-sheet.png").shape[:2]
        assert 3 * 64 < width < 4 * 64  # The photo and two styles.
        assert 3 * 40 < height < 4 * 48

    def test_sheet_that_its_format_cannot_hold_is_a_png(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        monkeypatch.setattr(images, "_LARGEST_SIDES", {"WEBP": 128})
        assert run("--input=photo.png", "--sheet", "--image_size=64", "--output=out.webp") == 0
        assert images.read("out.webp.png").shape[1] > 128
        assert capsys.readouterr().out == "out.webp.png: 2 styles\n"

    def test_sheet_leaves_out_what_cannot_be_read(self, capsys: Captured) -> None:
        Path("photos").mkdir()
        for name in ("a.png", "c.png"):
            shutil.copy("photo.png", f"photos/{name}")
        Path("photos/b.png").write_bytes(b"not a picture")
        assert run("--input=photos", "--sheet", "--image_size=64") == 1
        assert 2 * 40 < images.read("photos-sheet.png").shape[0] < 4 * 40
        lines = capsys.readouterr().err.splitlines()
        left_out = [line for line in lines if line.startswith("left out: ")]
        assert [Path(line.split()[2].rstrip(":")).name for line in left_out] == ["b.png"]

    def test_sheet_of_which_nothing_can_be_read_is_not_written(self, capsys: Captured) -> None:
        Path("photos").mkdir()
        Path("photos/b.png").write_bytes(b"not a picture")
        assert run("--input=photos", "--sheet") == 2
        assert "left out: " in capsys.readouterr().err
        assert not Path("photos-sheet.png").exists()


class TestStrokeSize:
    @pytest.fixture(autouse=True)
    def sized(self, trained: pretrained_networks.TrainedNetwork) -> None:
        """`sized.safetensors`: the network's two rows as one style at two sizes."""
        sized = dataclasses.replace(trained, styles=("day",), stroke_sizes=(20, 80))
        pretrained_networks.save("sized.safetensors", sized, dtype="float32")

    @pytest.mark.parametrize(
        ("flags", "pixels", "weights"),
        [
            (["--stroke_size=20"], 20, (1, 0)),
            (["--stroke_size=40"], 40, (0.5, 0.5)),
            (["--stroke_size=5000"], 80, (0, 1)),
            (["--stroke_size=80%", "--image_size=100"], 80, (0, 1)),
            (["--image_size=100"], 45, (1 - np.log2(45 / 20) / 2, np.log2(45 / 20) / 2)),
            ([], 0.45 * 53, (1 - np.log2(0.45 * 53 / 20) / 2, np.log2(0.45 * 53 / 20) / 2)),
        ],
    )
    def test_is_in_pixels_or_a_share_of_the_long_side(
        self,
        trained: pretrained_networks.TrainedNetwork,
        flags: list[str],
        pixels: float,
        weights: tuple[float, float],
    ) -> None:
        photo = images.read("photo.png")
        if "--image_size=100" in flags:
            photo = images.fit(photo, 100)
        wanted = painted(trained, vary(photo, stroke_size=pixels), weights)
        assert_alike(made("--network=sized.safetensors", *flags), wanted)

    @pytest.mark.parametrize("text", ["large", "0", "-3", "nan", "%", "12px"])
    def test_what_is_no_size_is_refused(self, text: str, capsys: Captured) -> None:
        assert run("--network=sized.safetensors", f"--stroke_size={text}") == 2
        assert f"--stroke_size={text} is no size: give pixels" in capsys.readouterr().err

    def test_of_a_network_with_one_size_is_refused(self, capsys: Captured) -> None:
        assert run("--network=net.safetensors", "--stroke_size=20") == 2
        assert "the strokes of this network have one size" in capsys.readouterr().err


class TestVariation:
    @pytest.mark.parametrize("amount", [0.0, 1.0])
    def test_is_as_much_as_is_asked_for(
        self, trained: pretrained_networks.TrainedNetwork, amount: float
    ) -> None:
        assert_alike(made(f"--variation={amount}"), expected(trained, 1, 0, variation=amount))


class TestBlending:
    def test_strength_blends_towards_the_photo(
        self, trained: pretrained_networks.TrainedNetwork
    ) -> None:
        photo = images.read("photo.png")
        assert_alike(made("--strength=0"), photo)
        assert_alike(made("--strength=0.25"), 0.75 * photo + 0.25 * expected(trained, 1, 0))

    def test_of_a_tall_photo_is_done_by_rows(
        self, trained: pretrained_networks.TrainedNetwork, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stylize, "_ROWS", 10)
        wanted = 0.5 * images.read("photo.png") + 0.5 * expected(trained, 1, 0)
        assert_alike(made("--strength=0.5"), wanted)

    def test_keep_colors_takes_luminance_from_the_style(
        self, trained: pretrained_networks.TrainedNetwork
    ) -> None:
        photo = images.read("photo.png")
        wanted = np.asarray(color.replace_luminance(photo, expected(trained, 1, 0)))
        assert_alike(made("--keep_colors=luminance"), wanted)

    def test_keep_colors_gives_the_photos_mean(self) -> None:
        """Up to what is clipped."""
        found = made("--keep_colors=histogram").mean((0, 1))
        np.testing.assert_allclose(found, images.read("photo.png").mean((0, 1)), atol=0.03)

    @pytest.mark.parametrize(
        "flag", ["--strength=1.5", "--strength=-1", "--variation=1.5", "--style=day:0"]
    )
    def test_a_number_out_of_range_is_refused(self, flag: str) -> None:
        assert run("--input=photo.png", flag) == 2
        assert not Path("photo-day.png").exists()


class TestSizes:
    def test_of_a_very_large_picture_the_first_is_warned_of(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(stylize, "_FINE_PIXELS", 37 * 53)
        Path("in").mkdir()
        for name in ("a.png", "b.png"):
            shutil.copy("photo.png", f"in/{name}")
        assert run("--input=in", "--output=out") == 0
        (told,) = caplog.messages
        assert told.startswith("at 53x37 pixels strokes are a hair's breadth: --image_size=")
        caplog.clear()
        made("--image_size=52")
        assert not caplog.messages

    def test_an_odd_size_comes_back(self) -> None:
        assert made().shape == (37, 53, 3)

    def test_image_size_is_the_long_side(self) -> None:
        assert made("--image_size=106").shape == (74, 106, 3)

    def test_a_large_picture_is_done_in_tiles(self, capsys: Captured) -> None:
        large = np.tile(PHOTO, (4, 4, 1))
        images.write("large.png", large)
        assert run("--input=large.png", "--output=tiled.png", "--tile_size=128") == 0
        assert run("--input=large.png", "--output=whole.png") == 0
        difference = images.read("tiled.png") - images.read("whole.png")
        assert np.abs(difference).max() < 0.05
        assert "tile" in capsys.readouterr().err

    def test_a_tile_that_cannot_be_is_refused(self, capsys: Captured) -> None:
        assert run("--input=photo.png", "--tile_size=130") == 2
        assert "multiple of 4" in capsys.readouterr().err

    def test_transparency_comes_back(self) -> None:
        images.write("cut.png", PHOTO, alpha=MASK)
        assert run("--input=cut.png", "--output=out.png") == 0
        alpha = images.read_picture("out.png").alpha
        assert alpha is not None
        np.testing.assert_allclose(alpha, MASK, atol=1e-6)

    def test_colours_stay_what_they_are_under_it(self) -> None:
        red = (200, 10, 30, 128)
        Image.new("RGBA", (40, 24), red).save("red.png")
        assert run("--input=red.png", "--output=out.png", "--strength=0") == 0
        with Image.open("out.png") as found:
            assert found.mode == "RGBA"
            assert found.getcolors() == [(40 * 24, red)]

    @pytest.mark.parametrize("flags", [[], ["--image_size=106"], ["--keep_colors=luminance"]])
    def test_what_is_transparent_does_not_bleed_in(self, flags: list[str]) -> None:
        Path("in").mkdir()
        for name, hidden in (("black", 0.0), ("white", 1.0)):
            photo = np.where(MASK[..., None] > 0, PHOTO, np.float32(hidden))
            images.write(f"in/{name}.png", photo, alpha=MASK)
        assert run("--input=in", "--output=out", *flags) == 0
        assert run("--input=in/black.png", "--output=black.png", *flags) == 0
        black, white, alone = (
            images.read_picture(path).rgb
            for path in ("out/black.png", "out/white.png", "black.png")
        )
        np.testing.assert_array_equal(black, white)
        # In a folder it is computed in a frame, to rounding the same.
        np.testing.assert_allclose(black, alone, atol=1.001 / 255)

    def test_a_sheet_shows_it_over_white(self) -> None:
        images.write("cut.png", PHOTO, alpha=0 * MASK)
        assert run("--input=cut.png", "--sheet", "--image_size=64") == 0
        # But for the captions it is blank.
        assert images.read("cut-sheet.png").mean() > 0.95


class TestFolders:
    def test_all_pictures_keep_their_places(self, tmp_path: Path, capsys: Captured) -> None:
        for name in ("a.png", "b.jpg", "deep/c.png", "deep/d.gif"):
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((PHOTO * 255).astype(np.uint8)).save(path)
        (tmp_path / "in" / "bad.jpg").write_bytes(b"not a picture")
        (tmp_path / "in" / "notes.txt").write_text("not a picture either")
        assert run("--input=in", "--output=out", "--batch_size=2") == 1
        found = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*"))
        assert found == ["a.png", "b.jpg", "deep/c.png", "deep/d.png"]
        captured = capsys.readouterr()
        assert "4 of 5 pictures" in captured.out
        assert "bad.jpg" in captured.err

    def test_hidden_files_are_passed_over_and_heic_is_named(
        self, tmp_path: Path, capsys: Captured
    ) -> None:
        for name in ("a.jfif", "._a.png", ".hidden/b.png", "phone.heic"):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        Image.fromarray((PHOTO * 255).astype(np.uint8)).save(tmp_path / "in/a.jfif", "JPEG")
        assert run("--input=in", "--output=out") == 1
        out, err = capsys.readouterr()
        assert out == "out: 1 of 2 pictures, 1 as .png, since their own formats cannot hold them\n"
        left_out = [line for line in err.splitlines() if line.startswith("left out: ")]
        assert len(left_out) == 1
        assert str(Path("in/phone.heic")) in left_out[0]
        assert run("--input=in", "--sheet", "--image_size=64") == 1
        assert "phone.heic" in capsys.readouterr().err

    def test_batches_give_the_same_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        for index in range(3):
            picture = np.roll(PHOTO, 7 * index, axis=1)
            images.write(tmp_path / "in" / f"{index}.png", picture)
        assert run("--input=in", "--output=one", "--batch_size=1") == 0
        assert run("--input=in", "--output=two", "--batch_size=2") == 0
        for index in range(3):
            alone, together = (images.read(f"{name}/{index}.png") for name in ("one", "two"))
            np.testing.assert_allclose(alone, together, atol=1.01 / 255)

    def test_need_a_folder_for_the_results(self, tmp_path: Path, capsys: Captured) -> None:
        (tmp_path / "in").mkdir()
        images.write(tmp_path / "in" / "a.png", PHOTO)
        assert run("--input=in") == 2
        assert "--output" in capsys.readouterr().err

    def test_without_pictures_are_refused(self, tmp_path: Path, capsys: Captured) -> None:
        (tmp_path / "empty").mkdir()
        assert run("--input=empty", "--output=out") == 2
        assert "no picture" in capsys.readouterr().err


class TestOutput:
    def test_is_named_after_the_photo_and_the_style(self) -> None:
        assert run("--input=photo.png", "--style=night") == 0
        assert Path("photo-night.png").exists()

    def test_says_how_it_was_made(self) -> None:
        made("--style=night")
        settings = images.read_settings("out.png")
        assert settings is not None
        assert settings["mode"] == "stylize"
        assert settings["style"] == ["night"]

    def test_pipes(self, trained: pretrained_networks.TrainedNetwork) -> None:
        """In a process of its own, whose standard streams are bytes."""
        finished = subprocess.run(
            [
                *(sys.executable, str(PROGRAM), "--mode=stylize", "--input=-", "--output=-"),
                *("--network=net.safetensors", "--style=night"),
            ],
            input=Path("photo.png").read_bytes(),
            capture_output=True,
            check=True,
        )
        with Image.open(io.BytesIO(finished.stdout)) as picture:
            found = np.asarray(picture, np.float32) / np.float32(255)
        assert_alike(found, expected(trained, 0, 1))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")
    @pytest.mark.parametrize(
        ("flags", "output"),
        [
            ([], "camera-day.png"),
            (["--sheet", "--image_size=64"], "camera-sheet.png"),
            (["--style=night", "--content_mask={}", "--input=photo.png"], "photo-night.png"),
        ],
    )
    def test_a_pipe_in_a_folder_is_read(self, flags: list[str], output: str) -> None:
        os.mkfifo("camera.jpg")
        content = Path("photo.png").read_bytes()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            pool.submit(Path("camera.jpg").write_bytes, content)
            arguments = [flag.format("camera.jpg") for flag in flags]
            assert run("--input=camera.jpg", *arguments) == 0
        assert Path(output).exists()

    def test_a_sheet_goes_through_pipes(self) -> None:
        finished = subprocess.run(
            [
                *(sys.executable, str(PROGRAM), "--mode=stylize", "--input=-", "--sheet"),
                *("--network=net.safetensors", "--image_size=64"),
            ],
            input=Path("photo.png").read_bytes(),
            capture_output=True,
            check=True,
        )
        with Image.open(io.BytesIO(finished.stdout)) as picture:
            assert picture.format == "PNG"
            assert picture.width > 2 * 64

    def test_an_example_and_the_compiler_are_told_of(self, capsys: Captured) -> None:
        assert run("--image_size=64", "--output=out.png") == 0
        assert capsys.readouterr().err.splitlines() == [
            "taking from the examples: rocket (--input)",
            "compiling for 64x43",
        ]
        made()
        assert "examples" not in capsys.readouterr().err

    def test_a_photo_that_cannot_be_read_writes_nothing(self, capsys: Captured) -> None:
        Path("bad.png").write_bytes(b"not a picture")
        assert run("--input=bad.png", "--output=out.png") == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not Path("out.png").exists()


class TestNetwork:
    def test_a_file_is_taken_by_its_path(self, trained: pretrained_networks.TrainedNetwork) -> None:
        found = made("--network=net.safetensors", "--style=night")
        assert_alike(found, expected(trained, 0, 1))

    def test_none_that_is_shipped_says_what_to_do(self, tmp_path: Path, capsys: Captured) -> None:
        (tmp_path / "weights" / "networks" / "two.safetensors").unlink()
        assert run("--input=photo.png") == 2
        assert "--mode=train_transform" in capsys.readouterr().err
