"""Train the decoder with which --mode=stylize paints in the style of any picture.

It learns from photos to invert VGG, and from some paintings, in other colours too, what features
that were moved to a painting's look like. Started again with the same --workdir, a run goes on
exactly where it was.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import vgg
from perceptual_jax.cli import flags, training_flags, training_network, training_run
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.training_flags import TrainSettings
from perceptual_jax.io import image_grid, images, resources
from perceptual_jax.models import networks, stylization, universal, vary
from perceptual_jax.models.networks import Decoder, UniversalNetwork
from perceptual_jax.pretrained.networks import TrainedNetwork, load_network
from perceptual_jax.pretrained.vgg import load_vgg
from perceptual_jax.training import photos, train_losses

# The rate and the crops are those of the shipped decoder, whose batches were of 12.
ACCELERATOR = TrainSettings(image_size=256, batch_size=16, steps=100_000, warmup_steps=200)
CPU = dataclasses.replace(ACCELERATOR, image_size=128, batch_size=4, steps=20_000)

# Crops are cut out of photos of so many times their side, so that eyes and whole faces are seen.
_LARGEST_PHOTO = 3.0

# For the random numbers of a crop that are not those of its place.
_OF_SIZE, _OF_VARIATION, _OF_COLOR = 1, 2, 3


def define_flags(define: flags.Flags) -> None:
    define.group("Paintings")
    define.list(
        "style",
        None,
        "Paintings to learn from: files or names of examples. By default all examples.",
    )
    define.integers(
        "style_size", [256, 512], "Long sides at which they are seen, in pixels.", least=64
    )
    define.integer(
        "recolored", 2, "Of each painting and size, how many more in random colours.", least=0
    )
    define.integer(
        "parts",
        1,
        "Crops of each photo that stand for one large picture, whose moments are those of all. "
        "--batch_size is a multiple of them.",
        least=1,
    )
    define.float(
        "variation",
        0.5,
        "Most of the grey noise that photos get where they are flat, as in --mode=stylize, each a "
        "random share of it; 0 for none.",
    )
    define.group("Network")
    define.string("network", None, "A decoder to go on with.")
    training_flags.define(define, ACCELERATOR, CPU)
    training_flags.define_run(define)


def main(values: Any) -> int:
    return training_run.main(
        values, ACCELERATOR, CPU, name="decoder", begin=_begin, parts=values.parts
    )


def _begin(values: Any, config: TrainSettings) -> training_run.Task:
    if values.variation > 1:
        raise UserError(f"--variation={values.variation} must be between 0 and 1")
    names = values.style or resources.example_names("styles")
    params = load_vgg("vgg16")
    trained = _network(values, config, params)
    crops = _Crops(values, config)
    batch_options: dict[str, Any] = {"side_of": crops.photo_side}
    if values.variation:
        batch_options["transform"] = crops.varied
    return training_run.Task(
        network=trained,
        loss=train_losses.decoder_loss(trained.network),
        constants=train_losses.decoder_constants(
            params, _paintings(values, names, config.seed), dtype=config.dtype
        ),
        preview=functools.partial(_preview, names[:3], params),
        batch_options=batch_options,
    )


def _network(values: Any, config: TrainSettings, params: vgg.Params) -> TrainedNetwork:
    """A new decoder, or a trained one to go on with."""
    if values.network:
        trained = load_network(values.network)
        if not isinstance(trained.network, Decoder):
            raise UserError(f"--network={values.network} is not a decoder")
        return training_network.continued(trained, config)
    trained = training_network.new(Decoder(), config)
    units = vgg.layer_sizes(params, networks.TRANSPORTED, pooling=networks.ENCODER_POOLING)
    return dataclasses.replace(trained, variables={**trained.variables, "units": units})


def _paintings(values: Any, names: list[str], seed: int) -> list[np.ndarray]:
    """Every painting at every size, as it is and in other colours."""
    found = []
    for index, name in enumerate(names):
        painting = images.read(resources.picture(name, "styles"))
        for size in values.style_size:
            fitted = images.fit(painting, size)
            random = np.random.default_rng((seed, index, size, _OF_COLOR))
            found += [fitted, *(_recolored(fitted, random) for _ in range(values.recolored))]
    return found


def _recolored(painting: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A painting whose colours are turned around their mean, stretched, and moved."""
    turn, _ = np.linalg.qr(random.standard_normal((3, 3)))
    stretch = np.exp(0.4 * random.standard_normal(3))
    moved = (painting - painting.mean((0, 1))) @ (turn * stretch) + random.uniform(0.2, 0.8, 3)
    return np.clip(moved, 0.0, 1.0).astype(np.float32)


class _Crops:
    """How large photos are, and how varied, by the running numbers of their crops."""

    def __init__(self, values: Any, config: TrainSettings) -> None:
        self._sizes, self._parts = values.style_size, values.parts
        self._variation, self._seed, self._crop = values.variation, config.seed, config.image_size

    def photo_side(self, number: int) -> int:
        """The short side of a photo, in pixels."""
        random = np.random.default_rng((self._seed, number, _OF_SIZE))
        scale = random.uniform(photos.SHORT_SIDE_PER_CROP, _LARGEST_PHOTO)
        return round(scale * self._crop)

    def varied(self, photo: np.ndarray, number: int) -> dict[str, np.ndarray]:
        """A crop with a random share of the most variation."""
        random = np.random.default_rng((self._seed, number, _OF_VARIATION))
        found = vary(
            train_losses.unit_range(photo),
            amount=self._variation * random.random(),
            stroke_size=float(random.choice(self._sizes)),
            seed=int(random.integers(2**32)),
        )
        return {"inputs": images.eight_bits(found)}


def _preview(names: list[str], params: vgg.Params, variables: Any, path: Path) -> None:
    """Writes the photos of examples/content: as they are, inverted, and in some styles."""
    grid = networks.UNIVERSAL_GRID
    shown = []
    for name in resources.example_names("content"):
        photo = images.fit(images.read(resources.picture(name, "content")), 256)
        height, width = (side // grid * grid for side in photo.shape[:2])
        shown.append(photo[:height, :width])
    paintings = [images.fit(images.read(resources.picture(name, "styles")), 256) for name in names]
    moments = [universal.style_moments(params, painting) for painting in paintings]
    network = UniversalNetwork(styles=len(names))
    stylize = functools.partial(
        stylization.stylize_batch, universal.variables(params, variables, moments), network=network
    )
    rows = [shown, [np.asarray(_inverted(variables, params, photo[None])[0]) for photo in shown]]
    for weights in np.eye(len(names), dtype=np.float32):
        rows.append([np.asarray(stylize(x[None], style_weights=weights)[0]) for x in shown])
    images.write(path, image_grid.draw(rows, row_labels=["photo", "inverted", *names]))


@jax.jit
def _inverted(variables: Any, params: vgg.Params, photos: jax.Array) -> jax.Array:
    """What the decoder makes of photos' own features."""
    deepest = networks.TRANSPORTED[0]
    features = networks.encode(params, photos, [deepest])[deepest]
    pictures: Any = Decoder().apply(variables, features)
    return jax.numpy.clip(pictures, 0.0, 1.0)
