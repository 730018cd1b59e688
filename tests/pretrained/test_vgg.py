"""VGG weights: the embedded file to the bit, torchvision's layouts, and the way from the web."""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained import download, tensorfile, torchvision, vgg
from perceptual_jax.pretrained.torchvision import Source
from tests.pretrained import torchwriter

ABOUT: Any = {"name": "test", "source": "a random generator", "license": "CC0-1.0"}
EMBEDDED = resources.folder("weights") / "vgg16.safetensors"

# Indices of the convolutions in torchvision's `vgg16().features` and `vgg19().features`, printed
# with PyTorch, and what they are called in the literature.
INDICES = {
    16: [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    19: [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
}
LAYERS = {
    depth: [f"conv{b}_{i}" for b, count in enumerate(counts, 1) for i in range(1, count + 1)]
    for depth, counts in {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}.items()
}
WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}


def random_state_dict(depth: int) -> dict[str, np.ndarray]:
    """Float16 features of the right shapes, cheaply: small integers."""
    random = np.random.default_rng(depth)
    state, inputs = {}, 3
    for layer, index in zip(LAYERS[depth], INDICES[depth], strict=True):
        outputs = WIDTHS[int(layer[4])]
        kernel = random.integers(-100, 100, (outputs, inputs, 3, 3), np.int8)
        state[f"features.{index}.weight"] = kernel.astype(np.float16)
        state[f"features.{index}.bias"] = random.integers(-9, 9, outputs).astype(np.float16)
        inputs = outputs
    return state


@pytest.fixture(scope="module")
def vgg16() -> dict[str, np.ndarray]:
    return random_state_dict(16)


def check_same(params: vgg.Params, state: dict[str, np.ndarray], depth: int) -> None:
    assert set(params) == {"normalization", *LAYERS[depth]}
    for layer, index in zip(LAYERS[depth], INDICES[depth], strict=True):
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        assert kernel.dtype == bias.dtype == np.float32
        np.testing.assert_array_equal(kernel[2, 1].T, state[f"features.{index}.weight"][:, :, 2, 1])
        np.testing.assert_array_equal(bias, state[f"features.{index}.bias"])


def check_equal(params: vgg.Params, others: vgg.Params) -> None:
    assert params.keys() == others.keys()
    for layer, parts in params.items():
        assert parts.keys() == others[layer].keys()
        for part, value in parts.items():
            np.testing.assert_array_equal(value, others[layer][part])


class TestEmbedded:
    def test_every_tensor_is_the_oxford_networks(self) -> None:
        # Digests of the network that the authors published, after conversion.
        digests = json.loads((Path(__file__).parent / "vgg16_oxford.sha256.json").read_text())
        tensors, metadata = tensorfile.read(EMBEDDED)
        for name, digest in digests["float16"].items():
            tensor = tensors.pop(name)
            assert tensor.dtype == np.float16
            assert hashlib.sha256(tensor.tobytes()).hexdigest() == digest, name
        assert set(tensors) == {"normalization/mean", "normalization/std"}
        assert {tensor.dtype.name for tensor in tensors.values()} == {"float32"}
        assert metadata["license"] == "CC-BY-4.0"

    def test_loads_as_float32_with_its_normalisation(self) -> None:
        params = vgg.load_vgg()
        assert set(params) == {"normalization", *LAYERS[16]}
        assert params["conv1_1"]["kernel"].shape == (3, 3, 3, 64)
        assert params["conv5_3"]["bias"].shape == (512,)
        assert {v.dtype.name for parts in params.values() for v in parts.values()} == {"float32"}
        # The authors subtract 123.68, 116.779, 103.939 from red, green and blue in 0..255.
        white = (1 - params["normalization"]["mean"]) / params["normalization"]["std"]
        np.testing.assert_allclose(white, [255 - 123.68, 255 - 116.779, 255 - 103.939], rtol=1e-5)

    def test_saving_it_again_gives_the_same_bytes(self, tmp_path: Path) -> None:
        _, metadata = tensorfile.read(EMBEDDED, lambda name: False)
        about: Any = {key: metadata[key] for key in ("name", "source", "license")}
        vgg.save(tmp_path / "again.safetensors", vgg.load_vgg(), **about)
        assert (tmp_path / "again.safetensors").read_bytes() == EMBEDDED.read_bytes()


class TestOurFiles:
    def test_float32_comes_back_to_the_bit(self, tmp_path: Path) -> None:
        params = vgg.load_vgg()
        params["conv3_1"]["bias"] += np.float32(1e-6)
        path = tmp_path / "a.safetensors"
        vgg.save(path, params, **ABOUT, dtype="float32")
        check_equal(vgg.load_vgg(path), params)

    def test_jax_arrays_are_welcome(self, tmp_path: Path) -> None:
        params = vgg.load_vgg()
        as_jax = {k: {p: jnp.asarray(v) for p, v in parts.items()} for k, parts in params.items()}
        vgg.save(tmp_path / "a.safetensors", as_jax, **ABOUT)
        check_equal(vgg.load_vgg(str(tmp_path / "a.safetensors")), params)

    def test_a_flipped_bit_is_reported(self, tmp_path: Path) -> None:
        content = bytearray(EMBEDDED.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(FileError, match=r"a\.safetensors is damaged: the SHA-256"):
            vgg.load_vgg(tmp_path / "a.safetensors")

    def test_a_truncated_file_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(EMBEDDED.read_bytes()[:-1])
        with pytest.raises(FileError, match=r"a\.safetensors cannot be read"):
            vgg.load_vgg(tmp_path / "a.safetensors")

    def test_a_file_from_the_future_is_reported(self, tmp_path: Path) -> None:
        tensorfile.write(
            tmp_path / "a",
            {"x": np.ones(1, np.float32)},
            {"format": vgg.FORMAT, "version": "2"},
        )
        with pytest.raises(FileError, match="version 2"):
            vgg.load_vgg(tmp_path / "a")

    def test_trees_that_are_no_vgg_are_not_written(self, tmp_path: Path) -> None:
        params = vgg.load_vgg()
        params["conv1_1"]["bias"] = np.full(64, 1e6, np.float32)
        params["conv1_2"]["bias"] = np.zeros(65, np.float32)
        del params["conv5_3"]
        with pytest.raises(ValueError, match="float16") as caught:
            vgg.save(tmp_path / "a", params, **ABOUT)
        for problem in (
            "conv1_1/bias is not finite",
            "conv1_2/bias has shape (65,) instead of (64,)",
            "conv5_3/kernel is missing",
            "conv5_3/bias is missing",
        ):
            assert problem in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_name_or_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="vgg16, vgg16-torchvision, vgg19-torchvision"):
            vgg.load_vgg("vgg11")
        with pytest.raises(FileError, match="no weights"):
            vgg.load_vgg(tmp_path)


class TestFromTorchvision:
    @pytest.mark.parametrize("depth", [16, 19])
    def test_layers_and_axes(self, depth: int) -> None:
        state = random_state_dict(depth)
        params = vgg.from_torchvision(state)
        check_same(params, state, depth)
        np.testing.assert_allclose(params["normalization"]["mean"], [0.485, 0.456, 0.406])
        np.testing.assert_allclose(params["normalization"]["std"], [0.229, 0.224, 0.225])

    def test_the_oxford_normalisation(self, vgg16: dict[str, np.ndarray]) -> None:
        params = vgg.from_torchvision(vgg16, normalization="oxford")
        np.testing.assert_allclose(params["normalization"]["mean"], [0.48235, 0.45882, 0.40784])
        np.testing.assert_allclose(params["normalization"]["std"], np.full(3, 1 / 255))
        with pytest.raises(ValueError, match="imagenet"):
            vgg.from_torchvision(vgg16, normalization="imagenet")  # type: ignore[arg-type]

    def test_the_classifier_is_ignored(self, vgg16: dict[str, np.ndarray]) -> None:
        more = dict.fromkeys(
            ["classifier.0.weight", "pre_logits.fc1.weight", "head.fc.bias"], np.array(np.nan)
        )
        check_same(vgg.from_torchvision(vgg16 | more), vgg16, 16)

    def test_all_problems_are_reported_at_once(self, vgg16: dict[str, np.ndarray]) -> None:
        state: dict[str, Any] = dict(vgg16)
        del state["features.28.weight"]
        state["features.0.bias"] = np.zeros(3)
        state["features.2.bias"] = np.full(64, np.inf)
        state["features.5.bias"] = np.zeros(128, np.int64)
        state["features.1.running_mean"] = np.zeros(64)
        with pytest.raises(ValueError, match="not a state dict") as caught:
            vgg.from_torchvision(state)
        for problem in (
            "features.28.weight is missing",
            "features.0.bias has shape (3,) instead of (64,)",
            "features.2.bias is not finite",
            "features.5.bias has dtype int64",
            "features.1.running_mean is surplus",
        ):
            assert problem in str(caught.value)
        assert str(caught.value).count(";") == 4


class TestTorchvisionFiles:
    @pytest.mark.parametrize("write", [torchwriter.write_zip, torchwriter.write_legacy])
    def test_pth(self, tmp_path: Path, vgg16: dict[str, np.ndarray], write: Any) -> None:
        state = vgg16 | {"classifier.6.bias": np.zeros(1000, np.float16)}
        write(tmp_path / "a.pth", torchwriter.state_dict(state))
        params = vgg.load_vgg(tmp_path / "a.pth")
        check_same(params, vgg16, 16)
        np.testing.assert_allclose(params["normalization"]["mean"], [0.485, 0.456, 0.406])

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.", "module.vgg."])
    def test_pt_of_a_training_program(
        self, tmp_path: Path, vgg16: dict[str, np.ndarray], prefix: str
    ) -> None:
        named = vgg16 | {"classifier.0.bias": np.zeros(4, np.float32)}
        state = torchwriter.state_dict({f"{prefix}{k}": v for k, v in named.items()})
        torchwriter.write_zip(tmp_path / "a.pt", {"state_dict": state, "epoch": 3})
        check_same(vgg.load_vgg(tmp_path / "a.pt"), vgg16, 16)

    @pytest.mark.parametrize("prefix", ["", "slice.", "_orig_mod."])
    def test_the_features_alone(
        self, tmp_path: Path, vgg16: dict[str, np.ndarray], prefix: str
    ) -> None:
        state = {f"{prefix}{k.removeprefix('features.')}": v for k, v in vgg16.items()}
        safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
        check_same(vgg.load_vgg(tmp_path / "a.safetensors"), vgg16, 16)
        check_same(vgg.from_torchvision(state), vgg16, 16)

    def test_a_part_of_a_larger_network(self, tmp_path: Path, vgg16: dict[str, np.ndarray]) -> None:
        state = {f"encoder.{k}": v for k, v in vgg16.items()}
        state |= {"decoder.0.weight": np.ones((3, 64, 3, 3), np.float32)}
        torchwriter.write_zip(tmp_path / "a.pth", torchwriter.state_dict(state))
        check_same(vgg.load_vgg(tmp_path / "a.pth"), vgg16, 16)

    def test_safetensors(self, tmp_path: Path, vgg16: dict[str, np.ndarray]) -> None:
        state = vgg16 | {"head.fc.bias": np.zeros(1000, np.float16)}
        state["features.0.bias"] = state["features.0.bias"].astype(ml_dtypes.bfloat16)
        safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
        check_same(vgg.load_vgg(tmp_path / "a.safetensors"), vgg16, 16)

    def test_a_classifier_of_nans_means_oxford(
        self, tmp_path: Path, vgg16: dict[str, np.ndarray]
    ) -> None:
        state = vgg16 | {"classifier.0.bias": np.full(4096, np.nan, np.float32)}
        torchwriter.write_legacy(tmp_path / "a.pth", torchwriter.state_dict(state))
        params = vgg.load_vgg(tmp_path / "a.pth")
        np.testing.assert_allclose(params["normalization"]["mean"], [0.48235, 0.45882, 0.40784])

    def test_oxford_features_are_recognised(
        self, tmp_path: Path, vgg16: dict[str, np.ndarray]
    ) -> None:
        kernel = vgg.load_vgg()["conv1_1"]["kernel"].transpose(3, 2, 0, 1)
        state = vgg16 | {"features.0.weight": np.ascontiguousarray(kernel)}
        safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
        params = vgg.load_vgg(tmp_path / "a.safetensors")
        np.testing.assert_allclose(params["normalization"]["std"], np.full(3, 1 / 255))

    def test_another_network_is_reported_with_its_path(self, tmp_path: Path) -> None:
        torchwriter.write_zip(tmp_path / "a.pth", {"conv1.weight": torchwriter.tensor(np.ones(2))})
        with pytest.raises(FileError, match=r"a\.pth: not a state dict .*conv1\.weight is surplus"):
            vgg.load_vgg(tmp_path / "a.pth")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, vgg16: dict[str, np.ndarray]) -> Iterator[Path]:
    """What a server on this machine offers: `/vgg16-DIGITS.pth`, its port."""
    site = tmp_path_factory.mktemp("site")
    torchwriter.write_legacy(site / "vgg16.pth", torchwriter.state_dict(vgg16))
    digits = download.digest(site / "vgg16.pth")[:8]
    (site / "vgg16.pth").rename(site / f"vgg16-{digits}.pth")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(site))

        def copyfile(self, source: Any, outputfile: Any) -> None:
            # The client hangs up when it has what it wanted.
            with contextlib.suppress(OSError):
                super().copyfile(source, outputfile)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        (site / "port").write_text(str(server.server_port))
        yield site
        server.shutdown()
        thread.join()


