"""From coarse to fine: which sizes, and what one stage hands to the next."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from perceptual_jax import synthesis
from perceptual_jax.objective import Objective
from perceptual_jax.synthesis import Optimizer, Report
from tests import reference
from tests.synthesis.small import PARAMS, SIZE, SMALL, evaluate, kept, made_for, totals


class TestCoarseToFine:
    @pytest.mark.parametrize(
        ("size", "scales"),
        [
            ((150, 191), [(150, 191)]),
            ((192, 100), [(192, 100)]),
            ((383, 300), [(383, 300)]),
            ((300, 384), [(150, 192), (300, 384)]),
            ((512, 342), [(256, 171), (512, 342)]),
            ((768, 1024), [(192, 256), (384, 512), (768, 1024)]),
        ],
    )
    def test_the_coarsest_long_side_is_from_192_to_383(
        self, size: tuple[int, int], scales: list[tuple[int, int]]
    ) -> None:
        assert synthesis.coarse_to_fine(size) == scales

    def test_as_many_as_are_given(self) -> None:
        assert synthesis.coarse_to_fine((512, 342), 1) == [(512, 342)]
        assert synthesis.coarse_to_fine((40, 1000), 3) == [(10, 250), (20, 500), (40, 1000)]

    def test_no_side_vanishes(self) -> None:
        assert synthesis.coarse_to_fine((3, 64), 4) == [(1, 8), (1, 16), (2, 32), (3, 64)]


class TestResize:
    def test_is_pillows_lanczos(self) -> None:
        image = reference.random_images(24, 36, 3, seed=5)
        for height, width in ((12, 18), (11, 20), (48, 72)):
            channels = [
                np.asarray(
                    Image.fromarray(np.ascontiguousarray(image[..., i])).resize(
                        (width, height), Image.Resampling.LANCZOS
                    )
                )
                for i in range(3)
            ]
            found = synthesis.resize(jnp.asarray(image), (height, width))
            expected = np.clip(np.stack(channels, axis=-1), 0, 1)
            np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_of_a_mask_too(self) -> None:
        np.testing.assert_allclose(
            synthesis.resize(jnp.ones((9, 7)), (5, 4)), np.ones((5, 4)), rtol=1e-6
        )


@pytest.mark.usefixtures("optaxs_promotion")
class TestTransfer:
    """With Adam, whose first step is known, and which compiles faster."""

    FINE, COARSE = (32, 40), (16, 20)
    ADAM = Optimizer(optimizer="adam", learning_rate=0.01)
    LARGE_PHOTO = reference.random_images(*FINE, 3, seed=6)
    LARGE_PAINTING = reference.random_images(36, 34, 3, seed=7) ** 2
    SECOND = np.sqrt(reference.random_images(30, 44, 3, seed=8))

    def stages_of(
        self,
        objective: Objective = SMALL,
        *,
        styles: Sequence[Any] | None = None,
        stages: Any = ((COARSE, 2), (FINE, 3)),
        **options: Any,
    ) -> dict[int, list[Report]]:
        found: dict[int, list[Report]] = {}
        for report in synthesis.transfer(
            objective,
            PARAMS,
            self.LARGE_PHOTO,
            [self.LARGE_PAINTING] if styles is None else styles,
            stages=stages,
            optimizer=self.ADAM,
            **{"margin": 0, **options},
        ):
            found.setdefault(report.stage, []).append(kept(report))
        return found

    def total_at(self, size: tuple[int, int], image: Any, style_size: tuple[int, int]) -> Any:
        photo = synthesis.resize(jnp.asarray(self.LARGE_PHOTO), size)
        style = synthesis.resize(jnp.asarray(self.LARGE_PAINTING), style_size)
        targets = made_for(SMALL, photo, (style,))
        return evaluate(SMALL, PARAMS, photo if image is None else image, targets)[0]

    def test_each_stage_is_run_at_its_size_for_its_steps(self) -> None:
        found = self.stages_of()
        assert list(found) == [0, 1]
        assert [totals(x).shape for x in found.values()] == [(1, 3), (1, 4)]
        assert [x[-1].best.shape for x in found.values()] == [(1, 16, 20, 3), (1, 32, 40, 3)]

    def test_with_64_bits_it_is_the_same(self) -> None:
        with jax.enable_x64(True), jax.debug_nans(True):
            found = self.stages_of(stages=((self.COARSE, 1), (self.FINE, 1)))
        expected = self.stages_of(stages=((self.COARSE, 1), (self.FINE, 1)))
        for stage in (0, 1):
            np.testing.assert_allclose(totals(found[stage]), totals(expected[stage]), rtol=1e-4)

    def test_photo_and_painting_shrink_alike(self) -> None:
        """A stage starts at the photo of its size, beside the painting at half of its own."""
        found = self.stages_of()
        started = self.total_at(self.COARSE, None, (18, 17))
        np.testing.assert_allclose(totals(found[0])[0, 0], started, rtol=1e-5)

    def test_what_was_changed_is_carried_over(self) -> None:
        """The change, enlarged, is added to the photo."""
        found = self.stages_of()
        small_photo = synthesis.resize(jnp.asarray(self.LARGE_PHOTO), self.COARSE)
        change = np.asarray(found[0][-1].best[0]) - np.asarray(small_photo)
        enlarged = np.stack(
            [
                np.asarray(
                    Image.fromarray(np.ascontiguousarray(change[..., i])).resize(
                        self.FINE[::-1], Image.Resampling.LANCZOS
                    )
                )
                for i in range(3)
            ],
            axis=-1,
        )
        expected = np.clip(self.LARGE_PHOTO + enlarged, 0, 1)
        np.testing.assert_allclose(found[1][0].best[0], expected, atol=5e-3)
        # Two steps of Adam.
        np.testing.assert_allclose(np.abs(change).max(), 0.02, rtol=0.2)

    def test_the_photos_finest_detail_survives(self) -> None:
        """The photo being the painting too, every stage starts at its optimum, and keeps it."""
        found = self.stages_of(styles=[self.LARGE_PHOTO])
        np.testing.assert_allclose(totals(found[1])[0, 0], 0.0, atol=1e-6)
        np.testing.assert_allclose(found[1][-1].best[0], self.LARGE_PHOTO, atol=1e-6)

    def test_a_margin_is_optimised_and_cut_off(self) -> None:
        """The picture is the middle of the one with its mirror images around it."""
        margin = 3
        mirrored = np.pad(self.LARGE_PHOTO, [(margin, margin)] * 2 + [(0, 0)], mode="symmetric")
        height, width = self.FINE
        whole = synthesis.run(
            SMALL,
            PARAMS,
            mirrored[None],
            made_for(SMALL, mirrored, (self.LARGE_PAINTING,)),
            steps=2,
            optimizer=self.ADAM,
        )
        expected = [kept(report) for report in whole][-1]
        found = self.stages_of(stages=[(self.FINE, 2)], margin=margin)[0][-1]
        assert found.best.shape == (1, height, width, 3)
        middle = expected.best[:, margin : margin + height, margin : margin + width]
        np.testing.assert_allclose(found.best, middle, atol=1e-6)
        np.testing.assert_allclose(found.trace.totals, expected.trace.totals, rtol=1e-5)

    def test_starts_from_another_picture(self) -> None:
        """Given at any size; an objective without terms leaves it as it is."""
        started = self.stages_of(Objective(), init=self.LARGE_PHOTO[::-1], stages=((self.FINE, 1),))
        np.testing.assert_allclose(started[0][-1].best[0], self.LARGE_PHOTO[::-1], atol=1e-6)
        found = self.stages_of(Objective(), init=np.full((64, 80, 3), 0.25), stages=[(SIZE, 1)])
        np.testing.assert_allclose(found[0][-1].best, np.full((1, *SIZE, 3), 0.25), atol=1e-6)

    def test_of_two_paintings_the_weights_say_how_much_each_counts(self) -> None:
        both = [self.LARGE_PAINTING, self.SECOND]
        options: Any = {"stages": [(self.FINE, 1)], "init": self.LARGE_PHOTO[::-1]}
        first, mixed, second = (
            totals(self.stages_of(styles=both, style_weights=weights, **options)[0])[0, 0]
            for weights in ((1.0, 0.0), (1.0, 1.0), (0.0, 5.0))
        )
        alone = [totals(self.stages_of(styles=[x], **options)[0])[0, 0] for x in both]
        np.testing.assert_allclose([first, second], alone, rtol=1e-5)
        assert mixed < (first + second) / 2  # Convex in the Gram matrices.

    def test_each_painting_rules_its_region(self) -> None:
        """With the whole photo for one and nothing for the other, the other does not count."""
        everywhere, nowhere = np.ones(self.FINE), np.zeros(self.FINE)
        both = [self.LARGE_PAINTING, self.SECOND]
        options: Any = {"stages": [(self.FINE, 2)]}
        alone = self.stages_of(**options)
        masked = self.stages_of(styles=both, content_masks=[everywhere, nowhere], **options)
        np.testing.assert_allclose(totals(masked[0]), totals(alone[0]), rtol=1e-3)

    def test_of_a_painting_only_the_masked_part_is_taken(self) -> None:
        """conv1_1 sees one pixel around each: beyond that, the rest may be anything."""
        objective = Objective(formulation="gatys", style_layers=("conv1_1",))
        mask = np.zeros((36, 34), np.float32)
        mask[:, :15] = 1
        other = np.where(np.arange(34)[:, None] < 16, self.LARGE_PAINTING, np.float32(0.9))
        options: Any = {"stages": [(self.FINE, 2)]}
        found = [
            totals(self.stages_of(objective, styles=[style], style_masks=masks, **options)[0])
            for style, masks in (
                (self.LARGE_PAINTING, [mask]),
                (other, [mask]),
                (self.LARGE_PAINTING, None),
            )
        ]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
        assert np.abs(found[2] / found[0] - 1).max() > 0.01

    def test_aspect_and_masks_at_sizes_that_do_not_divide(self) -> None:
        found = self.stages_of(
            Objective(formulation="gatys", style_layers=("conv1_1",)),
            styles=[self.LARGE_PAINTING, self.SECOND],
            content_masks=[np.ones((17, 23))] * 2,
            style_masks=[np.ones((36, 34)), np.ones((30, 44))],
            stages=(((8, 11), 1), ((17, 23), 1)),
        )
        assert [x[-1].best.shape for x in found.values()] == [(1, 8, 11, 3), (1, 17, 23, 3)]
        assert np.isfinite(totals(found[1])).all()


class TestRefine:
    PHOTO = reference.random_images(32, 40, 3, seed=6)
    START = PHOTO[::-1]

    PAINTING = reference.random_images(36, 34, 3, seed=7) ** 2

    def reports(
        self, objective: Objective, steps: int, painting: np.ndarray = PAINTING
    ) -> list[Report]:
        found = synthesis.refine(objective, PARAMS, self.PHOTO, [painting], self.START, steps=steps)
        return [kept(report) for report in found]

    def test_goes_on_at_a_quarter_and_half_the_size_and_at_the_full_one(self) -> None:
        last = {report.stage: report for report in self.reports(SMALL, 3)}
        assert [report.step for report in last.values()] == [3, 3, 3]
        sizes = [report.best.shape[1:3] for report in last.values()]
        assert sizes == [(8, 10), (16, 20), (32, 40)]

    def test_leaves_out_sizes_at_which_vgg_would_see_nothing_of_the_painting(self) -> None:
        found = self.reports(SMALL, 1, painting=reference.random_images(5, 60, 3))
        assert {report.best.shape[1:3] for report in found} == {(16, 20), (32, 40)}

    def test_begins_with_the_picture(self) -> None:
        """An objective without terms leaves it as it is, but for its finest detail."""
        found = self.reports(Objective(), 1)
        small = synthesis.resize(jnp.asarray(self.START), (8, 10))
        np.testing.assert_allclose(found[0].best[0], small, atol=1e-6)
