"""Train a network that enlarges photos four or eight times (Johnson et al. 2016, section 4.2).

Low-resolution pictures are made from the photos: blurred, each with another sigma, then reduced.
Started again with the same --workdir, a run goes on exactly where it was.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from perceptual_jax.cli import flags, training_flags, training_network, training_run
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.training_flags import TrainSettings
from perceptual_jax.io import image_grid, images, resources
from perceptual_jax.models import networks, super_resolution
from perceptual_jax.objective import Objective
from perceptual_jax.pretrained.networks import TrainedNetwork, load_superres
from perceptual_jax.pretrained.vgg import load_vgg
from perceptual_jax.training import degradation, train_losses

# Crops, batches and steps are the paper's (Johnson et al. 2016, section 4.2).  Where a photo is
# flat, the bicubic enlargement is almost right, and in a mean of logarithms a loss near zero would
# decide every step.  The paper's rate, 1e-3, is close to where a training without normalisation
# breaks down.
ACCELERATOR = TrainSettings(
    image_size=288,
    batch_size=4,
    steps=200_000,
    learning_rate=5e-4,
    warmup_steps=100,
    loss_mean="linear",
)
CPU = dataclasses.replace(ACCELERATOR, image_size=144, batch_size=1, steps=10_000)

# By preset. The weights of `wasserstein` were found by experiment, see weights/networks/README.md.
PRESETS = {
    "johnson2016": Objective(formulation="johnson", content_layers=("relu2_2",)),
    "wasserstein": Objective(
        formulation="normalized",
        style_statistics="wasserstein",
        content_layers=("relu2_2",),
        style_layers=("relu1_1", "relu2_1", "relu3_1"),
        style_layer_weights=(4 / 7, 2 / 7, 1 / 7),
        style_weight=10.0,
    ),
}
# From a network for pixels, 1,000 steps of `johnson2016` with 50 at x4 and 100 at x8 draw no grid;
# with less weight, or many more steps, they do: weights/networks/README.md.
PIXEL_WEIGHTS = {"johnson2016": 100.0, "wasserstein": 1.5e-3}


def define_flags(define: flags.Flags) -> None:
    define.group("Super-resolution")
    flags.factor(define)
    define.enum(
        "loss",
        "both",
        ["feature", "pixel", "both"],
        "feature: features of VGG resemble the photo's; pixel: its pixels, the paper's baseline; "
        "both: the sum of the two.",
    )
    define.enum(
        "degradation",
        "mixed",
        degradation.DEGRADATIONS,
        "How small pictures are made, before the bicubic reduction: mixed, with a blur of sigma "
        "0, 0.1, ... 1 in turn, for pictures of unknown origin; blur, of sigma 1, as in the "
        "paper; bicubic, without.",
    )
    default, *_ = PRESETS.values()
    names = ("content_layers", "content_weight", "style_weight")
    flags.objective(define, default, *names, presets=[*PRESETS])
    define.float(
        "pixel_weight",
        None,
        "Of the mean squared difference of pixels in 0..255. By default "
        + ", ".join(f"{weight:g} for {name}" for name, weight in PIXEL_WEIGHTS.items())
        + ".",
    )
    training_flags.define_network(
        define,
        width=64,
        residual_blocks=4,
        paper="without the bicubic enlargement to which the default adds",
    )
    training_flags.define(define, ACCELERATOR, CPU)
    define.integer(
        "photo_size",
        384,
        "Short side to which larger photos are reduced, which makes them sharp, before crops are "
        "cut out of them, in pixels.",
        least=32,
    )
    training_flags.define_run(define)


def main(values: Any) -> int:
    objective, pixel_weight = _objective(values)
    return training_run.main(
        values,
        ACCELERATOR,
        CPU,
        name=f"superres-x{values.factor}-{values.loss}",
        begin=_begin,
        recorded=flags.settings(objective) | {"pixel_weight": pixel_weight},
    )


def _objective(values: Any, **changes: Any) -> tuple[Objective, float]:
    """What features and textures are compared by, and the weight of pixels, from the flags."""
    with usage_errors():
        objective = flags.filled(PRESETS[values.preset], values, **changes)
    weight = values.pixel_weight
    return objective, PIXEL_WEIGHTS[values.preset] if weight is None else weight


def _begin(values: Any, config: TrainSettings) -> training_run.Task:
    objective, pixel_weight = _objective(values, dtype=config.dtype)
    if values.loss == "pixel":
        objective = dataclasses.replace(
            objective, content_layers=(), style_layers=(), style_layer_weights=None
        )
    if values.loss == "feature":
        pixel_weight = 0.0
    if not (objective.layers and any(objective.term_weights().values())) and not pixel_weight:
        raise UserError(f"--loss={values.loss} has no layer or weight: nothing would be learnt")
    if config.image_size > values.photo_size:
        raise UserError(
            f"--photo_size={values.photo_size} is less than --image_size={config.image_size}"
        )
    trained = _network(values, config)
    constants = {}
    if objective.layers:
        params = load_vgg(values.vgg)
        with usage_errors():
            constants = train_losses.superres_constants(objective, params)
    return training_run.Task(
        network=trained,
        loss=train_losses.superres_loss(trained.network, objective, pixel_weight=pixel_weight),
        constants=constants,
        preview=functools.partial(_preview, trained.network, values.degradation),
        batch_options={
            "short_side": values.photo_size,
            "transform": functools.partial(_degraded, values.factor, values.degradation),
        },
    )


def _network(values: Any, config: TrainSettings) -> TrainedNetwork:
    """A new network, or a trained one to go on with."""
    if values.network:
        return training_network.continued(load_superres(values.network, values.factor), config)
    network = networks.SuperResolutionNetwork(factor=values.factor)
    if values.architecture == "paper":
        network = networks.paper_super_resolution_network(values.factor)
    network = network.clone(width=values.width, residual_blocks=values.residual_blocks)
    return training_network.new(network, config)


def _degraded(factor: int, name: str, photo: np.ndarray, number: int) -> dict[str, np.ndarray]:
    sigma = degradation.sigma_of(name, number)
    return {"low": degradation.degrade(photo, factor, sigma=sigma)}


def _preview(network: Any, name: str, variables: Any, path: Path) -> None:
    """Writes parts of the photos of examples/content: bicubic, by the network, as they are."""
    rows = []
    for index, example in enumerate(resources.example_names("content")):
        photo = images.fit(images.read(resources.picture(example, "content")), 512)
        top, left = ((side - 192) // 2 for side in photo.shape[:2])
        truth = images.eight_bits(photo[top : top + 192, left : left + 192])
        # Mixed, the photos show blurs of sigma 0, 0.3, 0.6 and 0.9.
        low = _degraded(network.factor, name, truth, 3 * index)["low"]
        low = train_losses.unit_range(low)[None]
        bicubic = np.clip(networks.bicubic(low, network.factor)[0], 0.0, 1.0)
        output = super_resolution.enlarge_batch(variables, low, network=network)[0]
        rows.append([bicubic, np.asarray(output), train_losses.unit_range(truth)])
    images.write(path, image_grid.draw(rows, column_labels=["bicubic", "network", "photo"]))
