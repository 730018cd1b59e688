"""What is committed for the page is what the package makes now."""

import numpy as np
import onnx
import pytest

from perceptual_jax.io import images, resources
from web import prepare


@pytest.mark.parametrize("name", prepare.GRAPHS)
def test_graphs_are_those_that_the_package_exports(name: str) -> None:
    """Otherwise: `python web/prepare.py`."""
    assert onnx.load(prepare.WEB / "networks" / f"{name}.onnx", load_external_data=False) == (
        prepare.graph(name)
    )


def test_the_example_is_a_photo_in_a_style() -> None:
    photo, painted = prepare.example()
    for name, wanted in (("example", photo), ("example-painted", painted)):
        found = images.read(prepare.WEB / "pictures" / f"{name}.jpg")
        assert np.abs(found - wanted).mean() < 0.02  # Of JPEG.


def test_every_painting_has_a_thumbnail() -> None:
    for style in resources.example_names("styles"):
        found = images.read(prepare.WEB / "pictures" / "styles" / f"{style}.jpg")
        assert np.abs(found - prepare.thumbnail(style)).mean() < 0.03
