"""Files of trained networks: everything comes back, and what does not fit is an error."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors

from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError
from perceptual_jax.models.networks import (
    StyleNetwork,
    SuperResolutionNetwork,
    initial_variables,
    paper_super_resolution_network,
)
from perceptual_jax.pretrained import networks, tensorfile
from perceptual_jax.pretrained.networks import TrainedNetwork
from tests.pretrained import torchwriter
from tests.pretrained.test_transformer_net import random_transformer_net

KERNEL = "params/conv2/kernel"
ENLARGING = SuperResolutionNetwork(width=2, residual_blocks=1)


def trained_network(
    network: StyleNetwork | SuperResolutionNetwork, **others: Any
) -> TrainedNetwork:
    """A network with random variables, as the network itself would make them."""
    shapes = jax.eval_shape(lambda: initial_variables(network, seed=0))
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32), shapes)
    rows = network.styles if isinstance(network, StyleNetwork) else 0
    styles = tuple(f"style {index}" for index in range(rows))
    return TrainedNetwork(
        **{"variables": variables, "styles": styles, "settings": {}} | others, network=network
    )


@pytest.fixture
def trained() -> TrainedNetwork:
    random = np.random.default_rng(1)
    return trained_network(
        StyleNetwork(styles=2, width=2, residual_blocks=1),
        styles=("wave", "Der Schrei «1893»"),
        thumbnails=tuple(
            random.integers(0, 256, (*size, 3), np.uint8) for size in ((128, 90), (1, 128))
        ),
        settings={"steps": 40_000, "style_weight": 5.0, "styles": ["a.jpg", None]},
    )


class TestStyleName:
    @pytest.mark.parametrize(
        "text", ["wave", "a\x00/b", "\\", "", "\udcff", "\u202f", "x" * 300, "é\u2028\x7f", ".."]
    )
    def test_is_one_that_a_style_may_have(self, text: str) -> None:
        assert networks.is_style_name(networks.style_name(text))

    def test_leaves_one_that_is_good(self) -> None:
        for name in ("wave", "Die große Welle (1831)", "浪", ".."):
            assert networks.style_name(name) == name


def check_same(found: TrainedNetwork, expected: TrainedNetwork) -> None:
    assert found.network == expected.network
    assert found.styles == expected.styles
    assert found.settings == expected.settings
    for ours, theirs in zip(found.thumbnails, expected.thumbnails, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.uint8
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


def test_steps_are_those_of_all_runs(trained: TrainedNetwork) -> None:
    assert trained.steps == 40_000
    gone_on = dataclasses.replace(trained, settings={"steps_before": trained.steps, "steps": 7})
    assert gone_on.steps == 40_007
    assert dataclasses.replace(trained, settings={}).steps == 0


class TestStyleWeights:
    @pytest.fixture
    def sized(self, trained: TrainedNetwork) -> TrainedNetwork:
        """Two styles at three sizes; no variables are looked at."""
        return dataclasses.replace(trained, styles=("day", "night"), stroke_sizes=(100, 200, 800))

    def test_a_mix_is_shares_of_one(self, trained: TrainedNetwork) -> None:
        plain = dataclasses.replace(trained, styles=("day", "night"))
        np.testing.assert_array_equal(plain.style_weights({"night": 3}), [0, 1])
        np.testing.assert_array_equal(plain.style_weights({"day": 3, "night": 1}), [0.75, 0.25])

    @pytest.mark.parametrize(
        ("size", "rows"),
        [
            (100, [1, 0, 0]),
            (200, [0, 1, 0]),
            (400, [0, 0.5, 0.5]),
            (100 * 2**0.25, [0.75, 0.25, 0]),
            (10, [1, 0, 0]),
            (9000, [0, 0, 1]),
            (None, [0, 1, 0]),
        ],
    )
    def test_a_size_between_mixes_rows_by_its_logarithm(
        self, sized: TrainedNetwork, size: float | None, rows: list[float]
    ) -> None:
        found = sized.style_weights({"night": 1}, stroke_size=size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, [0, 0, 0, *rows], atol=1e-6)

    def test_styles_and_sizes_are_mixed_at_once(self, sized: TrainedNetwork) -> None:
        found = sized.style_weights({"day": 1, "night": 3}, stroke_size=400)
        np.testing.assert_allclose(found, [0, 0.125, 0.125, 0, 0.375, 0.375], atol=1e-6)

    @pytest.mark.parametrize(
        ("styles", "size", "problem"),
        [
            ({"noon": 1}, 100, "no style noon, but day, night"),
            ({}, 100, "not all 0"),
            ({"day": 0}, 100, "not all 0"),
            ({"day": -1, "night": 2}, 100, "at least 0"),
            ({"day": 1}, 0, "stroke_size must be positive"),
        ],
    )
    def test_what_it_does_not_have_is_refused(
        self, sized: TrainedNetwork, styles: dict[str, float], size: float, problem: str
    ) -> None:
        with pytest.raises(ValueError, match=problem):
            sized.style_weights(styles, stroke_size=size)

    def test_one_size_leaves_no_choice(self, trained: TrainedNetwork) -> None:
        with pytest.raises(ValueError, match="have one size"):
            trained.style_weights({"wave": 1}, stroke_size=100)


class TestSaveAndLoad:
    def test_float32_comes_back_to_the_bit(self, trained: TrainedNetwork, tmp_path: Path) -> None:
        networks.save(tmp_path / "a", trained, dtype="float32")
        check_same(networks.load_network(tmp_path / "a"), trained)

    def test_float16_is_rounded_and_loads_as_float32(
        self, trained: TrainedNetwork, tmp_path: Path
    ) -> None:
        networks.save(tmp_path / "a", trained)
        rounded = jax.tree.map(
            lambda leaf: leaf.astype(np.float16).astype(np.float32), trained.variables
        )
        found = networks.load_network(tmp_path / "a")
        check_same(found, dataclasses.replace(trained, variables=rounded))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(found.variables)} == {"float32"}

    def test_what_is_in_the_file(self, trained: TrainedNetwork, tmp_path: Path) -> None:
        networks.save(tmp_path / "a", trained)
        with safetensors.safe_open(tmp_path / "a", "numpy") as file:
            metadata = file.metadata()
            assert file.get_slice("params/norm1/instance/scale").get_shape() == [2, 2]
            assert file.get_slice("params/conv2/kernel").get_dtype() == "F16"
            assert file.get_slice("thumbnails/1").get_dtype() == "U8"
        assert {**metadata, "sha256": ""} == {
            "format": "perceptual_jax.network",
            "version": "1",
            "kind": "style",
            "architecture": json.dumps(
                {
                    "normalization": "instance",
                    "output": "linear",
                    "padding": "reflect",
                    "residual_blocks": 1,
                    "styles": 2,
                    "upsampling": "nearest",
                    "width": 2,
                }
            ),
            "styles": '["wave", "Der Schrei \\u00ab1893\\u00bb"]',
            "stroke_sizes": "[]",
            "settings": '{"steps": 40000, "style_weight": 5.0, "styles": ["a.jpg", null]}',
            "sha256": "",
        }

    def test_the_same_network_gives_the_same_bytes(
        self, trained: TrainedNetwork, tmp_path: Path
    ) -> None:
        params = dict(reversed(trained.variables["params"].items()))
        settings = dict(reversed(trained.settings.items()))
        again = dataclasses.replace(trained, variables={"params": params}, settings=settings)
        networks.save(tmp_path / "a", trained)
        networks.save(tmp_path / "b", again)
        networks.save(tmp_path / "c", networks.load_network(tmp_path / "a"))
        content = (tmp_path / "a").read_bytes()
        assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes() == content

    def test_sizes_of_strokes(self, tmp_path: Path) -> None:
        sized = dataclasses.replace(
            trained_network(StyleNetwork(styles=2, width=2, residual_blocks=0)),
            styles=("wave",),
            stroke_sizes=(256, 512),
            thumbnails=(),
        )
        networks.save(tmp_path / "a", sized, dtype="float32")
        assert networks.load_network(tmp_path / "a").stroke_sizes == (256, 512)

    def test_running_statistics_of_batch_normalisation(self, tmp_path: Path) -> None:
        batch = trained_network(StyleNetwork(width=2, residual_blocks=1, normalization="batch"))
        networks.save(tmp_path / "a", batch, dtype="float32")
        found = networks.load_network(tmp_path / "a")
        check_same(found, batch)
        assert found.variables["batch_stats"]["norm1"]["batch"]["mean"].shape == (2,)

    @pytest.mark.parametrize(
        "network",
        [
            ENLARGING.clone(factor=8),
            paper_super_resolution_network(4).clone(width=2, residual_blocks=1),
        ],
    )
    def test_of_super_resolution_without_styles(
        self, network: SuperResolutionNetwork, tmp_path: Path
    ) -> None:
        enlarging = trained_network(network, settings={"loss": "both"})
        networks.save(tmp_path / "a", enlarging, dtype="float32")
        found = networks.load_network(tmp_path / "a")
        assert (found.styles, found.thumbnails) == ((), ())
        check_same(found, enlarging)
        _, metadata = tensorfile.read(tmp_path / "a")
        assert (metadata["kind"], metadata["styles"]) == ("superres", "[]")

    def test_what_it_computes_in_stays_behind(
        self, trained: TrainedNetwork, tmp_path: Path
    ) -> None:
        network = trained.network.clone(dtype="bfloat16")
        networks.save(tmp_path / "a", dataclasses.replace(trained, network=network))
        assert networks.load_network(tmp_path / "a").network == trained.network

    @pytest.mark.parametrize("dtype", [jnp.float32, ml_dtypes.bfloat16, np.float64])
    def test_other_arrays_are_welcome(
        self, dtype: Any, trained: TrainedNetwork, tmp_path: Path
    ) -> None:
        variables = jax.tree.map(
            lambda leaf: (
                np.asarray(leaf, dtype) if dtype == np.float64 else jnp.asarray(leaf, dtype)
            ),
            trained.variables,
        )
        networks.save(
            tmp_path / "a", dataclasses.replace(trained, variables=variables), dtype="float32"
        )
        as_float32 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
        check_same(
            networks.load_network(str(tmp_path / "a")),
            dataclasses.replace(trained, variables=as_float32),
        )


class TestWhatIsNotWritten:
    def test_values_too_large_for_float16(self, trained: TrainedNetwork, tmp_path: Path) -> None:
        trained.variables["params"]["conv2"]["bias"][1] = 65520
        with pytest.raises(ValueError, match=r"float16: params/conv2/bias; save it as float32"):
            networks.save(tmp_path / "a", trained)
        assert list(tmp_path.iterdir()) == []
        networks.save(tmp_path / "a", trained, dtype="float32")
        check_same(networks.load_network(tmp_path / "a"), trained)

    def test_variables_of_another_network(self, trained: TrainedNetwork, tmp_path: Path) -> None:
        params = trained.variables["params"]
        del params["output"]["bias"]
        params["conv1"]["scale"] = np.ones(2, np.float32)
        params["norm1"]["instance"]["scale"] = np.ones((3, 2), np.float32)
        params["conv2"]["bias"][0] = np.nan
        with pytest.raises(ValueError, match="not a network that can be saved") as caught:
            networks.save(tmp_path / "a", trained)
        for problem in (
            "params/output/bias is missing",
            "params/conv1/scale is surplus",
            "params/norm1/instance/scale has shape (3, 2) instead of (2, 2)",
            "params/conv2/bias is not finite",
        ):
            assert problem in str(caught.value)
        assert str(caught.value).count(";") == 3

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"styles": ("wave",)}, "1 names for 2 styles"),
            ({"styles": ("wave", 2)}, "names of styles that are no names"),
            ({"styles": ("wave", "x/../../y")}, "names of styles that are no names"),
            ({"styles": ("wave", "..\\y")}, "names of styles that are no names"),
            ({"styles": ("wave", "\x1b[2J")}, "names of styles that are no names"),
            ({"styles": ("wave", "")}, "names of styles that are no names"),
            ({"styles": ("wave", "a" * 201)}, "names of styles that are no names"),
            ({"styles": ("wave", "wave")}, "several styles of one name"),
            ({"thumbnails": (np.zeros((8, 8, 3), np.uint8),)}, "1 thumbnails for 2 styles"),
            ({"thumbnails": (np.zeros((8, 8, 3)),) * 2}, r"thumbnail 1 is \(8, 8, 3\) float64"),
            ({"thumbnails": (np.zeros((8, 8), np.uint8),) * 2}, r"thumbnail 0 is \(8, 8\) uint8"),
            ({"thumbnails": (np.zeros((8, 129, 3), np.uint8),) * 2}, "thumbnail 0 is 8x129"),
            ({"thumbnails": (np.zeros((8, 0, 3), np.uint8),) * 2}, "thumbnail 0 is 8x0"),
            ({"settings": {"rate": float("nan")}}, "JSON"),
            (
                {"network": nn.Dense(3)},
                "a Dense cannot be saved; only style, superres, decoder networks",
            ),
            ({"network": StyleNetwork(output="sigmoid")}, "output must be one of"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, changes: Any, problem: str, trained: TrainedNetwork, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=problem):
            networks.save(tmp_path / "a", dataclasses.replace(trained, **changes))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"styles": ("wave",)}, "1 names for 0 styles"),
            ({"thumbnails": (np.zeros((8, 8, 3), np.uint8),)}, "1 thumbnails for 0 styles"),
            ({"network": ENLARGING.clone(factor=8)}, "params/up3/kernel is missing"),
            ({"network": ENLARGING.clone(factor=2)}, r"factor must be one of \(4, 8\)"),
        ],
    )
    def test_parts_that_do_not_fit_super_resolution(
        self, changes: Any, problem: str, tmp_path: Path
    ) -> None:
        enlarging = trained_network(ENLARGING)
        with pytest.raises(ValueError, match=problem):
            networks.save(tmp_path / "a", dataclasses.replace(enlarging, **changes))

    def test_unknown_dtypes(self, trained: TrainedNetwork, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="float64"):
            networks.save(tmp_path / "a", trained, dtype="float64")


class TestFilesThatAreRefused:
    @pytest.fixture
    def path(self, trained: TrainedNetwork, tmp_path: Path) -> Path:
        networks.save(tmp_path / "a.safetensors", trained)
        return tmp_path / "a.safetensors"

    @pytest.fixture
    def refusal(self, path: Path) -> Callable[..., str]:
        """The line with which the file is refused after changes to its tensors and metadata."""

        def refusal_after(
            change: Callable[[dict[str, np.ndarray]], Any] = lambda tensors: None, **metadata: str
        ) -> str:
            tensors, head = tensorfile.read(path)
            change(tensors)
            tensorfile.write(path, tensors, head | metadata)
            with pytest.raises(FileError) as caught:
                networks.load_network(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
            return str(caught.value)

        return refusal_after

    def test_damaged(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"a\.safetensors is damaged: the SHA-256"):
            networks.load_network(path)

    def test_cut_short(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FileError, match=r"a\.safetensors cannot be read"):
            networks.load_network(path)

    def test_of_another_format(self) -> None:
        with pytest.raises(FileError, match=r"vgg16\.safetensors does not hold a trained network"):
            networks.load_network(resources.folder("weights") / "vgg16.safetensors")

    def test_from_the_future(self, refusal: Callable[..., str]) -> None:
        assert "version 2 of its format; this program reads 1" in refusal(version="2")

    def test_of_another_kind(self, refusal: Callable[..., str]) -> None:
        assert "the kind 'poem'; this program knows style" in refusal(kind="poem")

    def test_with_tensors_of_another_network(self, refusal: Callable[..., str]) -> None:
        def change(tensors: dict[str, np.ndarray]) -> None:
            tensors["params/conv4/kernel"] = tensors.pop(KERNEL)
            tensors["params/conv3/bias"] = np.zeros((8, 1), np.float16)
            tensors["params/conv1/bias"] = np.zeros(2, np.uint8)
            tensors["params/up1/bias"] = np.full(4, np.inf, np.float16)

        message = refusal(change)
        for problem in (
            f"{KERNEL} is missing",
            "params/conv4/kernel is surplus",
            "params/conv3/bias has shape (8, 1) instead of (8,)",
            "params/conv1/bias has dtype uint8",
            "params/up1/bias is not finite",
        ):
            assert problem in message
        assert message.count(";") == 4

    def test_with_thumbnails_of_other_styles(self, refusal: Callable[..., str]) -> None:
        pixel = np.zeros((1, 1, 3), np.uint8)
        assert "thumbnails/2 is surplus" in refusal(lambda t: t.update({"thumbnails/2": pixel}))

    def test_with_too_few_thumbnails(self, refusal: Callable[..., str]) -> None:
        assert "1 thumbnails for 2 styles" in refusal(lambda t: t.pop("thumbnails/0"))

    @pytest.mark.parametrize(
        ("architecture", "problem"),
        [
            ({"depth": 3}, "'depth' is unknown; a newer version of this program reads it"),
            ({"width": "32"}, "width='32' is not of the type int"),
            ({"width": True}, "width=True is not of the type int"),
            ({"upsampling": "bicubic"}, "upsampling must be one of"),
            ({"width": 4}, "params/conv1/bias has shape (2,) instead of (4,)"),
            ({"width": 0}, "does not describe a network"),
            ({"width": -1}, "does not describe a network"),
            ({"residual_blocks": -1}, "params/residual1/conv1/bias is surplus"),
            ({"residual_blocks": 2000}, "residual_blocks=2000 is more than 100"),
            ({"styles": 500_000_000}, "styles=500000000 is more than 10000"),
            ({"width": 10**9}, "width=1000000000 is more than 1024"),
        ],
    )
    def test_with_an_architecture_that_cannot_be(
        self, architecture: Any, problem: str, refusal: Callable[..., str]
    ) -> None:
        described = {"styles": 2, "width": 2, "residual_blocks": 1} | architecture
        assert problem in refusal(architecture=json.dumps(described))

    @pytest.mark.parametrize(
        "settings", [[], {"steps": "many"}, {"steps_before": -1}, {"steps": 1e9}, {"steps": None}]
    )
    def test_with_settings_that_cannot_be(self, settings: Any, refusal: Callable[..., str]) -> None:
        assert "does not describe a network: its " in refusal(settings=json.dumps(settings))

    @pytest.mark.parametrize(
        ("sizes", "problem"),
        [
            ([512, 256], "sizes of strokes that are no ascending numbers"),
            ([0, 256], "sizes of strokes that are no ascending numbers"),
            ([256.0], "sizes of strokes that are no ascending numbers"),
            (["256"], "sizes of strokes that are no ascending numbers"),
            ([256, 512], "2 names at 2 sizes for 2 styles"),
        ],
    )
    def test_with_sizes_of_strokes_that_cannot_be(
        self, sizes: list[Any], problem: str, refusal: Callable[..., str]
    ) -> None:
        assert problem in refusal(stroke_sizes=json.dumps(sizes))

    def test_with_names_that_lead_out_of_a_folder(self, refusal: Callable[..., str]) -> None:
        assert "no names" in refusal(styles=json.dumps(["wave", "x/../../y"]))

    @pytest.mark.parametrize("field", ["architecture", "styles", "settings"])
    def test_with_text_that_is_no_json(self, field: str, refusal: Callable[..., str]) -> None:
        assert "does not describe a network: Expecting" in refusal(**{field: "{"})


class TestNames:
    @pytest.fixture
    def shelf(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder `weights/networks`, which is not there yet."""
        monkeypatch.setattr(resources, "folder", lambda name: tmp_path / name)
        monkeypatch.chdir(tmp_path)
        return tmp_path / "weights" / "networks"

    def test_no_network_is_shipped(self, shelf: Path) -> None:
        assert networks.shipped() == networks.shipped("superres") == []
        with pytest.raises(FileError) as caught:
            networks.load_network("wave")
        assert str(caught.value) == (
            "there is no network 'wave': give the path of a .safetensors or .pth file"
        )

    def test_shipped_networks_load_by_name(self, shelf: Path, trained: TrainedNetwork) -> None:
        networks.save(shelf / "wave.safetensors", trained)
        networks.save(shelf / "mosaic.safetensors", trained)
        (shelf / "README.md").touch()
        assert networks.shipped() == networks.shipped("style") == ["mosaic", "wave"]
        assert networks.load_network("wave").styles == trained.styles

    def test_shipped_networks_are_of_a_kind(self, shelf: Path, trained: TrainedNetwork) -> None:
        networks.save(shelf / "wave.safetensors", trained)
        assert networks.shipped("superres") == []
        networks.save(shelf / "x4.safetensors", trained_network(ENLARGING))
        assert networks.shipped("superres") == ["x4"]
        assert networks.shipped() == ["wave"]
        assert networks.load_network("x4").network == ENLARGING

    def test_a_file_wins_over_a_name_and_a_folder_does_not(
        self, shelf: Path, trained: TrainedNetwork
    ) -> None:
        networks.save(shelf / "wave.safetensors", trained)
        Path("wave").mkdir()
        assert networks.load_network("wave").settings == trained.settings
        Path("wave").rmdir()
        networks.save("wave", dataclasses.replace(trained, settings={"mine": True}))
        assert networks.load_network("wave").settings == {"mine": True}

    @pytest.mark.parametrize("name", ["candy", "wave.safetensors", "../networks/wave", ""])
    def test_what_leads_nowhere_is_reported(
        self, name: str, shelf: Path, trained: TrainedNetwork
    ) -> None:
        networks.save(shelf / "wave.safetensors", trained)
        networks.save(shelf / "mosaic.safetensors", trained)
        with pytest.raises(FileError, match=r"no network .* one of the names mosaic, wave$"):
            networks.load_network(name)

    def test_a_path_may_start_at_home(
        self, trained: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        networks.save(tmp_path / "mine.safetensors", trained)
        assert networks.load_network("~/mine.safetensors").styles == trained.styles

    def test_everything_that_is_shipped_loads(self) -> None:
        for kind in networks.KINDS:
            for name in networks.shipped(kind):
                assert isinstance(networks.load_network(name).network, networks.KINDS[kind])


class TestLoadSuperres:
    @pytest.fixture
    def shelf(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A network called `feature` for each factor."""
        monkeypatch.setattr(resources, "folder", lambda name: tmp_path / name)
        monkeypatch.chdir(tmp_path)
        shelf = tmp_path / "weights" / "networks"
        for factor in (4, 8):
            enlarging = trained_network(ENLARGING.clone(factor=factor), settings={"at": "home"})
            networks.save(shelf / f"superres-x{factor}-feature.safetensors", enlarging)
        return shelf

    @pytest.mark.parametrize("factor", [4, 8])
    @pytest.mark.usefixtures("shelf")
    def test_a_name_is_that_of_the_factor(self, factor: int) -> None:
        assert networks.load_superres("feature", factor).network.factor == factor

    @pytest.mark.usefixtures("shelf")
    def test_a_file_is_taken_by_its_path(self) -> None:
        networks.save("mine.safetensors", trained_network(ENLARGING, settings={"at": "work"}))
        found = networks.load_superres("mine.safetensors", 4)
        assert found.settings == {"at": "work"}
        check_same(found, networks.load_network("mine.safetensors"))

    @pytest.mark.usefixtures("shelf")
    def test_of_another_factor_is_reported(self) -> None:
        networks.save("mine.safetensors", trained_network(ENLARGING))
        with pytest.raises(FileError) as caught:
            networks.load_superres("mine.safetensors", 8)
        assert str(caught.value) == "mine.safetensors enlarges by 4, not by 8"

    def test_of_another_kind_is_reported(self, shelf: Path, trained: TrainedNetwork) -> None:
        networks.save(shelf / "wave.safetensors", trained)
        with pytest.raises(FileError, match=r"^wave is not a network for super-res"):
            networks.load_superres("wave", 4)

    @pytest.mark.usefixtures("shelf")
    def test_what_leads_nowhere_is_reported(self) -> None:
        with pytest.raises(
            FileError, match=r"no network 'pixel': give feature, pixel, or the path of a file$"
        ):
            networks.load_superres("pixel", 4)


class TestFilesOfPyTorch:
    STATE = random_transformer_net(width=2, residual_blocks=1)

    @pytest.mark.parametrize("write", [torchwriter.write_zip, torchwriter.write_legacy])
    def test_the_style_is_called_as_the_file(self, write: Any, tmp_path: Path) -> None:
        running = {"in1.running_mean": np.zeros(2, np.float32)}
        write(tmp_path / "rain_princess.pth", torchwriter.state_dict(self.STATE | running))
        found = networks.load_network(tmp_path / "rain_princess.pth")
        assert found.network == StyleNetwork(width=2, residual_blocks=1)
        assert found.styles == ("rain_princess",)
        assert found.thumbnails == ()
        assert found.settings == {"source": "rain_princess.pth"}
        scale = found.variables["params"]["norm2"]["instance"]["scale"]
        np.testing.assert_array_equal(scale, self.STATE["in2.weight"][None])

    def test_of_a_training_program(self, tmp_path: Path) -> None:
        state = torchwriter.state_dict({f"module.{k}": v for k, v in self.STATE.items()})
        torchwriter.write_zip(tmp_path / "epoch_2.model", {"state_dict": state, "epoch": 2})
        assert networks.load_network(tmp_path / "epoch_2.model").styles == ("epoch_2",)

    def test_becomes_a_file_of_ours(self, tmp_path: Path) -> None:
        torchwriter.write_zip(tmp_path / "candy.pth", torchwriter.state_dict(self.STATE))
        found = networks.load_network(tmp_path / "candy.pth")
        networks.save(tmp_path / "candy.safetensors", found, dtype="float32")
        check_same(networks.load_network(tmp_path / "candy.safetensors"), found)

    def test_of_another_network_is_reported_with_its_path(self, tmp_path: Path) -> None:
        torchwriter.write_zip(tmp_path / "a.pth", {"conv1.weight": torchwriter.tensor(np.ones(2))})
        with pytest.raises(FileError, match=r"a\.pth: not a state dict .*conv1\.weight is surplus"):
            networks.load_network(tmp_path / "a.pth")

    def test_of_anything_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 and so on")
        with pytest.raises(FileError, match=r"a\.jpg is damaged, or not a file of torch\.save"):
            networks.load_network(tmp_path / "a.jpg")


def test_thumbnails_of_many_styles_keep_their_order(tmp_path: Path) -> None:
    """Beyond ten, where the order of names is not that of numbers."""
    many = trained_network(
        StyleNetwork(styles=12, width=1, residual_blocks=0),
        thumbnails=tuple(np.full((1, 1, 3), index, np.uint8) for index in range(12)),
    )
    networks.save(tmp_path / "a", many)
    assert [picture.max() for picture in networks.load_network(tmp_path / "a").thumbnails] == [
        *range(12)
    ]
