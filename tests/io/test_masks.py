"""Files of masks: as many as there are regions, at the size of the picture."""

from pathlib import Path

import numpy as np
import pytest

from perceptual_jax.io import images, masks
from perceptual_jax.io.storage import FileError


@pytest.fixture
def left(tmp_path: Path) -> Path:
    path = tmp_path / "left.png"
    images.write(path, np.broadcast_to(np.arange(20) < 8, (10, 20)).astype(np.float32))
    return path


def test_one_fewer_leaves_the_rest_to_the_last(left: Path) -> None:
    first, last = masks.read_all([left], 2, (10, 20))
    np.testing.assert_array_equal(first, images.read_mask(left))
    np.testing.assert_array_equal(last, 1 - first)


def test_as_many_are_taken_as_they_are(left: Path) -> None:
    for mask in masks.read_all([left, left], 2, (10, 20)):
        np.testing.assert_array_equal(mask, images.read_mask(left))


def test_have_the_size_of_the_picture(left: Path) -> None:
    assert masks.read(left, (5, 7)).shape == (5, 7)


def test_a_black_one_is_refused(tmp_path: Path) -> None:
    images.write(tmp_path / "black.png", np.zeros((4, 4), np.float32))
    with pytest.raises(FileError, match=r"black\.png is black"):
        masks.read(tmp_path / "black.png", (4, 4))


@pytest.mark.parametrize("count", [1, 4])
def test_another_number_is_refused(left: Path, count: int) -> None:
    expected = f"{count} regions need {count} masks, or one fewer, and there are 2"
    with pytest.raises(FileError, match=expected):
        masks.read_all([left, left], count, (10, 20))
