"""The objective: the papers' equations put together, from features of an independent VGG.

The network is a VGG-16 of a few channels, so that everything can be computed twice.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import losses, vgg
from perceptual_jax import objective as objective_lib
from perceptual_jax.objective import GATYS, JOHNSON, WASSERSTEIN, Objective
from tests import reference

PARAMS = reference.random_vgg()
IMAGE = reference.random_images(16, 20, 3, seed=1)
PHOTO = reference.random_images(16, 20, 3, seed=2)
PAINTING = reference.random_images(18, 17, 3, seed=3) ** 2
SECOND_PAINTING = np.sqrt(reference.random_images(16, 16, 3, seed=4))

SMALL = Objective(
    formulation="gatys",
    content_layers=("conv2_2",),
    content_weight=2.0,
    style_layers=("conv1_1", "relu2_1", "conv3_1"),
    style_weight=30.0,
    tv_weight=1e-3,
)

evaluate = jax.jit(objective_lib.evaluate, static_argnums=0)


def made_for(objective: Objective, **options: Any) -> objective_lib.Targets:
    given: dict[str, Any] = {"content": jnp.asarray(PHOTO), "styles": [jnp.asarray(PAINTING)]}
    given.update(options)
    return objective_lib.targets(objective, PARAMS, **given)


def features(image: np.ndarray, pooling: str = "max") -> dict[str, np.ndarray]:
    every = reference.vgg_features(PARAMS, image[None], pooling)
    return {layer: found[0] for layer, found in every.items()}


def squared_variation(image: np.ndarray) -> float:
    pixels = 255 * np.float64(image)
    return float(np.sum(np.diff(pixels, axis=0) ** 2) + np.sum(np.diff(pixels, axis=1) ** 2))


def gatys_layer_loss(found: np.ndarray, gram_over_positions: np.ndarray) -> float:
    """Eq. 4, for Gram matrices divided by their own number of positions."""
    height, width, channels = found.shape
    difference = reference.gram(found) / (height * width) - gram_over_positions
    return float(np.sum(difference**2) / (4 * channels**2))


def over_positions(found: np.ndarray) -> np.ndarray:
    return reference.gram(found) / (found.shape[0] * found.shape[1])


class TestFormulations:
    @pytest.mark.parametrize("pooling", ["max", "avg"])
    def test_gatys(self, pooling: str) -> None:
        """`alpha L_content + beta L_style`, eq. 1, 4, 5 and 7, with w_l = 1/3."""
        objective = dataclasses.replace(SMALL, pooling=pooling)
        found, photo, style = (features(x, pooling) for x in (IMAGE, PHOTO, PAINTING))
        content = np.sum((found["conv2_2"] - photo["conv2_2"]) ** 2) / 2
        layers = [
            gatys_layer_loss(found[layer], over_positions(style[layer]))
            for layer in SMALL.style_layers
        ]
        total, terms = evaluate(objective, PARAMS, IMAGE, made_for(objective))
        np.testing.assert_allclose(terms["content/conv2_2"], 2.0 * content, rtol=1e-5)
        for layer, loss in zip(SMALL.style_layers, layers, strict=True):
            np.testing.assert_allclose(terms[f"style/{layer}"], 30.0 / 3 * loss, rtol=1e-4)
        variation = 1e-3 * squared_variation(IMAGE)
        np.testing.assert_allclose(terms["total_variation"], variation, rtol=1e-5)
        np.testing.assert_allclose(
            total, 2.0 * content + 30.0 * sum(layers) / 3 + variation, rtol=1e-5
        )

    @pytest.mark.parametrize("formulation", ["johnson", "johnson_code"])
    def test_johnson(self, formulation: str) -> None:
        """Eq. 2 to 4, summed over layers; the released code's mean over C^2, and half TV."""
        objective = dataclasses.replace(SMALL, formulation=formulation)
        in_code = formulation == "johnson_code"
        found, photo, style = (features(x) for x in (IMAGE, PHOTO, PAINTING))
        content = np.mean((found["conv2_2"] - photo["conv2_2"]) ** 2)
        _, terms = evaluate(objective, PARAMS, IMAGE, made_for(objective))
        np.testing.assert_allclose(terms["content/conv2_2"], 2.0 * content, rtol=1e-5)
        for layer in SMALL.style_layers:
            difference = reference.gram(found[layer]) / found[layer].size
            difference -= reference.gram(style[layer]) / style[layer].size
            reduce = np.mean if in_code else np.sum
            np.testing.assert_allclose(
                terms[f"style/{layer}"], 30.0 * reduce(difference**2), rtol=1e-4
            )
        variation = 1e-3 * squared_variation(IMAGE) / (2 if in_code else 1)
        np.testing.assert_allclose(terms["total_variation"], variation, rtol=1e-5)

    @pytest.mark.parametrize("statistics", objective_lib.STYLE_STATISTICS)
    def test_normalized(self, statistics: str) -> None:
        """Means of features over the size of their layer; a layer's share is its area's."""
        objective = dataclasses.replace(
            SMALL, formulation="normalized", style_statistics=statistics, range_weight=3.0
        )
        sizes = vgg.layer_sizes(PARAMS, objective.layers)
        image = 1.5 * IMAGE - 0.25
        found, photo, style = (features(x) for x in (image, PHOTO, PAINTING))
        _, terms = evaluate(objective, PARAMS, image, made_for(objective))
        content = np.mean((found["conv2_2"] - photo["conv2_2"]) ** 2) / sizes["conv2_2"] ** 2
        np.testing.assert_allclose(terms["content/conv2_2"], 2.0 * content, rtol=1e-4)
        for layer, share in zip(SMALL.style_layers, (16, 4, 1), strict=True):
            first, second = (x[layer] / np.float64(sizes[layer]) for x in (found, style))
            if statistics == "wasserstein":
                loss = float(losses.gaussian_wasserstein(first, second))
            else:
                loss = float(np.mean((over_positions(first) - over_positions(second)) ** 2))
            np.testing.assert_allclose(terms[f"style/{layer}"], 30.0 * share / 21 * loss, rtol=1e-3)
        outside = image - np.clip(image, 0, 1)
        np.testing.assert_allclose(terms["range"], 3.0 * np.mean(outside**2), rtol=1e-4)
        variation = 1e-3 * squared_variation(image) / (255**2 * image.size)
        np.testing.assert_allclose(terms["total_variation"], variation, rtol=1e-4)

    @pytest.mark.parametrize("statistics", objective_lib.STYLE_STATISTICS)
    def test_normalized_does_not_depend_on_the_scale_of_a_network(self, statistics: str) -> None:
        objective = dataclasses.replace(
            SMALL, formulation="normalized", style_statistics=statistics
        )
        louder = {**PARAMS, "conv3_1": {name: 3 * x for name, x in PARAMS["conv3_1"].items()}}
        options: dict[str, Any] = {"content": jnp.asarray(PHOTO), "styles": [jnp.asarray(PAINTING)]}
        totals = [
            evaluate(objective, params, IMAGE, objective_lib.targets(objective, params, **options))
            for params in (PARAMS, louder)
        ]
        np.testing.assert_allclose(totals[0][0], totals[1][0], rtol=1e-5)

    @pytest.mark.parametrize("formulation", objective_lib.FORMULATIONS)
    def test_total_is_the_sum_of_the_terms(self, formulation: str) -> None:
        objective = dataclasses.replace(SMALL, formulation=formulation)
        total, terms = evaluate(objective, PARAMS, IMAGE, made_for(objective))
        assert set(terms) == set(objective.term_weights())
        assert total.shape == ()
        np.testing.assert_allclose(total, sum(float(x) for x in terms.values()), rtol=1e-6)

    @pytest.mark.parametrize("formulation", objective_lib.FORMULATIONS)
    def test_vanishes_where_photo_and_painting_are_the_image(self, formulation: str) -> None:
        objective = dataclasses.replace(SMALL, formulation=formulation, tv_weight=0.0)
        image = jnp.asarray(IMAGE)
        found = made_for(objective, content=image, styles=[image])
        total, _ = evaluate(objective, PARAMS, IMAGE, found)
        other, _ = evaluate(objective, PARAMS, PHOTO, found)
        assert total < 1e-8 * other

    def test_bfloat16_computes_terms_in_float32(self) -> None:
        exact, _ = evaluate(SMALL, PARAMS, IMAGE, made_for(SMALL))
        short = dataclasses.replace(SMALL, dtype="bfloat16")
        found = made_for(short)
        assert found.content["conv2_2"].dtype == jnp.bfloat16
        total, terms = evaluate(short, PARAMS, IMAGE, found)
        assert {x.dtype for x in (total, *terms.values())} == {jnp.dtype("float32")}
        np.testing.assert_allclose(total, exact, rtol=0.02)


