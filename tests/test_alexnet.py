"""AlexNet features: the values of an independent implementation, and clear errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import alexnet
from perceptual_jax.pretrained.metrics import load_lpips
from tests import reference

TINY = reference.random_alexnet()
LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")


@pytest.mark.parametrize("shape", [(1, 31, 64), (2, 67, 50)])
@pytest.mark.parametrize("params", [TINY, load_lpips()], ids=["tiny", "alexnet"])
def test_every_layer_is_that_of_an_independent_implementation(
    params: Any, shape: tuple[int, ...]
) -> None:
    images = reference.random_images(*shape, 3)
    expected = reference.alexnet_features(params, images)
    found = jax.jit(alexnet.features, static_argnums=2)(params, images, LAYERS)
    assert tuple(found) == LAYERS
    for layer, features in found.items():
        assert features.shape == expected[layer].shape
        scale = np.max(np.abs(expected[layer]))
        np.testing.assert_allclose(features, expected[layer], rtol=0, atol=1e-5 * scale)


def test_computes_no_deeper_than_it_is_asked() -> None:
    shallow = {"normalization": TINY["normalization"], "conv1": TINY["conv1"]}
    image = reference.random_images(7, 9, 3)
    assert alexnet.features(shallow, image, ["relu1"])["relu1"].shape == (1, 1, 3)
    with pytest.raises(ValueError, match="no layer relu2; it has relu1"):
        alexnet.features(shallow, image, ["relu2"])


@pytest.mark.parametrize(
    ("layer", "least"), [("relu1", 7), ("relu2", 15), ("relu3", 31), ("relu5", 31)]
)
def test_the_smallest_side_has_one_position(layer: str, least: int) -> None:
    image = jnp.zeros((least, least, 3))
    assert alexnet.features(TINY, image, layer)[layer].shape[:2] == (1, 1)
    with pytest.raises(ValueError, match=f"need at least {least} pixels"):
        alexnet.features(TINY, image[1:], layer)
