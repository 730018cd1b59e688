"""`--mode=train_superres` as a person uses it: photos in, a network out that enlarges.

What every training does, whatever its network, is in `test_train_transform.py`.
"""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from perceptual_jax.cli import main
from perceptual_jax.io import images
from perceptual_jax.models import networks
from perceptual_jax.models.networks import SuperResolutionNetwork
from perceptual_jax.pretrained.networks import load_network, load_superres, save
from perceptual_jax.training import degradation
from tests import enlargers, reference
from tests.cli.modes.runs import contents, digest, metrics
from tests.signals import stop_after

pytestmark = pytest.mark.usefixtures("compiled_quickly", "compiled_once", "small_examples")

Captured = pytest.CaptureFixture[str]

STEPS = 4
SMALL = (
    "--data=photos",
    "--content_layers=relu1_2",
    "--width=2",
    "--residual_blocks=0",
    "--image_size=40",
    "--photo_size=48",
    "--batch_size=2",
    f"--steps={STEPS}",
    "--warmup_steps=0",
    "--checkpoint_every=2",
    "--preview_every=0",
    "--noplot",
    "--store=float32",
)
NETWORK = SuperResolutionNetwork(width=2, residual_blocks=0)
APPLY = jax.jit(NETWORK.apply)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with photos of which one is too small for the crops."""
    found = tmp_path_factory.mktemp("train_superres")
    for index, size in enumerate([(60, 70), (90, 64), (41, 40), (39, 70)]):
        photo = reference.random_images(*size, 3, seed=index)
        images.write(found / "photos" / f"{index}.png", photo)
    images.write(found / "small" / "photo.png", photo)
    with contextlib.chdir(found):
        save("x4.safetensors", enlargers.random_enlarger(), dtype="float32")
        save("x8.safetensors", enlargers.random_enlarger(8))
        yield found


def run(*arguments: str) -> int:
    return main.main(["run.py", "--mode=train_superres", *SMALL, *arguments])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The folder of a run that nothing stopped, for features and pixels."""
    assert run("--workdir=whole", "--preview_every=2") == 0
    return folder / "whole"


@pytest.fixture(scope="module")
def two(folder: Path) -> str:
    """Two photos that are their only crop, symmetric, since half of the crops are mirrored."""
    for index in range(2):
        half = reference.random_images(40, 20, 3, seed=10 + index)
        photo = np.concatenate([half, half[:, ::-1]], axis=1)
        images.write(folder / "two" / f"{index}.png", photo)
    return "--data=two"