class TestBatches:
    images = jnp.stack([IMAGE, PHOTO, PHOTO[::-1]])

    def test_every_image_is_compared_with_the_one_photo_and_painting(self) -> None:
        found = made_for(SMALL)
        total, terms = evaluate(SMALL, PARAMS, self.images, found)
        assert total.shape == (3,)
        for index in range(3):
            alone, alone_terms = evaluate(SMALL, PARAMS, self.images[index], found)
            np.testing.assert_allclose(total[index], alone, rtol=1e-5)
            for name, value in alone_terms.items():
                np.testing.assert_allclose(terms[name][index], value, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("formulation", objective_lib.FORMULATIONS)
    def test_one_part_is_the_picture(self, formulation: str) -> None:
        objective = dataclasses.replace(SMALL, formulation=formulation, range_weight=3.0)
        found = made_for(objective)
        whole = evaluate(objective, PARAMS, self.images, found)
        wanted = found._replace(content={"conv2_2": found.content["conv2_2"][None]})
        in_parts = jax.jit(
            lambda images: objective_lib.evaluate(objective, PARAMS, images, wanted, parts=True)
        )(self.images[:, None])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), in_parts, whole)

    def test_every_image_is_compared_in_its_regions(self) -> None:
        masks = [jnp.ones((16, 20)).at[:, 12:].set(0.0), jnp.zeros((16, 20)).at[:, 12:].set(1.0)]
        styles = [jnp.asarray(PAINTING), jnp.asarray(SECOND_PAINTING)]
        found = made_for(SMALL, styles=styles, content_masks=masks)
        total, _ = evaluate(SMALL, PARAMS, self.images, found)
        alone, _ = evaluate(SMALL, PARAMS, self.images[2], found)
        np.testing.assert_allclose(total[2], alone, rtol=1e-5)

    def test_mapped_over_photos_too(self) -> None:
        """As in training, where every image has its own photo."""
        photos = jnp.stack([PHOTO, IMAGE])
        images = jnp.stack([IMAGE, IMAGE])

        def alone(image: jax.Array, photo: jax.Array) -> jax.Array:
            return objective_lib.evaluate(SMALL, PARAMS, image, made_for(SMALL, content=photo))[0]

        totals = jax.jit(jax.vmap(alone))(images, photos)
        np.testing.assert_allclose(totals[0], jax.jit(alone)(images[0], photos[0]), rtol=1e-5)
        assert totals[1] < totals[0]


