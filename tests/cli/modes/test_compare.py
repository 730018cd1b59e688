"""`--mode=compare`: two pictures or two folders in, a table and JSON out."""

import io
import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from perceptual_jax import metrics
from perceptual_jax.cli import console, main, memory
from perceptual_jax.io import images, resources
from perceptual_jax.pretrained import vgg
from perceptual_jax.pretrained.metrics import load_dists, load_lpips
from tests import perceptual_pairs, reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

Captured = pytest.CaptureFixture[str]

ALWAYS = ["psnr", "ssim", "lpips"]
ALL = [*ALWAYS, "lpips_vgg", "dists"]
PHOTO = images.fit(images.read(resources.picture("coffee", "content")), 60)
NOISY = np.clip(PHOTO + 0.2 * (reference.random_images(*PHOTO.shape) - 0.5), 0, 1)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The current folder, and an empty one for what is fetched."""
    found = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        patch.setenv("PERCEPTUAL_JAX_CACHE", str(found / "cache"))
        images.write("noisy.png", NOISY)
        images.write("photo.png", PHOTO)
        images.write("wide.png", PHOTO[:, :-2])
        for name, picture in {"a/one": NOISY, "b/one": PHOTO, "b/sub/two": PHOTO}.items():
            images.write(f"{name}.png", picture)
        images.write("a/sub/two.bmp", PHOTO[::-1])
        yield found


@pytest.fixture(scope="module")
def vgg_file(folder: Path) -> Path:
    """A VGG-16 that passes for torchvision's."""
    path = folder / "vgg16.safetensors"
    about: Any = {"name": "test", "source": "the Oxford network", "license": "CC-BY-4.0"}
    vgg.save(path, perceptual_pairs.oxford_behind_torchvisions_normalization(), **about)
    return path


def run(*arguments: str) -> int:
    return main.main(["run.py", "--mode=compare", *arguments])


def found(*arguments: str) -> dict[str, Any]:
    """What a successful run writes."""
    assert run(*arguments, "--output=out.json") == 0
    return dict(json.loads(Path("out.json").read_text(encoding="utf-8")))


def of_files(*names: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = (images.read(name) for name in names)
    return first, second


class TestPictures:
    def test_have_the_metrics_of_their_colours(self) -> None:
        pair = of_files("noisy.png", "photo.png")
        expected = {
            "psnr": float(metrics.psnr(*pair)),
            "ssim": float(metrics.ssim(*pair)),
            "lpips": float(metrics.lpips(load_lpips(), *pair)),
        }
        record = found("noisy.png", "photo.png")
        assert record["results"] == {"noisy": pytest.approx(expected, rel=1e-4)}
        assert "mean" not in record
        assert record["settings"].items() >= {"mode": "compare", "reference": "photo.png"}.items()

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--metrics=psnr", "noisy.png", "photo.png"],
            ["noisy.png", "--metrics=psnr", "photo.png"],
            ["--input=noisy.png", "--reference=photo.png", "--metrics=psnr"],
            ["--metrics=psnr", "--input", "noisy.png", "photo.png"],
            ["noisy.png", "--reference", "photo.png", "--metrics=psnr"],
        ],
    )
    def test_are_named_in_any_place(self, arguments: list[str]) -> None:
        psnr = float(metrics.psnr(*of_files("noisy.png", "photo.png")))
        assert found(*arguments)["results"] == {"noisy": {"psnr": pytest.approx(psnr, rel=1e-5)}}

    def test_that_are_equal(self, capsys: Captured) -> None:
        """Their PSNR is infinite, for which JSON has no word."""
        record = found("photo.png", "photo.png")
        expected = {"psnr": None, "ssim": pytest.approx(1), "lpips": pytest.approx(0, abs=1e-6)}
        assert record["results"] == {"photo": expected}
        assert capsys.readouterr().out.splitlines()[-1] == "| photo | inf | 1.0000 | 0.0000 |"

    def test_may_be_transparent_which_is_white(self) -> None:
        white = np.ones((40, 40, 3), np.float32)
        images.write("clear.png", 0 * white, alpha=np.zeros((40, 40), np.float32))
        images.write("white.png", white)
        assert found("clear.png", "white.png")["results"]["clear"]["psnr"] is None

    def test_may_come_from_a_pipe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stdin = io.BytesIO(Path("noisy.png").read_bytes())
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stdin))
        piped = found("-", "photo.png", "--metrics=psnr")["results"]
        files = found("noisy.png", "photo.png", "--metrics=psnr")["results"]
        assert piped == {"stdin": files["noisy"]}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """Of two folders."""
    return found("a", "b")


