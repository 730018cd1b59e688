"""What every public function of the mathematics promises: it is ordinary JAX.

One table of functions, one test for each transformation, over all of them.  A function that is not
in the table has to be in the list of those that compute nothing from arrays, or this file fails.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from perceptual_jax import alexnet, color, losses, metrics, models, objective, vgg
from perceptual_jax.models.networks import (
    Decoder,
    StyleNetwork,
    SuperResolutionNetwork,
    initial_variables,
)
from perceptual_jax.objective import Objective
from tests import reference


def random_weights(channels: int) -> np.ndarray:
    return reference.random_images(channels, seed=channels)


BATCH, SIDE = 2, 8
VGG = reference.random_vgg(depths=(1, 1), widths=(3, 4))
ALEXNET = reference.random_alexnet()
LPIPS_VGG = {**VGG, "heads": {"relu1_1": random_weights(3), "relu2_1": random_weights(4)}}
LPIPS_ALEXNET = {**ALEXNET, "heads": {"relu1": random_weights(3), "relu5": random_weights(3)}}
DISTS = {
    **VGG,
    "alpha": {"pixels": random_weights(3), "relu1_1": random_weights(3)},
    "beta": {"pixels": random_weights(3), "relu1_1": random_weights(3)},
}
STYLE_NETWORK = StyleNetwork(styles=2, width=2, residual_blocks=1)
# A decoder mirrors a VGG whose blocks are each twice as wide as the one before.
MIRRORED_VGG = reference.random_vgg(depths=(2, 2, 3, 1), widths=(1, 2, 4, 8))
DECODER = Decoder(width=1)
PAINTING = reference.random_images(32, 32, 3, seed=7)
ENLARGER = SuperResolutionNetwork(width=2, residual_blocks=1)
MASK = np.linspace(0.0, 1.0, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
OBJECTIVE = Objective(
    content_layers=("relu2_1",),
    style_layers=("conv1_1", "relu2_1"),
    tv_weight=1e-3,
    range_weight=1.0,
)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return reference.random_images(*shape, seed=seed)


def variables(network: Any) -> Any:
    shapes = jax.eval_shape(lambda: initial_variables(network, seed=0))
    return reference.random_variables(shapes)


STYLE_VARIABLES, ENLARGER_VARIABLES = variables(STYLE_NETWORK), variables(ENLARGER)
DECODER_VARIABLES = variables(DECODER)
OTHER = random(SIDE, SIDE, 3, seed=1)


TARGETS = jax.device_get(objective.targets(OBJECTIVE, VGG, content=OTHER, styles=[OTHER]))


class Case(NamedTuple):
    """A function of one array `(H, W, C)`, or of `(..., H, W, C)` where it takes batches.

    Attributes:
      function: to be transformed.
      side: of the smallest image that it takes.
      batches: whether leading axes are a batch.
      symbolic: whether it can be exported with sizes that are not known.
    """

    function: Callable[[Any], Any]
    side: int = SIDE
    batches: bool = True
    symbolic: bool = True


def flat(features: dict[str, jax.Array]) -> jax.Array:
    """One array of a dict's, as sums over positions, so that layers of all sizes fit."""
    return jnp.concatenate(
        [jnp.sum(jnp.square(x), axis=(-3, -2)) for x in features.values()], axis=-1
    )


