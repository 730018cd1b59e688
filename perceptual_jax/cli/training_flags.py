"""The flags that every mode which trains a network has, and what is made of them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.flags import Flags
from perceptual_jax.cli.training_run import Options
from perceptual_jax.io import resources
from perceptual_jax.models import networks
from perceptual_jax.training import photos
from perceptual_jax.training.step import MEANS, OPTIMIZERS, SCHEDULES, TrainConfig


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much a network is trained: sides of crops in pixels, photos per step, steps."""

    image_size: int
    batch_size: int
    steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a mode takes where the flags are silent.

    Attributes:
      accelerator, cpu: how much, by device.
      optimizer: see `TrainConfig`, as for the others.
      learning_rates: by optimiser.
      mean: of the photos' losses.
      warmup_steps: steps over which the learning rate rises.
    """

    accelerator: Amount
    cpu: Amount
    optimizer: str
    learning_rates: Mapping[str, float]
    mean: str
    warmup_steps: int = 0

    def amount(self) -> Amount:
        """That of the device that JAX has found."""
        return self.cpu if jax.default_backend() == "cpu" else self.accelerator


def define(flags: Flags, defaults: Defaults) -> None:
    """How the weights of a network are trained."""
    accelerator, cpu = defaults.accelerator, defaults.cpu
    flags.group("Photos")
    flags.string(
        "data",
        None,
        "Photos to train on: a folder, a text file of paths, or ArrayRecord shards made by "
        "--mode=prepare_data; local or gs://. By default the sample photos of examples/.",
    )
    flags.integer(
        "image_size",
        None,
        "Side of the crops that it trains on, in pixels. If not given: "
        f"{accelerator.image_size}, on a CPU {cpu.image_size}.",
        least=32,
    )
    flags.integer(
        "batch_size",
        None,
        "Photos per step, over all devices of all processes. If not given: "
        f"{accelerator.batch_size}, on a CPU {cpu.batch_size}; with several devices, and parts of "
        "a batch, the next multiple.",
        least=1,
    )
    flags.group("Training")
    flags.integer(
        "steps",
        None,
        f"Steps in all. If not given: {accelerator.steps} as in the paper, on a CPU {cpu.steps}.",
        least=1,
    )
    flags.enum(
        "optimizer",
        defaults.optimizer,
        list(OPTIMIZERS),
        "How weights are moved: by Adam, as in the paper; or by Muon, which learns a style in "
        "fewer steps, and magnifies rounding.",
    )
    rates = ", ".join(f"{rate:g} with {name}" for name, rate in defaults.learning_rates.items())
    flags.float("learning_rate", None, f"Size of a step. If not given: {rates}.", least=1e-9)
    flags.enum("schedule", "cosine", list(SCHEDULES), "cosine falls to 0 at the end.")
    flags.integer(
        "warmup_steps", defaults.warmup_steps, "Steps over which the learning rate rises.", least=0
    )
    flags.enum(
        "loss_mean",
        defaults.mean,
        list(MEANS),
        "Minimise the mean of the photos' losses (linear, as in the paper) or of their logarithms.",
    )
    flags.float("ema_decay", 0.999, "Of the exponential average of the weights; 0 for none.")
    flags.integer("accumulate", 1, "Parts of a batch, computed one after the other.", least=1)
    flags.enum("dtype", "float32", ["float32", "bfloat16"], "What convolutions compute in.")
    flags.integer("seed", 0, "Of the first weights and of the order of the photos.", least=0)


def define_folder(flags: Flags) -> None:
    """What is kept of a training run."""
    flags.group("Run")
    flags.string(
        "workdir",
        None,
        "Folder of the run: checkpoints, metrics.jsonl, TensorBoard events, previews; by default "
        "one in runs/. Started again with the same folder, a run goes on where it was.",
    )
    flags.string(
        "output", None, "The network to write; by default network.safetensors in --workdir."
    )
    flags.enum(
        "store", "float16", ["float16", "float32"], "In what the network's weights are written."
    )
    flags.integer(
        "checkpoint_every", 500, "Steps between checkpoints; 0 for the end only.", least=0
    )
    flags.integer("preview_every", 500, "Steps between previews; 0 for none.", least=0)
    flags.boolean("plot", True, "Draw the terms into the folder at the end.")
    flags.group("Several processes")
    flags.boolean(
        "distributed", False, "Join the other processes of a cluster that JAX finds (Cloud TPU)."
    )
    flags.string("coordinator", None, "HOST:PORT of the first process, where JAX finds no cluster.")
    flags.integer("num_processes", None, "How many processes, with --coordinator.", least=1)
    flags.integer("process_id", None, "Which of them this is, from 0, with --coordinator.", least=0)


def settings_of(values: Any, defaults: Defaults) -> dict[str, Any]:
    """What the flags of `define` say, and what is taken where they are silent."""
    here = defaults.amount()
    parts = jax.device_count() * values.accumulate
    shared = dataclasses.replace(here, batch_size=parts * -(-here.batch_size // parts))
    chosen = {
        name: getattr(values, name) or amount for name, amount in dataclasses.asdict(shared).items()
    }
    names = (
        "data",
        "optimizer",
        "schedule",
        "warmup_steps",
        "loss_mean",
        "ema_decay",
        "accumulate",
        "dtype",
        "seed",
    )
    rate = values.learning_rate or defaults.learning_rates[values.optimizer]
    return {**chosen, "learning_rate": rate, **{name: getattr(values, name) for name in names}}


def config_of(
    values: Any, settings: Mapping[str, Any], *, styles_only: bool = False
) -> TrainConfig:
    """The config that the flags of `define` ask for."""
    return TrainConfig(
        steps=settings["steps"],
        optimizer=values.optimizer,
        learning_rate=settings["learning_rate"],
        schedule=values.schedule,
        warmup_steps=values.warmup_steps,
        mean=values.loss_mean,
        ema_decay=values.ema_decay,
        accumulate=values.accumulate,
        styles_only=styles_only,
    )


def places_of(values: Any, name: str) -> tuple[str, str]:
    """The run folder, by default `runs/NAME`, and the file that the network is written to.

    Raises:
      UserError: that file is a folder.
    """
    workdir = values.workdir or f"runs/{name}"
    output = values.output or f"{workdir}/network.safetensors"
    if Path(output).expanduser().is_dir():
        raise UserError(f"--output={output} is a folder: give the path of a file")
    return workdir, output


def options_of(values: Any, workdir: str) -> Options:
    """What else is done in a run, as the flags of `define_folder` say."""
    return Options(
        workdir=workdir,
        checkpoint_every=values.checkpoint_every,
        preview_every=values.preview_every,
        plot=values.plot,
    )


def join_processes(values: Any) -> None:
    """Makes this process one of several, if the flags of `define_folder` say so."""
    if values.coordinator:
        if values.num_processes is None or values.process_id is None:
            raise UserError("--coordinator needs --num_processes and --process_id")
        jax.distributed.initialize(values.coordinator, values.num_processes, values.process_id)
    elif values.num_processes is not None or values.process_id is not None:
        raise UserError("--num_processes and --process_id need --coordinator")
    elif values.distributed:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise UserError(
                f"--distributed found no cluster ({error}): give --coordinator, --num_processes "
                "and --process_id"
            ) from error


def check_crop(network: Any, settings: Mapping[str, Any]) -> None:
    """Raises `UserError` unless the network can take pictures of the crops' size."""
    side, factor = settings["image_size"], getattr(network, "factor", 1)
    if side % factor:
        raise UserError(f"--image_size={side} must be a multiple of {factor}, the factor")
    if side < (least := factor * networks.smallest_side(network)):
        raise UserError(f"the network needs crops of {least} pixels: raise --image_size={side}")


