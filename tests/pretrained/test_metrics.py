"""Parameters of LPIPS and DISTS: what the package has of them, and which VGG-16 they are for."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceptual_jax
from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError
from perceptual_jax.pretrained import metrics, tensorfile, vgg
from tests import perceptual_pairs, reference

WEIGHTS = resources.folder("weights")
ABOUT: Any = {"name": "test", "source": "a random generator", "license": "CC0-1.0"}


@pytest.fixture(scope="module")
def torchvision_vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the normalisation of torchvision's network, which is what tells it."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    vgg.save(path, perceptual_pairs.oxford_behind_torchvisions_normalization(), **ABOUT)
    return path


class TestFiles:
    @pytest.mark.parametrize("name", ["lpips", "dists"])
    def test_are_those_of_the_readme(self, name: str) -> None:
        """Which says where they come from."""
        page = (WEIGHTS / "README.md").read_text(encoding="utf-8")
        file = WEIGHTS / f"{name}.safetensors"
        assert hashlib.sha256(file.read_bytes()).hexdigest() in page

    def test_have_all_tensors_and_only_convolutions_are_rounded(self) -> None:
        tensors, metadata = tensorfile.read(WEIGHTS / "lpips.safetensors")
        assert {name: tensor.shape for name, tensor in tensors.items()} == metrics.lpips_shapes()
        rounded = {name for name, tensor in tensors.items() if tensor.dtype == np.float16}
        assert rounded == {name for name in tensors if re.match("alex/conv[2-5]/", name)}
        assert metadata["license"] == "BSD-3-Clause (convolutions), BSD-2-Clause (heads)"

    def test_heads_are_weights_of_distances(self) -> None:
        """At least 0, and of the number of channels of their layers; so are DISTS's."""
        trees = [metrics.read_tree("lpips", network) for network in ("alex", "vgg")]
        for tree in trees:
            assert all(head.min() >= 0 for head in tree["heads"].values())
        dists = metrics.read_tree("dists")
        for part in ("alpha", "beta"):
            assert {k: len(v) for k, v in dists[part].items()} == {
                "pixels": 3,
                **{f"relu{b}_{i}": c for b, i, c in ((1, 2, 64), (2, 2, 128), (3, 3, 256))},
                **{"relu4_3": 512, "relu5_3": 512},
            }
            assert all(weights.min() >= 0 for weights in dists[part].values())

    def test_a_damaged_one_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = bytearray((WEIGHTS / "dists.safetensors").read_bytes())
        content[-1] ^= 1
        (tmp_path / "dists.safetensors").write_bytes(content)
        monkeypatch.setattr(resources, "folder", lambda name: tmp_path)
        with pytest.raises(FileError, match="is damaged"):
            metrics.read_tree("dists")


class TestLoading:
    def test_alexnet_comes_with_the_package(self) -> None:
        params = perceptual_jax.load_lpips()
        assert set(params) == {"normalization", *(f"conv{i}" for i in range(1, 6)), "heads"}
        assert params["conv1"]["kernel"].shape == (11, 11, 3, 64)
        assert set(params["heads"]) == {f"relu{i}" for i in range(1, 6)}
        assert {v.dtype.name for parts in params.values() for v in parts.values()} == {"float32"}
        # What `lpips` does with [-1, 1]: its shift and scale, of -0.030 and 0.458 for red.
        white = (1 - params["normalization"]["mean"]) / params["normalization"]["std"]
        np.testing.assert_allclose(white, [1.03 / 0.458, 1.088 / 0.448, 1.188 / 0.45], rtol=1e-6)

    def test_vgg_gets_heads_beside_its_layers(self, torchvision_vgg16: Path) -> None:
        trunk = vgg.load_vgg(torchvision_vgg16)
        lpips = perceptual_jax.load_lpips("vgg", vgg=torchvision_vgg16)
        dists = perceptual_jax.load_dists(vgg=torchvision_vgg16)
        assert set(lpips) == {*trunk, "heads"}
        assert set(dists) == {*trunk, "alpha", "beta"}
        for params in (lpips, dists):
            kernel = params["conv5_3"]["kernel"]
            np.testing.assert_array_equal(kernel, trunk["conv5_3"]["kernel"])

    def test_torchvisions_network_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def load_vgg(name: Any) -> Any:
            asked.append(name)
            return perceptual_pairs.oxford_behind_torchvisions_normalization()

        monkeypatch.setattr(metrics, "load_vgg", load_vgg)
        metrics.load_lpips("vgg")
        metrics.load_dists()
        assert asked == ["vgg16-torchvision"] * 2

    def test_the_embedded_oxford_network_is_refused(self) -> None:
        for load in (
            lambda: metrics.load_lpips("vgg", vgg="vgg16"),
            lambda: metrics.load_dists(vgg="vgg16"),
        ):
            with pytest.raises(ValueError, match=r"vgg16 is the Oxford network.*mean nothing"):
                load()

    def test_vgg19_is_refused(self, tmp_path: Path) -> None:
        params = reference.random_vgg(reference.VGG19_DEPTHS, reference.VGG_WIDTHS)
        normalization = perceptual_pairs.oxford_behind_torchvisions_normalization()["normalization"]
        path = tmp_path / "vgg19.safetensors"
        vgg.save(path, {**params, "normalization": normalization}, **ABOUT)
        with pytest.raises(ValueError, match="is VGG-19"):
            metrics.load_dists(vgg=path)

    def test_there_are_two_networks(self) -> None:
        with pytest.raises(ValueError, match=r"one of \['alex', 'vgg'\], got 'squeeze'"):
            metrics.load_lpips("squeeze")