class TestBlends:
    styles = (jnp.asarray(PAINTING), jnp.asarray(SECOND_PAINTING))

    @pytest.mark.parametrize(
        ("formulation", "given", "shares"),
        [
            ("gatys", [1.0, 3.0], (0.25, 0.75)),
            ("johnson", None, (0.5, 0.5)),
            ("johnson_code", [0.0, 2.0], (0.0, 1.0)),
        ],
    )
    def test_gradient_is_that_of_the_weighted_sum_of_style_losses(
        self, formulation: str, given: list[float] | None, shares: tuple[float, float]
    ) -> None:
        objective = dataclasses.replace(
            SMALL, formulation=formulation, content_layers=(), tv_weight=0.0
        )
        gradient = jax.jit(
            jax.grad(
                lambda image, found: objective_lib.evaluate(objective, PARAMS, image, found)[0]
            )
        )
        blend = gradient(IMAGE, made_for(objective, styles=self.styles, style_weights=given))
        expected = sum(
            share * np.asarray(gradient(IMAGE, made_for(objective, styles=[style])))
            for share, style in zip(shares, self.styles, strict=True)
        )
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(blend, expected, rtol=1e-4, atol=1e-5 * scale)

    def test_of_moments_are_those_of_all_positions_together(self) -> None:
        """Means mix, and so do means of products; the covariance is what is left of these."""
        objective = dataclasses.replace(SMALL, style_statistics="wasserstein")
        first, second = (made_for(objective, styles=[x]).style["conv3_1"] for x in self.styles)
        blend = made_for(objective, styles=self.styles, style_weights=[1.0, 3.0]).style["conv3_1"]
        mean = 0.25 * first.mean + 0.75 * second.mean
        np.testing.assert_allclose(blend.mean, mean, rtol=1e-5)

        def products(of: losses.Moments) -> np.ndarray:
            return np.asarray(of.covariance[0]) + np.outer(of.mean[0], of.mean[0])

        expected = 0.25 * products(first) + 0.75 * products(second)
        np.testing.assert_allclose(products(blend), expected, atol=1e-5 * expected.max())

    @pytest.mark.parametrize("statistics", ["gram", "wasserstein"])
    def test_of_a_batch_are_those_of_each(self, statistics: str) -> None:
        """Images and what each is to resemble, with the sizes of layers that are known."""
        objective = dataclasses.replace(
            SMALL, formulation="normalized", style_statistics=statistics
        )
        batch = jnp.stack([PHOTO, PHOTO[::-1] ** 2])
        sizes = vgg.layer_sizes(PARAMS, objective.layers)
        wanted = made_for(objective, content=batch, styles=[batch], sizes=sizes)
        images = jnp.stack([IMAGE, IMAGE[::-1]])
        totals, _ = evaluate(objective, PARAMS, images, wanted)
        for index, true in enumerate(batch):
            alone = made_for(objective, content=true, styles=[true])
            expected, _ = evaluate(objective, PARAMS, images[index], alone)
            np.testing.assert_allclose(totals[index], expected, rtol=1e-4)


