"""Masks of regions: as many as there are styles, of the picture's size."""

from pathlib import Path

import numpy as np
import pytest

from perceptual_jax.io import images
from perceptual_jax.io import masks as regions
from perceptual_jax.io.storage import FileError


@pytest.fixture
def left(tmp_path: Path) -> Path:
    path = tmp_path / "left.png"
    images.write(path, np.broadcast_to(np.arange(20) < 8, (10, 20)).astype(np.float32))
    return path


def test_one_fewer_leaves_the_rest_to_the_last(left: Path) -> None:
    first, last = regions.read_all([left], 2, (10, 20))
    np.testing.assert_array_equal(first, images.read_mask(left))
    np.testing.assert_array_equal(last, 1 - first)


def test_as_many_are_taken_as_they_are(left: Path) -> None:
    for mask in regions.read_all([left, left], 2, (10, 20)):
        np.testing.assert_array_equal(mask, images.read_mask(left))


def test_have_the_size_of_the_picture(left: Path) -> None:
    assert regions.read(left, (5, 7)).shape == (5, 7)


def test_a_black_one_is_told(tmp_path: Path) -> None:
    images.write(tmp_path / "black.png", np.zeros((4, 4), np.float32))
    with pytest.raises(FileError, match=r"black\.png is black"):
        regions.read(tmp_path / "black.png", (4, 4))


@pytest.mark.parametrize("count", [1, 4])
def test_another_number_is_told(count: int) -> None:
    with pytest.raises(FileError, match=f"each of {count} styles, or one fewer, got 2"):
        regions.check_count(["a.png", "b.png"], count, of="styles")


@pytest.mark.parametrize("count", [2, 3])
def test_a_number_that_fits_is_taken(count: int) -> None:
    regions.check_count(["a.png", "b.png"], count, of="styles")