CASES = {
    "losses.gatys_content": Case(lambda x: losses.gatys_content(x, jnp.flip(x, -2))),
    "losses.feature_reconstruction": Case(
        lambda x: losses.feature_reconstruction(x, jnp.flip(x, -2))
    ),
    "losses.gram_matrix": Case(losses.gram_matrix),
    "losses.gram_matrix of a mask": Case(
        lambda x: losses.gram_matrix(x, mask=MASK), symbolic=False
    ),
    "losses.gatys_style": Case(lambda x: losses.gatys_style(x, OTHER)),
    "losses.gatys_style_of_grams": Case(
        lambda x: losses.gatys_style_of_grams(losses.gram_matrix(x), np.eye(3, dtype=np.float32))
    ),
    "losses.style_reconstruction": Case(lambda x: losses.style_reconstruction(x, OTHER)),
    "losses.style_reconstruction_of_grams": Case(
        lambda x: losses.style_reconstruction_of_grams(
            losses.gram_matrix(x), np.eye(3, dtype=np.float32), reduction="mean"
        )
    ),
    "losses.moments": Case(lambda x: losses.moments(x).covariance),
    "losses.gaussian_wasserstein": Case(lambda x: losses.gaussian_wasserstein(x, OTHER)),
    "losses.gaussian_wasserstein_of_moments": Case(
        lambda x: losses.gaussian_wasserstein_of_moments(
            losses.moments(x),
            losses.Moments(jnp.ones(3, jnp.float32), jnp.eye(3, dtype=jnp.float32)),
        )
    ),
    "losses.blend_moments": Case(
        lambda x: (
            losses.blend_moments(
                jax.tree.map(lambda y: jnp.stack([y, 2.0 * y]), losses.moments(x)),
                np.array([0.3, 0.7], np.float32),
            ).covariance
        ),
        batches=False,
    ),
    "losses.optimal_transport": Case(
        lambda x: (
            losses.optimal_transport(
                losses.moments(x),
                losses.Moments(jnp.ones(3, jnp.float32), jnp.eye(3, dtype=jnp.float32)),
            ).matrix
        )
    ),
    "losses.total_variation": Case(losses.total_variation),
    "losses.total_variation, isotropic": Case(
        lambda x: losses.total_variation(x, kind="isotropic")
    ),
    "metrics.luma": Case(metrics.luma),
    "metrics.psnr": Case(lambda x: metrics.psnr(x, jnp.zeros_like(x))),
    "metrics.ssim": Case(lambda x: metrics.ssim(x, jnp.flip(x, -2)), side=11),
    "metrics.y_psnr_ssim": Case(lambda x: sum(metrics.y_psnr_ssim(x, 0.9 * x, border=1)), side=13),
    "metrics.lpips": Case(lambda x: metrics.lpips(LPIPS_VGG, x, jnp.flip(x, -2))),
    "metrics.lpips, AlexNet": Case(
        lambda x: metrics.lpips(LPIPS_ALEXNET, x, jnp.flip(x, -2)), side=31
    ),
    "metrics.lpips, a map": Case(lambda x: metrics.lpips(LPIPS_VGG, x, x**2, spatial=True)),
    "metrics.dists": Case(lambda x: metrics.dists(DISTS, x, jnp.flip(x, -2))),
    "color.luminance": Case(color.luminance),
    "color.grey": Case(color.grey),
    "color.replace_luminance": Case(lambda x: color.replace_luminance(x, jnp.flip(x, -2))),
    "color.match_luminance": Case(lambda x: color.match_luminance(x, OTHER), batches=False),
    "color.match_statistics": Case(lambda x: color.match_statistics(x, OTHER), batches=False),
    "color.match_histogram": Case(
        lambda x: color.match_histogram(x, OTHER), batches=False, symbolic=False
    ),
    "color.before_transfer": Case(
        lambda x: color.before_transfer(x, [x], keep_colors="luminance")[1][0], batches=False
    ),
    "color.after_transfer": Case(
        lambda x: color.after_transfer(x, jnp.flip(x, -2), keep_colors="luminance")
    ),
    "alexnet.features": Case(
        lambda x: flat(alexnet.features(ALEXNET, x, ["relu1", "relu3"])), side=31
    ),
    "vgg.features": Case(lambda x: flat(vgg.features(VGG, x, ["conv1_1", "relu2_1"]))),
    "vgg.features, average pooling": Case(
        lambda x: flat(vgg.features(VGG, x, ["pool2"], pooling="avg"))
    ),
    "vgg.features, root mean square pooling": Case(
        lambda x: flat(vgg.features(VGG, x, ["pool2"], pooling="l2"))
    ),
    "objective.targets": Case(
        lambda x: flat(objective.targets(OBJECTIVE, VGG, content=x, styles=[x]).content),
        batches=False,
    ),
    "objective.evaluate": Case(
        lambda x: objective.evaluate(OBJECTIVE, VGG, x, TARGETS)[0], symbolic=False
    ),
    "models.stylize": Case(
        lambda x: models.stylize(
            STYLE_VARIABLES, x, network=STYLE_NETWORK, style_weights=[0.3, 0.7]
        )
    ),
    "models.blend_regions": Case(
        lambda x: models.blend_regions(x, [jnp.flip(x, -2), 0.5 * x], [MASK, 1.0 - MASK]),
        batches=False,
        symbolic=False,
    ),
    "models.blend_with_photo": Case(
        lambda x: models.blend_with_photo(
            x, jnp.flip(x, -2), keep_colors="histogram", strength=0.7
        ),
        batches=False,
    ),
    "models.transfer_style": Case(
        lambda x: models.transfer_style(MIRRORED_VGG, DECODER_VARIABLES, x, [PAINTING]), side=24
    ),
    "models.enlarge": Case(
        lambda x: models.enlarge(ENLARGER_VARIABLES, x, network=ENLARGER), side=5
    ),
}

