"""Tiles of a picture cover all of it once, with their margins."""

import itertools
from typing import Any

import numpy as np
import pytest

from perceptual_jax.models import tiling
from perceptual_jax.models.networks import (
    StyleNetwork,
    SuperResolutionNetwork,
    UniversalNetwork,
)
from tests import reference

LENGTHS = [1, 127, 128, 129, 130, 131, 132, 200, 1001]


class TestSpans:
    @pytest.mark.parametrize("grid", [1, 4])
    @pytest.mark.parametrize("length", LENGTHS)
    def test_start_on_the_grid_and_keep_their_margin(self, length: int, grid: int) -> None:
        margin = 28
        spans = tiling.spans(length, 128, margin, grid=grid)
        assert spans[0].kept_start == 0
        assert spans[-1].kept_stop == spans[-1].stop == length
        for before, after in itertools.pairwise(spans):
            assert before.kept_stop == after.kept_start
        for span in spans:
            assert span.start % grid == 0
            assert span.start == 0 or span.kept_start - span.start >= margin
            assert span.stop == length or span.stop - span.kept_stop >= margin
            assert span.stop - span.start <= 128 + grid - 1

    def test_are_all_of_one_length_but_the_last(self) -> None:
        """A program is compiled for each."""
        lengths = [span.stop - span.start for span in tiling.spans(1001, 128, 28, grid=4)]
        assert len(set(lengths[:-1])) == 1

    @pytest.mark.parametrize("length", LENGTHS)
    def test_compute_little_twice(self, length: int) -> None:
        """As many as are needed, none longer than it has to be."""
        spans = tiling.spans(length, 128, 28)
        count = len(spans)
        assert count == 1 if length <= 128 else count == -(-(length - 56) // 72)
        assert sum(span.stop - span.start for span in spans) <= length + 56 * (count - 1) + count


# It reaches 17 pixels, and starts its tiles at multiples of 4; the other reaches 9.
STYLE = StyleNetwork(residual_blocks=0)
ENLARGING = SuperResolutionNetwork(residual_blocks=1)


class TestTiles:
    @pytest.mark.parametrize(
        ("network", "tile", "message"),
        [
            (ENLARGING, 18, "tile must be above 18 for this network, got 18"),
            (STYLE, 40, "tile must be a multiple of 4 above 40 for this network, got 40"),
            (STYLE, 130, "tile must be a multiple of 4 above 40 for this network, got 130"),
        ],
    )
    def test_of_a_size_that_cannot_be_are_refused(
        self, network: Any, tile: int, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            tiling.tiles((500, 500), network, tile)

    def test_margins_are_on_the_grid_and_reach_far_enough(self) -> None:
        along_one_axis = tiling.spans(400, 128, 20, grid=4)
        expected = [(row, column) for row in along_one_axis for column in along_one_axis]
        assert tiling.tiles((400, 400), STYLE, 128) == expected

    def test_are_of_few_sizes(self) -> None:
        """Each size is compiled."""
        sizes = {
            (row.stop - row.start, column.stop - column.start)
            for row, column in tiling.tiles((1003, 2002), STYLE, 128)
        }
        assert len(sizes) <= 4


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("size", [(40, 41), (19, 90), (100, 37)])
def test_what_is_computed_in_tiles_is_what_is_computed_at_once(
    size: tuple[int, int], scale: int
) -> None:
    """For a function that depends on pixels at most two away."""

    def mean_of_neighbours(images: np.ndarray) -> np.ndarray:
        padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
        height, width = images.shape[1:3]
        shifted = [padded[:, y : y + height, x : x + width] for y in range(5) for x in range(5)]
        return np.sum(shifted, axis=0).repeat(scale, axis=1).repeat(scale, axis=2)

    image = reference.random_images(*size, 3)
    whole = mean_of_neighbours(image[None])[0]
    parts = tiling.tiles(size, ENLARGING, 20)
    assert len(parts) > 1
    found = list(tiling.computed(image, parts, mean_of_neighbours, scale=scale))
    assert sum(tile.pixels.size for tile in found) == whole.size
    np.testing.assert_array_equal(tiling.assemble(found, whole.shape), whole)


class TestFrames:
    def test_of_equal_pictures_waste_little(self) -> None:
        """At first the sides are rounded up; what is used often gets its own shape."""
        frames = tiling.Frames(STYLE)
        found = [frames.shape((1, 480, 639)) for _ in range(200)]
        assert found[0] == (1, 512, 640)
        assert found[-1] == (1, 480, 640)
        assert len(set(found)) == 2

    def test_serve_almost_equal_and_somewhat_smaller_pictures(self) -> None:
        frames = tiling.Frames(STYLE)
        frames.shape((1, 500, 640))
        for size in [(500, 640), (512, 610), (481, 639), (300, 400)]:
            assert frames.shape((1, *size)) == (1, 512, 640)

    def test_are_their_own_where_filler_takes_longer_than_compiling(self) -> None:
        frames = tiling.Frames(STYLE)
        frames.shape((1, 1024, 1024))
        assert frames.shape((1, 100, 100)) == (1, 128, 128)

    @pytest.mark.parametrize("network", [STYLE, ENLARGING, UniversalNetwork()])
    def test_are_for_every_kind_of_network(self, network: Any) -> None:
        frames = tiling.Frames(network)
        for side in (100, 90):
            array, size = tiling.framed(np.zeros((1, side, side, 3), np.float32), frames)
            assert array.shape == (1, 128, 128, 3)
            assert size == (side, side)

    def test_are_of_as_many_pictures(self) -> None:
        frames = tiling.Frames(STYLE)
        frames.shape((9, 512, 512))
        assert frames.shape((1, 512, 512)) == (1, 512, 512)

    def test_of_many_sizes_are_few(self) -> None:
        frames = tiling.Frames(STYLE)
        sizes = np.random.default_rng(0).integers(300, 1024, (500, 2))
        pixels, shapes = 0, set()
        for height, width in sizes.tolist():
            shape = frames.shape((1, height, width))
            assert shape[1] >= height
            assert shape[2] >= width
            shapes.add(shape)
            pixels += shape[1] * shape[2]
        assert len(shapes) <= 20
        assert pixels < 2 * sizes.prod(1).sum()

    def test_do_not_hide_that_a_picture_is_too_small(self) -> None:
        pictures = reference.random_images(1, 4, 70, 3)
        with pytest.raises(ValueError, match="images of 4x70 are too small"):
            tiling.framed(pictures, tiling.Frames(STYLE))

    def test_are_filled_up_with_zeros(self) -> None:
        pictures = reference.random_images(2, 50, 70, 3)
        array, size = tiling.framed(pictures, tiling.Frames(STYLE))
        assert size == (50, 70)
        assert array.shape == (2, 128, 128, 3)
        np.testing.assert_array_equal(array[:, :50, :70], pictures)
        assert not array[:, 50:].any()
        assert not array[:, :, 70:].any()

    @pytest.mark.parametrize("frames", [None, tiling.Frames(StyleNetwork(upsampling="transposed"))])
    def test_are_not_used_unless_they_are_given_and_the_network_can(self, frames: Any) -> None:
        pictures = reference.random_images(1, 50, 70, 3)
        array, size = tiling.framed(pictures, frames)
        assert array is pictures
        assert size is None
