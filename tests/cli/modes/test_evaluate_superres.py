"""`--mode=evaluate_superres`: a folder of photos in, a table and pictures out."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceptual_jax import color, metrics
from perceptual_jax.cli import console, main
from perceptual_jax.io import images
from perceptual_jax.models import networks, super_resolution
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained.metrics import load_lpips
from perceptual_jax.training import degradation
from tests import enlargers, reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

Captured = pytest.CaptureFixture[str]

RANDOM = enlargers.random_enlarger()
# Each axis is a curve of its own, smooth enough that an enlargement resembles it.
WAVES = [
    0.5 + 0.4 * np.sin(np.linspace(start, start + 9, count))
    for start, count in ((0, 47), (2, 58), (1, 3))
]
PHOTO = np.einsum("h,w,c->hwc", *WAVES).astype(np.float32) ** 0.5
PHOTO = 0.9 * PHOTO + 0.1 * reference.random_images(*PHOTO.shape)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The current folder: two photos of odd sides, networks."""
    found = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        images.write("photos/one.png", PHOTO)
        images.write("photos/two.png", PHOTO[::-1, :49])
        Path("photos/notes.txt").write_text("not a photo", encoding="utf-8")
        pretrained_networks.save("random.safetensors", RANDOM, dtype="float32")
        pretrained_networks.save("zero.safetensors", enlargers.zero_enlarger())
        pretrained_networks.save("zero8.safetensors", enlargers.zero_enlarger(8))
        yield found


def run(*arguments: str) -> int:
    return main.main(["run.py", "--mode=evaluate_superres", *arguments])


def results(*arguments: str) -> dict[str, Any]:
    """What a successful run finds."""
    common = ("--data=photos", "--network=random.safetensors,zero.safetensors", "--workdir=found")
    assert run(*common, *arguments) == 0
    record = json.loads(Path("found/results.json").read_text(encoding="utf-8"))
    return record["results"]


def by_hand(truth: np.ndarray, result: Any) -> Any:
    psnr, ssim = metrics.y_psnr_ssim(result, truth, border=4)
    # As files of 8 bits have it; the photo is in 8 bits.
    cut, cut_truth = (x[4:-4, 4:-4] for x in (images.eight_bits(result) / np.float32(255), truth))
    lpips = metrics.lpips(load_lpips(), cut, cut_truth)
    expected = {"psnr": float(psnr), "ssim": float(ssim), "lpips": float(lpips)}
    return pytest.approx(expected, rel=1e-5)


def pairs(sigma: float = 1.0) -> dict[str, tuple[np.ndarray, Any]]:
    """Each photo without the rows and columns beyond a multiple of 4, and its small picture."""
    found = {}
    for name, width in {"one": 56, "two": 48}.items():
        truth = images.read(f"photos/{name}.png")[:44, :width]
        small = degradation.degrade(images.eight_bits(truth), 4, sigma=sigma)
        found[name] = truth, small / np.float32(255)
    return found


def of_network(small: np.ndarray) -> np.ndarray:
    variables, network = RANDOM.variables, RANDOM.network
    return np.asarray(super_resolution.enlarge_batch(variables, small[None], network=network)[0])


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return results()


