"""Several pictures in one."""

import numpy as np
import pytest

from perceptual_jax.io import image_grid


def flat(height: int, width: int, value: float) -> np.ndarray:
    return np.full((height, width, 3), value, np.float32)


def test_every_picture_appears_unscaled_in_reading_order() -> None:
    values = [[0.1, 0.2], [0.3, 0.4]]
    grid = image_grid.draw([[flat(20, 30, value) for value in row] for row in values])
    levels = np.round(grid[..., 0], 1)
    corners = {value: np.argwhere(levels == value) for row in values for value in row}
    assert all(len(found) == 20 * 30 for found in corners.values())
    assert corners[0.1][0][0] == corners[0.2][0][0] < corners[0.3][0][0] == corners[0.4][0][0]
    assert corners[0.1][0][1] == corners[0.3][0][1] < corners[0.2][0][1] == corners[0.4][0][1]


def test_smaller_pictures_are_centred_and_none_leaves_a_cell_white() -> None:
    grid = image_grid.draw([[flat(20, 20, 0.5), flat(10, 10, 0.2)], [None, flat(20, 20, 0.5)]])
    small = np.argwhere(np.round(grid[..., 0], 1) == 0.2)
    large = np.argwhere(np.round(grid[: grid.shape[0] // 2, :, 0], 1) == 0.5)
    assert small.mean(axis=0)[0] == pytest.approx(large.mean(axis=0)[0], abs=0.5)
    lower_left = grid[grid.shape[0] // 2 + 8 : -8, 8 : grid.shape[1] // 2 - 8]
    assert (lower_left == 1).all()


def test_labels_take_room_beside_the_pictures_and_never_cover_them() -> None:
    pictures = [[flat(40, 40, 0.5)] * 2]
    plain = image_grid.draw(pictures)
    labelled = image_grid.draw(
        pictures, row_labels=["content"], column_labels=["conv1_1", "conv2_1"]
    )
    assert labelled.shape[0] > plain.shape[0]
    assert labelled.shape[1] > plain.shape[1]
    grey = np.abs(labelled[..., 0] - 128 / 255) < 1e-6
    assert grey.sum() >= 2 * 40 * 40
    assert (labelled.min(axis=-1) < 0.3).any()  # ink


def test_rows_are_as_high_as_their_pictures() -> None:
    rows = [[flat(60, 20, 0.5)], [flat(10, 20, 0.2)]]
    height = image_grid.draw(rows).shape[0]
    assert height == image_grid.draw(rows[::-1]).shape[0]
    assert 60 + 10 < height < 60 + 60
