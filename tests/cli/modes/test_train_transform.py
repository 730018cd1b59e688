"""`--mode=train_transform` as a person uses it: paintings and photos in, a network out.

Networks have a few channels, and photos 32 pixels; VGG is the true one.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from perceptual_jax import training
from perceptual_jax.cli import main
from perceptual_jax.cli.modes import train_transform
from perceptual_jax.io import images
from perceptual_jax.models import networks, vary
from perceptual_jax.objective import JOHNSON
from perceptual_jax.pretrained.networks import is_style_name, load_network
from tests import reference
from tests.cli.modes.runs import contents, digest, metrics
from tests.signals import stop_after

pytestmark = pytest.mark.usefixtures("compiled_quickly", "compiled_once", "small_examples")

Captured = pytest.CaptureFixture[str]

PROGRAM = Path(__file__).parents[3] / "run.py"
STEPS = 6
SMALL = (
    "--data=photos",
    "--style=red.png,blue.png",
    "--style_size=32",
    "--content_layers=relu1_2",
    "--style_layers=relu1_1",
    "--width=2",
    "--residual_blocks=0",
    "--image_size=32",
    "--batch_size=2",
    f"--steps={STEPS}",
    "--checkpoint_every=2",
    "--preview_every=0",
    "--noplot",
    "--store=float32",
)


def picture(height: int, width: int, color: Any, seed: int) -> np.ndarray:
    noise = reference.random_images(height, width, 3, seed=seed)
    return (0.5 * noise + 0.5 * np.array(color)).astype(np.float32)


def messy_photos(folder: Path) -> None:
    """What is found in folders of photos beside photos."""
    folder.mkdir()
    for index in range(3):
        images.write(folder / f"good{index}.png", picture(40, 50, (0.2, 0.5, 0.4), seed=index))
    pixels = (255 * picture(44, 38, (0.5, 0.5, 0.5), seed=5)).astype(np.uint8)
    Image.fromarray(pixels).convert("L").save(folder / "grey.jpg")
    Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels).convert("RGBA").save(folder / "rgba.png")
    Image.fromarray(pixels[:3, :3]).save(folder / "tiny.png")
    Image.fromarray(pixels).save(folder / "cut_off.jpg")
    content = (folder / "cut_off.jpg").read_bytes()
    (folder / "cut_off.jpg").write_bytes(content[: len(content) // 2])
    (folder / "corrupt.jpg").write_bytes(b"\xff\xd8 not a photo")


def furnish(folder: Path) -> None:
    """Three paintings, and photos of every kind."""
    for name, color in {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}.items():
        images.write(folder / f"{name}.png", picture(40, 60, color, seed=7))
    messy_photos(folder / "photos")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder."""
    found = tmp_path_factory.mktemp("train_transform")
    furnish(found)
    (found / "corrupt").mkdir()
    (found / "corrupt" / "photo.jpg").write_bytes(b"not a photo")
    (found / "empty").mkdir()
    with contextlib.chdir(found):
        yield found


# Of a run that is also made by processes of their own.
LONGER = 20
LONG = (f"--steps={LONGER}", "--checkpoint_every=5")


class Programs:
    """`run.py` in processes of their own, from a folder that is not the checkout.

    Set up as this process is, so that it reads what this one has compiled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, devices: int) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PERCEPTUAL_JAX_COMPILATION_CACHE": "",
            "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_NUM_CPU_DEVICES": str(devices),
        }
        # JAX has put it there for this process.
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "--mode=train_transform", *SMALL, *LONG, *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def finish(self) -> str:
        """Waits for all that were started, and gives what they wrote to stderr."""
        errors = "".join(process.communicate(timeout=600)[1] for process in self.processes)
        codes = [process.returncode for process in self.processes]
        assert codes == [0] * len(codes), errors
        self.processes.clear()
        return errors

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.communicate()
        self.processes.clear()


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory, compiled_once: None) -> Iterator[Programs]:
    """With a run of two processes, which goes on beside the other tests."""
    running = Programs(tmp_path_factory.mktemp("programs"))
    furnish(running.folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for index in (0, 1):
        running.start(
            "--workdir=two",
            f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={index}",
            devices=1,
        )
    yield running
    running.kill()


def run(*arguments: str) -> int:
    return main.main(["run.py", "--mode=train_transform", *SMALL, *arguments])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The folder of a run that nothing stopped, in which everything is shown."""
    assert run("--workdir=whole", "--preview_every=3", "--plot") == 0
    return folder / "whole"


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    """The folder of a longer run that nothing stopped."""
    assert run("--workdir=one", *LONG) == 0
    return folder / "one"


