"""L-BFGS: the two-loop recursion of the textbook, and what keeps it going downhill."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from perceptual_jax.synthesis.lbfgs import LBFGSState, scale_by_lbfgs

# Larger than any step here: no bound.
FAR = 1e6

Function = Callable[[np.ndarray], np.ndarray]


class TwoLoops:
    """Nocedal & Wright 2006, algorithm 7.4, on lists of vectors in float64.

    It differs from the textbook as the module says: a pair that does not curve upwards is skipped,
    and the first direction is the gradient, scaled to a largest entry of 0.05.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def direction(self, point: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        if self.last is not None:
            s, y = point - self.last[0], gradient - self.last[1]
            if s @ y > 1e-3 * np.linalg.norm(s) * np.linalg.norm(y):
                self.pairs = [*self.pairs, (s, y)][-self.memory :]
        self.last = point, gradient
        if not self.pairs:
            return gradient * 0.05 / np.abs(gradient).max()
        q, alphas = gradient.copy(), []
        for s, y in reversed(self.pairs):
            alphas.append((s @ q) / (s @ y))
            q -= alphas[-1] * y
        s, y = self.pairs[-1]
        r = q * (s @ y) / (y @ y)
        for (s, y), alpha in zip(self.pairs, reversed(alphas), strict=True):
            r += s * (alpha - (y @ r) / (s @ y))
        return r


def quadratic(condition: float, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix with eigenvalues from 1 to `condition`, and a minimum."""
    generator = np.random.default_rng(0)
    axes, _ = np.linalg.qr(generator.standard_normal((size, size)))
    matrix = axes @ np.diag(np.geomspace(1.0, condition, size)) @ axes.T
    return matrix, generator.uniform(-1, 1, size)


@functools.cache
def lbfgs(memory: int, max_step: float) -> optax.GradientTransformation:
    """Compiled once for all tests."""
    optimizer = scale_by_lbfgs(memory, max_step)
    return optax.GradientTransformation(optimizer.init, jax.jit(optimizer.update))


def descend(
    optimizer: optax.GradientTransformation, gradient_of: Function, start: Any, steps: int
) -> tuple[list[np.ndarray], list[np.ndarray], Any]:
    """The points and the directions of `steps` steps `x - direction`, and the last state."""
    point = jnp.asarray(start, jnp.float32)
    state, points, directions = optimizer.init(point), [], []
    for _ in range(steps):
        gradient = jnp.asarray(gradient_of(np.asarray(point)), jnp.float32)
        direction, state = optimizer.update(gradient, state, point)
        points.append(np.asarray(point))
        directions.append(np.asarray(direction))
        point = point - direction
    return points, directions, state


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.float64(a).ravel(), np.float64(b).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


class TestRecursion:
    @pytest.mark.parametrize("memory", [1, 2, 5, 11, 30])
    def test_is_the_textbooks(self, memory: int) -> None:
        """12 steps: 5 and less wrap around the ring, 11 fills it exactly, 30 does not."""
        matrix, minimum = quadratic(condition=20.0)

        def gradient_of(x: np.ndarray) -> np.ndarray:
            return matrix @ (np.float64(x) - minimum)

        points, directions, state = descend(
            lbfgs(memory, FAR), gradient_of, np.zeros_like(minimum), steps=12
        )
        textbook = TwoLoops(memory)
        for point, direction in zip(points, directions, strict=True):
            expected = textbook.direction(point.astype(np.float64), gradient_of(point))
            # Nearing the minimum, float32 keeps fewer and fewer digits of the differences.
            tolerance = 1e-3 * np.abs(expected).max()
            np.testing.assert_allclose(direction, expected, rtol=0, atol=tolerance)
        assert len(textbook.pairs) == min(memory, 11)
        assert int(state.pairs) == 11

    def test_the_last_change_of_gradient_is_mapped_to_its_step(self) -> None:
        """The secant equation, `H y = s`: from `H g` at two points, H being linear."""
        matrix, minimum = quadratic(condition=20.0)
        optimizer = lbfgs(5, FAR)
        points, _, state = descend(
            optimizer, lambda x: matrix @ (x - minimum), np.zeros_like(minimum), steps=8
        )
        step = np.asarray(points[-1] - points[-2])
        change = jnp.asarray(matrix @ step, jnp.float32)
        # No step was made since: the pair is skipped, and H is what it was.
        direction, _ = optimizer.update(change, state, jnp.asarray(points[-1]))
        np.testing.assert_allclose(direction, step, rtol=0, atol=1e-3 * np.abs(step).max())

    def test_the_shape_of_the_parameters_does_not_matter(self) -> None:
        matrix, minimum = quadratic(condition=20.0)
        flat, cube = (
            descend(
                lbfgs(2, FAR),
                lambda x: (matrix @ (x.ravel() - minimum)).reshape(x.shape),
                np.zeros(shape),
                steps=6,
            )[1]
            for shape in ((24,), (2, 4, 3))
        )
        for a, b in zip(flat, cube, strict=True):
            np.testing.assert_allclose(a, b.ravel(), rtol=0, atol=1e-5)

    def test_solves_an_ill_conditioned_quadratic(self) -> None:
        """Where gradient descent, at its best step size, has hardly begun."""
        matrix, minimum = quadratic(condition=1e3)

        def value(x: np.ndarray) -> float:
            return float((x - minimum) @ matrix @ (x - minimum) / 2)

        points, _, _ = descend(
            lbfgs(30, FAR), lambda x: matrix @ (x - minimum), np.zeros(24), steps=120
        )
        x = np.zeros(24)
        for _ in range(120):
            x = x - 2 / (1 + 1e3) * matrix @ (x - minimum)
        first = value(np.zeros(24))
        assert value(x) > 1e-3 * first
        assert min(value(point.astype(np.float64)) for point in points) < 1e-8 * first


class TestStep:
    @pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
    def test_the_first_is_along_the_gradient_whatever_its_size(self, scale: float) -> None:
        """Its largest entry is 0.05: of the scale of the objective nothing is known yet."""
        gradient = jnp.array([1.0, -4.0, 2.0]) * scale
        optimizer = lbfgs(5, 0.2)
        direction, _ = optimizer.update(gradient, optimizer.init(jnp.zeros(3)), jnp.zeros(3))
        # By hand: 0.05 / 4 = 0.0125.
        np.testing.assert_allclose(direction, [0.0125, -0.05, 0.025], rtol=1e-6)

    def test_no_entry_exceeds_the_bound_and_the_direction_is_kept(self) -> None:
        """From one point with one history, with a bound and without."""
        matrix, minimum = quadratic(condition=5.0)
        start = minimum + 3.0
        points, directions, _ = descend(
            lbfgs(5, FAR), lambda x: matrix @ (x - minimum), start, steps=2
        )
        bounded = lbfgs(5, 0.2)
        state = bounded.init(jnp.asarray(points[0]))
        for point in points:
            gradient = jnp.asarray(matrix @ (point - minimum), jnp.float32)
            direction, state = bounded.update(gradient, state, jnp.asarray(point))
        assert np.abs(directions[-1]).max() > 0.2
        np.testing.assert_allclose(np.abs(direction).max(), 0.2, rtol=1e-6)
        assert cosine(direction, directions[-1]) > 1 - 1e-6

    @pytest.mark.parametrize("max_step", [0.01, 0.001])
    def test_the_first_is_bounded_too(self, max_step: float) -> None:
        optimizer = lbfgs(5, max_step)
        gradient = jnp.array([1.0, -4.0, 2.0])
        direction, _ = optimizer.update(gradient, optimizer.init(jnp.zeros(3)), jnp.zeros(3))
        np.testing.assert_allclose(direction, gradient * max_step / 4, rtol=1e-6)

    def test_a_step_within_the_bound_is_not_changed(self) -> None:
        matrix, minimum = quadratic(condition=5.0)
        found = [
            descend(lbfgs(5, bound), lambda x: matrix @ (x - minimum), minimum + 0.1, steps=5)[1]
            for bound in (FAR, 0.5)
        ]
        assert max(np.abs(direction).max() for direction in found[0]) < 0.5
        np.testing.assert_allclose(found[1], found[0], rtol=1e-6)

    def test_at_a_minimum_there_is_none(self) -> None:
        _, directions, _ = descend(lbfgs(3, 0.2), np.zeros_like, np.ones(4), steps=4)
        np.testing.assert_array_equal(directions, np.zeros((4, 4)))

    def test_at_the_minimum_that_was_found_there_is_none(self) -> None:
        """The memory is full, the gradient vanishes, and nothing is divided by it."""
        optimizer = lbfgs(2, FAR)
        points, directions, state = descend(optimizer, lambda x: x, np.ones(4), steps=6)
        assert int(state.pairs) > 0
        direction, _ = optimizer.update(jnp.zeros(4), state, jnp.asarray(points[-1]))
        np.testing.assert_allclose(direction, np.zeros(4), atol=1e-6)
        assert np.isfinite(directions).all()


class TestCurvature:
    """The sum of cosines at 0.3 curves downwards: its minimum, at pi, is beyond the inflection."""

    START = np.array([0.3, 0.2, 0.1])

    @staticmethod
    def gradient_of(x: np.ndarray) -> np.ndarray:
        return -np.sin(x)

    def test_a_pair_that_curves_downwards_is_skipped(self) -> None:
        points, directions, state = descend(lbfgs(5, 0.2), self.gradient_of, self.START, steps=3)
        for before, after in itertools.pairwise(points):
            assert (after - before) @ (self.gradient_of(after) - self.gradient_of(before)) < 0
        assert int(state.pairs) == 0
        for point, direction in zip(points, directions, strict=True):
            assert cosine(direction, self.gradient_of(point)) == pytest.approx(1.0)

    def test_optaxs_own_then_points_uphill(self) -> None:
        """Why there is another: `H` from a pair of negative curvature is not positive definite."""
        points, directions, _ = descend(
            optax.scale_by_lbfgs(memory_size=5), self.gradient_of, self.START, steps=2
        )
        assert cosine(directions[1], self.gradient_of(points[1])) < -0.5

    def test_the_minimum_is_found_all_the_same(self) -> None:
        points, _, _ = descend(lbfgs(5, 0.2), self.gradient_of, self.START, steps=60)
        np.testing.assert_allclose(points[-1], np.full(3, np.pi), atol=1e-4)

    def test_pairs_kept_before_stay(self) -> None:
        optimizer = lbfgs(2, FAR)
        state = optimizer.init(jnp.zeros(2))
        for point, gradient in (
            ([1.0, 1.0], [1.0, 2.0]),
            ([0.0, 0.0], [0.0, 0.0]),  # s = y / (1, 2): upwards
            ([0.5, 0.0], [-1.0, 0.0]),  # s = (0.5, 0), y = (-1, 0): downwards
        ):
            _, state = optimizer.update(jnp.array(gradient), state, jnp.array(point))
        assert int(state.pairs) == 1
        np.testing.assert_array_equal(state.s, [[-1.0, -1.0], [0.0, 0.0]])
        np.testing.assert_array_equal(state.y, [[-1.0, -2.0], [0.0, 0.0]])

    def test_a_direction_is_never_uphill(self) -> None:
        """Along a walk over hills and valleys, whose pairs are of both kinds."""

        def gradient_of(x: np.ndarray) -> np.ndarray:
            return 0.2 * x + 3.0 * np.cos(3.0 * x) * np.arange(1, 7)

        points, directions, state = descend(
            lbfgs(4, 0.2), gradient_of, np.linspace(-2, 2, 6), steps=40
        )
        assert 4 < int(state.pairs) < 39
        for point, direction in zip(points, directions, strict=True):
            assert cosine(direction, gradient_of(point)) > 0


class TestTrees:
    """Several arrays are one vector."""

    MATRIX, MINIMUM = quadratic(condition=20.0)

    def tree_of(self, flat: Any, dtypes: Any = (jnp.float32, jnp.float32)) -> dict[str, Any]:
        flat = jnp.asarray(flat)
        return {
            "a": flat[:10].astype(dtypes[0]).reshape(5, 2),
            "b": (flat[10:20].astype(dtypes[1]), flat[20:].astype(dtypes[1]).reshape(2, 2)),
        }

    def flat_of(self, tree: Any) -> np.ndarray:
        return np.concatenate([np.ravel(np.float64(leaf)) for leaf in jax.tree.leaves(tree)])

    def descend(self, start: Any, steps: int = 8) -> tuple[list[np.ndarray], Any]:
        """The points, each as one vector, and the last direction as it is."""
        optimizer = lbfgs(3, 0.2)
        tree, state, points = start, optimizer.init(start), []
        direction: Any = None
        for _ in range(steps):
            points.append(self.flat_of(tree))
            gradient = self.MATRIX @ (points[-1] - self.MINIMUM)
            gradient = jax.tree.map(
                lambda g, x: g.astype(x.dtype), self.tree_of(jnp.asarray(gradient)), tree
            )
            direction, state = optimizer.update(gradient, state, tree)
            tree = optax.tree.sub(tree, direction)
        return points, direction

    def test_are_one_vector(self) -> None:
        zeros = np.zeros(24, np.float32)
        alone, _, _ = descend(
            lbfgs(3, 0.2), lambda x: self.MATRIX @ (x - self.MINIMUM), zeros, steps=8
        )
        found, _ = self.descend(self.tree_of(zeros))
        np.testing.assert_allclose(found, alone, atol=1e-5)

    def test_of_float64_keep_their_precision(self) -> None:
        """The textbook, without bounds, to eight digits."""
        with jax.enable_x64(True):
            optimizer = scale_by_lbfgs(3, FAR)
            point, state, textbook = jnp.zeros(24), optimizer.init(jnp.zeros(24)), TwoLoops(3)
            for _ in range(8):
                gradient = self.MATRIX @ (np.asarray(point) - self.MINIMUM)
                direction, state = optimizer.update(jnp.asarray(gradient), state, point)
                assert direction.dtype == jnp.float64
                expected = textbook.direction(np.asarray(point), gradient)
                np.testing.assert_allclose(direction, expected, rtol=0, atol=1e-8)
                point = point - direction

    def test_of_several_types_go_together(self) -> None:
        """The direction has the gradient's types; what is remembered is never of 16 bits."""
        start = self.tree_of(np.zeros(24, np.float32), (jnp.bfloat16, jnp.float32))
        points, direction = self.descend(start, steps=20)
        assert direction["a"].dtype == jnp.bfloat16
        assert direction["b"][0].dtype == jnp.float32
        state = lbfgs(3, 0.2).init(start)
        assert {leaf.dtype for leaf in jax.tree.leaves((state.s, state.sy))} == {
            np.dtype(np.float32)
        }
        # bfloat16 has 8 bits of precision, and the minimum's entries are up to 1.
        np.testing.assert_allclose(points[-1], self.MINIMUM, atol=0.02)


class TestMistakes:
    def test_an_update_needs_the_parameters(self) -> None:
        optimizer = scale_by_lbfgs(3, 0.2)
        with pytest.raises(ValueError, match="needs the parameters at which the gradient"):
            optimizer.update(jnp.ones(3), optimizer.init(jnp.zeros(3)))

    @pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
    def test_parameters_are_real(self, dtype: Any) -> None:
        with pytest.raises(ValueError, match="real floating-point parameters, got"):
            scale_by_lbfgs(3, 0.2).init({"a": jnp.zeros(3), "b": jnp.zeros(3, dtype)})

    @pytest.mark.parametrize(
        ("memory", "max_step", "message"),
        [
            (0, 0.2, "memory must be at least 1, got 0"),
            (3, 0.0, "max_step must be positive, got 0.0"),
            (3, float("nan"), "max_step must be positive, got nan"),
        ],
    )
    def test_settings_make_sense(self, memory: int, max_step: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            scale_by_lbfgs(memory, max_step)


class TestInJax:
    @staticmethod
    def walk(start: jax.Array) -> tuple[jax.Array, LBFGSState]:
        scales = jnp.linspace(1.0, 9.0, start.size).reshape(start.shape)
        optimizer = scale_by_lbfgs(3, 0.2)

        def step(_: Any, carry: Any) -> Any:
            point, state = carry
            direction, state = optimizer.update(scales * point, state, point)
            return point - direction, state

        return jax.lax.fori_loop(0, 6, step, (start, optimizer.init(start)))

    def test_many_side_by_side_are_each_alone(self) -> None:
        """In a loop under `jit` and `vmap`, from starts so different that the pairs differ."""
        starts = jnp.array([[1.0, -2.0, 0.5], [0.01, 0.02, -0.01], [0.0, 0.0, 0.0]])
        ends, states = jax.jit(jax.vmap(self.walk))(starts)
        for start, end, pairs in zip(starts, ends, states.pairs, strict=True):
            alone, state = jax.jit(self.walk)(start)
            np.testing.assert_allclose(end, alone, rtol=1e-4, atol=1e-6)
            assert pairs == state.pairs

    def test_trees_side_by_side_are_arrays_side_by_side(self) -> None:
        starts = jnp.array([[1.0, -2.0, 0.5], [0.01, 0.02, -0.01]])
        scales = jnp.linspace(1.0, 9.0, 3)
        optimizer = scale_by_lbfgs(3, 0.2)

        def split(x: jax.Array) -> dict[str, jax.Array]:
            return {"a": x[..., 0], "b": x[..., 1:]}

        def step(_: Any, carry: Any) -> Any:
            point, state = carry
            gradient = jax.tree.map(jnp.multiply, split(scales), point)
            direction, state = optimizer.update(gradient, state, point)
            return jax.tree.map(jnp.subtract, point, direction), state

        def walk(start: Any) -> Any:
            return jax.lax.fori_loop(0, 6, step, (start, optimizer.init(start)))[0]

        found = jax.jit(jax.vmap(walk))(split(starts))
        expected, _ = jax.jit(jax.vmap(self.walk))(starts)
        np.testing.assert_allclose(found["a"], expected[:, 0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["b"], expected[:, 1:], rtol=1e-4, atol=1e-6)

    def test_everything_real_is_float32(self) -> None:
        end, state = jax.eval_shape(self.walk, jnp.zeros((2, 2, 3)))
        kinds = {name: value.dtype for name, value in state._asdict().items()}
        counts = {"pairs": jnp.int32, "updates": jnp.int32}
        assert kinds == {name: counts.get(name, jnp.float32) for name in LBFGSState._fields}
        assert end.dtype == jnp.float32
        assert state.s.shape == state.y.shape == (3, 2, 2, 3)
