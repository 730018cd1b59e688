"""The losses: the papers' numbers, one per image, with finite gradients and clear errors."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from perceptual_jax import losses
from tests import reference

Loss = Callable[[Any, Any], jax.Array]


def style_mean(features: Any, style_features: Any) -> jax.Array:
    return losses.style_reconstruction(features, style_features, reduction="mean")


def isotropic(images: Any) -> jax.Array:
    return losses.total_variation(images, kind="isotropic")


CONTENT_LOSSES = [losses.gatys_content, losses.feature_reconstruction]
GRAM_LOSSES = [losses.gatys_style, losses.style_reconstruction, style_mean]
STYLE_LOSSES = [*GRAM_LOSSES, losses.gaussian_wasserstein]
TOTAL_VARIATIONS = [losses.total_variation, isotropic]

# Two channels at 1 x 2 positions: F = [[1, 3], [2, 4]] in the papers' C x M.
FEATURES = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
OTHERS = jnp.array([[[1.0, 0.0], [1.0, 1.0]]])  # P = [[1, 1], [0, 1]]
# By hand: F F^T and P P^T.
GRAM = np.array([[10.0, 14.0], [14.0, 20.0]])
OTHER_GRAM = np.array([[2.0, 1.0], [1.0, 1.0]])
# By hand: 8^2 + 13^2 + 13^2 + 19^2.
GRAM_DISTANCE = 64.0 + 169.0 + 169.0 + 361.0


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class TestContent:
    def test_gatys_is_half_the_squared_distance(self) -> None:
        # By hand: (0 + 4 + 4 + 9) / 2.
        np.testing.assert_allclose(losses.gatys_content(FEATURES, OTHERS), 8.5)

    def test_feature_reconstruction_is_the_mean_squared_distance(self) -> None:
        # By hand: (0 + 4 + 4 + 9) / (2 * 1 * 2).
        np.testing.assert_allclose(losses.feature_reconstruction(FEATURES, OTHERS), 4.25)

    def test_are_those_of_the_papers(self) -> None:
        features, photo = normal(5, 4, 3), normal(5, 4, 3, seed=1)
        squares = np.sum((np.float64(features) - np.float64(photo)) ** 2)
        np.testing.assert_allclose(losses.gatys_content(features, photo), squares / 2, rtol=1e-6)
        np.testing.assert_allclose(
            losses.feature_reconstruction(features, photo), squares / (5 * 4 * 3), rtol=1e-6
        )

    def test_gradient_is_the_difference(self) -> None:
        """Gatys et al. 2015, eq. 2, without its ReLU."""
        gradient = jax.grad(losses.gatys_content)(FEATURES, OTHERS)
        np.testing.assert_allclose(gradient, FEATURES - OTHERS)

    @pytest.mark.parametrize("loss", CONTENT_LOSSES)
    def test_grows_with_the_square_of_the_activations(self, loss: Loss) -> None:
        np.testing.assert_allclose(
            loss(3 * FEATURES, 3 * OTHERS), 9 * loss(FEATURES, OTHERS), rtol=1e-6
        )


class TestGramMatrix:
    @pytest.mark.parametrize(
        ("normalize_by", "divisor"), [("none", 1), ("positions", 2), ("elements", 4)]
    )
    def test_is_f_times_f_transposed(self, normalize_by: str, divisor: int) -> None:
        gram = losses.gram_matrix(FEATURES, normalize_by=normalize_by)
        np.testing.assert_allclose(gram, GRAM / divisor)

    def test_divides_by_elements_unless_told_otherwise(self) -> None:
        np.testing.assert_allclose(losses.gram_matrix(FEATURES), GRAM / 4)

    def test_of_a_large_layer(self) -> None:
        features = normal(40, 30, 16)
        expected = reference.gram(np.asarray(features)) / (40 * 30 * 16)
        np.testing.assert_allclose(
            losses.gram_matrix(features), expected, rtol=1e-5, atol=1e-6 * np.max(expected)
        )

    def test_is_symmetric_and_positive_semidefinite(self) -> None:
        # Fewer positions than channels, so that some eigenvalues are zero.
        gram = np.asarray(losses.gram_matrix(normal(2, 2, 6), normalize_by="none"), np.float64)
        np.testing.assert_array_equal(gram, gram.T)
        eigenvalues = np.linalg.eigvalsh(gram)
        assert eigenvalues.min() > -1e-5 * eigenvalues.max()
        assert np.sum(eigenvalues > 1e-5 * eigenvalues.max()) == 4

    def test_forgets_where_things_are(self) -> None:
        features = normal(4, 6, 3)
        order = np.random.default_rng(2).permutation(24)
        moved = features.reshape(24, 3)[order].reshape(6, 4, 3)
        np.testing.assert_allclose(
            losses.gram_matrix(moved), losses.gram_matrix(features), rtol=1e-5, atol=1e-7
        )

    def test_of_a_tiling_is_that_of_the_tile(self) -> None:
        """So that pictures of different sizes compare."""
        tile = normal(3, 4, 5)
        for normalize_by in ("positions", "elements"):
            np.testing.assert_allclose(
                losses.gram_matrix(jnp.tile(tile, (2, 3, 1)), normalize_by=normalize_by),
                losses.gram_matrix(tile, normalize_by=normalize_by),
                rtol=1e-5,
                atol=1e-6,
            )

    def test_gradient(self) -> None:
        """The hand-written gradient of `F F^T`, alone and batched."""
        check_grads(
            lambda x: losses.gram_matrix(x, normalize_by="positions"),
            (normal(3, 4, 2),),
            order=1,
            modes=["rev"],
        )
        check_grads(losses.gram_matrix, (normal(2, 3, 2, 4),), order=1, modes=["rev"])

    def test_gradient_takes_both_triangles_of_a_cotangent(self) -> None:
        """A cotangent S that is not symmetric: the gradient is `(S + S^T) F`."""
        _, vjp = jax.vjp(lambda x: losses.gram_matrix(x, normalize_by="none"), FEATURES)
        (gradient,) = vjp(jnp.array([[1.0, 2.0], [0.0, 0.0]]))
        # By hand: S + S^T = [[2, 2], [2, 0]], on the positions (1, 2) and (3, 4).
        np.testing.assert_allclose(gradient, [[[6.0, 2.0], [14.0, 6.0]]])

    def test_gradient_through_a_mask(self) -> None:
        mask = jnp.asarray(np.random.default_rng(3).uniform(0.2, 1.0, (3, 4)), jnp.float32)
        check_grads(
            lambda x: losses.gram_matrix(x, mask=mask), (normal(3, 4, 2),), order=1, modes=["rev"]
        )


class TestMask:
    features = normal(4, 6, 3)

    @pytest.mark.parametrize("normalize_by", losses.NORMALIZATIONS)
    def test_of_ones_is_no_mask(self, normalize_by: str) -> None:
        np.testing.assert_allclose(
            losses.gram_matrix(self.features, normalize_by=normalize_by, mask=jnp.ones((4, 6))),
            losses.gram_matrix(self.features, normalize_by=normalize_by),
            rtol=1e-6,
        )

    @pytest.mark.parametrize("normalize_by", losses.NORMALIZATIONS)
    def test_of_a_half_gives_the_gram_matrix_of_the_half(self, normalize_by: str) -> None:
        mask = jnp.zeros((4, 6)).at[:, :3].set(1.0)
        np.testing.assert_allclose(
            losses.gram_matrix(self.features, normalize_by=normalize_by, mask=mask),
            losses.gram_matrix(self.features[:, :3], normalize_by=normalize_by),
            rtol=1e-5,
            atol=1e-6,
        )

    def test_weighs_positions(self) -> None:
        # By hand: 1/4 (1, 2)^T (1, 2) + (3, 4)^T (3, 4), over a total weight of 5/4.
        gram = losses.gram_matrix(FEATURES, normalize_by="positions", mask=jnp.array([[0.25, 1.0]]))
        expected = np.array([[9.25, 12.5], [12.5, 17.0]]) / 1.25
        np.testing.assert_allclose(gram, expected, rtol=1e-6)

    @pytest.mark.parametrize("normalize_by", losses.NORMALIZATIONS)
    def test_of_zeros_gives_zeros_and_no_gradient(self, normalize_by: str) -> None:
        def total(features: jax.Array) -> jax.Array:
            mask = jnp.zeros((4, 6))
            return jnp.sum(losses.gram_matrix(features, normalize_by=normalize_by, mask=mask))

        value, gradient = jax.value_and_grad(total)(self.features)
        assert value == 0
        np.testing.assert_array_equal(gradient, np.zeros((4, 6, 3)))

    def test_of_each_image(self) -> None:
        features = normal(2, 4, 6, 3)
        masks = jnp.stack([jnp.ones((4, 6)), jnp.eye(4, 6)])
        grams = losses.gram_matrix(features, mask=masks)
        for index in range(2):
            alone = losses.gram_matrix(features[index], mask=masks[index])
            np.testing.assert_allclose(grams[index], alone, rtol=1e-6, atol=1e-7)

    def test_one_for_a_batch(self) -> None:
        features, mask = normal(2, 4, 6, 3), jnp.eye(4, 6)
        grams = losses.gram_matrix(features, mask=mask)
        alone = losses.gram_matrix(features[1], mask=mask)
        np.testing.assert_allclose(grams[1], alone, rtol=1e-6, atol=1e-7)


class TestStyle:
    def test_gatys(self) -> None:
        # By hand, with N = 2 channels and M = 2 positions.
        expected = GRAM_DISTANCE / (4 * 2**2 * 2**2)
        np.testing.assert_allclose(losses.gatys_style(FEATURES, OTHERS), expected, rtol=1e-6)

    def test_johnson(self) -> None:
        # By hand: both Gram matrices are divided by C H W = 4.
        expected = GRAM_DISTANCE / 4**2
        np.testing.assert_allclose(
            losses.style_reconstruction(FEATURES, OTHERS), expected, rtol=1e-6
        )
        # The released code's mean is over the 2^2 entries.
        np.testing.assert_allclose(style_mean(FEATURES, OTHERS), expected / 4, rtol=1e-6)

    def test_are_those_of_the_papers(self) -> None:
        features, style = normal(7, 5, 4), normal(7, 5, 4, seed=1)
        n, m = 4, 7 * 5
        squares = np.sum(
            (reference.gram(np.asarray(features)) - reference.gram(np.asarray(style))) ** 2
        )
        np.testing.assert_allclose(
            losses.gatys_style(features, style), squares / (4 * n**2 * m**2), rtol=1e-5
        )
        np.testing.assert_allclose(
            losses.style_reconstruction(features, style), squares / (n * m) ** 2, rtol=1e-5
        )

    def test_of_another_size_compares_means_over_positions(self) -> None:
        """Gatys: `sum (G/M - A/M')^2 / (4 N^2)`; Johnson divides by C H W and C H' W'."""
        features, style = normal(7, 5, 4), normal(3, 9, 4, seed=1)
        gram = reference.gram(np.asarray(features)) / (7 * 5)
        style_gram = reference.gram(np.asarray(style)) / (3 * 9)
        squares = np.sum((gram - style_gram) ** 2)
        np.testing.assert_allclose(
            losses.gatys_style(features, style), squares / (4 * 4**2), rtol=1e-5
        )
        np.testing.assert_allclose(
            losses.style_reconstruction(features, style), squares / 4**2, rtol=1e-5
        )

    def test_from_gram_matrices_made_once(self) -> None:
        features, style = normal(7, 5, 4), normal(3, 9, 4, seed=1)
        grams = [losses.gram_matrix(x, normalize_by="positions") for x in (features, style)]
        np.testing.assert_array_equal(
            losses.gatys_style_of_grams(*grams), losses.gatys_style(features, style)
        )
        for reduction in ("sum", "mean"):
            np.testing.assert_array_equal(
                losses.style_reconstruction_of_grams(
                    losses.gram_matrix(features), losses.gram_matrix(style), reduction=reduction
                ),
                losses.style_reconstruction(features, style, reduction=reduction),
            )

    @pytest.mark.parametrize("loss", GRAM_LOSSES)
    def test_grows_with_the_fourth_power_of_the_activations(self, loss: Loss) -> None:
        np.testing.assert_allclose(
            loss(3 * FEATURES, 3 * OTHERS), 81 * loss(FEATURES, OTHERS), rtol=1e-5
        )

    def test_gatys_gradient_is_the_papers(self) -> None:
        """Eq. 6: `(F^T (G - A))^T / (N^2 M^2)`, without its ReLU."""
        features, style = normal(7, 5, 4), normal(7, 5, 4, seed=1)
        difference = reference.gram(np.asarray(features)) - reference.gram(np.asarray(style))
        expected = np.asarray(features, np.float64) @ difference / (4**2 * 35**2)
        gradient = jax.grad(losses.gatys_style)(features, style)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def wasserstein_in_float64(features: Any, style_features: Any) -> float:
    """The definition, by eigenvalues, without a ridge."""
    first, second = (
        np.reshape(np.float64(x), (-1, x.shape[-1])) for x in (features, style_features)
    )
    covariance, style_covariance = np.cov(first.T, bias=True), np.cov(second.T, bias=True)
    values, vectors = np.linalg.eigh(style_covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance @ root), 0))
    shift = np.sum((first.mean(0) - second.mean(0)) ** 2)
    sizes = np.trace(covariance) + np.trace(style_covariance)
    return float((shift + sizes - 2 * roots.sum()) / first.shape[-1])


class TestMoments:
    def test_are_mean_and_covariance_over_positions(self) -> None:
        features = normal(2, 5, 4, 3) + 2.0
        found = losses.moments(features)
        rows = np.float64(features).reshape(2, 20, 3)
        np.testing.assert_allclose(found.mean, rows.mean(1), rtol=1e-5)
        expected = [np.cov(image.T, bias=True) for image in rows]
        np.testing.assert_allclose(found.covariance, expected, atol=1e-5)
        np.testing.assert_array_equal(found.covariance, found.covariance.mT)

    def test_of_a_mask_are_those_of_its_positions(self) -> None:
        features = normal(6, 4, 3)
        mask = jnp.zeros((6, 4)).at[2:5].set(0.5)
        found, expected = losses.moments(features, mask=mask), losses.moments(features[2:5])
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
        np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-6)

    def test_of_an_empty_mask_are_zero(self) -> None:
        found = losses.moments(normal(6, 4, 3), mask=jnp.zeros((6, 4)))
        np.testing.assert_array_equal(found.mean, np.zeros(3))
        np.testing.assert_array_equal(found.covariance, np.zeros((3, 3)))


class TestBlendMoments:
    def test_are_those_of_all_positions_together(self) -> None:
        """Of maps of 8 and 24 positions, which count a quarter and three quarters."""
        maps = normal(2, 4, 3), normal(6, 4, 3, seed=1) * 2.0 + 1.0
        each = [losses.moments(features) for features in maps]
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *each)
        found = losses.blend_moments(stacked, np.array([0.25, 0.75]))
        expected = losses.moments(jnp.concatenate(maps))
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
        np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-5)


class TestOptimalTransport:
    def test_gives_features_the_moments_of_others(self) -> None:
        features = normal(20, 20, 5) @ (jnp.eye(5) + 0.2 * normal(5, 5, seed=2))
        style = losses.moments(normal(20, 21, 5, seed=1) @ (jnp.eye(5) + 0.2 * normal(5, 5)) + 2.0)
        transport = losses.optimal_transport(losses.moments(features), style)
        found = losses.moments(features @ transport.matrix + transport.offset[None, None])
        size = float(jnp.trace(style.covariance))
        np.testing.assert_allclose(found.mean, style.mean, atol=1e-4)
        # The ridge, a thousandth of the mean square, is in both covariances.
        np.testing.assert_allclose(found.covariance, style.covariance, atol=3e-3 * size)

    def test_costs_the_distance(self) -> None:
        """The mean squared way of a position, over C: no other map is as short."""
        features = normal(20, 20, 5) @ (jnp.eye(5) + 0.2 * normal(5, 5, seed=2))
        of, style = losses.moments(features), losses.moments(normal(9, 9, 5, seed=1) + 1.0)
        transport = losses.optimal_transport(of, style)
        moved = features @ transport.matrix + transport.offset[None, None]
        way = jnp.mean(jnp.square(moved - features))
        distance = losses.gaussian_wasserstein_of_moments(of, style)
        np.testing.assert_allclose(way, distance, rtol=5e-3)

    def test_in_one_channel_stretches_and_shifts(self) -> None:
        deviations = jnp.array([-1.0, 1.0]).reshape(1, 2, 1)
        of, style = losses.moments(deviations), losses.moments(2.0 * deviations + 3.0)
        transport = losses.optimal_transport(of, style)
        np.testing.assert_allclose(transport.matrix, 2.0, rtol=5e-3)
        np.testing.assert_allclose(transport.offset, 3.0, rtol=5e-3)

    def test_of_equal_moments_leaves_features(self) -> None:
        moments = losses.moments(normal(4, 4, 5))  # Of fewer positions than it needs.
        transport = losses.optimal_transport(moments, moments)
        np.testing.assert_allclose(transport.matrix, np.eye(5), atol=1e-3)
        np.testing.assert_allclose(transport.offset, np.zeros(5), atol=1e-3)

    def test_of_flat_features_is_finite(self) -> None:
        flat, varied = losses.moments(jnp.ones((4, 4, 3))), losses.moments(normal(4, 4, 3))
        for pair in ((flat, varied), (varied, flat), (flat, flat)):
            assert all(np.isfinite(part).all() for part in losses.optimal_transport(*pair))

    def test_refuses_moments_that_do_not_match(self) -> None:
        of, style = losses.moments(normal(4, 4, 3)), losses.moments(normal(4, 4, 5))
        with pytest.raises(ValueError, match="means"):
            losses.optimal_transport(of, style)


class TestGaussianWasserstein:
    @pytest.mark.parametrize(("side", "channels"), [(9, 3), (40, 64), (12, 64)])
    def test_is_the_definition(self, side: int, channels: int) -> None:
        """But for the ridge, here too where there are little more positions than channels."""
        mix = normal(channels, channels, seed=2) * jnp.exp(-jnp.linspace(0, 3, channels))[None]
        features = jnp.maximum(normal(side, side, channels) @ mix, 0)
        style = jnp.maximum(normal(side, side + 1, channels, seed=1) @ mix[::-1] + 0.5, 0)
        expected = wasserstein_in_float64(features, style)
        np.testing.assert_allclose(
            losses.gaussian_wasserstein(features, style), expected, rtol=3e-3
        )

    def test_in_one_channel_it_is_that_of_means_and_deviations(self) -> None:
        """`(mu - mu_s)^2 + (sigma - sigma_s)^2`: here 3^2 + (2 - 1)^2."""
        deviations = jnp.array([-1.0, 1.0]).reshape(1, 2, 1)
        found = losses.gaussian_wasserstein(2.0 * deviations + 3.0, deviations)
        np.testing.assert_allclose(found, 10.0, rtol=1e-3)

    def test_scales_with_the_square_of_features(self) -> None:
        features, style = normal(6, 5, 4), normal(5, 5, 4, seed=1)
        small = losses.gaussian_wasserstein(1e-3 * features, 1e-3 * style)
        np.testing.assert_allclose(
            small, 1e-6 * losses.gaussian_wasserstein(features, style), rtol=1e-4
        )

    def test_tells_apart_what_has_the_same_gram_matrix(self) -> None:
        """All 1, and 1 and -1 in turn, have the same mean square, but not the same mean."""
        ones = jnp.ones((2, 2, 1))
        signs = jnp.array([1.0, -1.0, 1.0, -1.0]).reshape(2, 2, 1)
        assert losses.gatys_style(ones, signs) == 0
        np.testing.assert_allclose(losses.gaussian_wasserstein(ones, signs), 2.0, rtol=0.1)

    @pytest.mark.parametrize("order", [1, 2])
    def test_has_the_derivatives_of_finite_differences(self, order: int) -> None:
        """Of both arguments, forwards and backwards: the transport maps are the gradient."""
        check_grads(
            losses.gaussian_wasserstein,
            (normal(4, 5, 3), 2.0 * normal(5, 5, 3, seed=1) + 1.0),
            order=order,
            modes=["fwd", "rev"],
            eps=1e-2,
            atol=3e-2,
            rtol=3e-2,
        )

    def test_has_a_hessian_of_fewer_positions_than_channels(self) -> None:
        style = normal(2, 2, 6, seed=1)
        hessian = jax.hessian(lambda x: losses.gaussian_wasserstein(x, style))(normal(2, 2, 6))
        assert jnp.all(jnp.isfinite(hessian))

    def test_moments_that_do_not_fit_are_refused(self) -> None:
        three, four = (losses.moments(normal(5, 5, channels)) for channels in (3, 4))
        with pytest.raises(ValueError, match="means differ in shape"):
            losses.gaussian_wasserstein_of_moments(three, four)
        with pytest.raises(ValueError, match="covariances differ in shape"):
            losses.gaussian_wasserstein_of_moments(three, three._replace(covariance=four[1]))


class TestTotalVariation:
    # By hand. Vertical differences 3, 0, 5; horizontal ones 1, 0 above and -2, 5 below.
    image = jnp.array([[0.0, 1.0, 1.0], [3.0, 1.0, 6.0]])[:, :, None]

    def test_squared_sums_over_all_neighbours(self) -> None:
        np.testing.assert_allclose(losses.total_variation(self.image), 9 + 0 + 25 + 1 + 0 + 4 + 25)

    def test_isotropic_sums_over_positions_with_both_neighbours(self) -> None:
        np.testing.assert_allclose(isotropic(self.image), np.sqrt(9 + 1) + 0.0, rtol=1e-6)

    def test_squared_gradient(self) -> None:
        gradient = jax.grad(losses.total_variation)(self.image)[..., 0]
        # By hand: twice the sum of a pixel's differences from its neighbours.
        np.testing.assert_allclose(gradient, [[-8, 2, -10], [10, -14, 20]])

    def test_isotropic_gradient_is_the_slope(self) -> None:
        check_grads(isotropic, (normal(3, 4, 2),), order=1, modes=["rev"])

    def test_sums_over_channels(self) -> None:
        images = normal(4, 5, 3)
        for loss in TOTAL_VARIATIONS:
            expected = sum(float(loss(images[..., c : c + 1])) for c in range(3))
            np.testing.assert_allclose(loss(images), expected, rtol=1e-5)

    @pytest.mark.parametrize("loss", TOTAL_VARIATIONS)
    def test_turns_and_mirrors_make_no_difference_to_a_ramp(self, loss: Any) -> None:
        ramp = jnp.broadcast_to(jnp.arange(5.0).reshape(5, 1, 1), (5, 5, 1))
        # By hand: a slope of 1 at 4 x 5 pairs, or at 4 x 4 positions that have both neighbours.
        expected = 20.0 if loss is losses.total_variation else 16.0
        for turned in (ramp, ramp[::-1], ramp.swapaxes(0, 1), ramp.swapaxes(0, 1)[:, ::-1]):
            np.testing.assert_allclose(loss(turned), expected, rtol=1e-6)

    def test_scales(self) -> None:
        """To programs that work on 0..255: 255^2 and 255."""
        image = jnp.asarray(reference.random_images(4, 5, 3))
        for loss, factor in zip(TOTAL_VARIATIONS, (255.0**2, 255.0), strict=True):
            np.testing.assert_allclose(loss(255 * image), factor * loss(image), rtol=1e-5)


PAIR_LOSSES = CONTENT_LOSSES + STYLE_LOSSES


class TestEveryLoss:
    @pytest.mark.parametrize("loss", PAIR_LOSSES)
    def test_is_zero_for_equal_features_and_positive_otherwise(self, loss: Loss) -> None:
        # A distance of moments is a difference of large numbers: 0 but for their rounding.
        assert loss(FEATURES, FEATURES) <= 1e-6 * (loss is losses.gaussian_wasserstein)
        assert loss(FEATURES, OTHERS) > 0
        np.testing.assert_allclose(loss(FEATURES, OTHERS), loss(OTHERS, FEATURES), rtol=1e-6)

    @pytest.mark.parametrize("loss", PAIR_LOSSES)
    def test_gives_one_value_per_image(self, loss: Loss) -> None:
        features, others = normal(2, 3, 4, 5, 6), normal(2, 3, 4, 5, 6, seed=1)
        batch = loss(features, others)
        assert batch.shape == (2, 3)
        assert batch.dtype == jnp.float32
        for place in np.ndindex(2, 3):
            np.testing.assert_allclose(
                batch[place], loss(features[place], others[place]), rtol=1e-5
            )

    @pytest.mark.parametrize("loss", PAIR_LOSSES)
    def test_compares_a_batch_with_one_target(self, loss: Loss) -> None:
        """The leading axes broadcast, for callers too who forbid it elsewhere."""
        features, target = normal(3, 4, 5, 6), normal(4, 5, 6, seed=1)
        batch = loss(features, target)
        assert batch.shape == (3,)
        for index in range(3):
            np.testing.assert_allclose(batch[index], loss(features[index], target), rtol=1e-5)

    @pytest.mark.parametrize("loss", TOTAL_VARIATIONS)
    def test_total_variation_gives_one_value_per_image(self, loss: Any) -> None:
        images = normal(2, 3, 4, 5, 3)
        batch = loss(images)
        assert batch.shape == (2, 3)
        for place in np.ndindex(2, 3):
            np.testing.assert_allclose(batch[place], loss(images[place]), rtol=1e-5)

    @pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
    @pytest.mark.parametrize("loss", PAIR_LOSSES)
    def test_gradient_is_finite_on_constant_features(self, loss: Loss, value: float) -> None:
        flat = jnp.full((4, 5, 3), value)
        for other in (flat, normal(4, 5, 3), jnp.zeros((4, 5, 3))):
            assert jnp.all(jnp.isfinite(jax.grad(loss)(flat, other)))

    @pytest.mark.parametrize("value", [0.0, 0.5])
    @pytest.mark.parametrize("loss", TOTAL_VARIATIONS)
    def test_total_variation_of_a_flat_image_has_zero_gradient(
        self, loss: Any, value: float
    ) -> None:
        gradient = jax.grad(loss)(jnp.full((4, 5, 3), value))
        np.testing.assert_array_equal(gradient, np.zeros((4, 5, 3)))

    @pytest.mark.parametrize("loss", PAIR_LOSSES)
    def test_takes_bfloat16_and_sums_in_float32(self, loss: Loss) -> None:
        """The only error is that of the rounded features: a sum in bfloat16 stops at 256 ones."""
        features, others = normal(32, 32, 4), normal(32, 32, 4, seed=1)
        short = [x.astype(jnp.bfloat16) for x in (features, others)]
        result, gradient = jax.value_and_grad(loss)(*short)
        rounded = [x.astype(jnp.float32) for x in short]
        assert result.dtype == jnp.float32
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(result, loss(*rounded), rtol=1e-4)
        exact = jax.grad(loss)(*rounded)
        difference = jnp.linalg.norm(gradient.astype(jnp.float32) - exact)
        assert difference < 0.02 * jnp.linalg.norm(exact)

    @pytest.mark.parametrize("loss", TOTAL_VARIATIONS)
    def test_total_variation_takes_bfloat16_and_sums_in_float32(self, loss: Any) -> None:
        images = jnp.asarray(reference.random_images(32, 32, 3)).astype(jnp.bfloat16)
        assert loss(images).dtype == jnp.float32
        np.testing.assert_allclose(loss(images), loss(images.astype(jnp.float32)), rtol=1e-5)

    def test_gram_matrix_of_bfloat16_is_float32(self) -> None:
        # 1024 ones: in bfloat16 the sum would stop at 256.
        ones = jnp.ones((32, 32, 2), jnp.bfloat16)
        gram = losses.gram_matrix(ones, normalize_by="none")
        assert gram.dtype == jnp.float32
        np.testing.assert_array_equal(gram, np.full((2, 2), 1024.0))

    @pytest.mark.parametrize("loss", PAIR_LOSSES)
    def test_takes_numpy_arrays(self, loss: Loss) -> None:
        for dtype in (np.float32, np.float64):
            np.testing.assert_allclose(
                loss(np.asarray(FEATURES, dtype), np.asarray(OTHERS, dtype)),
                loss(FEATURES, OTHERS),
                rtol=1e-6,
            )


class TestErrors:
    @pytest.mark.parametrize("loss", PAIR_LOSSES)
    def test_integers_are_refused(self, loss: Loss) -> None:
        integers = jnp.ones((4, 5, 3), jnp.int32)
        with pytest.raises(ValueError, match="must be floating point, got int32"):
            loss(integers, jnp.ones((4, 5, 3)))
        with pytest.raises(ValueError, match="must be floating point, got int32"):
            loss(jnp.ones((4, 5, 3)), integers)

    @pytest.mark.parametrize("loss", PAIR_LOSSES)
    def test_a_low_rank_is_refused(self, loss: Loss) -> None:
        with pytest.raises(ValueError, match=r"at least 3 axes, got shape \(5, 3\)"):
            loss(jnp.ones((5, 3)), jnp.ones((5, 3)))

    @pytest.mark.parametrize("loss", CONTENT_LOSSES)
    @pytest.mark.parametrize("shape", [(4, 1, 3), (1, 5, 3), (4, 5, 1), (5, 4, 3)])
    def test_content_must_have_the_same_size(self, loss: Loss, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"differ in shape: .* last 3 axes must be equal"):
            loss(jnp.ones((4, 5, 3)), jnp.ones(shape))

    @pytest.mark.parametrize("loss", STYLE_LOSSES)
    @pytest.mark.parametrize("channels", [1, 4])
    def test_style_must_have_the_same_channels(self, loss: Loss, channels: int) -> None:
        what = "(Gram matrices|means) differ in shape.* last (2|1) axes"
        with pytest.raises(ValueError, match=what):
            loss(jnp.ones((4, 5, 3)), jnp.ones((4, 5, channels)))

    def test_gram_matrix(self) -> None:
        with pytest.raises(ValueError, match=r"\('elements', 'positions', 'none'\), got 'mean'"):
            losses.gram_matrix(FEATURES, normalize_by="mean")
        with pytest.raises(ValueError, match="must be floating point, got int32"):
            losses.gram_matrix(jnp.ones((4, 5, 3), jnp.int32))

    def test_mask(self) -> None:
        features = jnp.ones((4, 5, 3))
        with pytest.raises(ValueError, match=r"height and width, got \(5, 4\)"):
            losses.gram_matrix(features, mask=jnp.ones((5, 4)))
        with pytest.raises(ValueError, match="mask must be floating point, got bool"):
            losses.gram_matrix(features, mask=jnp.ones((4, 5), bool))
        with pytest.raises(ValueError, match="mask must have at least 2 axes"):
            losses.gram_matrix(features, mask=jnp.ones(5))

    def test_reduction(self) -> None:
        with pytest.raises(ValueError, match="'sum' or 'mean', got 'max'"):
            losses.style_reconstruction(FEATURES, OTHERS, reduction="max")

    def test_total_variation(self) -> None:
        with pytest.raises(ValueError, match="'squared' or 'isotropic', got 'l1'"):
            losses.total_variation(jnp.ones((4, 5, 3)), kind="l1")
        with pytest.raises(ValueError, match="must be floating point, got uint8"):
            losses.total_variation(jnp.ones((4, 5, 3), jnp.uint8))
        with pytest.raises(ValueError, match="at least 3 axes"):
            losses.total_variation(jnp.ones((4, 5)))


@pytest.mark.parametrize("normalize_by", losses.NORMALIZATIONS)
def test_gram_matrices_have_the_same_bits_in_both_modes_of_differentiation(
    normalize_by: str,
) -> None:
    """So that derivatives agree where two Gram matrices differ by rounding alone."""
    features = jnp.linspace(0, 1, 60).reshape(4, 5, 3)
    gram = functools.partial(losses.gram_matrix, normalize_by=normalize_by)
    expected = gram(features)
    forward, _ = jax.jvp(gram, (features,), (features,))
    reverse, _ = jax.vjp(gram, features)
    np.testing.assert_array_equal(forward, expected)
    np.testing.assert_array_equal(reverse, expected)