class TestResult:
    def test_is_a_network_with_all_that_using_it_takes(self, whole: Path) -> None:
        found = load_network(whole / "network.safetensors")
        expected = networks.StyleNetwork(styles=2, width=2, residual_blocks=0)
        assert found.network == expected
        assert found.styles == ("red", "blue")
        for thumbnail, channel in zip(found.thumbnails, (0, 2), strict=True):
            assert thumbnail.shape == (63, 96, 3)
            assert thumbnail.mean((0, 1)).argmax() == channel
        assert found.settings["program"].startswith("perceptual_jax ")
        settings = {"style": ["red.png", "blue.png"], "steps": STEPS, "image_size": 32, "seed": 0}
        assert found.settings.items() >= settings.items()

    def test_is_printed(self, whole: Path, capsys: Captured) -> None:
        assert run("--workdir=whole") == 0
        out, _ = capsys.readouterr()
        assert out == f"whole/network.safetensors: red, blue; {STEPS} of {STEPS} steps\n"

    def test_stylises_a_held_out_photo_on_the_way(self, whole: Path) -> None:
        """In a row of each style below it."""
        assert sorted(x.name for x in (whole / "previews").iterdir()) == [
            "000003.png",
            "000006.png",
        ]
        found = images.read(whole / "previews" / "000006.png")
        height, width = found.shape[:2]
        assert 3 * 150 < height < 3 * 300
        assert 256 < width < 350
        assert np.std(found) > 0.1

    def test_is_measured_and_drawn(self, whole: Path) -> None:
        lines = metrics(whole)
        assert lines[-1]["step"] == STEPS
        terms = {"content/relu1_2", "style/relu1_1", "total_variation"}
        assert all(set(line["terms"]) == terms for line in lines)
        config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
        assert config["style"] == ["red.png", "blue.png"]
        assert config["style_size"] == 32
        assert images.read(whole / "terms.png").shape == (500, 800, 3)

    def test_without_photos_is_of_the_samples(self, folder: Path, capsys: Captured) -> None:
        arguments = [argument for argument in SMALL if not argument.startswith("--data")]
        assert main.main(["run.py", "--mode=train_transform", *arguments]) == 0
        out, _ = capsys.readouterr()
        assert out.startswith("Training on the ")
        assert f"runs/red-blue/network.safetensors: red, blue; {STEPS} of {STEPS} steps" in out
        found = load_network("runs/red-blue/network.safetensors")
        assert found.settings["data"] is None

    def test_may_be_for_gram_matrices(self) -> None:
        """Another objective by its name; flags that are given come before it."""
        options = ("--preset=johnson2016", "--steps=2", "--workdir=grams")
        assert main.main(["run.py", "--mode=train_transform", *SMALL, *options]) == 0
        terms = metrics("grams")[0]["terms"]
        assert set(terms) == {"content/relu1_2", "style/relu1_1", "total_variation"}
        config = json.loads(Path("grams", "config.json").read_text(encoding="utf-8"))
        assert config["style_weight"] == JOHNSON.style_weight
        assert config["content_layers"] == ["relu1_2"]


def crops_of(seed: int = 0, crop: int = 256, **flags: Any) -> train_transform._Crops:
    values = SimpleNamespace(**{"style_size": [384], "parts": 1, "variation": 1.0, **flags})
    config = dataclasses.replace(train_transform.CPU, seed=seed, image_size=crop)
    return train_transform._Crops(values, config)


