"""`stylize` and `enlarge` under JAX's transformations, in the forms that only wide layers have.

Winograd's convolutions are for 64 channels or more, on CPUs; `tests/test_contracts.py` transforms
narrow networks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

from perceptual_jax import models
from perceptual_jax.models import networks
from perceptual_jax.models.networks import StyleNetwork, SuperResolutionNetwork
from tests import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STYLE = StyleNetwork(styles=2, width=16, residual_blocks=1)
ENLARGING = SuperResolutionNetwork(width=64, residual_blocks=1)
WEIGHTS = [0.3, 0.7]
IMAGES = reference.random_images(2, 8, 12, 3)


def variables_of(network: networks.Network) -> Any:
    shapes = jax.eval_shape(lambda: networks.initial_variables(network, seed=0))
    return reference.random_variables(shapes)


def function(network: networks.Network) -> Callable[[Any], jax.Array]:
    """Of images alone."""
    variables = variables_of(network)
    if isinstance(network, SuperResolutionNetwork):
        return lambda images: models.enlarge(variables, images, network=network)
    weights = WEIGHTS if network.styles == 2 else None
    return lambda images: models.stylize(variables, images, network=network, style_weights=weights)


def energy(network: networks.Network) -> Callable[[Any], jax.Array]:
    return lambda images: jnp.sum(jnp.square(function(network)(images)))


each = pytest.mark.parametrize("network", [STYLE, ENLARGING])


@each
def test_forward_and_reverse_mode_agree(network: networks.Network) -> None:
    """On the slope along a direction, and on how the slope changes along it."""
    direction = jnp.asarray(reference.random_images(1, 8, 12, 3, seed=2) - 0.5)
    value, gradient = energy(network), jax.grad(energy(network))

    def slope(images: jax.Array) -> jax.Array:
        return jnp.vdot(direction, gradient(images))

    @jax.jit
    def both(images: jax.Array) -> tuple[Any, Any]:
        forward = (
            jax.jvp(value, (images,), (direction,))[1],
            jax.jvp(slope, (images,), (direction,))[1],
        )
        return forward, (slope(images), jnp.vdot(direction, jax.grad(slope)(images)))

    forward, reverse = both(jnp.asarray(IMAGES[:1]))
    np.testing.assert_allclose(forward, reverse, rtol=1e-3)


@pytest.mark.parametrize(
    "network",
    [
        STYLE,
        ENLARGING,
        StyleNetwork(width=16, residual_blocks=1, normalization="batch", upsampling="transposed"),
        SuperResolutionNetwork(width=2, residual_blocks=1, upsampling="subpixel"),
    ],
)
def test_on_the_mesh_that_is_made_by_default(network: networks.Network) -> None:
    """Its axes are Explicit; the batch is sharded over them, and so is the result."""
    spec = PartitionSpec("batch")
    both = jax.jit(lambda x: (function(network)(x), jax.grad(energy(network))(x)))
    expected = both(IMAGES)
    mesh = jax.make_mesh((2,), ("batch",))
    with jax.set_mesh(mesh):
        found = both(jax.device_put(IMAGES, NamedSharding(mesh, spec)))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.sharding.spec[0] == "batch"
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


class TestExport:
    @pytest.mark.parametrize(
        ("network", "count"),
        [
            (StyleNetwork(), 3 + 2 * 5 + 2 + 1),
            (SuperResolutionNetwork(), 1 + 2 * 4 + 2 + 1),
        ],
    )
    @pytest.mark.parametrize("platform", ["cuda", "tpu"])
    def test_for_another_platform_has_its_convolutions_alone(
        self, network: networks.Network, count: int, platform: str
    ) -> None:
        exported = export.export(jax.jit(function(network)), platforms=[platform])(IMAGES)
        assert exported.mlir_module().count("stablehlo.convolution") == count

    @each
    def test_with_sizes_that_are_not_known(self, network: networks.Network) -> None:
        shape = export.symbolic_shape("n, h, w, 3", constraints=["h >= 8", "w >= 8"])
        exported = export.export(jax.jit(function(network)))(
            jax.ShapeDtypeStruct(shape, jnp.float32)
        )
        images = reference.random_images(3, 11, 17, 3)
        np.testing.assert_allclose(exported.call(images), function(network)(images), atol=1e-5)


class TestTypes:
    @each
    def test_with_64_bits_all_stays_float32(self, network: networks.Network) -> None:
        with jax.enable_x64(True):
            initial = networks.initial_variables(network, seed=0)
            found = function(network)(np.asarray(IMAGES, np.float64))
        assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, function(network)(IMAGES), atol=1e-5)

    @each
    def test_of_bfloat16_images_are_float32(self, network: networks.Network) -> None:
        """They are what was rounded, not what is computed in."""
        short = jnp.asarray(IMAGES, jnp.bfloat16)
        found = function(network)(short)
        assert found.dtype == jnp.float32
        expected = function(network)(np.asarray(short, np.float32))
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("kind", [tuple, np.array, jnp.array])
    def test_weights_are_a_list_or_any_array(self, kind: Any) -> None:
        variables = variables_of(STYLE)
        found = models.stylize(variables, IMAGES, network=STYLE, style_weights=kind(WEIGHTS))
        np.testing.assert_array_equal(found, function(STYLE)(IMAGES))


class TestOtherNetworks:
    def test_have_to_be_given(self) -> None:
        """Variables do not tell how a network pads, or in which way it upsamples."""
        with pytest.raises(TypeError, match="network"):
            models.stylize(variables_of(STYLE), IMAGES, style_weights=WEIGHTS)  # type: ignore[call-arg]

    def test_are_what_is_applied(self) -> None:
        network = networks.paper_style_network().clone(width=2)
        variables, images = variables_of(network), reference.random_images(1, 41, 44, 3)
        found = models.stylize(variables, images, network=network)
        expected: Any = network.apply(variables, images)
        np.testing.assert_allclose(found, expected, atol=1e-6)
