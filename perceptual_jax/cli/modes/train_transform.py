"""Train a network that stylises any photo in one pass (Johnson et al. 2016).

One network learns one style, or several (--style=wave,the_kiss), in strokes of one size, or of
several (--style_size=256,512,1024), on one device or many. Started again with the same --workdir, a
run goes on exactly where it was.
"""

import dataclasses
import functools
import math
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
from perceptual_jax.training import photos, train_losses

# The paper's (Johnson et al. 2016, section 4.1), but for the mean of logarithms.
ACCELERATOR = TrainSettings(image_size=256, batch_size=4, steps=40_000, loss_mean="log")
CPU = dataclasses.replace(ACCELERATOR, image_size=128, batch_size=1, steps=4_000)

_THUMBNAIL_SIDE = 96

# Keep the random numbers of variation and of sizes apart from those of crops.
_OF_VARIATION, _OF_SIZE = 1, 2

# With several sizes, large strokes are for large photos: the short side of a photo is about this
# for strokes of 384, and grows as this power of their size, to 300 pixels at 256 and 900 at 1024,
# times a random factor of up to exp(0.75) either way. A share of them is small whatever the
# strokes. As in the first training of several sizes; nothing else was tried.
_PHOTO_SIDE, _GROWTH, _SPREAD, _LARGEST_SIDE = 413, 0.8, 0.75, 1600
_SMALL_SHARE, _SMALL_SIDE = 0.15, 288