class TestNumbers:
    def test_are_those_of_the_metrics(self, plain: dict[str, Any]) -> None:
        for name, (truth, small) in pairs().items():
            bicubic = np.clip(networks.bicubic(small[None], 4)[0], 0, 1)
            assert plain[name]["bicubic"] == by_hand(truth, bicubic)
            assert plain[name]["random"] == by_hand(truth, of_network(small))

    def test_of_a_network_that_adds_nothing_are_bicubic(self, plain: dict[str, Any]) -> None:
        for row in plain.values():
            assert row["zero"] == row["bicubic"]
            assert row["random"]["psnr"] < row["bicubic"]["psnr"]

    def test_have_their_mean(self, plain: dict[str, Any]) -> None:
        assert list(plain) == ["one", "two", "mean"]
        for label in ("bicubic", "random", "zero"):
            for kind in ("psnr", "ssim", "lpips"):
                one, two, mean = (plain[name][label][kind] for name in plain)
                assert mean == pytest.approx((one + two) / 2)
                assert one != two

    def test_follow_how_small_pictures_are_made(self) -> None:
        found = results("--degradation=bicubic")
        for name, (truth, small) in pairs(0.0).items():
            bicubic = np.clip(networks.bicubic(small[None], 4)[0], 0, 1)
            assert found[name]["bicubic"] == by_hand(truth, bicubic)

    def test_may_be_of_matched_histograms(self, plain: dict[str, Any]) -> None:
        """Of networks; the bicubic enlargement stays as it is."""
        found = results("--match_histogram")
        for name, (truth, small) in pairs().items():
            matched = color.match_histogram(of_network(small), small)
            assert found[name]["random"] == by_hand(truth, matched)
            assert found[name]["random"] != plain[name]["random"]
            assert found[name]["bicubic"] == plain[name]["bicubic"]


class TestFiles:
    def test_table_has_what_was_found(self, capsys: Captured) -> None:
        found = results()
        table = Path("found/table.md").read_text(encoding="utf-8")
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        assert lines[0] == ["PSNR (dB) / SSIM / LPIPS", "bicubic", "random", "zero"]
        assert [line[0] for line in lines[2:]] == ["one", "two", "mean"]
        for name, *cells in lines[2:]:
            for label, cell in zip(lines[0][1:], cells, strict=True):
                psnr, ssim, lpips = (found[name][label][kind] for kind in ("psnr", "ssim", "lpips"))
                assert cell == f"{psnr:.2f} / {ssim:.4f} / {lpips:.4f}"
        out = capsys.readouterr().out
        assert out == f"{table}\nfound: table.md, results.json, crops.png\n"

    def test_results_have_the_settings(self) -> None:
        results("--degradation=bicubic")
        record = json.loads(Path("found/results.json").read_text(encoding="utf-8"))
        expected = {
            "data": "photos",
            "factor": 4,
            "network": ["random.safetensors", "zero.safetensors"],
            "degradation": "bicubic",
        }
        assert record["settings"].items() >= expected.items()

    def test_crops_show_every_result_beside_the_photo(self) -> None:
        """Each pixel twice as large."""
        results()
        found = images.read("found/crops.png")
        columns, rows = 4, 2
        assert columns * 112 < found.shape[1] < columns * 112 * 2
        assert rows * 88 < found.shape[0] < rows * 88 * 2
        truth, small = pairs()["one"]
        for picture in (of_network(small), truth):
            assert contains(found, picture.repeat(2, axis=0).repeat(2, axis=1))

    def test_are_by_default_in_a_folder_of_the_factor(self) -> None:
        assert run("--data=photos", "--network=zero.safetensors") == 0
        names = sorted(path.name for path in Path("runs/evaluate-x4").iterdir())
        assert names == ["crops.png", "results.json", "table.md"]


