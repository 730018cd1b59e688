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

from perceptual_jax import objective, vgg
from perceptual_jax.cli import flags, memory, superres_flags, training_flags, training_run
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.training_flags import Amount, Defaults
from perceptual_jax.io import image_grid, images, resources
from perceptual_jax.models import networks, super_resolution
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained import vgg as pretrained_vgg
from perceptual_jax.pretrained.networks import TrainedNetwork
from perceptual_jax.training import degradation, train_losses

# On an accelerator the paper's (Johnson et al. 2016, section 4.2).
# Where a photo is flat, the bicubic enlargement is almost right, and the logarithm of a loss near
# zero would make such photos decide every step: nothing is learnt then.  Without normalisation the
# paper's rate, 1e-3, is near what breaks down.
DEFAULTS = Defaults(
    accelerator=Amount(image_size=288, batch_size=4, steps=200_000),
    cpu=Amount(image_size=144, batch_size=1, steps=10_000),
    optimizer="adam",
    learning_rates={"adam": 5e-4, "muon": 5e-4},
    mean="linear",
    warmup_steps=100,
)

_LOSSES = ("feature", "pixel", "both")


def define_flags(define: flags.Flags) -> None:
    define.group("Super-resolution")
    superres_flags.define_factor(define)
    define.enum(
        "loss",
        "both",
        _LOSSES,
        "feature: features of VGG resemble the photo's; pixel: its pixels, the paper's baseline; "
        "both: the sum of the two.",
    )
    define.enum(
        "degradation",
        "mixed",
        ["mixed", *degradation.SIGMAS],
        "How small pictures are made, before the bicubic reduction: mixed, with a blur of sigma "
        "0, 0.1, ... 1 in turn, for pictures of unknown origin; blur, of sigma 1, as in the "
        "paper; bicubic, without.",
    )
    define.group("Objective")
    define.string(
        "vgg",
        "vgg16",
        "The network of the features: vgg16 (embedded), vgg16-torchvision, vgg19-torchvision "
        "(fetched once), or a file of pretrained_vgg.",
    )
    define.list("content_layers", ["relu2_2"], "Layers at which features are compared.")
    define.float("content_weight", 1.0, "Of the feature reconstruction loss.")
    # From a network for pixels, 1,000 steps with 50 at x4 and 100 at x8 draw no grid; with less
    # weight, or many more steps, they do: weights/networks/README.md.
    define.float("pixel_weight", 100.0, "Of the mean squared difference of pixels in 0..255.")
    define.group("Network")
    define.enum(
        "architecture",
        "default",
        ["default", "paper"],
        "paper: batch normalisation, transposed convolutions, tanh, without the bicubic "
        "enlargement to which the default adds.",
    )
    define.integer("width", 64, "Channels.", least=1)
    define.integer("residual_blocks", 4, "In the middle of the network.", least=0)
    define.string("network", None, "A trained network to begin with; its architecture is kept.")
    training_flags.define(define, DEFAULTS)
    define.integer(
        "photo_size",
        384,
        "Short side to which larger photos are reduced, which makes them sharp, before crops are "
        "cut out of them, in pixels.",
        least=32,
    )
    training_flags.define_folder(define)


def main(values: Any) -> int:
    memory.keep()
    superres_flags.check_factor(values)
    with usage_errors():
        training_flags.join_processes(values)
        aim, pixel_weight = _objective(values)
    workdir, output = training_flags.places_of(values, f"superres-x{values.factor}-{values.loss}")
    settings = _settings(values)
    training_run.check_settings(workdir, settings)
    if (side := settings["image_size"]) > values.photo_size:
        raise UserError(f"--photo_size={values.photo_size} is less than --image_size={side}")
    began = _start(values, settings)
    source = training_flags.photo_source(values)
    with usage_errors():
        config = training_flags.config_of(values, settings)
        batches = training_flags.batches_of(
            settings,
            source,
            short_side=values.photo_size,
            transform=functools.partial(_degraded, values.factor, values.degradation),
        )
    constants = {}
    if aim.layers:
        params = pretrained_vgg.load_vgg(values.vgg)
        with usage_errors():
            vgg.check_layers(params, aim.layers)
        constants = {"vgg": vgg.freeze(params, aim.layers, dtype=aim.dtype)}
    code = training_run.run_to_file(
        train_losses.superres_loss(began.network, aim, pixel_weight=pixel_weight),
        config,
        began,
        output=output,
        store=values.store,
        batches=batches,
        constants=constants,
        options=training_flags.options_of(values, workdir),
        preview=functools.partial(_preview, began.network, values.degradation),
    )
    training_flags.tell_skipped(source)
    return code