class TestRegions:
    styles = (jnp.asarray(PAINTING), jnp.asarray(SECOND_PAINTING))
    left = jnp.zeros((16, 20)).at[:, :8].set(1.0)

    def test_each_painting_is_for_its_region_in_proportion_to_the_area(self) -> None:
        """Computed from the region's own part of the features."""
        objective = Objective(formulation="gatys", style_layers=("conv1_2",), style_weight=7.0)
        found = made_for(
            objective, content=None, styles=self.styles, content_masks=[self.left, 1 - self.left]
        )
        total, _ = evaluate(objective, PARAMS, IMAGE, found)
        layer = features(IMAGE)["conv1_2"]
        parts = [
            gatys_layer_loss(part, over_positions(features(np.asarray(style))["conv1_2"]))
            for part, style in zip((layer[:, :8], layer[:, 8:]), self.styles, strict=True)
        ]
        # By hand: 8 of 20 columns, and the other 12.
        np.testing.assert_allclose(total, 7.0 * (0.4 * parts[0] + 0.6 * parts[1]), rtol=1e-4)

    @pytest.mark.parametrize("formulation", objective_lib.FORMULATIONS)
    def test_a_paintings_weight_is_that_of_its_regions_term(self, formulation: str) -> None:
        """As ratios, by hand: 3 to 1 is 1.5 and 0.5 times what equal weights give."""
        objective = Objective(formulation=formulation, style_layers=("conv1_2", "conv2_1"))

        def style(region: int | None, weights: Any) -> jax.Array:
            masks = [self.left, 1 - self.left]
            if region is not None:
                masks[1 - region] = jnp.zeros((16, 20))
            found = made_for(
                objective, styles=self.styles, style_weights=weights, content_masks=masks
            )
            return evaluate(objective, PARAMS, IMAGE, found)[0]

        parts = [style(region, None) for region in (0, 1)]
        for weights in ([3.0, 1.0], [3e4, 1e4]):
            np.testing.assert_allclose(
                style(None, weights), 1.5 * parts[0] + 0.5 * parts[1], rtol=1e-5
            )
        np.testing.assert_allclose(style(None, [0.0, 2.0]), 2 * parts[1], rtol=1e-5)

    def test_one_region_everywhere_is_no_region(self) -> None:
        plain, _ = evaluate(SMALL, PARAMS, IMAGE, made_for(SMALL))
        masked, _ = evaluate(
            SMALL, PARAMS, IMAGE, made_for(SMALL, content_masks=[jnp.ones((16, 20))])
        )
        np.testing.assert_allclose(masked, plain, rtol=1e-5)

    def test_a_mask_of_the_painting_takes_the_style_of_that_part(self) -> None:
        objective = Objective(formulation="johnson", style_layers=("conv1_2",))
        mask = jnp.zeros((18, 17)).at[:9].set(1.0)
        found = made_for(objective, content=None, style_masks=[mask])
        part = features(PAINTING)["conv1_2"][:9]
        np.testing.assert_allclose(
            found.style["conv1_2"][0], reference.gram(part) / part.size, rtol=1e-4, atol=1e-6
        )

    def test_masks_shrink_to_the_mean_over_the_pixels_of_a_position(self) -> None:
        """Positions of block b are 2^(b-1) pixels wide; here every mask edge is one of theirs."""
        found = made_for(SMALL, content_masks=[self.left])
        pixels = np.asarray(self.left)
        for layer, side in {"conv1_1": 1, "relu2_1": 2, "conv3_1": 4}.items():
            blocks = pixels.reshape(16 // side, side, 20 // side, side).mean((1, 3))
            np.testing.assert_allclose(found.regions[layer][0], blocks, atol=1e-6, err_msg=layer)

    def test_soft_masks_keep_their_area(self) -> None:
        mask = jnp.asarray(reference.random_images(16, 20))
        found = made_for(SMALL, content_masks=[mask])
        for regions in found.regions.values():
            assert 0 <= float(regions.min()) <= float(regions.max()) <= 1
            np.testing.assert_allclose(jnp.mean(regions), jnp.mean(mask), atol=0.02)

    def test_an_empty_region_counts_nothing_and_has_a_finite_gradient(self) -> None:
        masks = [jnp.ones((16, 20)), jnp.zeros((16, 20))]
        found = made_for(SMALL, styles=self.styles, content_masks=masks)
        total, gradient = jax.value_and_grad(
            lambda image: evaluate(SMALL, PARAMS, image, found)[0]
        )(jnp.asarray(IMAGE))
        alone, _ = evaluate(SMALL, PARAMS, IMAGE, made_for(SMALL))
        np.testing.assert_allclose(total, alone, rtol=1e-5)
        assert jnp.all(jnp.isfinite(gradient))


class TestTermWeights:
    def test_by_name(self) -> None:
        assert SMALL.term_weights() == pytest.approx(
            {
                "content/conv2_2": 2.0,
                "style/conv1_1": 10.0,
                "style/relu2_1": 10.0,
                "style/conv3_1": 10.0,
                "total_variation": 1e-3,
            }
        )

    def test_each_layer_counts_one_for_johnson(self) -> None:
        objective = dataclasses.replace(SMALL, formulation="johnson", tv_weight=0.0)
        assert objective.term_weights() == {
            "content/conv2_2": 2.0,
            "style/conv1_1": 30.0,
            "style/relu2_1": 30.0,
            "style/conv3_1": 30.0,
        }

    @pytest.mark.parametrize("preset", [GATYS, JOHNSON])
    @pytest.mark.parametrize("factor", [1e-4, 1e4])
    def test_all_that_are_given_times_one_factor_are_the_same_ratios(
        self, preset: Objective, factor: float
    ) -> None:
        """No term has a scale of its own, whether its weight is given or not."""
        for given in (preset, SMALL, dataclasses.replace(preset, tv_weight=2.0, range_weight=3.0)):
            weights = {
                name: factor * value
                for name in ("content_weight", "style_weight", "tv_weight", "range_weight")
                if (value := getattr(given, name)) is not None
            }
            found = dataclasses.replace(given, **weights).term_weights()
            assert found == pytest.approx(
                {name: factor * weight for name, weight in given.term_weights().items()}
            )

    def test_that_of_a_smoothing_term_follows_the_others_unless_it_is_given(self) -> None:
        """By hand: 10 + 1e5 is ten times 1 + 1e4, to which the default of 1e3 belongs."""
        tenfold = dataclasses.replace(GATYS, content_weight=10.0, style_weight=1e5)
        assert tenfold.term_weights()["range"] == pytest.approx(1e4)
        assert dataclasses.replace(tenfold, range_weight=1e3).term_weights()["range"] == 1e3
        assert "range" not in dataclasses.replace(tenfold, range_weight=0.0).term_weights()

    def test_values_scale_with_them(self) -> None:
        scaled = dataclasses.replace(
            SMALL, content_weight=2e4, style_weight=30e4, tv_weight=1e-3 * 1e4
        )
        found, expected = (evaluate(x, PARAMS, IMAGE, made_for(x))[0] for x in (scaled, SMALL))
        np.testing.assert_allclose(found, 1e4 * expected, rtol=1e-6)

    def test_layers_may_have_their_own(self) -> None:
        objective = dataclasses.replace(SMALL, style_layer_weights=(0.1, 0.0, 2.0))
        _, terms = evaluate(objective, PARAMS, IMAGE, made_for(objective))
        _, equal = evaluate(SMALL, PARAMS, IMAGE, made_for(SMALL))
        for layer, weight in zip(SMALL.style_layers, (0.1, 0.0, 2.0), strict=True):
            np.testing.assert_allclose(
                terms[f"style/{layer}"], 3 * weight * equal[f"style/{layer}"], rtol=1e-5
            )

    def test_may_be_traced_so_that_one_program_serves_many(self) -> None:
        compilations = []
        found = made_for(SMALL)

        @jax.jit
        def program(
            image: jax.Array, weights: dict[str, Any]
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            compilations.append(weights)
            return objective_lib.evaluate(SMALL, PARAMS, image, found, term_weights=weights)

        weights = SMALL.term_weights()
        total, terms = program(IMAGE, weights)
        np.testing.assert_allclose(total, evaluate(SMALL, PARAMS, IMAGE, found)[0], rtol=1e-5)
        _, doubled = program(IMAGE, {**weights, "content/conv2_2": 4.0, "total_variation": 0.0})
        assert len(compilations) == 1
        np.testing.assert_allclose(doubled["content/conv2_2"], 2 * terms["content/conv2_2"])
        np.testing.assert_allclose(doubled["style/conv1_1"], terms["style/conv1_1"])
        assert doubled["total_variation"] == 0


class TestTargets:
    def test_texture_synthesis_needs_no_photo(self) -> None:
        objective = dataclasses.replace(SMALL, content_layers=())
        found = made_for(objective, content=None)
        assert found.content == {}
        assert {x.shape[0] for x in found.style.values()} == {1}
        total, terms = evaluate(objective, PARAMS, IMAGE, found)
        assert set(terms) == {f"style/{x}" for x in SMALL.style_layers} | {"total_variation"}
        assert total > 0

    def test_reconstruction_needs_no_painting(self) -> None:
        objective = Objective(content_layers=("conv2_2",))
        found = made_for(objective, styles=())
        assert (found.style, found.regions) == ({}, {})
        total, terms = evaluate(objective, PARAMS, IMAGE, found)
        np.testing.assert_allclose(total, terms["content/conv2_2"])

    def test_total_variation_alone(self) -> None:
        objective = Objective(formulation="johnson", tv_weight=2.0)
        total, _ = evaluate(objective, PARAMS, IMAGE, made_for(objective, content=None, styles=()))
        np.testing.assert_allclose(total, 2.0 * squared_variation(IMAGE), rtol=1e-5)

    def test_nothing_at_all_is_zero(self) -> None:
        found = made_for(Objective(), content=None, styles=())
        assert evaluate(Objective(), PARAMS, IMAGE, found)[0] == 0

    def test_a_painting_of_any_size(self) -> None:
        """A tiling's Gram matrices differ from the tile's by what happens at the borders."""
        objective = Objective(formulation="gatys", style_layers=("conv1_1",))
        image = jnp.full((16, 16, 3), 0.4)
        found = [
            made_for(objective, content=None, styles=[jnp.full((side, side, 3), 0.9)])
            for side in (64, 128)
        ]
        small, large = (float(evaluate(objective, PARAMS, image, x)[0]) for x in found)
        assert abs(small - large) < 0.1 * small

    @pytest.mark.parametrize(
        ("name", "given"),
        [
            ("style_weights", [1.0, 2.0]),
            ("content_masks", [jnp.ones((16, 20))] * 3),
            ("style_masks", []),
        ],
    )
    def test_numbers_that_do_not_match_are_told(self, name: str, given: list[Any]) -> None:
        with pytest.raises(
            ValueError, match=rf"{name}: one for each of 1 styles, got {len(given)}"
        ):
            made_for(SMALL, **{name: given})

    def test_a_mask_of_another_size_is_told(self) -> None:
        found = made_for(SMALL, content_masks=[jnp.ones((20, 20))])
        with pytest.raises(ValueError, match="mask must have the features' height and width"):
            evaluate(SMALL, PARAMS, IMAGE, found)

    def test_a_photo_of_another_size_is_told(self) -> None:
        found = made_for(SMALL, content=jnp.zeros((24, 20, 3)))
        with pytest.raises(ValueError, match=r"features differ in shape"):
            evaluate(SMALL, PARAMS, IMAGE, found)


class TestObjective:
    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"formulation": "huang"}, "formulation must be one of .*'gatys'.*, got 'huang'"),
            ({"pooling": "mean"}, r"pooling must be one of \('max', 'avg'\), got 'mean'"),
            ({"content_weight": -1.0}, "content_weight must be a finite number of at least 0"),
            ({"style_weight": float("nan")}, "style_weight must be .* got nan"),
            ({"tv_weight": float("inf")}, "tv_weight must be .* got inf"),
            ({"range_weight": -1.0}, "range_weight must be .* got -1"),
            (
                {"style_layers": ("conv1_1", "conv2_1"), "style_layer_weights": (1.0,)},
                "one weight for each of 2 style layers, got 1",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            Objective(**wrong)

    def test_is_hashable_so_that_it_can_be_a_static_argument(self) -> None:
        traces = []

        def program(objective: Objective) -> jax.Array:
            traces.append(objective)
            return jnp.asarray(objective.style_weight)

        compiled = jax.jit(program, static_argnums=0)
        same = dataclasses.replace(SMALL)
        assert same is not SMALL
        assert (same, hash(same)) == (SMALL, hash(SMALL))
        assert [float(compiled(x)) for x in (SMALL, same)] == [30.0, 30.0]
        assert len(traces) == 1
        assert float(compiled(dataclasses.replace(SMALL, style_weight=4.0))) == 4.0

    def test_layers_are_each_named_once(self) -> None:
        objective = Objective(content_layers=("relu3_3",), style_layers=("relu1_2", "relu3_3"))
        assert objective.layers == ("relu3_3", "relu1_2")

    def test_a_layer_of_both_content_and_style_has_two_terms(self) -> None:
        objective = Objective(content_layers=("conv2_1",), style_layers=("conv2_1",))
        _, terms = evaluate(objective, PARAMS, IMAGE, made_for(objective))
        assert set(terms) == {"content/conv2_1", "style/conv2_1"}


class TestPresets:
    def test_gatys(self) -> None:
        """Gatys et al. 2015: conv4_2; conv1_1 to conv5_1, w_l = 1/5; average pooling; 1e-4."""
        assert GATYS.formulation == "gatys"
        assert GATYS.content_layers == ("conv4_2",)
        assert GATYS.style_layers == ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
        assert GATYS.pooling == "avg"
        assert GATYS.tv_weight == 0
        assert GATYS.content_weight / GATYS.style_weight == pytest.approx(1e-4)
        weights = GATYS.term_weights()
        assert weights["range"] == 1e3
        assert [weights[f"style/{x}"] for x in GATYS.style_layers] == pytest.approx([1e4 / 5] * 5)

    def test_johnson(self) -> None:
        """The options of the authors' released training program: 1 at relu3_3, 5, 1e-6."""
        assert JOHNSON.formulation == "johnson_code"
        assert JOHNSON.pooling == "max"
        assert JOHNSON.term_weights() == {
            "content/relu3_3": 1.0,
            "style/relu1_2": 5.0,
            "style/relu2_2": 5.0,
            "style/relu3_3": 5.0,
            "style/relu4_3": 5.0,
            "total_variation": 1e-6,
        }

    def test_wasserstein(self) -> None:
        """Ours: weights that sum to 1 for the style, 64 : 16 : 4 : 1."""
        weights = WASSERSTEIN.term_weights()
        shares = [weights[f"style/{layer}"] for layer in WASSERSTEIN.style_layers]
        np.testing.assert_allclose(shares, np.array([64, 16, 4, 1]) / 85)
        assert weights["content/relu4_1"] == 4e-3

    @pytest.mark.parametrize("preset", objective_lib.PRESETS.values())
    def test_every_layer_is_in_both_networks(self, preset: Objective) -> None:
        for depths in (reference.VGG16_DEPTHS, reference.VGG19_DEPTHS):
            assert set(preset.layers) <= set(vgg.layer_names(reference.random_vgg(depths)))
