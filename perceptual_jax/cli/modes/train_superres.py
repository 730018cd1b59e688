"""Train a network that enlarges photos four or eight times (Johnson et al. 2016, section 4.2).

Low-resolution pictures are made from the photos: blurred, each with another sigma, then reduced.
Started again with the same --workdir, a run goes on exactly where it was.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from perceptual_jax import vgg
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

OBJECTIVE = Objective(formulation="johnson", content_layers=("relu2_2",))


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
    flags.objective(define, OBJECTIVE, "content_layers", "content_weight")
    # From a network for pixels, 1,000 steps with 50 at x4 and 100 at x8 draw no grid; with less
    # weight, or many more steps, they do: weights/networks/README.md.
    define.float("pixel_weight", 100.0, "Of the mean squared difference of pixels in 0..255.")
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
    name = f"superres-x{values.factor}-{values.loss}"
    return training_run.main(values, ACCELERATOR, CPU, name=name, begin=_begin)


def _begin(values: Any, config: TrainSettings) -> training_run.Task:
    with usage_errors():
        objective = flags.filled(OBJECTIVE, values, dtype=config.dtype)
    if values.loss == "pixel":
        objective = dataclasses.replace(objective, content_layers=())
    pixel_weight = 0.0 if values.loss == "feature" else values.pixel_weight
    if not math.isfinite(pixel_weight):
        raise UserError(f"--pixel_weight={pixel_weight} must be a finite number")
    if not (objective.layers and objective.content_weight) and not pixel_weight:
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
            constants["vgg"] = vgg.freeze(params, objective.layers, dtype=objective.dtype)
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
