"""A trained network with what it was trained for, and the photos that it is tried on."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout that this is in.

from perceptual_jax.cli.errors import UserError
from perceptual_jax.io import images, resources
from perceptual_jax.io.storage import pictures_in
from perceptual_jax.models import stylization
from perceptual_jax.models.networks import StyleNetwork, is_style_parameter
from perceptual_jax.objective import JOHNSON, Objective
from perceptual_jax.pretrained import networks as pretrained_networks
from perceptual_jax.pretrained.networks import TrainedNetwork

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network for style transfer, and its training.

    Attributes:
      name: by which it was asked for.
      trained: the network as its file has it.
      variables: its variables, on the device.
      aim: the objective that it was trained for.
      stroke_size: of its strokes, in pixels, the size at which it has seen the paintings.
    """

    name: str
    trained: TrainedNetwork
    variables: Any
    aim: Objective
    stroke_size: int

    def style_weights(self, style: str) -> np.ndarray:
        """That style alone, `(rows,)`."""
        size = self.stroke_size if self.trained.stroke_sizes else None
        try:
            return self.trained.style_weights({style: 1.0}, stroke_size=size)
        except ValueError as error:
            raise UserError(f"{self.name}: {error}") from error

    def alone(self, style: str) -> TrainedNetwork:
        """A network of that style, which peers and files then need not choose."""
        weights = self.style_weights(style)

        def of_style(path: Any, leaf: np.ndarray) -> np.ndarray:
            return weights[None] @ leaf if is_style_parameter(path) else leaf

        variables = jax.tree_util.tree_map_with_path(of_style, self.trained.variables)
        return dataclasses.replace(
            self.trained,
            network=self.trained.network.clone(styles=1),
            variables=variables,
            styles=(style,),
            stroke_sizes=(),
            thumbnails=(),
        )

    def stylize(self, photo: Any, style: str) -> jax.Array:
        """The picture `(H, W, 3)` of a photo, clipped to [0, 1] as when it is written."""
        weights = self.style_weights(style)
        return stylization.stylize_batch(
            self.variables, photo[None], network=self.trained.network, style_weights=weights
        )[0]

    def painting(self, style: str) -> np.ndarray:
        """The painting of a style, at the size at which the network has seen it."""
        paintings = self.trained.settings["style"]
        named = {pretrained_networks.style_name(Path(x).stem): x for x in paintings}
        picture = images.read(resources.picture(named.get(style, style), "styles"))
        return images.resize(picture, images.size_for(picture.shape[:2], self.stroke_size))


def load(name_or_path: str, *, stroke_size: int | None = None) -> Subject:
    """The network in a file, or the shipped one of that name.

    Args:
      stroke_size: of its strokes, by default the middle one of those that it has.

    Raises:
      UserError: there is none, or it does not say what it was trained for.
    """
    found = pretrained_networks.load_network(name_or_path)
    settings = found.settings
    if not isinstance(found.network, StyleNetwork) or "style_size" not in settings:
        raise UserError(f"{name_or_path} is no style network trained by --mode=train_transform")
    told: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(Objective)
        if field.name != "dtype" and (value := settings.get(field.name)) is not None
    }
    aim = dataclasses.replace(JOHNSON, **told)
    sizes = found.stroke_sizes or (settings["style_size"],)
    size = stroke_size or sizes[len(sizes) // 2]
    return Subject(name_or_path, found, jax.device_put(found.variables), aim, size)


def square(path: Path, side: int) -> np.ndarray:
    """The middle of a photo, `(side, side, 3)`: one shape for all, so one compiled program."""
    photo = images.read(path)
    least = min(photo.shape[:2])
    top, left = ((length - least) // 2 for length in photo.shape[:2])
    return images.resize(photo[top : top + least, left : left + least], (side, side))


def photos_in(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return pictures_in(folder)