class TestFolders:
    def test_are_matched_by_name_in_any_format(self, record: dict[str, Any]) -> None:
        pairs = {"one.png": ("a/one.png", "b/one.png")}
        pairs["sub/two.bmp"] = ("a/sub/two.bmp", "b/sub/two.png")
        assert list(record["results"]) == list(pairs)
        for name, files in pairs.items():
            psnr = float(metrics.psnr(*of_files(*files)))
            assert record["results"][name]["psnr"] == pytest.approx(psnr, rel=1e-5)

    def test_have_their_mean(self, record: dict[str, Any]) -> None:
        one, two = record["results"].values()
        assert list(record["mean"]) == ALWAYS
        for name, mean in record["mean"].items():
            assert mean == pytest.approx((one[name] + two[name]) / 2)
            assert one[name] != two[name]

    def test_what_has_no_partner_is_named(self, capsys: Captured) -> None:
        """A suffix decides only where nothing else does."""
        for name in ("left/x.png", "left/x.bmp", "left/only.png", "left/y.bmp", "left/y.png"):
            images.write(name, PHOTO)
        for name in ("right/x.png", "right/y.webp", "right/other.png"):
            images.write(name, PHOTO)
        assert run("left", "right", "--metrics=psnr", "--output=out.json") == 1
        assert list(json.loads(Path("out.json").read_text())["results"]) == ["x.png"]
        lines = [line for line in capsys.readouterr().err.splitlines() if "left out: " in line]
        assert lines == [
            *(
                f"left out: left/{name}: there is not one picture of that name in right"
                for name in ("only.png", "x.bmp", "y.bmp", "y.png")
            ),
            *(
                f"left out: right/{name}: there is not one picture of that name in left"
                for name in ("other.png", "y.webp")
            ),
        ]

    def test_a_pair_that_fails_leaves_the_others(self, capsys: Captured) -> None:
        images.write("mixed/noisy.png", NOISY)
        images.write("mixed/wide.png", PHOTO)
        images.write("mixed/bad.png", PHOTO)
        images.write("true/noisy.png", PHOTO)
        images.write("true/wide.png", PHOTO[:, :-2])
        Path("true/bad.png").write_bytes(b"not a picture")
        assert run("mixed", "true", "--metrics=psnr") == 1
        out, err = capsys.readouterr()
        assert [line.split(" | ")[0] for line in out.splitlines()[2:]] == ["| noisy.png", "| mean"]
        assert "true/bad.png is not a picture" in err
        height, width, _ = PHOTO.shape
        assert (
            f"left out: mixed/wide.png has {width}x{height} pixels and true/wide.png "
            f"{width - 2}x{height}: only pictures of one size can be compared" in err
        )

    def test_without_any_pair(self, capsys: Captured) -> None:
        assert run("a/sub", "left") == 2
        assert "left out: a/sub/two.bmp: there is not one" in capsys.readouterr().err

    def test_a_signal_leaves_what_is_compared(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        update = console.ProgressBar.update

        def interrupt(bar: Any, *arguments: Any) -> None:
            update(bar, *arguments)
            signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(console.ProgressBar, "update", interrupt)
        assert run("a", "b", "--metrics=psnr", "--output=stopped.json") == 143
        assert list(json.loads(Path("stopped.json").read_text())["results"]) == ["one.png"]
        assert "interrupted: 1 of 2 pairs are compared" in capsys.readouterr().err


class TestMetrics:
    def test_of_vgg_need_torchvisions(self, capsys: Captured) -> None:
        """Which nobody asked to be fetched."""
        assert list(found("noisy.png", "photo.png")["results"]["noisy"]) == ALWAYS
        told = capsys.readouterr().err
        assert told.startswith("without lpips_vgg and dists, for which vgg16-torchvision is not")
        assert f"--metrics={','.join(ALL)} fetches it" in told

    def test_of_vgg_are_there_with_it(
        self, vgg_file: Path, folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a file, or where it is kept once it was fetched."""
        pair = of_files("noisy.png", "photo.png")
        record = found("noisy.png", "photo.png", f"--vgg={vgg_file}")["results"]["noisy"]
        assert list(record) == ALL
        lpips = metrics.lpips(load_lpips("vgg", vgg=vgg_file), *pair)
        assert record["lpips_vgg"] == pytest.approx(float(lpips), rel=1e-4)
        dists = metrics.dists(load_dists(vgg=vgg_file), *pair)
        assert record["dists"] == pytest.approx(float(dists), rel=1e-4)
        monkeypatch.setenv("PERCEPTUAL_JAX_CACHE", str(folder / "full"))
        (folder / "full").mkdir()
        vgg_file.rename(folder / "full" / "vgg16-torchvision.safetensors")
        assert found("noisy.png", "photo.png")["results"]["noisy"] == record
        assert "without" not in capsys.readouterr().err

    def test_are_those_that_are_asked_for_in_that_order(self, capsys: Captured) -> None:
        record = found("noisy.png", "photo.png", "--metrics=ssim,psnr,ssim")["results"]["noisy"]
        assert list(record) == ["ssim", "psnr"]
        out, err = capsys.readouterr()
        assert err == ""
        assert out.splitlines() == [
            "| | SSIM | PSNR (dB) |",
            "|---|---|---|",
            f"| noisy | {record['ssim']:.4f} | {record['psnr']:.2f} |",
        ]


def test_json_on_standard_output_is_alone_there(capsys: Captured) -> None:
    assert run("a", "b", "--output=-") == 0
    assert list(json.loads(capsys.readouterr().out)["mean"]) == ALWAYS


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "two pictures or two folders are needed: --mode=compare A B"),
            (["photo.png"], "two pictures or two folders are needed"),
            (["photo.png", "noisy.png", "wide.png"], "what is 'wide.png'?"),
            (["photo.png", "b"], "b is a folder and photo.png is not: give two pictures or"),
            (["a", "photo.png"], "a is a folder and photo.png is not"),
            (["a", "empty"], "there is no picture in empty"),
            (["nowhere.png", "photo.png"], "there is no picture 'nowhere.png'"),
            (["photo.png", "wide.png"], r"photo.png has 60x40 pixels and wide.png 58x40: only"),
            (["tiny.png", "tiny.png"], "too small for relu1, relu2, relu3, relu4, relu5"),
            (["photo.png", "photo.png", "--metrics=psnr,mse"], "--metrics=mse: there are psnr,"),
            (["photo.png", "photo.png", "--metrics="], "--metrics is empty: give some of psnr,"),
            (["photo.png", "photo.png", "--output=out.txt"], "--output=out.txt must end in .json"),
            (
                ["photo.png", "photo.png", "--vgg=vgg16"],
                "vgg16 is the Oxford network, but the weights of LPIPS were trained for",
            ),
        ],
    )
    def test_end_in_one_line_and_nothing_is_written(
        self, arguments: list[str], message: str, folder: Path, capsys: Captured
    ) -> None:
        (folder / "empty").mkdir(exist_ok=True)
        images.write("tiny.png", PHOTO[:20, :20])
        before = {str(path) for path in folder.rglob("*")}
        assert run(*arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        last = err.splitlines()[-1]
        assert last.startswith("error: ")
        assert message in last
        assert {str(path) for path in folder.rglob("*")} == before

    def test_more_than_memory_holds(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
        assert run("photo.png", "photo.png", "--metrics=lpips") == 2
        pattern = r"lpips of 60x40 needs .* GB of memory, and 0.0 GB are free: give other --metrics"
        assert re.search(pattern, capsys.readouterr().err)