def first_terms(workdir: str, *flags: str) -> dict[str, float]:
    """Those of the first step."""
    assert run("--steps=1", f"--workdir={workdir}", *flags) == 0
    (line,) = metrics(workdir)
    assert line["total"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
    return dict(line["terms"])


@pytest.fixture(scope="module")
def pixel(two: str) -> dict[str, float]:
    return first_terms("pixel", two, "--loss=pixel", "--pixel_weight=0.5", "--degradation=blur")


def mean_square(data: str, sigmas: tuple[float, ...]) -> float:
    """By hand, in 0..255, of what the network makes of the small pictures at first."""
    variables = networks.initial_variables(NETWORK, seed=0)
    photos = np.stack(
        [images.eight_bits(images.read(f"{data}/{index}.png")) for index in range(len(sigmas))]
    )
    low = np.stack(
        [
            degradation.degrade(photo, 4, sigma=sigma)
            for photo, sigma in zip(photos, sigmas, strict=True)
        ]
    )
    outputs: Any = APPLY(variables, low.astype(np.float32) / np.float32(255))
    return float(np.square(255.0 * np.asarray(outputs, np.float64) - photos).mean())


class TestLoss:
    def test_of_pixels_is_their_mean_squared_difference(self, pixel: dict[str, float]) -> None:
        assert pixel == pytest.approx({"pixel": 0.5 * mean_square("two", (1.0, 1.0))}, rel=1e-4)
        found = load_network("pixel/network.safetensors")
        assert found.settings["loss"] == "pixel"
        variables = networks.initial_variables(NETWORK, seed=0)
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), found.variables, variables)
        assert max(jax.tree.leaves(moved)) > 0

    def test_of_mixed_pictures_has_every_blur(self, folder: Path) -> None:
        """A batch of one symmetric photo, which is its only crop, with sigma 0, 0.1, ... twice."""
        half = reference.random_images(40, 20, 3, seed=10)
        images.write(folder / "same" / "0.png", np.concatenate([half, half[:, ::-1]], axis=1))
        flags = ("--data=same", "--loss=pixel", "--pixel_weight=0.5", "--batch_size=22")
        found = first_terms("mixed", *flags)["pixel"]
        squares = [mean_square("same", (tenths / 10,)) for tenths in range(11)]
        assert found == pytest.approx(0.5 * np.mean(squares), rel=1e-4)
        assert found != pytest.approx(0.5 * squares[0], rel=1e-3)
        assert found != pytest.approx(0.5 * squares[10], rel=1e-3)

    def test_of_both_is_that_of_features_and_that_of_pixels(
        self, two: str, pixel: dict[str, float]
    ) -> None:
        feature = first_terms("feature", two, "--loss=feature", "--degradation=blur")
        both = first_terms(
            "both", two, "--content_weight=3", "--pixel_weight=0.5", "--degradation=blur"
        )
        assert set(feature) == {"content/relu1_2"}
        assert both == pytest.approx(
            {"content/relu1_2": 3 * feature["content/relu1_2"], **pixel}, rel=1e-4
        )
        found = load_network("feature/network.safetensors")
        assert found.settings["loss"] == "feature"

    def test_of_textures_too(self, two: str, pixel: dict[str, float]) -> None:
        """Pixels weigh otherwise in their objective."""
        found = first_terms("textures", two, "--preset=wasserstein", "--degradation=blur")
        layers = ("relu1_1", "relu2_1", "relu3_1")
        assert set(found) == {"content/relu1_2", *(f"style/{x}" for x in layers), "pixel"}
        assert found["pixel"] == pytest.approx(1.5e-3 / 0.5 * pixel["pixel"], rel=1e-4)
        settings = load_network("textures/network.safetensors").settings
        assert settings["style_layers"] == [*layers]
        assert (settings["style_weight"], settings["pixel_weight"]) == (10.0, 1.5e-3)
        more = first_terms(
            "more", two, "--preset=wasserstein", "--degradation=blur", "--style_weight=20"
        )
        for name, value in more.items():
            factor = 2 if name.startswith("style/") else 1
            assert value == pytest.approx(factor * found[name], rel=1e-4)

    def test_becomes_less(self) -> None:
        """On stripes, which a bicubic enlargement blurs."""
        stripes = np.repeat(np.arange(12) % 2, 4).astype(np.float32)
        images.write("one/photo.png", np.broadcast_to(stripes[:, None, None], (48, 48, 3)).copy())
        flags = ("--data=one", "--steps=20", "--learning_rate=0.02", "--ema_decay=0")
        blurred = ("--loss=pixel", "--degradation=blur")
        assert run(*blurred, "--workdir=learns", "--checkpoint_every=5", *flags) == 0
        totals = [line["total"] for line in metrics("learns")]
        assert totals[-1] < 0.9 * totals[0]


class TestResult:
    def test_is_a_network_that_says_how_it_was_made(self, whole: Path) -> None:
        found = load_network(whole / "network.safetensors")
        assert found.network == NETWORK
        assert found.styles == ()
        assert found.settings["program"].startswith("perceptual_jax ")
        expected = {
            "factor": 4,
            "loss": "both",
            "degradation": "mixed",
            "content_layers": ["relu1_2"],
            "architecture": "default",
            "photo_size": 48,
            "image_size": 40,
            "data": "photos",
            "steps": STEPS,
        }
        assert found.settings.items() >= expected.items()

    def test_enlarges(self, whole: Path) -> None:
        images.write("small.png", reference.random_images(9, 7, 3))
        network = f"--network={whole / 'network.safetensors'}"
        arguments = ("--input=small.png", "--output=large.png", network)
        assert main.main(["run.py", "--mode=superres", *arguments]) == 0
        assert images.read("large.png").shape == (36, 28, 3)

    def test_of_eight_times_is_of_its_own_network(self) -> None:
        assert run("--factor=8", "--loss=pixel", "--steps=1", "--output=eight.safetensors") == 0
        assert load_superres("eight.safetensors", 8).network == NETWORK.clone(factor=8)
        assert Path("runs/superres-x8-pixel/checkpoints").is_dir()

    def test_may_be_the_papers(self) -> None:
        assert run("--architecture=paper", "--loss=pixel", "--steps=1", "--workdir=paper") == 0
        found = load_network("paper/network.safetensors")
        paper = networks.paper_super_resolution_network(4)
        assert found.network == paper.clone(width=2, residual_blocks=0)
        mean = found.variables["batch_stats"]["norm1"]["batch"]["mean"]
        assert np.abs(mean).max() > 0

    def test_is_shown_on_the_way(self, whole: Path) -> None:
        """A part of a held-out photo: bicubic, by the network, as it is."""
        found = sorted(path.name for path in (whole / "previews").iterdir())
        assert found == ["000002.png", "000004.png"]
        shown = images.read(whole / "previews" / "000004.png")
        height, width = shown.shape[:2]
        assert 3 * 192 < width < 3 * 192 + 100
        assert 192 < height < 192 + 100
        assert shown.std() > 0.1


