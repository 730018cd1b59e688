"""Train a network that stylises any photo in one pass (Johnson et al. 2016).

One network learns one style, or several (--style=wave,the_kiss), on one device or many. Started
again with the same --workdir, a run goes on exactly where it was.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perceptual_jax import vgg
from perceptual_jax.cli import flags, training_flags, training_network, training_run
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.training_flags import TrainSettings
from perceptual_jax.io import image_grid, images, resources
from perceptual_jax.models import networks, stylization, vary
from perceptual_jax.objective import JOHNSON, PRESETS
from perceptual_jax.pretrained.networks import TrainedNetwork, load_network, style_name
from perceptual_jax.pretrained.vgg import load_vgg
from perceptual_jax.training import train_losses

# The paper's (Johnson et al. 2016, section 4.1), but for the mean of logarithms.
ACCELERATOR = TrainSettings(image_size=256, batch_size=4, steps=40_000, loss_mean="log")
CPU = dataclasses.replace(ACCELERATOR, image_size=128, batch_size=1, steps=4_000)

_THUMBNAIL_SIDE = 96

# Keeps the random numbers of variation apart from those of crops.
_OF_VARIATION = 1


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
        "Long side to which a painting is resized, in pixels: larger gives larger strokes.",
        least=32,
    )
    define.float(
        "variation",
        1.0,
        "Most of the grey noise that photos get where they are flat, each a random share of it, so "
        "that the network knows what --variation of --mode=stylize gives it; 0 for none.",
    )
    flags.objective(define, JOHNSON, presets=("johnson2016", "wasserstein"))
    training_flags.define_network(
        define, width=32, residual_blocks=5, paper="padded once; for one style"
    )
    define.boolean(
        "freeze_trunk",
        False,
        "With --network: add the paintings of --style to it, by training nothing but their own "
        "normalisation parameters.",
    )
    training_flags.define(define, ACCELERATOR, CPU)
    training_flags.define_run(define)


def main(values: Any) -> int:
    name = "-".join(_styles(values.style)).encode()[:200].decode(errors="ignore")
    return training_run.main(
        values, ACCELERATOR, CPU, name=name, begin=_begin, styles_only=values.freeze_trunk
    )


def _begin(values: Any, config: TrainSettings) -> training_run.Task:
    if not values.style:
        raise UserError("--style is empty: give a painting")
    if values.variation > 1:
        raise UserError(f"--variation={values.variation} must be between 0 and 1")
    with usage_errors():
        objective = flags.filled(PRESETS[values.preset], values, dtype=config.dtype)
    paintings = [
        images.fit(images.read(resources.picture(name, "styles")), values.style_size)
        for name in values.style
    ]
    params = load_vgg(values.vgg)
    with usage_errors():
        vgg.check_layers(params, objective.layers)
    # For crops, which have 32 pixels at least, every layer of VGG has a pixel.
    least = vgg.smallest_side(objective.layers)
    for name, painting in zip(values.style, paintings, strict=True):
        if (side := min(painting.shape[:2])) < least:
            raise UserError(
                f"the short side of the painting {name} is {side} pixels, and the layers need "
                f"{least}: raise --style_size"
            )
    trained = _network(values, config, paintings)
    flags.say_examples(values, "style")
    return training_run.Task(
        network=trained,
        loss=train_losses.style_loss(
            trained.network, objective, first_style=len(trained.styles) - len(paintings)
        ),
        constants=train_losses.style_constants(objective, params, paintings),
        preview=functools.partial(_preview, trained, config.image_size),
        batch_options=(
            {"transform": functools.partial(_varied, values.variation, config.seed)}
            if values.variation
            else {}
        ),
    )


def _varied(most: float, seed: int, photo: np.ndarray, number: int) -> dict[str, np.ndarray]:
    """The photo of an example with a random share of the most variation."""
    random = np.random.default_rng((seed, number, _OF_VARIATION))
    amount, noise = most * random.random(), int(random.integers(2**32))
    varied = vary(train_losses.unit_range(photo), amount=amount, seed=noise)
    return {"photos": images.eight_bits(varied)}


def _network(values: Any, config: TrainSettings, paintings: list[np.ndarray]) -> TrainedNetwork:
    """A new network; or a trained one, its styles trained on, or new ones added behind them."""
    styles = _styles(values.style)
    if twice := {style for style in styles if styles.count(style) > 1}:
        raise UserError(
            f"--style={','.join(values.style)}: two paintings have the same name, "
            f"{', '.join(twice)}: give one of them another"
        )
    thumbnails = tuple(
        images.eight_bits(images.fit(painting, _THUMBNAIL_SIDE)) for painting in paintings
    )
    if not values.network:
        if values.freeze_trunk:
            raise UserError(
                "--freeze_trunk adds styles to a trained network: give it with --network"
            )
        paper = values.architecture == "paper"
        network = networks.paper_style_network() if paper else networks.StyleNetwork()
        network = network.clone(
            styles=len(styles), width=values.width, residual_blocks=values.residual_blocks
        )
        return training_network.new(network, config, styles=styles, thumbnails=thumbnails)

    loaded = load_network(values.network)
    if not isinstance(loaded.network, networks.StyleNetwork):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    trained = training_network.continued(loaded, config)
    if values.freeze_trunk:
        return _with_styles(trained, styles, thumbnails)
    if trained.styles != styles:
        raise UserError(
            f"--network={values.network} has the styles {','.join(trained.styles)}: give these "
            "with --style to train it on, or --freeze_trunk to add others"
        )
    return dataclasses.replace(trained, thumbnails=thumbnails)


def _styles(paintings: Sequence[str]) -> tuple[str, ...]:
    """The names of the styles, after their paintings."""
    return tuple(style_name(Path(painting).stem) for painting in paintings)


def _with_styles(
    trained: TrainedNetwork, styles: tuple[str, ...], thumbnails: tuple[np.ndarray, ...]
) -> TrainedNetwork:
    """A trained network with more styles, of which the first ones are as they were."""
    if known := set(trained.styles) & set(styles):
        raise UserError(f"--network: it has the style {', '.join(known)} already")
    if trained.network.normalization != "instance":
        raise UserError("--freeze_trunk needs a network with instance normalisation")
    params = networks.with_more_styles(trained.variables["params"], len(styles))
    pad = [np.zeros((1, 1, 3), np.uint8)] * (len(trained.styles) - len(trained.thumbnails))
    return dataclasses.replace(
        trained,
        network=trained.network.clone(styles=len(trained.styles) + len(styles)),
        variables={**trained.variables, "params": params},
        styles=(*trained.styles, *styles),
        thumbnails=(*trained.thumbnails, *pad, *thumbnails),
    )


def _preview(trained: TrainedNetwork, side: int, variables: Any, path: Path) -> None:
    """Writes the photos of examples/content, which are not trained on, and each in every style."""
    photos = [
        images.fit(images.read(resources.picture(name, "content")), max(256, side))
        for name in resources.example_names("content")
    ]
    stylize = functools.partial(stylization.stylize_batch, variables, network=trained.network)
    rows = [photos] + [
        [np.asarray(stylize(photo[None], style_weights=one_hot)[0]) for photo in photos]
        for one_hot in np.eye(len(trained.styles), dtype=np.float32)
    ]
    images.write(path, image_grid.draw(rows, row_labels=["photo", *trained.styles]))
