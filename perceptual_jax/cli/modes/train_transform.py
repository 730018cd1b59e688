"""Train a network that stylises any photo in one pass (Johnson et al. 2016).

One network learns one style, or several (--style=wave,the_kiss), on one device or many. Started
again with the same --workdir, a run goes on exactly where it was.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from perceptual_jax import objective, vgg
from perceptual_jax.cli import flags, memory, training_flags, training_run
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.training_flags import Amount, Defaults
from perceptual_jax.io import image_grid, images, resources
from perceptual_jax.models import networks, stylization
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained import vgg as pretrained_vgg
from perceptual_jax.pretrained.networks import TrainedNetwork
from perceptual_jax.training import train_losses

# On an accelerator the paper's (Johnson et al. 2016, section 4.1).
DEFAULTS = Defaults(
    accelerator=Amount(image_size=256, batch_size=4, steps=40_000),
    cpu=Amount(image_size=128, batch_size=1, steps=4_000),
    optimizer="adam",
    learning_rates={"adam": 1e-3, "muon": 2e-3},
    mean="log",
)

_THUMBNAIL_SIDE = 96


def define_flags(define: flags.Flags) -> None:
    define.group("Styles")
    define.list(
        "style",
        ["starry_night"],
        "The painting, or several with commas: files, or names from examples/styles.",
    )
    define.integer(
        "style_size",
        384,
        "Long side at which a painting is looked at, in pixels: larger gives larger strokes.",
        least=32,
    )
    flags.objective(define, objective.JOHNSON)
    define.group("Network")
    define.enum(
        "architecture",
        "default",
        ["default", "paper"],
        "paper: batch normalisation, transposed convolutions, tanh, padded once; for one style.",
    )
    define.integer("width", 32, "Channels of the first layer.", least=1)
    define.integer("residual_blocks", 5, "In the middle of the network.", least=0)
    define.string("network", None, "A trained network to begin with; its architecture is kept.")
    define.boolean(
        "freeze_trunk",
        False,
        "With --network: add the paintings of --style to it, by training nothing but their own "
        "normalisation parameters.",
    )
    training_flags.define(define, DEFAULTS)
    training_flags.define_folder(define)


def main(values: Any) -> int:
    memory.keep()
    with usage_errors():
        training_flags.join_processes(values)
        aim = flags.filled(objective.JOHNSON, values, dtype=values.dtype)
    if not values.style:
        raise UserError("--style is empty: give a painting")
    name = "-".join(Path(style).stem for style in values.style)
    workdir, output = training_flags.places_of(values, name)
    settings = _settings(values)
    training_run.check_settings(workdir, settings)
    with usage_errors():
        config = training_flags.config_of(values, settings, styles_only=values.freeze_trunk)
    paintings = [_painting(name, values.style_size) for name in values.style]
    source = training_flags.photo_source(values)
    batches = training_flags.batches_of(settings, source)
    params = pretrained_vgg.load_vgg(values.vgg)
    with usage_errors():
        vgg.check_layers(params, aim.layers)
    _check_sizes(values, aim, paintings)
    began = _start(values, paintings, settings)
    code = training_run.run_to_file(
        train_losses.style_loss(began.network, aim, first_style=len(began.styles) - len(paintings)),
        config,
        began,
        output=output,
        store=values.store,
        batches=batches,
        constants=train_losses.style_constants(aim, params, paintings),
        options=training_flags.options_of(values, workdir),
        preview=functools.partial(_preview, began, settings["image_size"]),
    )
    training_flags.tell_skipped(source)
    return code


def _settings(values: Any) -> dict[str, Any]:
    """Every flag that decides the result, as it will be used."""
    return {
        "style": values.style,
        "style_size": values.style_size,
        "vgg": values.vgg,
        **flags.settings(flags.filled(objective.JOHNSON, values)),
        "architecture": values.architecture,
        "width": values.width,
        "residual_blocks": values.residual_blocks,
        "network": values.network,
        "freeze_trunk": values.freeze_trunk,
        **training_flags.settings_of(values, DEFAULTS),
    }


def _painting(name: str, long_side: int) -> np.ndarray:
    return images.fit(images.read(resources.picture(name, "styles")), long_side)


def _check_sizes(values: Any, aim: objective.Objective, paintings: list[np.ndarray]) -> None:
    """VGG has to have all of its layers for a painting; for a crop of 32 pixels it has."""
    needed = vgg.smallest_side(aim.layers)
    for name, painting in zip(values.style, paintings, strict=True):
        if (side := min(painting.shape[:2])) < needed:
            raise UserError(
                f"the short side of the painting {name} is {side} pixels, and the layers need "
                f"{needed}: raise --style_size"
            )


def _start(values: Any, paintings: list[np.ndarray], settings: dict[str, Any]) -> TrainedNetwork:
    names = tuple(Path(name).stem for name in values.style)
    if len(set(names)) < len(names):
        raise UserError(f"--style={','.join(values.style)}: two paintings have the same name")
    thumbnails = tuple(_thumbnail(painting) for painting in paintings)
    if values.network:
        return _continued(values, names, thumbnails, settings)
    if values.freeze_trunk:
        raise UserError("--freeze_trunk adds styles to a trained network: give it with --network")
    paper = values.architecture == "paper"
    network = networks.paper_style_network() if paper else networks.StyleNetwork()
    network = network.clone(
        styles=len(names),
        width=values.width,
        residual_blocks=values.residual_blocks,
        dtype=values.dtype,
    )
    training_flags.check_crop(network, settings)
    with usage_errors():
        variables = networks.initial_variables(network, values.seed)
    return TrainedNetwork(
        network=network,
        variables=variables,
        styles=names,
        thumbnails=thumbnails,
        settings=settings,
    )


def _continued(
    values: Any,
    names: tuple[str, ...],
    thumbnails: tuple[np.ndarray, ...],
    settings: dict[str, Any],
) -> TrainedNetwork:
    """A trained network, its styles trained on, or new ones added behind them."""
    trained = pretrained_networks.load_network(values.network)
    if not isinstance(trained.network, networks.StyleNetwork):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    network = trained.network.clone(dtype=values.dtype)
    settings = {**settings, "steps_before": trained.steps}
    training_flags.check_crop(network, settings)
    if not values.freeze_trunk:
        if trained.styles != names:
            raise UserError(
                f"--network={values.network} has the styles {','.join(trained.styles)}: give these "
                "with --style to train it on, or --freeze_trunk to add others"
            )
        return dataclasses.replace(
            trained, network=network, thumbnails=thumbnails, settings=settings
        )
    known = set(trained.styles) & set(names)
    if known:
        raise UserError(f"--network={values.network} has the style {', '.join(known)} already")
    if network.normalization != "instance":
        raise UserError("--freeze_trunk needs a network with instance normalisation")
    grown = {
        **trained.variables,
        "params": networks.with_more_styles(trained.variables["params"], len(names)),
    }
    pad = [np.zeros((1, 1, 3), np.uint8)] * (len(trained.styles) - len(trained.thumbnails))
    return TrainedNetwork(
        network=network.clone(styles=network.styles + len(names)),
        variables=grown,
        styles=(*trained.styles, *names),
        thumbnails=(*trained.thumbnails, *pad, *thumbnails),
        settings=settings,
    )


def _thumbnail(painting: np.ndarray) -> np.ndarray:
    return images.eight_bits(images.fit(painting, _THUMBNAIL_SIDE))


def _held_out(side: int) -> list[np.ndarray]:
    """The photos of examples/content, on which nothing is trained."""
    return [
        images.fit(images.read(resources.picture(name, "content")), max(256, side))
        for name in resources.example_names("content")
    ]


def _preview(began: TrainedNetwork, side: int, variables: Any, path: Path) -> None:
    """Writes the held-out photos, and a row of them in each style."""
    photos = _held_out(side)
    rows: list[list[np.ndarray]] = [photos]
    for one_hot in np.eye(began.network.styles, dtype=np.float32):
        stylised = [
            stylization.stylize_batch(
                variables, photo[None], network=began.network, style_weights=one_hot
            )
            for photo in photos
        ]
        rows.append([np.asarray(batch[0]) for batch in stylised])
    images.write(path, image_grid.draw(rows, row_labels=["photo", *began.styles]))