class TestAgain:
    def test_a_stopped_run_gives_the_same_bits(
        self, whole: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            stop_after(1, signal.SIGINT, patch)
            assert run("--workdir=stopped") == 130
        assert load_network("stopped/network.safetensors").settings["steps"] < STEPS
        assert run("--workdir=stopped") == 0
        assert digest("stopped/network.safetensors") == digest(whole / "network.safetensors")

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--factor=8", "--factor was 4, now 8"),
            ("--loss=pixel", "--loss was both, now pixel"),
            ("--degradation=bicubic", "--degradation was mixed, now bicubic"),
            ("--vgg=vgg19-torchvision", "--vgg was vgg16, now vgg19-torchvision"),
            ("--content_layers=relu2_2", "--content_layers was relu1_2, now relu2_2"),
            ("--content_weight=2", "--content_weight was 1.0, now 2.0"),
            ("--pixel_weight=2", "--pixel_weight was 100.0, now 2.0"),
            ("--architecture=paper", "--architecture was default, now paper"),
            ("--width=3", "--width was 2, now 3"),
            ("--residual_blocks=1", "--residual_blocks was 0, now 1"),
            ("--network=x4.safetensors", "--network was not given, now x4.safetensors"),
            ("--photo_size=50", "--photo_size was 48, now 50"),
        ],
    )
    def test_what_would_change_the_result_is_refused(
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


class TestNetwork:
    def test_is_trained_on_as_it_is(self) -> None:
        """Its architecture is kept; no step of Adam is longer than the learning rate by much."""
        before = load_network("x4.safetensors")
        flags = ("--network=x4.safetensors", "--width=7", "--loss=pixel", "--learning_rate=1e-4")
        assert run(*flags, "--workdir=on") == 0
        after = load_network("on/network.safetensors")
        assert after.network == before.network
        assert after.settings["network"] == "x4.safetensors"
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before.variables, after.variables)
        assert 0.0 < max(jax.tree.leaves(moved)) < 2e-4 * STEPS


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--factor=5"], "--factor=5: must be 4 or 8"),
            (["--image_size=42"], "--image_size=42 must be a multiple of 4, the factor"),
            (["--factor=8", "--image_size=44"], "--image_size=44 must be a multiple of 8"),
            (["--factor=8", "--image_size=32"], "crops of 40 pixels: raise --image_size=32"),
            (["--image_size=52"], "--photo_size=48 is less than --image_size=52"),
            (["--network=x8.safetensors"], "x8.safetensors enlarges by 8"),
            (["--network=x4.safetensors", "--image_size=42"], "--image_size=42 must be a multiple"),
            (["--network=nowhere"], "there is no network 'nowhere'"),
            (["--pixel_weight=0", "--content_weight=0"], "--loss=both has no layer or weight"),
            (["--pixel_weight=0", "--content_layers="], "--loss=both has no layer or weight"),
            (["--loss=pixel", "--pixel_weight=0"], "--loss=pixel has no layer or weight"),
            (["--loss=feature", "--content_weight=0"], "--loss=feature has no layer or weight"),
            (["--loss=feature", "--content_layers="], "--loss=feature has no layer or weight"),
            (["--content_weight=inf"], "--content_weight=inf: it must be a finite number"),
            (["--pixel_weight=inf"], "--pixel_weight=inf: it must be a finite number"),
            (["--content_layers=conv9_1"], "no layer conv9_1; it has conv1_1, "),
            (["--vgg=nothing"], "there are no weights 'nothing'"),
            (["--batch_size=3"], "--batch_size=3 must be a multiple of the 2 devices"),
        ],
    )
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

    def test_of_photos_that_are_smaller_than_the_crops(self, capsys: Captured) -> None:
        assert run("--workdir=mistaken", "--data=small") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: none of the 1 photos can be used: ")
        assert "photo.png is too small, 70x39: leave it out" in error