def contains(sheet: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a picture, in 8 bits, is a part of another."""
    small = images.eight_bits(picture)
    windows = np.lib.stride_tricks.sliding_window_view(images.eight_bits(sheet), small.shape)
    # Most places differ in their first pixel.
    for place in np.argwhere((windows[..., 0, 0, :] == small[0, 0]).all(-1)):
        window = windows[tuple(place)].astype(int)
        if np.abs(window - small).max() <= 1:
            return True
    return False


class TestNames:
    def test_are_in_full_where_others_have_the_same(self, folder: Path) -> None:
        for name in ("a/net.safetensors", "b/net.safetensors", "bicubic.safetensors"):
            pretrained_networks.save(name, enlargers.zero_enlarger())
        images.write("twins/mean.png", PHOTO)
        images.write("twins/same.png", PHOTO)
        images.write("twins/same.bmp", PHOTO[:, ::-1])
        found = results(
            "--data=twins",
            "--network=a/net.safetensors,b/net.safetensors,bicubic.safetensors,zero.safetensors",
        )
        assert list(found) == ["mean.png", "same.bmp", "same.png", "mean"]
        assert list(found["mean"]) == [
            "bicubic",
            "a/net.safetensors",
            "b/net.safetensors",
            "bicubic.safetensors",
            "zero",
        ]


class TestSizes:
    @pytest.mark.parametrize(("factor", "least"), [(4, 40), (8, 48)])
    def test_the_least_can_be_measured_and_less_is_left_out(
        self, factor: int, least: int, folder: Path, capsys: Captured
    ) -> None:
        large = np.tile(PHOTO, (2, 2, 1))
        images.write("least/photo.png", large[:least, :least])
        flags = (
            f"--factor={factor}",
            f"--network={'zero8' if factor == 8 else 'zero'}.safetensors",
        )
        assert run("--data=least", *flags, "--workdir=small") == 0
        images.write("least/photo.png", large[: least - 1, :least])
        capsys.readouterr()
        assert run("--data=least", *flags) == 2
        message = f"photo.png is too small to be measured: both sides need {least} pixels"
        assert message in capsys.readouterr().err.splitlines()[-1]


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "--data is missing: give a folder of photos"),
            (["--data=nowhere"], "nowhere is not a folder"),
            (["--data=photos/one.png"], "photos/one.png is not a folder"),
            (["--data=empty"], "there is no picture in empty"),
            (["--data=photos", "--factor=6"], "--factor=6: must be 4 or 8"),
            (["--data=photos", "--factor=8"], "zero.safetensors enlarges by 4, not by 8"),
            (["--data=photos", "--network="], "--network is empty"),
            (["--data=photos", "--network=nowhere"], "there is no network 'nowhere'"),
        ],
    )
    def test_end_in_one_line_and_nothing_is_written(
        self, arguments: list[str], message: str, folder: Path, capsys: Captured
    ) -> None:
        (folder / "empty").mkdir(exist_ok=True)
        before = {str(path) for path in folder.rglob("*")}
        assert run("--network=zero.safetensors", "--workdir=mistaken", *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err
        assert {str(path) for path in folder.rglob("*")} == before

    def test_of_a_folder_of_which_nothing_can_be_read(self, folder: Path, capsys: Captured) -> None:
        (folder / "broken").mkdir()
        (folder / "broken" / "photo.png").write_bytes(b"not a picture")
        assert run("--data=broken", "--network=zero.safetensors", "--workdir=mistaken") == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("left out: ")
        assert "photo.png is not a picture" in last
        assert not Path("mistaken").exists()

    def test_of_some_photos_leave_the_others(self, folder: Path, capsys: Captured) -> None:
        images.write("mixed/good.png", PHOTO)
        images.write("mixed/small.png", PHOTO[:8, :8])
        (folder / "mixed" / "bad.png").write_bytes(b"not a picture")
        assert run("--data=mixed", "--network=zero.safetensors", "--workdir=rest") == 1
        record = json.loads(Path("rest/results.json").read_text(encoding="utf-8"))
        assert list(record["results"]) == ["good", "mean"]
        lines = capsys.readouterr().err.splitlines()
        left_out = [line for line in lines if line.startswith("left out: ")]
        assert len(left_out) == 2
        assert "bad.png" in left_out[0]
        assert "small.png is too small" in left_out[1]


@pytest.mark.usefixtures("plain")
def test_a_signal_leaves_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = console.ProgressBar.update

    def interrupt(bar: Any, work: float, description: str, terms: Any) -> None:
        update(bar, work, description, terms)
        signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(console.ProgressBar, "update", interrupt)
    assert run("--data=photos", "--network=zero.safetensors", "--workdir=stopped") == 129
    found = json.loads(Path("stopped/results.json").read_text(encoding="utf-8"))["results"]
    assert list(found) == ["one", "mean"]
    assert "interrupted: 1 of 2 photos are measured" in capsys.readouterr().err
