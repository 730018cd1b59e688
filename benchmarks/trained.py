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
from perceptual_jax.models.networks import StyleNetwork
from perceptual_jax.objective import JOHNSON, Objective
from perceptual_jax.pretrained import networks as pretrained_networks

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network for style transfer, and its training.

    Attributes:
      name: by which it was asked for.
      network: the module.
      variables: its variables, on the device.
      styles: its styles' names.
      settings: how it was trained.
      steps: in how many updates, in all.
      aim: the objective that it was trained for.
    """

    name: str
    network: StyleNetwork
    variables: Any
    styles: tuple[str, ...]
    settings: dict[str, Any]
    steps: int
    aim: Objective

    def style_weights(self, style: str) -> np.ndarray:
        """That style alone, `(styles,)`."""
        if style not in self.styles:
            raise UserError(f"{self.name} has the styles {', '.join(self.styles)}, not {style!r}")
        return np.eye(len(self.styles), dtype=np.float32)[self.styles.index(style)]

    def stylize(self, photo: Any, style: str) -> jax.Array:
        """The picture `(H, W, 3)` of a photo, clipped to [0, 1] as when it is written."""
        weights = self.style_weights(style)
        return stylization.stylize_batch(
            self.variables, photo[None], network=self.network, style_weights=weights
        )[0]

    def painting(self, style: str) -> np.ndarray:
        """The painting of a style, at the size at which the network has seen it."""
        named = {pretrained_networks.style_name(Path(x).stem): x for x in self.settings["style"]}
        picture = images.read(resources.picture(named.get(style, style), "styles"))
        return images.resize(
            picture, images.size_for(picture.shape[:2], self.settings["style_size"])
        )


def load(name_or_path: str) -> Subject:
    """The network in a file, or the shipped one of that name.

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
    variables = jax.device_put(found.variables)
    return Subject(name_or_path, found.network, variables, found.styles, settings, found.steps, aim)


def square(path: Path, side: int) -> np.ndarray:
    """The middle of a photo, `(side, side, 3)`: one shape for all, so one compiled program."""
    photo = images.read(path)
    least = min(photo.shape[:2])
    top, left = ((length - least) // 2 for length in photo.shape[:2])
    return images.resize(photo[top : top + least, left : left + least], (side, side))


def photos_in(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return pictures_in(folder)