def define_flags(define: flags.Flags) -> None:
    define.group("Styles")
    define.list(
        "style",
        ["starry_night"],
        "The painting, or several with commas: files, or names from examples/styles.",
    )
    define.integers(
        "style_size",
        [384],
        "Long side to which a painting is resized, in pixels: larger gives larger strokes. For "
        "several, ascending, the network learns each style at every size, large ones from parts "
        "of large photos.",
        least=32,
    )
    define.integer(
        "parts",
        1,
        "Crops of each photo that stand for one large picture: they are normalised together, and "
        "together compared with the painting. --batch_size is a multiple of them.",
        least=1,
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
    with usage_errors():
        recorded = flags.settings(flags.filled(PRESETS[values.preset], values))
    return training_run.main(
        values,
        ACCELERATOR,
        CPU,
        name=name,
        begin=_begin,
        parts=values.parts,
        recorded=recorded,
        styles_only=values.freeze_trunk,
    )


def _begin(values: Any, config: TrainSettings) -> training_run.Task:
    if not values.style:
        raise UserError("--style is empty: give a painting")
    if values.variation > 1:
        raise UserError(f"--variation={values.variation} must be between 0 and 1")
    with usage_errors():
        objective = flags.filled(PRESETS[values.preset], values, dtype=config.dtype)
    paintings = []
    for name in values.style:
        picture = images.read(resources.picture(name, "styles"))
        paintings += [images.fit(picture, size) for size in values.style_size]
    params = load_vgg(values.vgg)
    with usage_errors():
        vgg.check_layers(params, objective.layers)
    # For crops, which have 32 pixels at least, every layer of VGG has a pixel.
    least = vgg.smallest_side(objective.layers)
    smallest = paintings[:: len(values.style_size)]
    for name, painting in zip(values.style, smallest, strict=True):
        if (side := min(painting.shape[:2])) < least:
            raise UserError(
                f"the short side of the painting {name} is {side} pixels, and the layers need "
                f"{least}: raise --style_size"
            )
    trained = _network(values, config, paintings)
    flags.say_examples(values, "style")
    crops = _Crops(values, config)
    batch_options: dict[str, Any] = {}
    if trained.stroke_sizes:
        batch_options["side_of"] = crops.photo_side
    if values.variation:
        batch_options["transform"] = crops.varied
    return training_run.Task(
        network=trained,
        loss=train_losses.style_loss(
            trained.network, objective, first_style=trained.network.styles - len(paintings)
        ),
        constants=train_losses.style_constants(objective, params, paintings),
        preview=functools.partial(_preview, trained, config.image_size),
        batch_options=batch_options,
    )


class _Crops:
    """How large photos are, and how varied, by the running numbers of their crops."""

    def __init__(self, values: Any, config: TrainSettings) -> None:
        self._sizes, self._parts = values.style_size, values.parts
        self._variation, self._seed, self._crop = values.variation, config.seed, config.image_size

    def _stroke_size(self, number: int) -> int:
        # Photos get the rows of the network in turn, and rows the sizes.
        return int(self._sizes[number // self._parts % len(self._sizes)])

    def photo_side(self, number: int) -> int:
        """The short side of a photo, for strokes of its size."""
        random = np.random.default_rng((self._seed, number, _OF_SIZE))
        size, spread = self._stroke_size(number), math.exp(random.uniform(-_SPREAD, _SPREAD))
        side = min(_PHOTO_SIDE * (size / 384) ** _GROWTH * spread, _LARGEST_SIDE)
        if random.random() < _SMALL_SHARE:
            side = _SMALL_SIDE * max(1.0, size / 512)
        return round(max(side, photos.SHORT_SIDE_PER_CROP * self._crop))

    def varied(self, photo: np.ndarray, number: int) -> dict[str, np.ndarray]:
        """A crop with a random share of the most variation, the same for all of a photo."""
        share, _ = self._share_and_noise(number - number % self._parts)
        _, noise = self._share_and_noise(number)
        found = vary(
            train_losses.unit_range(photo),
            amount=self._variation * share,
            stroke_size=self._stroke_size(number) if len(self._sizes) > 1 else None,
            seed=noise,
        )
        return {"inputs": images.eight_bits(found)}

    def _share_and_noise(self, number: int) -> tuple[float, int]:
        random = np.random.default_rng((self._seed, number, _OF_VARIATION))
        return random.random(), int(random.integers(2**32))


def _network(values: Any, config: TrainSettings, paintings: list[np.ndarray]) -> TrainedNetwork:
    """A new network; or a trained one, its styles trained on, or new ones added behind them."""
    styles = _styles(values.style)
    if twice := {style for style in styles if styles.count(style) > 1}:
        raise UserError(
            f"--style={','.join(values.style)}: two paintings have the same name, "
            f"{', '.join(twice)}: give one of them another"
        )
    sizes = values.style_size
    stroke_sizes = tuple(sizes) if len(sizes) > 1 else ()
    thumbnails = tuple(
        images.eight_bits(images.fit(painting, _THUMBNAIL_SIDE))
        for painting in paintings[len(sizes) - 1 :: len(sizes)]
    )
    if not values.network:
        if values.freeze_trunk:
            raise UserError(
                "--freeze_trunk adds styles to a trained network: give it with --network"
            )
        paper = values.architecture == "paper"
        network = networks.paper_style_network() if paper else networks.StyleNetwork()
        network = network.clone(
            styles=len(paintings), width=values.width, residual_blocks=values.residual_blocks
        )
        _check_normalization(values, network)
        return training_network.new(
            network, config, styles=styles, stroke_sizes=stroke_sizes, thumbnails=thumbnails
        )

    loaded = load_network(values.network)
    if not isinstance(loaded.network, networks.StyleNetwork):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    _check_normalization(values, loaded.network)
    trained = training_network.continued(loaded, config)
    if trained.stroke_sizes and trained.stroke_sizes != stroke_sizes:
        known = ",".join(map(str, trained.stroke_sizes))
        raise UserError(
            f"--network={values.network} has other sizes of strokes: give --style_size={known}"
        )
    if values.freeze_trunk:
        if stroke_sizes != trained.stroke_sizes:
            raise UserError(
                f"--network={values.network} has strokes of one size: give one --style_size to "
                "add styles to it"
            )
        return _with_styles(trained, styles, thumbnails)
    if trained.styles != styles:
        raise UserError(
            f"--network={values.network} has the styles {','.join(trained.styles)}: give these "
            "with --style to train it on, or --freeze_trunk to add others"
        )
    if stroke_sizes != trained.stroke_sizes:
        params = networks.with_sizes(trained.variables["params"], len(sizes))
        trained = dataclasses.replace(
            trained,
            network=trained.network.clone(styles=len(paintings)),
            variables={**trained.variables, "params": params},
            stroke_sizes=stroke_sizes,
        )
    return dataclasses.replace(trained, thumbnails=thumbnails)


def _check_normalization(values: Any, network: networks.StyleNetwork) -> None:
    """Raises `UserError` for what only instance normalisation can do."""
    if network.normalization == "instance":
        return
    if values.parts > 1 or len(values.style_size) > 1 or values.freeze_trunk:
        raise UserError(
            "--parts, several --style_size and --freeze_trunk need a network with instance "
            "normalisation"
        )


def _styles(paintings: Sequence[str]) -> tuple[str, ...]:
    """The names of the styles, after their paintings."""
    return tuple(style_name(Path(painting).stem) for painting in paintings)


def _with_styles(
    trained: TrainedNetwork, styles: tuple[str, ...], thumbnails: tuple[np.ndarray, ...]
) -> TrainedNetwork:
    """A trained network with more styles, of which the first ones are as they were."""
    if known := set(trained.styles) & set(styles):
        raise UserError(f"--network: it has the style {', '.join(known)} already")
    sizes = max(1, len(trained.stroke_sizes))
    params = networks.with_more_styles(trained.variables["params"], len(styles), sizes=sizes)
    pad = [np.zeros((1, 1, 3), np.uint8)] * (len(trained.styles) - len(trained.thumbnails))
    return dataclasses.replace(
        trained,
        network=trained.network.clone(styles=trained.network.styles + len(styles) * sizes),
        variables={**trained.variables, "params": params},
        styles=(*trained.styles, *styles),
        thumbnails=(*trained.thumbnails, *pad, *thumbnails),
    )


def _preview(trained: TrainedNetwork, side: int, variables: Any, path: Path) -> None:
    """Writes the photos of examples/content, which are not trained on, and each in every style.

    Of several sizes of strokes it shows the middle one.
    """
    shown = [
        images.fit(images.read(resources.picture(name, "content")), max(256, side))
        for name in resources.example_names("content")
    ]
    stylize = functools.partial(stylization.stylize_batch, variables, network=trained.network)
    rows = [shown] + [
        [np.asarray(stylize(photo[None], style_weights=weights)[0]) for photo in shown]
        for weights in (trained.style_weights({style: 1.0}) for style in trained.styles)
    ]
    images.write(path, image_grid.draw(rows, row_labels=["photo", *trained.styles]))