# They say something about layers and parameters, prepare them, or raise.
NOT_OF_ARRAYS = {
    "models.assemble",  # Of NumPy arrays, for pictures of any size, as the next ones.
    "models.enlarge_tiles",
    "models.match_input",
    "models.repaint",
    "models.repaint_rows",
    "models.stylize_regions",
    "models.stylize_tiles",
    "models.vary",
    "models.paper_style_network",
    "models.paper_super_resolution_network",
    "alexnet.smallest_side",
    "vgg.check_layers",
    "vgg.freeze",  # Specified in test_vgg.py: what it gives up is what this file asks for.
    "vgg.layer_names",
    "vgg.layer_shape",
    "vgg.layer_sizes",  # Of a network: it takes no image.
    "vgg.normalize_filters",
    "vgg.smallest_side",
    "vgg.stride",
}

pytestmark = pytest.mark.usefixtures("compiled_quickly")

each = pytest.mark.parametrize("name", CASES)
each_of_batches = pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.batches])


def image(name: str) -> jax.Array:
    side = CASES[name].side
    return jnp.asarray(random(side, side, 3, seed=2))


def batch(name: str, count: int = BATCH) -> jax.Array:
    side = CASES[name].side
    return jnp.asarray(random(count, side, side, 3, seed=2))


@functools.cache
def jitted(name: str) -> Any:
    """The function compiled, which all tests share; each traces and compiles anew what it adds."""
    return jax.jit(CASES[name].function)


@functools.cache
def total(name: str) -> Any:
    """The function as a scalar whose second derivative is not zero."""
    return jax.jit(lambda x: jnp.sum(jnp.sin(CASES[name].function(x))))


@functools.cache
def slope(name: str) -> Any:
    """The gradient of `total`."""
    return jax.jit(jax.grad(total(name)))


def assert_close(found: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    scale = max(np.max(np.abs(wanted), initial=0.0), 1e-6)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale)


def test_every_public_function_is_here() -> None:
    public = {
        f"{module.__name__.split('.')[-1]}.{name}"
        for module in (losses, metrics, color, alexnet, vgg, objective, models)
        for name, value in vars(module).items()
        if isinstance(value, types.FunctionType)
        and value.__module__.startswith(module.__name__)
        and not name.startswith("_")
    }
    covered = {name.split(" of a ")[0].split(",")[0] for name in CASES}
    assert public == covered | NOT_OF_ARRAYS


