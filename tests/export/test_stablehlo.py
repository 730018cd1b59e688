"""StableHLO: stored, read again, and the same picture at any size."""

from typing import Any

import numpy as np
import pytest
from jax import export

from perceptual_jax.export.stablehlo import PLATFORMS, to_stablehlo
from perceptual_jax.models import networks
from perceptual_jax.models.networks import StyleNetwork, SuperResolutionNetwork
from perceptual_jax.models.stylization import stylize_batch
from perceptual_jax.models.super_resolution import enlarge_batch
from perceptual_jax.pretrained.networks import TrainedNetwork
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SMALL: dict[str, Any] = {"width": 4, "residual_blocks": 1}


def trained(network: Any, styles: tuple[str, ...] = ()) -> TrainedNetwork:
    variables = networks.initial_variables(network, 0)
    return TrainedNetwork(network=network, variables=variables, styles=styles, settings={})


def test_pictures_of_any_size() -> None:
    style = trained(StyleNetwork(styles=2, **SMALL), ("a", "b"))
    read = export.deserialize(bytearray(to_stablehlo(style, style_weights=[0.3, 0.7])))
    assert set(read.platforms) == set(PLATFORMS)
    for size in [(5, 5), (16, 24), (31, 18)]:
        images = reference.random_images(2, *size, 3)
        weights = np.array([0.3, 0.7])
        options: Any = {"network": style.network, "style_weights": weights}
        wanted = stylize_batch(style.variables, images, **options)
        np.testing.assert_allclose(read.call(images), wanted, atol=1e-5, err_msg=str(size))


def test_an_enlargement() -> None:
    images = reference.random_images(1, 9, 12, 3)
    larger = trained(SuperResolutionNetwork(**SMALL))
    read = export.deserialize(bytearray(to_stablehlo(larger)))
    wanted = enlarge_batch(larger.variables, images, network=larger.network)
    np.testing.assert_allclose(read.call(images), wanted, atol=1e-5)
