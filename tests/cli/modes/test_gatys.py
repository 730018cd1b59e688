"""`--mode=gatys` as a person uses it: flags in, files out.

Pictures are of a few dozen pixels, and most tests look at shallow layers, which compile fast.
"""

import concurrent.futures
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from perceptual_jax.cli import console, main, memory
from perceptual_jax.cli.modes import gatys
from perceptual_jax.io import images, resources
from perceptual_jax.objective import GATYS, WASSERSTEIN
from perceptual_jax.pretrained.vgg import load_vgg
from tests import reference

Captured = pytest.CaptureFixture[str]

PROGRAM = Path(__file__).parents[3] / "run.py"
SHALLOW = ("--content_layers=conv2_1", "--style_layers=conv1_1,conv2_1")
SMALL = ("--content=photo.png", "--style=red.png", "--image_size=48", "--steps=4", *SHALLOW)
OUT = "--output=out.png"


def noise(height: int, width: int, low: Any, high: Any, seed: int) -> np.ndarray:
    """Smooth noise with colours from `low` to `high`: channels differ in range, not in pattern."""
    coarse = reference.random_images(height // 4 + 2, width // 4 + 2, 1, seed=seed)
    pattern = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)[:height, :width]
    return (np.array(low) + (np.array(high) - np.array(low)) * pattern).astype(np.float32)


PHOTO = noise(37, 56, (0.3, 0.4, 0.35), (0.5, 0.65, 0.7), seed=1)
PICTURES = {
    "photo.png": PHOTO,
    "red.png": noise(50, 40, (0.6, 0.0, 0.0), (1.0, 0.3, 0.2), seed=2),
    "blue.png": noise(44, 52, (0.0, 0.1, 0.5), (0.2, 0.3, 1.0), seed=3),
    "left.png": np.broadcast_to(np.arange(56) < 28, (37, 56)).astype(np.float32),
    "right.png": np.broadcast_to(np.arange(56) >= 28, (37, 56)).astype(np.float32),
    "black.png": np.zeros((37, 56), np.float32),
}


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    """Read from its file once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gatys, "load_vgg", functools.cache(load_vgg))
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `PICTURES` in it."""
    monkeypatch.chdir(tmp_path)
    for name, pixels in PICTURES.items():
        images.write(tmp_path / name, pixels)
    return tmp_path


def run(*arguments: str) -> int:
    return main.main(["run.py", "--mode=gatys", *arguments])


def made(*arguments: str, path: str = "out.png") -> np.ndarray:
    """The picture that a successful run writes."""
    assert run(*SMALL, OUT, *arguments) == 0
    return images.read(path)