def test_options_are_keyword_only() -> None:
    for module in (losses, metrics, color, alexnet, vgg, objective, models):
        for name, value in vars(module).items():
            ours = isinstance(value, types.FunctionType) and "perceptual_jax" in value.__module__
            if name.startswith("_") or not ours:
                continue
            for parameter in inspect.signature(value).parameters.values():
                if parameter.default is not inspect.Parameter.empty:
                    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, (name, parameter)


@each
def test_forward_and_reverse_mode_agree(name: str) -> None:
    """`jax.jvp` along a direction is the gradient's product with it; `jax.linearize` too."""
    function, x = total(name), image(name)
    direction = jnp.asarray(random(*x.shape, seed=3)) - 0.5
    value, tangent = jax.jvp(function, (x,), (direction,))
    gradient = slope(name)(x)
    assert np.isfinite(gradient).all()
    assert_close(tangent, jnp.vdot(gradient, direction), 1e-4)
    linear_value, linear = jax.linearize(function, x)
    assert_close(linear_value, value)
    assert_close(linear(direction), tangent, 1e-4)


@each
def test_jacfwd_is_jacrev(name: str) -> None:
    function, x = total(name), image(name)
    # Through a small change of the picture: its whole Jacobian would be large.
    directions = jnp.asarray(random(3, *x.shape, seed=4)) - 0.5

    def small(shares: jax.Array) -> jax.Array:
        return function(x + jnp.tensordot(shares, directions, 1))

    shares = jnp.zeros(3)
    forward = jax.jit(jax.jacfwd(small))(shares)
    assert_close(forward, jax.jit(jax.jacrev(small))(shares), 1e-4)


@each
def test_has_a_hessian(name: str) -> None:
    function, x = total(name), image(name)
    directions = jnp.asarray(random(3, *x.shape, seed=4)) - 0.5

    def small(shares: jax.Array) -> jax.Array:
        return function(x + jnp.tensordot(shares, directions, 1))

    hessian = np.asarray(jax.jit(jax.hessian(small))(jnp.zeros(3)))
    assert np.isfinite(hessian).all()
    assert_close(hessian, hessian.T, 1e-3)


@each
def test_maps_scans_and_recomputes(name: str) -> None:
    function, xs = jitted(name), batch(name)
    wanted = jnp.stack([function(x) for x in xs])
    assert_close(jax.vmap(function)(xs), wanted)
    assert_close(jax.lax.scan(lambda _, x: (None, function(x)), None, xs)[1], wanted)
    again = jax.jit(jax.grad(jax.checkpoint(total(name))))
    assert_close(again(xs[0]), slope(name)(xs[0]))


@each_of_batches
def test_takes_batches(name: str) -> None:
    function, xs = jitted(name), batch(name)
    assert_close(function(xs), jnp.stack([function(x) for x in xs]))
    assert_close(function(xs[None])[0], function(xs))


@each_of_batches
def test_on_several_devices(name: str) -> None:
    """By `shard_map`, by `pmap`, and on the mesh that `jax.make_mesh` makes by default."""
    function, xs = jitted(name), batch(name)
    wanted, gradient = function(xs), slope(name)(xs)
    mesh = jax.make_mesh((2,), ("data",))
    over = PartitionSpec("data")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=over, out_specs=over)
    sharded = jax.device_put(xs, NamedSharding(mesh, over))
    assert_close(jax.jit(mapped)(sharded), wanted)
    assert_close(jax.pmap(function)(xs[:, None])[:, 0], wanted)
    with jax.set_mesh(mesh):
        assert_close(function(sharded), wanted)
        assert_close(slope(name)(sharded), gradient, 1e-4)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.symbolic])
def test_is_exported_with_sizes_that_are_not_known(name: str) -> None:
    case = CASES[name]
    least = max(16, case.side)
    constraints = [f"h >= {least}", f"w >= {least}"]
    if case.batches:
        shape = jax.export.symbolic_shape("b, h, w, 3", constraints=constraints)
        x = random(2, least + 1, least + 6, 3)
    else:
        shape = jax.export.symbolic_shape("h, w, 3", constraints=constraints)
        x = random(least + 1, least + 6, 3)
    exported = jax.export.export(jitted(name))(jax.ShapeDtypeStruct(shape, jnp.float32))
    assert_close(exported.call(x), jitted(name)(x))


