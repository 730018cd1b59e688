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