def metrics(folder: str = "run") -> list[dict[str, Any]]:
    text = Path(folder, "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def size_of(path: str | Path) -> tuple[int, int]:
    """(width, height), as everyone but this project says it."""
    with Image.open(path) as image:
        return image.size


pytestmark = pytest.mark.usefixtures("compiled_once")


class TestWithoutFlags:
    """But for the size and the iterations, which are for patient people."""

    def test_makes_a_picture_from_the_examples(self, capsys: Captured) -> None:
        assert run("--image_size=48", "--steps=3", "--workdir=run") == 0
        result, err = capsys.readouterr()
        assert err.startswith(
            "taking from the examples: rocket (--content), starry_night (--style)\n\rcompiling "
        )
        path = Path("run", "rocket-starry_night.png")
        width, height = size_of(resources.picture("rocket", "content"))
        scale = 48 / max(width, height)
        assert size_of(path) == (round(width * scale), round(height * scale))
        assert result.startswith(f"{path}: {size_of(path)[0]}x{size_of(path)[1]}, 3 iterations, ")

        settings = images.read_settings(path)
        config = json.loads(Path("run", "config.json").read_text(encoding="utf-8"))
        assert settings == {**config, "iterations": 3}
        assert config["program"].startswith("perceptual_jax ")
        given = {"mode": "gatys", "content": "rocket", "style": ["starry_night"], "image_size": 48}
        assert config.items() >= given.items()

        terms = {f"content/{x}" for x in WASSERSTEIN.content_layers}
        terms |= {f"style/{x}" for x in WASSERSTEIN.style_layers} | {"range"}
        lines = metrics()
        assert [line["step"] for line in lines] == [0, 1, 2, 3]
        for line in lines:
            assert set(line["terms"]) == terms
            assert line["total"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
        # It starts from the photo, whose features another program computed: their rounding differs.
        assert lines[0]["terms"]["content/relu4_1"] < 1e-9 * lines[1]["terms"]["content/relu4_1"]
        assert lines[-1]["total"] < lines[0]["total"]
        assert images.read(Path("run", "terms.png")).shape == (500, 800, 3)


class TestPreset:
    def test_gatys2015_is_the_papers_objective(self) -> None:
        small = ("--content=photo.png", "--style=red.png", "--image_size=48", "--steps=1")
        assert run(*small, "--preset=gatys2015", "--workdir=run", "--noplot") == 0
        config = json.loads(Path("run", "config.json").read_text(encoding="utf-8"))
        assert config["preset"] == "gatys2015"
        assert config["style_statistics"] == "gram"
        assert config["style_weight"] == GATYS.style_weight
        assert config["pooling"] == GATYS.pooling
        terms = metrics()[0]["terms"]
        assert set(terms) == set(GATYS.term_weights())

    def test_flags_that_are_given_come_before_it(self) -> None:
        made("--preset=gatys2015", "--style_layers=conv1_1", "--workdir=run", "--noplot")
        assert {x for x in metrics()[0]["terms"] if x.startswith("style")} == {"style/conv1_1"}

    def test_statistics_can_be_chosen_alone(self) -> None:
        gram, moments = (
            made(f"--style_statistics={statistics}") for statistics in ("gram", "wasserstein")
        )
        assert np.abs(gram - moments).max() > 0.02


class TestResult:
    def test_is_named_by_its_parts(self) -> None:
        assert run(*SMALL, "--style=red.png:2,blue.png") == 0
        assert size_of("photo-red-blue.png") == (48, 32)

    def test_is_made_of_pipes(self) -> None:
        """As `<(command)` gives them."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for name, source in (("63", "photo.png"), ("62", "red.png")):
                os.mkfifo(name)
                pool.submit(Path(name).write_bytes, Path(source).read_bytes())
            assert run(*SMALL, "--content=63", "--style=62") == 0
        assert size_of("stdin-stdin.png") == (48, 32)

    def test_is_reproducible_from_its_seed(self) -> None:
        first, again, other = (made("--init=noise", f"--seed={seed}") for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 0.05

    def test_moves_towards_the_painting(self) -> None:
        """From the blueish photo to the red painting, by the mean of red over blue."""
        found, photo = made("--steps=15"), images.resize(PHOTO, (32, 48))
        redness = [float((x[..., 0] - x[..., 2]).mean()) for x in (photo, found)]
        assert redness[1] > redness[0] + 0.1

    def test_has_the_photos_aspect_and_transparency(self) -> None:
        alpha = np.broadcast_to(np.linspace(0.0, 1.0, 45, dtype=np.float32), (31, 45))
        images.write("cutout.png", noise(31, 45, (0.2,) * 3, (0.8,) * 3, seed=4), alpha=alpha)
        made("--content=cutout.png", "--image_size=45")
        found = images.read_picture("out.png")
        assert found.rgb.shape == (31, 45, 3)
        assert found.alpha is not None
        np.testing.assert_allclose(found.alpha, alpha, atol=0.01)

    def test_what_is_transparent_does_not_bleed_in(self) -> None:
        alpha = PICTURES["left.png"]
        found = []
        for name, hidden in (("black", 0.0), ("white", 1.0)):
            photo = np.where(alpha[..., None] > 0, PHOTO, np.float32(hidden))
            images.write(f"{name}-hidden.png", photo, alpha=alpha)
            names = (f"--content={name}-hidden.png", f"--init={name}-hidden.png")
            made(*names, "--image_size=56", "--num_scales=1")
            found.append(images.read_picture("out.png").rgb)
        np.testing.assert_array_equal(found[0], found[1])

    @pytest.mark.parametrize("suffix", [".jpg", ".webp"])
    def test_is_of_the_format_of_its_suffix(self, suffix: str) -> None:
        path = f"new/folder/out{suffix}"
        made(f"--output={path}", path=path)
        assert size_of(path) == (48, 32)
        settings = images.read_settings(path)
        assert settings is not None
        assert settings["steps"] == 4


class TestBlend:
    def test_a_painting_of_no_weight_does_not_count(self) -> None:
        alone, blended = made(), made("--style=red.png:0.5,blue.png:0")
        np.testing.assert_allclose(blended, alone, atol=2 / 255)

    def test_weights_say_how_much_each_counts(self) -> None:
        redness = []
        for style in ("red.png:0.9,blue.png:0.1", "red.png,blue.png", "red.png:1,blue.png:9"):
            found = made(f"--style={style}", "--steps=15")
            redness.append(float((found[..., 0] - found[..., 2]).mean()))
        assert redness[0] > redness[1] + 0.05 > redness[2] + 0.1


class TestMasks:
    BOTH = ("--style=red.png,blue.png", "--steps=15")

    def test_each_painting_keeps_to_its_region(self) -> None:
        """And one mask fewer than paintings leaves the rest to the last."""
        found = made(*self.BOTH, "--content_mask=left.png")
        redness = found[..., 0] - found[..., 2]
        assert redness[:, :20].mean() > redness[:, 28:].mean() + 0.3
        explicit = made(*self.BOTH, "--content_mask=left.png,right.png")
        np.testing.assert_allclose(explicit, found, atol=0.05)

    def test_of_a_painting_only_the_white_part_is_taken(self) -> None:
        both = np.concatenate([PICTURES["red.png"][:40], PICTURES["blue.png"][:40]], axis=1)
        images.write("both.png", both)
        images.write("its_left.png", np.broadcast_to(np.arange(92) < 36, (40, 92)).astype("f4"))
        images.write("its_right.png", np.broadcast_to(np.arange(92) > 44, (40, 92)).astype("f4"))
        redness = []
        for mask in ("its_left.png", "its_right.png"):
            found = made("--style=both.png", f"--style_mask={mask}", "--steps=15")
            redness.append(float((found[..., 0] - found[..., 2]).mean()))
        assert redness[0] > redness[1] + 0.3


class TestKeepColors:
    # The rows of NTSC's YIQ that are chroma.
    CHROMA = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

    def test_luminance_leaves_the_photos_chroma(self) -> None:
        found, photo = made("--keep_colors=luminance"), images.resize(PHOTO, (32, 48))
        inside = (found > 0.01).all(-1) & (found < 0.99).all(-1)
        assert inside.mean() > 0.9
        chroma = [x[inside] @ self.CHROMA.T for x in (found, photo)]
        np.testing.assert_allclose(chroma[0], chroma[1], atol=0.01)  # Of 8 bits.
        assert np.abs(found - photo).max() > 0.03

    def test_histogram_keeps_near_the_photos_palette(self) -> None:
        photo = images.resize(PHOTO, (32, 48)).mean((0, 1))
        away = [
            np.linalg.norm(made(f"--keep_colors={how}", "--steps=15").mean((0, 1)) - photo)
            for how in ("none", "histogram")
        ]
        assert away[1] < 0.3 * away[0]


class TestInit:
    def test_goes_on_from_a_picture(self) -> None:
        options = ("--noplot", "--margin=0")
        made("--workdir=run", *options)
        made("--workdir=next", "--init=out.png", "--num_scales=1", "--steps=1", *options)
        before, after = metrics("run"), metrics("next")
        lowest = min(line["total"] for line in before)
        # It was rounded to 8 bits, and clipped.
        assert after[0]["total"] < 1.05 * lowest
        assert after[0]["total"] < 0.9 * before[0]["total"]

    def test_from_noise(self) -> None:
        made("--init=noise", "--workdir=run", "--noplot")
        made("--workdir=from_photo", "--noplot")
        # But for rounding: two programs compute the photo's features.
        assert metrics("from_photo")[0]["terms"]["content/conv2_1"] < 1e-3
        assert metrics("run")[0]["terms"]["content/conv2_1"] > 0.0


class TestRun:
    def test_goes_through_the_scales(self) -> None:
        made("--num_scales=2", "--steps=3", "--workdir=run", "--noplot")
        lines = metrics()
        assert [line["scale"] for line in lines] == [0] * 4 + [1] * 4
        sizes = [(line["width"], line["height"]) for line in lines]
        assert sizes == [(24, 16)] * 4 + [(48, 32)] * 4
        assert [line["step"] for line in lines] == [0, 1, 2, 3, 3, 4, 5, 6]
        settings = images.read_settings("out.png")
        assert settings is not None
        assert settings["iterations"] == 6
        assert not Path("run", "terms.png").exists()

    @pytest.mark.parametrize("workdir", ["run", None])
    def test_writes_previews(self, workdir: str | None) -> None:
        """Into the run folder, or beside the picture."""
        made("--preview_every=4", *([f"--workdir={workdir}"] if workdir else []))
        path = Path(workdir, "previews", "000004.png") if workdir else Path("out-000004.png")
        assert size_of(path) == (48, 32)
        settings = images.read_settings(path)
        assert settings is not None
        assert settings["iterations"] == 4

    def test_none_are_written_by_default(self, folder: Path) -> None:
        made()
        assert {x.name for x in folder.iterdir()} == {*PICTURES, "out.png"}

    def test_with_adam(self) -> None:
        """Whose first step is the learning rate, in every coordinate: twice the rate, twice it."""
        start = images.resize(PHOTO[::-1, ::-1], (32, 48))
        images.write("start.png", start)
        moved = []
        for rate in (0.02, 0.04):
            with jax.numpy_dtype_promotion("standard"):  # optax's Adam adds integers to floats.
                found = made(
                    "--optimizer=adam", f"--learning_rate={rate}", "--steps=1", "--init=start.png"
                )
            moved.append(255 * (found - images.read("start.png")))
        # 0.02 is 5.1 levels of 8 bits, and up to three times as much where neighbours move alike.
        assert 5 < np.abs(moved[0]).max() < 16
        # To half a level, to which pictures are rounded, of either.
        np.testing.assert_allclose(moved[1], 2 * moved[0], atol=1.6)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--content=nowhere.jpg"], "there is no picture 'nowhere.jpg'"),
            (["--content=notes.txt"], "notes.txt is not a picture"),
            (["--style=nowhere"], "there is no picture 'nowhere': give"),
            (["--style="], "--style is empty"),
            (["--style=red.png:-1"], "--style=red.png:-1: the weight must be"),
            (["--style=red.png:0,blue.png:0"], "at least one weight must be above 0"),
            (["--content_layers=conv9_1"], "no layer conv9_1; it has conv1_1, "),
            (["--style_layers=conv1_1,relu"], "no layer relu"),
            (["--style_layers=conv5_1", "--image_size=20"], "photo's short side is 13 pixels"),
            (["--style_layers=conv5_1", "--num_scales=3"], "and the layers need 16: raise"),
            (["--style_scale=0.05", "--style_layers=conv3_1"], "the painting's short side"),
            (["--content_mask=left.png,right.png"], "a mask for each of 1 paintings"),
            (["--content_mask=black.png"], "the mask black.png is black"),
            (["--style_mask=left.png,right.png"], "one mask for each of 1 paintings, got 2"),
            (["--content_mask=nowhere.png"], "nowhere.png"),
            (["--init=nowhere.png"], "there is no picture 'nowhere.png'"),
            (["--output=result"], "cannot tell from the suffix of 'result'"),
            (["--output=result.gif"], "cannot tell from the suffix of 'result.gif'"),
            (["--output=photo.png/out.png"], "cannot write photo.png/out.png"),
            (["--output=."], "give the path of a file"),
            (["--workdir=photo.png", "--output="], "cannot write photo.png/photo-red.png"),
            (["--vgg=nothing"], "there are no weights 'nothing'"),
            (["--tv_weight=nan"], "--tv_weight=nan: it must be a finite number"),
            (["--style_scale=inf"], "--style_scale=inf: it must be a finite number"),
            (["--line_search", "--learning_rate=1"], "leave learning_rate out, got 1.0"),
            (["--line_search", "--optimizer=adam"], "line_search is for lbfgs"),
        ],
    )
    def test_are_reported_before_anything_is_written(
        self, arguments: list[str], message: str, folder: Path, capsys: Captured
    ) -> None:
        """Least of all over an earlier run."""
        (folder / "notes.txt").write_text("not a picture")
        (folder / "run").mkdir()
        (folder / "run" / "metrics.jsonl").write_text("of an hour's work")
        before = contents(folder)
        assert run(*SMALL, OUT, "--workdir=run", *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err
        assert contents(folder) == before

    def test_a_size_that_does_not_fit_into_memory(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: 680_000_000)
        before = contents(folder)
        assert run(*SMALL, OUT, "--image_size=1000") == 2
        assert "1000x661 needs about " in (error := capsys.readouterr().err)
        assert "is the largest that fits" in error
        assert contents(folder) == before
        monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
        assert run(*SMALL, OUT) == 2
        made("--nocheck_memory")

    def test_a_size_that_the_format_cannot_hold(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        monkeypatch.setattr(images, "_LARGEST_SIDES", {"WEBP": 47})
        before = contents(folder)
        assert run(*SMALL, "--output=out.webp") == 2
        assert "WEBP holds 47 pixels a side" in capsys.readouterr().err
        assert contents(folder) == before

    def test_an_objective_that_breaks(self, capsys: Captured) -> None:
        """The last good picture, here the photo itself, is written all the same."""
        assert run(*SMALL, OUT, "--workdir=run", "--learning_rate=1e30") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.match(
            r"error: the (gradient|term content/conv2_1.*) was no longer finite by .*"
            r"lower the learning rate .*--learning_rate.*out.png is the picture before that",
            error,
        )
        found = images.read("out.png")
        np.testing.assert_allclose(found, images.resize(PHOTO, (32, 48)), atol=0.02)
        assert len(metrics()) >= 1

    @pytest.mark.parametrize("factor", ["e-6", "e30"])
    def test_the_scale_of_the_weights_is_no_mistake(self, factor: str) -> None:
        """They are ratios, and the weight of the range follows them."""
        expected = made()
        found = made(f"--content_weight=1{factor}", f"--style_weight=10000{factor}")
        np.testing.assert_allclose(found, expected, atol=1 / 255 + 1e-6)


def test_needs_none_of_jaxs_defaults() -> None:
    """With 64 bits, and with an error for every NaN, it is the same picture."""
    expected = made("--num_scales=2")
    with jax.enable_x64(True), jax.debug_nans(True):
        found = made("--num_scales=2")
    np.testing.assert_allclose(found, expected, atol=2 / 255)


class TestInterrupted:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_keeps_the_picture_so_far(
        self,
        number: signal.Signals,
        code: int,
        monkeypatch: pytest.MonkeyPatch,
        capsys: Captured,
    ) -> None:
        update = console.ProgressBar.update

        def interrupt(bar: Any, work: float, description: str, terms: Any) -> None:
            update(bar, work, description, terms)
            if description.endswith("iteration 1/50"):
                signal.raise_signal(number)

        monkeypatch.setattr(console.ProgressBar, "update", interrupt)
        assert run(*SMALL, OUT, "--steps=50", "--workdir=run") == code
        assert "--init=out.png --num_scales=1" in capsys.readouterr().out
        assert size_of("out.png") == (48, 32)
        settings = images.read_settings("out.png")
        assert settings is not None
        assert settings["iterations"] == 1
        assert len(metrics()) == 2


class TestProgram:
    """`run.py` in a process of its own, from a folder that is not the checkout."""

    COMMAND = (sys.executable, str(PROGRAM), "--mode=gatys", *SMALL, OUT, "--noplot")

    def test_makes_a_picture_here(self, folder: Path) -> None:
        found = subprocess.run(
            [*self.COMMAND, "--steps=1"], cwd=folder, capture_output=True, text=True, timeout=600
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout.startswith("out.png: 48x32, 1 iterations, ")
        assert size_of("out.png") == (48, 32)

    def test_ctrl_c_keeps_the_picture_so_far(self, folder: Path) -> None:
        process = subprocess.Popen(
            [*self.COMMAND, "--steps=1000000", "--workdir=run"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            path, deadline = folder / "run" / "metrics.jsonl", time.monotonic() + 600
            while not (path.exists() and path.read_text().count("\n") > 2):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
        assert process.returncode == 130, err
        assert "Stopped early. To go on from there: --init=out.png --num_scales=1" in out
        assert "Traceback" not in err
        settings = images.read_settings("out.png")
        assert settings is not None
        assert settings["iterations"] == metrics()[-1]["step"] >= 2
