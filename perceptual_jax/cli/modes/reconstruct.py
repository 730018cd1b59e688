"""Show what the network's layers keep of a photo and a painting (Gatys et al. 2015, fig. 1 and 3).

Figure 1 reconstructs the photo from one layer at a time, and the painting's style from more and
more layers. Figure 3 varies the weight of content against style, by style layers. Every cell starts
from white noise, and all of a figure are optimised side by side in one program.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import objective, synthesis, vgg
from perceptual_jax.cli import flags, memory, synthesis_run
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.io import image_grid, images, resources
from perceptual_jax.io.storage import local_path
from perceptual_jax.pretrained.vgg import load_vgg

LAYERS = tuple(f"conv{block}_1" for block in range(1, 6))
# Figure 3's columns. Content is taken at conv4_2, as in the paper's paintings.
RATIOS = (1e-5, 1e-4, 1e-3, 1e-2)
CONTENT_LAYER = "conv4_2"
STYLE_WEIGHT = 1e3
# Growing sets of style layers, whose total weighs the same in every cell, and their labels.
STYLES = [
    {f"style/{layer}": STYLE_WEIGHT / count for layer in LAYERS[:count]}
    for count in range(1, len(LAYERS) + 1)
]
STYLE_LABELS = [LAYERS[0], *(f"… {layer}" for layer in LAYERS[1:])]


def define_flags(define: flags.Flags) -> None:
    define.group("Figure")
    define.enum("figure", "1", ["1", "3"], "Which of the paper's figures.")
    define.string("content", "chelsea", "The photo: a file, or a name from examples/content.")
    define.string("style", "starry_night", "The painting: a file, or a name from examples/styles.")
    define.string("output", None, "The picture to write; figure1.png or figure3.png by default.")
    define.integer("image_size", 192, "Long side of each cell, in pixels.", least=16)
    flags.objective(define, objective.Objective(pooling="avg"), "pooling")
    flags.optimization(define, synthesis.Optimizer(), steps=150, steps_text="Iterations.")
    define.boolean("check_memory", True, "Refuse a size that will not fit into memory.")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A grid of cells, row by row, that differ in the weights of the terms alone."""

    objective: objective.Objective
    row_labels: list[str]
    column_labels: list[str]
    term_weights: Sequence[Mapping[str, float]]

    def drawn(self, cells: np.ndarray) -> np.ndarray:
        """The picture of it, of cells (B, H, W, 3)."""
        columns = len(self.column_labels)
        rows = [list(cells[start : start + columns]) for start in range(0, len(cells), columns)]
        return image_grid.draw(rows, row_labels=self.row_labels, column_labels=self.column_labels)


def figure1(pooling: str) -> Figure:
    """Content from each layer in the first row, style from each growing set in the second."""
    return Figure(
        objective.Objective(content_layers=LAYERS, style_layers=LAYERS, pooling=pooling),
        ["content", "style"],
        STYLE_LABELS,
        [{f"content/{layer}": 1.0} for layer in LAYERS] + STYLES,
    )


def figure3(pooling: str) -> Figure:
    """alpha / beta from left to right, sets of style layers from top to bottom."""
    content = [{f"content/{CONTENT_LAYER}": STYLE_WEIGHT * ratio} for ratio in RATIOS]
    return Figure(
        objective.Objective(content_layers=(CONTENT_LAYER,), style_layers=LAYERS, pooling=pooling),
        STYLE_LABELS,
        [f"{ratio:.0e}".replace("e-0", "e-") for ratio in RATIOS],
        [alpha | beta for beta in STYLES for alpha in content],
    )


def main(values: Any) -> int:
    with usage_errors():
        # The pixels themselves, as in the paper: where conv1_1 alone decides, nothing says where
        # light and dark should be, and large steps of large shapes leave a dark middle.
        optimizer = flags.filled(synthesis.Optimizer(low_frequency_gain=0.0), values)
    output = local_path(values.output or f"figure{values.figure}.png")
    images.check_writable(output)
    photo = images.read(resources.picture(values.content, "content"))
    painting = images.read(resources.picture(values.style, "styles"))
    size = images.size_for(photo.shape[:2], values.image_size)
    painting_size = images.size_for(painting.shape[:2], values.image_size)
    figure = (figure1 if values.figure == "1" else figure3)(values.pooling)
    with usage_errors():
        params = synthesis.freeze(load_vgg(values.vgg), figure.objective)
    count = len(figure.term_weights)
    needed = vgg.smallest_side(figure.objective.layers)
    if min(*size, *painting_size) < needed:
        raise UserError(f"the short side needs at least {needed} pixels: raise --image_size")
    if values.check_memory:
        memory.check(figure.objective, params, size, optimizer=optimizer, images=count)
    images.check_size(output, figure.drawn(np.zeros((count, *size, 3), np.float32)).shape[:2])
    photo, painting = images.resize(photo, size), images.resize(painting, painting_size)

    # A cell has few of the terms, the others weigh 0. The weight of the range is the same in all.
    term_weights = {
        name: np.array([cell.get(name, 0.0) for cell in figure.term_weights])
        for name in figure.objective.term_weights()
    }
    term_weights["range"] = np.full(count, objective.GATYS.term_weights()["range"])
    compute_targets = jax.jit(functools.partial(objective.targets, figure.objective))
    reports = synthesis.run(
        figure.objective,
        params,
        synthesis.white_noise((count, *size, 3), values.seed),
        compute_targets(params, content=photo, styles=[painting]),
        steps=values.steps,
        optimizer=optimizer,
        term_weights=term_weights,
    )
    settings = flags.record("reconstruct", values)

    def write(path: Path, best: np.ndarray, iterations: int) -> None:
        images.write(path, figure.drawn(best), settings={**settings, "iterations": iterations})

    flags.say_examples(values, "content", "style")
    return synthesis_run.run(
        reports,
        [(size, values.steps)],
        output=output,
        write=write,
        settings=settings,
        advice="The same command begins again.",
    )
