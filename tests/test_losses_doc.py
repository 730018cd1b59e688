"""docs/losses.md: every factor that converts a program's weight into ours, computed both ways.

Each program's convention is written here from its definition, in NumPy, on the features of a tiny
network; ours is the total of an `Objective` whose weights are theirs times the page's factors.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax import losses
from perceptual_jax import objective as objective_lib
from perceptual_jax.objective import Objective
from perceptual_jax.pretrained import vgg as pretrained_vgg
from tests import reference

PAGE = (Path(__file__).parents[1] / "docs" / "losses.md").read_text()

PARAMS = reference.random_vgg(widths=(3, 5, 4, 4, 4))
CONTENT_LAYER = "relu2_2"
STYLE_LAYERS = ("relu1_1", "relu2_1")
SIDE = 16
BATCH = 3
CONTENT_WEIGHT = 3.0
STYLE_WEIGHTS = (50.0, 7.0)
TV_WEIGHT = 2e-3


def table(title: str) -> dict[str, list[str]]:
    """A table's rows by their first cell; it is found by its first header cells."""
    lines = PAGE.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(title))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        rows[first] = others
    return rows


FACTORS = table("| Program | content: `gatys` |")
COLUMNS = {
    "gatys": (0, 2, 5),
    "johnson": (1, 3, 5),
    "johnson_code": (1, 4, 6),
}


def factor(cell: str, channels: int = 0, height: int = 0, width: int = 0) -> float:
    names = {"C": channels, "H": height, "W": width, "N": BATCH, "S": SIDE}
    return float(eval(cell.strip("`"), {"__builtins__": {}}, names))


def mean_square(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.mean((first - second) ** 2))


def half_sum_of_squares(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sum((first - second) ** 2) / 2)


def over_elements(features: np.ndarray) -> np.ndarray:
    return reference.gram(features) / features.size


def over_positions(features: np.ndarray) -> np.ndarray:
    return reference.gram(features) / (features.shape[0] * features.shape[1])


def mean_of_grams_over_elements(features: np.ndarray, style: np.ndarray) -> float:
    return mean_square(over_elements(features), over_elements(style))


def mean_of_grams_over_positions(features: np.ndarray, style: np.ndarray) -> float:
    return mean_square(over_positions(features), over_positions(style))


def sum_of_grams_over_elements(features: np.ndarray, style: np.ndarray) -> float:
    return float(np.sum((over_elements(features) - over_elements(style)) ** 2))


def paper_style(features: np.ndarray, style: np.ndarray) -> float:
    """Gatys et al. 2015, eq. 4, as it is printed: for a painting of the picture's size."""
    height, width, channels = features.shape
    assert style.shape == features.shape
    squares = np.sum((reference.gram(features) - reference.gram(style)) ** 2)
    return float(squares / (4 * channels**2 * (height * width) ** 2))


def half_square_differences(images: np.ndarray, scale: float) -> float:
    """What has the gradient of the Torch programs: pixels with a right and a lower neighbour."""
    pixels = scale * images.astype(np.float64)
    corner = pixels[:, :-1, :-1]
    right, below = pixels[:, :-1, 1:] - corner, pixels[:, 1:, :-1] - corner
    return float((np.sum(right**2) + np.sum(below**2)) / 2)


def mean_square_differences(images: np.ndarray) -> float:
    """fast-style-transfer: either direction over its number of differences in one image."""
    pixels = 255 * images.astype(np.float64)
    return sum(
        float(np.sum(difference**2) / difference[0].size) / len(pixels)
        for difference in (np.diff(pixels, axis=1), np.diff(pixels, axis=2))
    )


def every_square_difference(images: np.ndarray) -> float:
    pixels = 255 * images.astype(np.float64)
    squares = sum(float(np.sum(np.diff(pixels, axis=axis) ** 2)) for axis in (1, 2))
    return squares / len(pixels)


@dataclasses.dataclass(frozen=True)
class Program:
    """A convention: content and style of one image, total variation of a batch."""

    content: Callable[[np.ndarray, np.ndarray], float] = mean_square
    style: Callable[[np.ndarray, np.ndarray], float] = mean_of_grams_over_elements
    total_variation: Callable[[np.ndarray], float] | None = None


PROGRAMS = {
    "Gatys et al. 2015, the paper": Program(half_sum_of_squares, paper_style),
    "Gatys' PyTorch notebook": Program(style=mean_of_grams_over_positions),
    "Johnson et al. 2016, the paper": Program(
        style=sum_of_grams_over_elements, total_variation=every_square_difference
    ),
    "fast-neural-style (Torch, Johnson)": Program(
        total_variation=lambda images: half_square_differences(images, 255)
    ),
    # It has no batches: the mean over ours.
    "neural-style (Torch)": Program(
        total_variation=lambda images: half_square_differences(images, 256) / len(images)
    ),
    "neural-style-pt": Program(),
    "fast-style-transfer (TensorFlow)": Program(total_variation=mean_square_differences),
    "PyTorch's examples/fast_neural_style": Program(),
    "PyTorch's neural style tutorial": Program(),
}


def pictures() -> np.ndarray:
    """Black in the last row and column, whose inner differences the Torch programs leave out."""
    images = reference.random_images(BATCH, SIDE, SIDE, 3)
    images[:, -1], images[:, :, -1] = 0, 0
    return images