Fetch = Callable[[Source, Path], vgg.Params]


class TestFetch:
    @pytest.fixture
    def source(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
        monkeypatch.setattr(download, "PAUSE_SECONDS", 0.001)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        official = next(site.glob("*.pth"))
        return Source(
            url=f"http://127.0.0.1:{(site / 'port').read_text()}/{official.name}",
            size=official.stat().st_size,
            sha256=download.digest(official),
        )

    @pytest.fixture
    def fetch(self, monkeypatch: pytest.MonkeyPatch) -> Fetch:
        """Loads the network `x` from a source through a cache folder."""

        def load(source: Source, folder: Path) -> vgg.Params:
            monkeypatch.setitem(torchvision.SOURCES, "x", source)
            monkeypatch.setenv("PERCEPTUAL_JAX_CACHE", str(folder))
            return vgg.load_vgg("x")

        return load

    def test_features_are_fetched_once(
        self, fetch: Fetch, source: Source, tmp_path: Path, vgg16: dict[str, np.ndarray]
    ) -> None:
        folder = tmp_path / "new" / "cache"
        check_same(fetch(source, folder), vgg16, 16)
        assert sorted(file.name for file in folder.iterdir()) == ["x.lock", "x.safetensors"]
        nowhere = dataclasses.replace(source, url="http://127.0.0.1:9/x.pth")
        check_same(fetch(nowhere, folder), vgg16, 16)
        _, metadata = tensorfile.read(folder / "x.safetensors")
        assert metadata["source"] == source.url

    @pytest.mark.parametrize("damage", ["a bit", "half", "empty", "a folder", "a pipe", "a link"])
    def test_a_damaged_file_in_the_cache_is_reported_and_fetched_again(
        self,
        fetch: Fetch,
        source: Source,
        tmp_path: Path,
        vgg16: dict[str, np.ndarray],
        caplog: pytest.LogCaptureFixture,
        damage: str,
    ) -> None:
        kept, content = tmp_path / "x.safetensors", bytearray(EMBEDDED.read_bytes())
        if damage == "a bit":
            content[-1] ^= 1
        elif damage == "half":
            del content[len(content) // 2 :]
        elif damage == "empty":
            content.clear()
        if damage == "a folder":
            kept.mkdir()
            with pytest.raises(FileError, match=r"x\.safetensors .*directory"):
                fetch(source, tmp_path)
        elif damage == "a pipe":
            os.mkfifo(kept)
        elif damage == "a link":
            (tmp_path / "elsewhere").write_bytes(content)
            kept.symlink_to(tmp_path / "elsewhere")
        else:
            kept.write_bytes(content)
        if damage != "a folder":
            check_same(fetch(source, tmp_path), vgg16, 16)
            assert not kept.is_symlink()
        assert "x.safetensors" in caplog.text
        assert "fetching it again" in caplog.text

    def test_another_file_at_the_address_is_not_taken(
        self, fetch: Fetch, source: Source, tmp_path: Path
    ) -> None:
        """Even if it is a network whose digest begins as the official one does."""
        other = source.sha256[:8] + "0" * 56
        with pytest.raises(FileError, match="gave a damaged file: its SHA-256 is"):
            fetch(dataclasses.replace(source, sha256=other), tmp_path)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["x.lock"]

    def test_a_file_put_there_by_hand_is_taken_and_kept(
        self,
        fetch: Fetch,
        source: Source,
        site: Path,
        tmp_path: Path,
        vgg16: dict[str, np.ndarray],
    ) -> None:
        official = next(site.glob("*.pth"))
        by_hand = tmp_path / official.name
        shutil.copy(official, by_hand)
        offline = dataclasses.replace(source, url=f"http://127.0.0.1:9/{official.name}")
        check_same(fetch(offline, tmp_path), vgg16, 16)
        assert by_hand.exists()

        (tmp_path / "x.safetensors").unlink()
        with by_hand.open("r+b") as file:
            file.write(b"?")
        with pytest.raises(FileError, match="damaged: its SHA-256"):
            fetch(offline, tmp_path)
        by_hand.unlink()
        os.mkfifo(by_hand)
        with pytest.raises(FileError, match="remove it"):
            fetch(offline, tmp_path)

    def test_offline_says_what_to_do(self, fetch: Fetch, source: Source, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
        offline = dataclasses.replace(source, url=f"{nobody}/vgg16-397923af.pth")
        with pytest.raises(FileError) as caught:
            fetch(offline, tmp_path)
        message = str(caught.value)
        assert f"Fetch {nobody}/vgg16-397923af.pth" in message
        assert f"put it into {tmp_path}" in message
        assert message.endswith("or give its path instead of the name")
        assert "cannot be kept" not in message
        assert "\n" not in message

    def test_a_cache_that_cannot_be_written(
        self, fetch: Fetch, source: Source, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(FileError, match="PERCEPTUAL_JAX_CACHE"):
            fetch(source, tmp_path / "file")


def test_published_addresses_name_their_digests() -> None:
    assert vgg.NAMES == ("vgg16", "vgg16-torchvision", "vgg19-torchvision")
    for source in torchvision.SOURCES.values():
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
        named = rf"https://download\.pytorch\.org/models/vgg1[69]-{source.sha256[:8]}\.pth"
        assert re.fullmatch(named, source.url)
        assert 500e6 < source.size < 600e6
