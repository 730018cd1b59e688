"""Layers of the networks: how kernels begin, and in what precision styles are mixed.

What they compute is specified in `test_convolution.py` and `test_networks.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.models import layers


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_kernels_begin_with_the_scale_of_their_outputs(scale: float, key: jax.Array) -> None:
    """He et al. 2015 without their factor of 2: normalisation makes up for it."""
    params = layers.Convolution(64, size=9, scale=scale).init(key, jnp.zeros((1, 9, 9, 3)))
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    np.testing.assert_allclose(np.std(kernel), scale / np.sqrt(9 * 9 * 3), rtol=0.02)
    np.testing.assert_array_equal(bias, np.zeros(64))


def test_styles_are_mixed_in_full_precision() -> None:
    """Which an accelerator only does where it is told to."""
    params = {"params": {"scale": jnp.ones((3, 2)), "bias": jnp.zeros((3, 2))}}
    with jax.default_matmul_precision("default"):
        traced = jax.make_jaxpr(layers.InstanceNorm(3).apply)(
            params, jnp.zeros((1, 4, 4, 2)), jnp.ones((1, 3))
        )
    text = str(traced)
    assert text.count("dot_general") == text.count("Precision.HIGHEST, Precision.HIGHEST") == 2


def test_images_are_normalised_together_where_their_statistics_are_kept() -> None:
    """By the mean and variance of all their positions, as NumPy has them; mapped, in groups."""
    groups = np.random.default_rng(3).normal(2.0, 3.0, (2, 3, 5, 4, 2)).astype(np.float32)
    groups[1] *= 2
    params = {"params": {"scale": jnp.array([[1.0, 3.0]]), "bias": jnp.array([[0.0, -1.0]])}}

    def together(images: jax.Array) -> jax.Array:
        norm = layers.InstanceNorm(1)
        return norm.apply(params, images, jnp.ones((1, 1)), mutable=["statistics"])[0]

    found = jax.vmap(together)(jnp.asarray(groups))
    for group, normalised in zip(groups.astype(np.float64), found, strict=True):
        mean, variance = group.mean((0, 1, 2)), group.var((0, 1, 2))
        expected = (group - mean) / np.sqrt(variance + 1e-5) * [1.0, 3.0] + [0.0, -1.0]
        np.testing.assert_allclose(normalised, expected, rtol=0, atol=1e-5)