def _objective(values: Any) -> tuple[objective.Objective, float]:
    """What features are compared, and the weight of pixels."""
    layers = () if values.loss == "pixel" else tuple(values.content_layers)
    aim = objective.Objective(
        formulation="johnson",
        content_layers=layers,
        content_weight=values.content_weight,
        dtype=values.dtype,
    )
    pixel_weight = 0.0 if values.loss == "feature" else values.pixel_weight
    if not math.isfinite(pixel_weight):
        raise UserError(f"--pixel_weight={pixel_weight} must be a finite number")
    if not (layers and values.content_weight) and not pixel_weight:
        raise UserError(f"--loss={values.loss} has no layer or weight: nothing would be learnt")
    return aim, pixel_weight


def _settings(values: Any) -> dict[str, Any]:
    """Every flag that decides the result, as it will be used."""
    names = (
        "factor",
        "loss",
        "degradation",
        "vgg",
        "content_layers",
        "content_weight",
        "pixel_weight",
        "architecture",
        "width",
        "residual_blocks",
        "network",
        "photo_size",
    )
    return {
        **{name: getattr(values, name) for name in names},
        **training_flags.settings_of(values, DEFAULTS),
    }


def _start(values: Any, settings: dict[str, Any]) -> TrainedNetwork:
    """A new network, or a trained one to go on with."""
    if values.network:
        trained = pretrained_networks.load_superres(values.network, values.factor)
        network: networks.SuperResolutionNetwork = trained.network.clone(dtype=values.dtype)
        training_flags.check_crop(network, settings)
        settings = {**settings, "steps_before": trained.steps}
        return dataclasses.replace(trained, network=network, settings=settings)
    paper = values.architecture == "paper"
    network = (
        networks.paper_super_resolution_network(values.factor)
        if paper
        else networks.SuperResolutionNetwork(factor=values.factor)
    )
    network = network.clone(
        width=values.width, residual_blocks=values.residual_blocks, dtype=values.dtype
    )
    with usage_errors():
        training_flags.check_crop(network, settings)
        variables = networks.initial_variables(network, values.seed)
    return TrainedNetwork(network=network, variables=variables, styles=(), settings=settings)


def _degraded(factor: int, kind: str, photo: np.ndarray, number: int) -> dict[str, np.ndarray]:
    return {"low": degradation.degrade(photo, factor, sigma=_sigma(kind, number))}


def _sigma(kind: str, number: int) -> float:
    return degradation.mixed_sigma(number) if kind == "mixed" else degradation.SIGMAS[kind]


def _preview(network: Any, kind: str, variables: Any, path: Path) -> None:
    """Writes parts of the photos of examples/content: bicubic, by the network, as they are."""
    rows = []
    for index, name in enumerate(resources.example_names("content")):
        photo = images.read(resources.picture(name, "content"))
        truth = _middle(images.eight_bits(images.fit(photo, 512)), 192)
        # Mixed, the photos show blurs of sigma 0, 0.3, 0.6 and 0.9.
        sigma = _sigma(kind, 3 * index)
        low = train_losses.unit_range(degradation.degrade(truth, network.factor, sigma=sigma))
        bicubic = networks.bicubic(low[None], network.factor)[0]
        output = super_resolution.enlarge_batch(variables, low[None], network=network)[0]
        rows.append(
            [
                np.asarray(cell)
                for cell in (np.clip(bicubic, 0.0, 1.0), output, train_losses.unit_range(truth))
            ]
        )
    images.write(path, image_grid.draw(rows, column_labels=["bicubic", "network", "photo"]))


def _middle(picture: np.ndarray, side: int) -> np.ndarray:
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]
