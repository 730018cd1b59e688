"""The flags that the modes of super-resolution share."""

from typing import Any

from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.flags import Flags
from perceptual_jax.io.storage import FileError
from perceptual_jax.models import networks
from perceptual_jax.pretrained.networks import TrainedNetwork, load_superres


def define_factor(flags: Flags) -> None:
    flags.integer("factor", 4, "By which each side becomes larger: 4 or 8.", least=4)


def check_factor(values: Any) -> None:
    """Raises `UserError` unless there are networks for the factor."""
    if values.factor not in networks.FACTORS:
        raise UserError(f"--factor={values.factor} must be 4 or 8")


def load_network(name_or_path: str, factor: int) -> TrainedNetwork:
    """The network that `--network` names, for `--factor`."""
    try:
        return load_superres(name_or_path, factor)
    except FileError as error:
        raise UserError(f"--network={name_or_path}: {error}") from error