IMAGES = pictures()
PHOTO = reference.random_images(SIDE, SIDE, 3, seed=1)
PAINTING = reference.random_images(SIDE, SIDE, 3, seed=2) ** 2


def features(images: np.ndarray) -> dict[str, np.ndarray]:
    return reference.vgg_features(PARAMS, images, "max")


FEATURES, OF_PHOTO, OF_PAINTING = (features(x) for x in (IMAGES, PHOTO[None], PAINTING[None]))


def theirs(program: Program) -> dict[str, float]:
    """The terms of the program's objective of a batch, with the weights at this file's head."""
    found, photo = FEATURES[CONTENT_LAYER], OF_PHOTO[CONTENT_LAYER][0]
    content = np.mean([program.content(found[index], photo) for index in range(BATCH)])
    terms = {f"content/{CONTENT_LAYER}": CONTENT_WEIGHT * float(content)}
    for layer, weight in zip(STYLE_LAYERS, STYLE_WEIGHTS, strict=True):
        painting = OF_PAINTING[layer][0]
        style = np.mean([program.style(FEATURES[layer][i], painting) for i in range(BATCH)])
        terms[f"style/{layer}"] = weight * float(style)
    if program.total_variation is not None:
        terms["total_variation"] = TV_WEIGHT * program.total_variation(IMAGES)
    return terms


def converted(formulation: str, cells: Sequence[str]) -> Objective:
    """The objective whose weights are theirs times the factors of a row."""
    content, style, variation = (cells[column] for column in COLUMNS[formulation])

    def sizes(layer: str) -> tuple[int, int, int]:
        height, width, channels = FEATURES[layer].shape[1:]
        return channels, height, width

    return Objective(
        formulation=formulation,
        content_layers=(CONTENT_LAYER,),
        content_weight=CONTENT_WEIGHT * factor(content, *sizes(CONTENT_LAYER)),
        style_layers=STYLE_LAYERS,
        style_weight=1.0,
        style_layer_weights=tuple(
            weight * factor(style, *sizes(layer))
            for layer, weight in zip(STYLE_LAYERS, STYLE_WEIGHTS, strict=True)
        ),
        tv_weight=TV_WEIGHT * factor(variation) if variation else 0.0,
    )


@functools.partial(jax.jit, static_argnums=0)
def evaluate(
    objective: Objective, found: objective_lib.Targets, images: jax.Array
) -> dict[str, jax.Array]:
    one = functools.partial(objective_lib.evaluate, objective, PARAMS, targets=found)
    return jax.vmap(lambda image: one(image)[1])(images)


@pytest.mark.parametrize("formulation", COLUMNS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_converted_weights_give_the_programs_terms(name: str, formulation: str) -> None:
    objective = converted(formulation, FACTORS[name])
    found = objective_lib.targets(
        objective, PARAMS, content=jnp.asarray(PHOTO), styles=[jnp.asarray(PAINTING)]
    )
    ours = evaluate(objective, found, jnp.asarray(IMAGES))
    expected = theirs(PROGRAMS[name])
    assert set(ours) == set(expected)
    for term, value in expected.items():
        np.testing.assert_allclose(np.mean(ours[term]), value, rtol=1e-5, err_msg=term)


def test_every_program_of_the_page_is_computed() -> None:
    assert set(FACTORS) == set(PROGRAMS)
    assert set(table("| Program | Content |")) == set(PROGRAMS)


def test_every_loss_is_on_the_page() -> None:
    public = [
        name
        for name, value in vars(losses).items()
        if callable(value) and value.__module__ == losses.__name__ and not name.startswith("_")
    ]
    assert len(public) >= 8
    assert not [name for name in public if f"`{name}" not in PAGE]


def test_formulations_differ_by_the_factors_of_the_page() -> None:
    """The paragraph below the table of formulations."""
    found, other = (jnp.asarray(x["relu2_1"][0], jnp.float32) for x in (FEATURES, OF_PAINTING))
    height, width, channels = found.shape
    np.testing.assert_allclose(
        losses.gatys_content(found, other),
        channels * height * width / 2 * losses.feature_reconstruction(found, other),
        rtol=1e-5,
    )
    style = losses.style_reconstruction(found, other)
    np.testing.assert_allclose(style, 4 * losses.gatys_style(found, other), rtol=1e-5)
    mean = losses.style_reconstruction(found, other, reduction="mean")
    np.testing.assert_allclose(style, channels**2 * mean, rtol=1e-5)


def test_activations_are_those_of_0_to_255() -> None:
    np.testing.assert_allclose(
        pretrained_vgg.load_vgg()["normalization"]["std"], [1 / 255] * 3, rtol=1e-6
    )


def test_the_example_runs_and_its_two_objectives_are_the_same() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    notebook, the_same = names["notebook"], names["the_same"]
    channels = names["layers"]
    for layer, weight in the_same.term_weights().items():
        kind, layer_name = layer.split("/")
        # `style_reconstruction` is C^2 times its mean.
        scale = channels[layer_name] ** 2 if kind == "style" else 1
        np.testing.assert_allclose(notebook.term_weights()[layer], weight * scale)
