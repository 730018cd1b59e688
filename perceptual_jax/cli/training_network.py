"""The network of a training run: a new one, a trained one to go on with, and its file."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from perceptual_jax import __version__
from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.messages import say
from perceptual_jax.cli.training_flags import RunOptions, TrainSettings
from perceptual_jax.io import storage
from perceptual_jax.models import networks
from perceptual_jax.pretrained.networks import TrainedNetwork, save


def new(network: Any, config: TrainSettings, **fields: Any) -> TrainedNetwork:
    """A network with random variables; fields are those of `TrainedNetwork`."""
    network = network.clone(dtype=config.dtype)
    check_crop(network, config.image_size)
    with usage_errors():
        variables = networks.initial_variables(network, config.seed)
    return TrainedNetwork(
        network=network, variables=variables, settings={}, **{"styles": (), **fields}
    )


def continued(trained: TrainedNetwork, config: TrainSettings) -> TrainedNetwork:
    """A trained network to go on with; the record keeps how many steps it had."""
    network = trained.network.clone(dtype=config.dtype)
    check_crop(network, config.image_size)
    return dataclasses.replace(trained, network=network, settings={"steps_before": trained.steps})


def check_crop(network: Any, side: int) -> None:
    """Raises `UserError` unless the network can take pictures of the crops' size."""
    factor = getattr(network, "factor", 1)
    if side % factor:
        raise UserError(f"--image_size={side} must be a multiple of {factor}, the factor")
    if side < (least := factor * networks.smallest_side(network)):
        raise UserError(f"the network needs crops of {least} pixels: raise --image_size={side}")


def write(trained: TrainedNetwork, options: RunOptions, *, step: int, steps: int) -> None:
    """Writes the network after so many of all steps to `options.output`, and prints that."""
    output = str(options.output)
    settings = {
        "program": f"perceptual_jax {__version__}",
        **{name: _without_folders(value) for name, value in trained.settings.items()},
        "steps": step,
    }
    trained = dataclasses.replace(trained, settings=settings)
    with usage_errors(), tempfile.TemporaryDirectory() as temporary:
        remote = storage.is_remote(output)
        file = Path(temporary) / "network" if remote else storage.local_path(output)
        try:
            save(file, trained, dtype=options.store)
        except OSError as error:
            raise UserError(
                f"{error}; the same command with another --output writes it from the last "
                "checkpoint"
            ) from error
        if remote:
            storage.put(file, output)
    styles = f"{', '.join(trained.styles)}; " if trained.styles else ""
    say(f"{output}: {styles}{step} of {steps} steps")
    if step < steps:
        folder = options.workdir
        say(f"Stopped early. The same command with --workdir={folder} goes on from there.")


def _without_folders(value: Any) -> Any:
    """Files by their names: in which folders they were here is nothing to a network's users."""
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    return Path(value).name if isinstance(value, str) else value