@each
def test_is_exported_for_other_platforms(name: str) -> None:
    """From a CPU, for those that are not there: with no form that is for CPUs."""
    exported = jax.export.export(jitted(name), platforms=["cuda", "tpu"])
    assert exported(image(name)).platforms == ("cuda", "tpu")


@each
def test_with_64_bits_stays_float32(name: str) -> None:
    """Of arrays in float32; a float64 array is taken too."""
    function, x = jitted(name), np.asarray(image(name))
    wanted = np.asarray(function(x))
    with jax.enable_x64(True):
        found = function(jnp.asarray(x, jnp.float32))
        gradient = slope(name)(jnp.asarray(x, jnp.float32))
        wide = function(jnp.asarray(x, jnp.float64))
    assert found.dtype == gradient.dtype == jnp.float32
    assert_close(found, wanted)
    assert_close(wide, wanted)


@each
def test_makes_no_nan_on_the_way(name: str) -> None:
    x = image(name)
    with jax.debug_nans(True):
        jax.jit(jax.value_and_grad(total(name)))(x)


@each
def test_takes_numpy_arrays(name: str) -> None:
    function, x = CASES[name].function, image(name)
    assert_close(function(np.asarray(x)), jitted(name)(x))


@each
def test_takes_bfloat16(name: str) -> None:
    function, x = jitted(name), image(name).astype(jnp.bfloat16)
    gradient = slope(name)(x)
    assert gradient.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    assert_close(function(x), function(x.astype(jnp.float32)), 0.02)


@pytest.mark.parametrize(
    "name", [n for n in CASES if not n.startswith(("losses", "objective.targets"))]
)
def test_refuses_what_is_no_image(name: str) -> None:
    function, x = CASES[name].function, np.asarray(image(name))
    with pytest.raises(ValueError, match="floating point"):
        function((255 * x).astype(np.uint8))
    # Some take any number of channels.
    if not name.startswith(("metrics.luma", "metrics.psnr", "metrics.ssim", "metrics.y_")):
        with pytest.raises(ValueError, match="channels first"):
            function(np.moveaxis(x, -1, -3))
    with pytest.raises(ValueError, match="values from"):
        function(255 * x)


class TestFlatPictures:
    """Gradients are finite where the function is."""

    FLAT = jnp.full((SIDE, SIDE, 3), 0.5)

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    @each
    def test_have_finite_gradients(self, name: str, value: float) -> None:
        if name in ("metrics.psnr", "metrics.y_psnr_ssim") and value == 0.0:
            pytest.skip("infinite for equal pictures")
        side = CASES[name].side
        gradient = slope(name)(jnp.full((side, side, 3), value))
        assert np.isfinite(gradient).all()

    @pytest.mark.parametrize("match", [color.match_luminance, color.match_statistics])
    def test_to_be_matched_have_them_too(self, match: Any) -> None:
        def both(x: jax.Array, reference: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(match(x, reference)))

        for x, other in ((self.FLAT, OTHER), (OTHER, self.FLAT), (self.FLAT, self.FLAT)):
            for gradient in jax.grad(both, (0, 1))(jnp.asarray(x), jnp.asarray(other)):
                assert np.isfinite(gradient).all()

    def test_a_mask_that_is_zero_somewhere_has_the_slope_of_finite_differences(self) -> None:
        features = jnp.asarray(random(4, 4, 2))
        mask = jnp.asarray(random(4, 4, seed=5)).at[0, 0].set(0.0)

        def function(mask: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(losses.gram_matrix(features, mask=mask)))

        step = 1e-2
        slope = (function(mask.at[0, 0].set(step)) - function(mask)) / step
        assert_close(jax.grad(function)(mask)[0, 0], slope, 0.05)