def photo_source(values: Any) -> photos.Photos:
    """The photos of `--data`, or the sample photos, with a line that says what these are."""
    if values.data:
        return photos.source(values.data)
    found = photos.source(resources.folder("examples") / "sample_photos")
    print(
        f"Training on the {len(found)} sample photos of examples/. With thousands (--data=FOLDER) "
        "a network treats photos of every kind well; Johnson et al. 2016 took 80,000."
    )
    return found


def tell_skipped(source: photos.Photos) -> None:
    """Prints how many photos could not be used; the log has named each when it came."""
    if source.skipped and jax.process_index() == 0:
        print(f"{len(source.skipped)} of the {len(source)} photos could not be used", flush=True)


def batches_of(settings: Mapping[str, Any], source: photos.Photos, **options: Any) -> Any:
    """An iterator over this process's batches; options are those of `photos.batches`."""
    processes, devices = jax.process_count(), jax.device_count()
    size = settings["batch_size"]
    if size % (devices * settings["accumulate"]):
        raise UserError(
            f"--batch_size={size} must be a multiple of the {devices} devices times "
            f"--accumulate={settings['accumulate']}"
        )
    with usage_errors():
        batches = photos.batches(
            source,
            batch_size=size // processes,
            crop=settings["image_size"],
            seed=settings["seed"],
            process_index=jax.process_index(),
            process_count=processes,
            **options,
        )
    return iter(batches)