class TestCrops:
    def test_are_varied_by_random_shares(self) -> None:
        """Grey noise on what is flat: the same for the same number, and another for another."""
        photo = np.full((64, 64, 3), 100, np.uint8)
        crops = crops_of()
        first, again, other = (crops.varied(photo, number)["inputs"] for number in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert first.dtype == np.uint8
        assert (first != other).any()
        amounts = [crops.varied(photo, number)["inputs"].std() for number in range(20)]
        assert min(amounts) < 0.2 * max(amounts)
        crops = crops_of(variation=0.0)
        np.testing.assert_array_equal(crops.varied(photo, 3)["inputs"], photo)

    def test_of_one_photo_have_one_share_of_the_noise_for_their_strokes(self) -> None:
        photo = np.full((64, 64, 3), 102, np.uint8)
        crops = crops_of(style_size=[256, 1024], parts=2)
        for number in range(8):
            # Of photos 0 to 3, which are for strokes of 256, 1024, 256 and 1024.
            first, own = (np.random.default_rng((0, n, 1)) for n in (number - number % 2, number))
            own.random()
            expected = vary(
                np.full((64, 64, 3), np.float32(0.4)),
                amount=first.random(),
                stroke_size=(256, 256, 1024, 1024)[number % 4],
                seed=int(own.integers(2**32)),
            )
            found = crops.varied(photo, number)["inputs"]
            np.testing.assert_array_equal(found, images.eight_bits(expected))

    def test_show_large_photos_to_large_strokes(self) -> None:
        """413 (s / 384)^0.8 pixels in the middle, but for a share that is small."""
        crops = crops_of(style_size=[256, 512, 1024], parts=2)
        sides = np.array([crops.photo_side(2 * photo) for photo in range(3000)]).reshape(-1, 3)
        assert sides.min() == 288  # 9/8 of the crop.
        np.testing.assert_allclose(sides.max(0), [632, 1101, 1600], rtol=0.02)
        large = sides[:, 2]
        assert np.mean(large == 576) == pytest.approx(0.15, abs=0.04)
        others = large[large != 576]
        assert others.min() == pytest.approx(428, rel=0.02)
        assert np.median(others) == pytest.approx(905, rel=0.06)
        other = crops_of(1, style_size=[256, 512, 1024], parts=2)
        assert other.photo_side(4) != crops.photo_side(4)

    def test_fit_into_their_photos(self) -> None:
        crops = crops_of(style_size=[32, 64], crop=512)
        assert {crops.photo_side(number) for number in range(20)} == {576}


class TestAgain:
    def test_a_finished_run_has_nothing_left_to_do(self, whole: Path) -> None:
        before, lines = digest(whole / "network.safetensors"), metrics(whole)
        assert run("--workdir=whole") == 0
        assert digest(whole / "network.safetensors") == before
        assert metrics(whole) == lines

    def test_a_stopped_one_gives_the_same_bits(self, whole: Path, capsys: Captured) -> None:
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
            with pytest.MonkeyPatch.context() as patch:
                stop_after(1, number, patch)
                assert run("--workdir=stopped") == code
            out, _ = capsys.readouterr()
            assert "Stopped early. The same command with --workdir=stopped goes on from" in out
        so_far = load_network("stopped/network.safetensors").settings["steps"]
        assert 2 <= so_far <= 4
        assert run("--workdir=stopped") == 0
        assert digest("stopped/network.safetensors") == digest(whole / "network.safetensors")
        steps = [line["step"] for line in metrics("stopped")]
        assert steps == sorted(set(steps))
        assert steps[-1] == STEPS

    def test_what_does_not_change_the_result_may_change(self, whole: Path) -> None:
        assert (
            run(
                "--workdir=whole",
                "--preview_every=1",
                "--checkpoint_every=0",
                "--noplot",
                "--store=float16",
                "--output=new/other.safetensors",
            )
            == 0
        )
        found = load_network("new/other.safetensors")
        expected = load_network(whole / "network.safetensors")
        assert found.settings == expected.settings
        jax.tree.map(
            lambda x, y: np.testing.assert_array_equal(x, y.astype(np.float16)),
            found.variables,
            expected.variables,
        )

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--style=red.png", "--style was red.png,blue.png, now red.png"),
            ("--style_weight=3", "--style_weight was 5.0, now 3.0"),
            ("--style_size=32,48", "--style_size was 32, now 32,48"),
            ("--width=3", "--width was 2, now 3"),
            ("--steps=7", "--steps was 6, now 7"),
            ("--seed=1", "--seed was 0, now 1"),
            ("--loss_mean=linear", "--loss_mean was log, now linear"),
        ],
    )
    def test_what_would_change_it_is_refused(
        self, flag: str, message: str, whole: Path, capsys: Captured
    ) -> None:
        before = contents(whole)
        assert run("--workdir=whole", flag) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: the run in whole was begun with other settings (")
        assert f"({message})" in err
        assert err.count("\n") == 1
        assert contents(whole) == before


class TestFreezeTrunk:
    def test_adds_a_style_and_leaves_the_others_bit_for_bit(self, whole: Path) -> None:
        network = whole / "network.safetensors"
        assert (
            run(f"--network={network}", "--freeze_trunk", "--style=green.png", "--workdir=g") == 0
        )
        before, after = (
            load_network(network),
            load_network("g/network.safetensors"),
        )
        assert after.styles == ("red", "blue", "green")
        assert after.settings["steps_before"] == before.steps
        assert len(after.thumbnails) == 3
        assert after.thumbnails[2].mean((0, 1)).argmax() == 1
        moved = 0
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before.variables),
            jax.tree.leaves(after.variables),
            strict=True,
        ):
            if networks.is_style_parameter(path):
                assert new[:2].tobytes() == old.tobytes()
                moved += int((new[2] != old.mean(0)).sum())
            else:
                assert new.tobytes() == old.tobytes()
        assert moved > 10

    def test_without_it_the_network_is_trained_on(self, whole: Path) -> None:
        network = whole / "network.safetensors"
        assert run(f"--network={network}", "--workdir=on") == 0
        before, after = (
            load_network(network),
            load_network("on/network.safetensors"),
        )
        assert after.styles == before.styles
        kernels = [x.variables["params"]["conv1"]["kernel"] for x in (before, after)]
        # No step of Adam is longer than the learning rate by much; a fresh network is far away.
        assert 0.0 < np.abs(kernels[1] - kernels[0]).max() < 2e-3 * STEPS


SIZED = ("--style_size=32,48,64", "--parts=2", "--batch_size=4")


@pytest.fixture(scope="module")
def sized(folder: Path) -> Path:
    """The folder of a run of three sizes, from crops of two parts, that nothing stopped."""
    assert run(*SIZED, "--workdir=sized", "--preview_every=6") == 0
    return folder / "sized"


class TestSizes:
    def test_have_a_row_each_of_every_style(self, sized: Path) -> None:
        found = load_network(sized / "network.safetensors")
        assert found.network == networks.StyleNetwork(styles=6, width=2, residual_blocks=0)
        assert found.styles == ("red", "blue")
        assert found.stroke_sizes == (32, 48, 64)
        assert [x.shape for x in found.thumbnails] == [(64, 96, 3)] * 2
        assert found.settings["style_size"] == [32, 48, 64]
        scale = found.variables["params"]["norm1"]["instance"]["scale"]
        assert len(np.unique(scale, axis=0)) == 6

    def test_are_previewed_at_the_middle_one(self, sized: Path) -> None:
        found = images.read(sized / "previews" / "000006.png")
        assert 3 * 150 < found.shape[0] < 3 * 300

    def test_of_a_stopped_run_are_the_same_bits(self, sized: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(1, signal.SIGINT, patch)
            assert run(*SIZED, "--workdir=sized-stopped") == 130
        assert run(*SIZED, "--workdir=sized-stopped") == 0
        expected = digest(sized / "network.safetensors")
        assert digest("sized-stopped/network.safetensors") == expected

    def test_may_grow_from_one(self, whole: Path) -> None:
        network = whole / "network.safetensors"
        assert run(*SIZED, f"--network={network}", "--workdir=grown") == 0
        before, after = load_network(network), load_network("grown/network.safetensors")
        assert after.stroke_sizes == (32, 48, 64)
        scales = [x.variables["params"]["norm1"]["instance"]["scale"] for x in (before, after)]
        # No step of Adam is longer than the learning rate by much.
        moved = scales[1] - np.repeat(scales[0], 3, 0)
        assert 0 < np.abs(moved).max() < 2e-3 * STEPS

    def test_of_a_network_get_more_styles(self, sized: Path) -> None:
        network = sized / "network.safetensors"
        options = (f"--network={network}", "--freeze_trunk", "--style=green.png")
        assert run(*SIZED, *options, "--workdir=sized-green") == 0
        before, after = load_network(network), load_network("sized-green/network.safetensors")
        assert after.styles == ("red", "blue", "green")
        assert after.stroke_sizes == before.stroke_sizes
        scales = [x.variables["params"]["norm1"]["instance"]["scale"] for x in (before, after)]
        np.testing.assert_array_equal(scales[1][:6], scales[0])
        moved = scales[1][6:] - scales[0].reshape(2, 3, -1).mean(0)
        assert 0 < np.abs(moved).max() < 2e-3 * STEPS

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--style_size=64,32"], "--style_size=64,32: it must be integers from 32 on"),
            (["--style_size=32,large"], "--style_size=32,large: it must be integers from 32 on"),
            (["--style_size="], "--style_size=: it must be integers from 32 on, ascending"),
            (["--style_size=16"], "--style_size=16: it must be integers from 32 on"),
            (["--parts=3"], "a multiple of the 2 devices times --accumulate=1 times --parts=3"),
            (
                ["--network=sized/network.safetensors"],
                "other sizes of strokes: give --style_size=32,48,64",
            ),
            (
                ["--network=sized/network.safetensors", "--style_size=32,48"],
                "other sizes of strokes: give --style_size=32,48,64",
            ),
            (
                [
                    "--network=whole/network.safetensors",
                    "--freeze_trunk",
                    "--style=green.png",
                    "--style_size=32,48",
                ],
                "has strokes of one size: give one --style_size",
            ),
            (
                [
                    "--architecture=paper",
                    "--style=red.png",
                    "--image_size=64",
                    "--parts=2",
                    "--batch_size=4",
                ],
                "--parts, several --style_size and --freeze_trunk need a network with instance",
            ),
        ],
    )
    @pytest.mark.usefixtures("whole", "sized")
    def test_that_do_not_fit_are_named(
        self, arguments: list[str], message: str, folder: Path, capsys: Captured
    ) -> None:
        before = contents(folder)
        assert run("--workdir=mistaken", *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert message in err
        assert contents(folder) == before


class TestNamesOfStyles:
    """A name that no network file may have is found before the first step."""

    @pytest.mark.parametrize(
        ("file", "style"),
        [("a\x01b\u202fc.png", "a_b_c"), ("x\\y.png", "x_y"), (os.fsdecode(b"\xff.png"), "_")],
    )
    def test_are_made_of_any_name_of_a_file(self, folder: Path, file: str, style: str) -> None:
        try:
            (folder / file).write_bytes((folder / "red.png").read_bytes())
        except OSError:
            pytest.skip("the file system has no such names")
        assert run("--style=blue.png", f"--style={file}", "--width=2") == 0
        workdir = folder / "runs" / style
        assert load_network(workdir / "network.safetensors").styles == (style,)

    def test_may_be_long(self, folder: Path) -> None:
        for letter in "ab":
            name = folder / f"{letter * 240}.png"
            name.write_bytes((folder / "red.png").read_bytes())
        paintings = f"--style={'a' * 240}.png,{'b' * 240}.png"
        assert run(paintings, "--data=photos") == 0
        found = load_network(folder / "runs" / ("a" * 200) / "network.safetensors")
        assert found.styles == ("a" * 200, "b" * 200)


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--style="], "--style is empty"),
            (["--style=nowhere"], "there is no picture 'nowhere': give"),
            (["--style=red.png,./red.png"], "two paintings have the same name, red: give one"),
            (["--freeze_trunk"], "adds styles to a trained network: give it with --network"),
            (["--network=nowhere"], "there is no network 'nowhere'"),
            (
                ["--network=whole/network.safetensors", "--style=red.png"],
                "the styles red,blue: give",
            ),
            (
                ["--network=whole/network.safetensors", "--freeze_trunk", "--style=blue.png"],
                "has the style blue already",
            ),
            (
                ["--architecture=paper", "--image_size=64"],
                "several styles need normalization='instance'",
            ),
            (
                ["--architecture=paper", "--style=red.png"],
                "needs crops of 41 pixels: raise --image_size=32",
            ),
            (["--batch_size=3"], "--batch_size=3 must be a multiple of the 2 devices times"),
            (["--accumulate=2"], "must be a multiple of the 2 devices times --accumulate=2"),
            (["--style_layers=conv9_1"], "no layer conv9_1; it has conv1_1, "),
            (["--content_layers=relu"], "no layer relu"),
            (
                ["--content_layers=pool5", "--style_size=33"],
                "painting red.png is 22 pixels, and the layers need 32",
            ),
            (["--learning_rate=nan"], "--learning_rate=nan: it must be a finite number"),
            (["--ema_decay=1"], "ema_decay must be in [0, 1)"),
            (["--tv_weight=inf"], "--tv_weight=inf: it must be a finite number"),
            (["--seed=4294967296"], "Seed must be an integer"),
            (["--data=nowhere"], "there is no nowhere: check the path"),
            (["--data=empty"], "there is no picture in empty"),
            (["--vgg=nothing"], "there are no weights 'nothing'"),
            (["--workdir=red.png"], "cannot open the checkpoints of red.png: "),
            (["--output=photos"], "--output=photos is a folder"),
            (["--process_id=1"], "--process_id, and these need --coordinator"),
        ],
    )
    @pytest.mark.usefixtures("whole")
    def test_are_named_before_anything_is_written(
        self, arguments: list[str], message: str, folder: Path, capsys: Captured
    ) -> None:
        before = contents(folder)
        assert run("--workdir=mistaken", *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err
        assert contents(folder) == before

    def test_of_photos_that_are_none(self, capsys: Captured) -> None:
        assert run("--workdir=none", "--data=corrupt") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: none of the 1 photos can be used: ")

    def test_of_an_output_that_cannot_be_written_lose_nothing(
        self, whole: Path, capsys: Captured
    ) -> None:
        assert run("--workdir=whole", "--output=red.png/network.safetensors") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: cannot write red.png/network.safetensors")

    def test_of_weights_that_break_the_loss(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        def fail(*_: Any, **__: Any) -> Iterator[None]:
            yield from ()
            raise training.NonFiniteError("the term style/relu1_1 was not finite")

        monkeypatch.setattr(training, "train", fail)
        assert run("--workdir=broken") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: the term style/relu1_1 was not finite, and begin anew with")


class TestPrograms:
    def test_killed_at_any_moment_it_ends_with_the_same_bits(
        self, programs: Programs, one: Path
    ) -> None:
        programs.finish()
        killed = programs.folder / "killed"
        process = programs.start("--workdir=killed", devices=2)
        while not (killed / "checkpoints" / "5").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.5))
        programs.kill()
        programs.start("--workdir=killed", devices=2)
        errors = programs.finish()
        assert digest(killed / "network.safetensors") == digest(one / "network.safetensors")
        steps = [line["step"] for line in metrics(killed)]
        assert steps == sorted(set(steps))
        assert steps[-1] == LONGER
        assert "cpu_aot_loader" not in errors  # Of programs that it found compiled.

    def test_two_processes_train_as_one_with_as_many_devices(
        self, programs: Programs, one: Path
    ) -> None:
        """To the bit: of two addends the sum has no order."""
        programs.finish()
        two = programs.folder / "two" / "network.safetensors"
        assert digest(two) == digest(one / "network.safetensors")
        lines = metrics(one)
        begin = 0
        for line in metrics(programs.folder / "two"):
            # Alone it also reports every second: these of the same steps, together.
            alone = [x for x in lines if begin < x["step"] <= line["step"]]
            counts = np.diff([begin, *(x["step"] for x in alone)])
            for name, value in line["terms"].items():
                mean = np.average([x["terms"][name] for x in alone], weights=counts)
                assert value == pytest.approx(mean, rel=1e-3), (name, line["step"])
            begin = line["step"]
        assert begin == LONGER


@pytest.mark.parametrize(
    ("painting", "name"),
    [
        ("a, b.png", "a, b"),
        ("in/über – 海.jpg", "über – 海"),
        (os.fsdecode(b"b\xff.png"), "b_"),
        ("\x1b[2J.png", "_[2J"),
        ("back\\slash.png", "back_slash"),
    ],
)
def test_a_style_is_called_as_its_file_as_far_as_that_is_text(painting: str, name: str) -> None:
    assert train_transform._styles([painting]) == (name,)
    assert is_style_name(name)
