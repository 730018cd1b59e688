"""The flags that every mode which trains a network has, and the configuration made of them."""

import dataclasses
from typing import Any

import jax

from perceptual_jax.cli.errors import UserError, usage_errors
from perceptual_jax.cli.flags import Flags, filled, settings
from perceptual_jax.io import storage
from perceptual_jax.ops.checks import setting
from perceptual_jax.training.step import LEARNING_RATES, TrainConfig

# Enough for a style to show, or a mistake; a minute on a CPU.
FIRST_PREVIEW = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainConfig):
    """What decides the result of a training beside the network and its loss.

    A mode has one instance with its defaults for accelerators, and one for CPUs.
    """

    data: str | None = setting(
        "Photos to train on: a folder, a text file of paths, or ArrayRecord shards made by "
        "--mode=prepare_data; local or gs://. By default the sample photos of examples/.",
        default=None,
    )
    image_size: int = setting("Side of the crops that it trains on, in pixels.", least=32)
    batch_size: int = setting("Crops per step, over all devices of all processes.", least=1)
    dtype: str = setting(
        "What convolutions compute in.", default="float32", choices=("float32", "bfloat16")
    )
    seed: int = setting("Of the first weights and of the order of the photos.", default=0, least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is kept of a training; nothing of it changes the result."""

    workdir: str | None = setting(
        "Folder of the run: checkpoints, metrics.jsonl, TensorBoard events, previews; by default "
        "one in runs/. Started again with the same folder, a run goes on where it was.",
        default=None,
    )
    output: str | None = setting(
        "The network to write; by default network.safetensors in the folder of the run.",
        default=None,
    )
    store: str = setting(
        "In what the network's weights are written.",
        default="float16",
        choices=("float16", "float32"),
    )
    checkpoint_every: int = setting(
        "Steps between checkpoints; 0 for the end only.", default=500, least=0
    )
    preview_every: int = setting(
        f"Steps between previews; 0 for none. The first comes after {FIRST_PREVIEW}.",
        default=500,
        least=0,
    )
    allow_changed_photos: bool = setting(
        "Go on with a run although its photos changed since it began.", default=False
    )
    plot: bool = setting("Draw the terms into the folder at the end.", default=True)


# The flags of these groups do not change the result of a training.
_RUN, _PROCESSES = "Run", "Several processes"


def define(flags: Flags, accelerator: TrainSettings, cpu: TrainSettings) -> None:
    """How the weights of a network are trained, with the defaults of either kind of device."""
    fields = {field.name: field for field in dataclasses.fields(cpu)}

    def define_by_device(name: str, more: str = "") -> None:
        metadata = fields[name].metadata
        first, second = getattr(accelerator, name), getattr(cpu, name)
        text = f"{metadata['help']} If not given: {first}, on a CPU {second}.{more}"
        flags.integer(name, None, text, least=metadata["least"])

    flags.group("Photos")
    flags.fields(cpu, "data")
    define_by_device("image_size")
    define_by_device("batch_size", " With several devices, or parts of a batch, the next multiple.")
    flags.group("Training")
    define_by_device("steps")
    flags.fields(cpu, *(name for name in settings(cpu) if name not in flags.values))


def define_network(flags: Flags, *, width: int, residual_blocks: int, paper: str) -> None:
    """The network that is trained; `paper` says what else differs in that of the paper."""
    flags.group("Network")
    text = f"paper: batch normalisation, transposed convolutions, tanh, {paper}."
    flags.enum("architecture", "default", ["default", "paper"], text)
    flags.integer("width", width, "Channels of the first layer.", least=1)
    flags.integer("residual_blocks", residual_blocks, "In the middle of the network.", least=0)
    flags.string("network", None, "A trained network to begin with; its architecture is kept.")


def define_run(flags: Flags) -> None:
    """What is kept of a training run, and which processes share it."""
    flags.group(_RUN)
    flags.fields(RunOptions())
    flags.group(_PROCESSES)
    flags.boolean(
        "distributed", False, "Join the other processes of a cluster that JAX finds (Cloud TPU)."
    )
    flags.string("coordinator", None, "HOST:PORT of the first process, where JAX finds no cluster.")
    flags.integer("num_processes", None, "How many processes, with --coordinator.", least=1)
    flags.integer("process_id", None, "Which of them this is, from 0, with --coordinator.", least=0)


def config_of(
    values: Any, accelerator: TrainSettings, cpu: TrainSettings, *, parts: int = 1, **changes: Any
) -> TrainSettings:
    """The configuration by the flags of `define`, with the defaults of the device that JAX finds.

    Args:
      parts: crops that stay together, see `photos.batches`.
      **changes: to the configuration.

    Raises:
      UserError: a value is out of its range, or the batch cannot be cut into equal parts.
    """
    default = cpu if jax.default_backend() == "cpu" else accelerator
    shares = jax.device_count() * values.accumulate * parts
    open_values = {
        "image_size": default.image_size,
        "batch_size": shares * -(-default.batch_size // shares),
        "steps": default.steps,
        "learning_rate": LEARNING_RATES[values.optimizer],
    }
    changes |= {name: value for name, value in open_values.items() if getattr(values, name) is None}
    with usage_errors():
        config = filled(default, values, **changes)
    if config.batch_size % shares:
        raise UserError(
            f"--batch_size={config.batch_size} must be a multiple of the {jax.device_count()} "
            f"devices times --accumulate={config.accumulate}"
            f"{f' times --parts={parts}' if parts > 1 else ''}"
        )
    return config


def settings_of(values: Any, config: TrainSettings) -> dict[str, Any]:
    """Every flag that decides the result, with the value that is used."""
    groups = values.flags_by_module_dict()
    deciding = [groups[name] for name in groups if name not in (_RUN, _PROCESSES)]
    found = {flag.name: _recorded(flag.value) for group in deciding for flag in group}
    return found | settings(config)


def _recorded(value: Any) -> Any:
    """One integer of a list by itself, as runs recorded it when there was but one."""
    one = isinstance(value, list) and len(value) == 1 and isinstance(value[0], int)
    return value[0] if one else value


def options_of(values: Any, name: str) -> RunOptions:
    """The options by the flags of `define_run`; the folder is by default `runs/NAME`.

    Raises:
      UserError: the file for the network is a folder.
    """
    workdir = values.workdir or f"runs/{name}"
    output = values.output or f"{workdir}/network.safetensors"
    if not storage.is_remote(output) and storage.local_path(output).is_dir():
        raise UserError(f"--output={output} is a folder: give the path of a file")
    return filled(RunOptions(), values, workdir=workdir, output=output)


def join_processes(values: Any) -> None:
    """Makes this process one of several, by the flags of `define_run`."""
    given = (values.coordinator, values.num_processes, values.process_id)
    if None not in given:
        with usage_errors():
            jax.distributed.initialize(*given)
    elif any(value is not None for value in given):
        raise UserError(
            "--coordinator needs --num_processes and --process_id, and these need --coordinator"
        )
    elif values.distributed:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise UserError(
                f"--distributed found no cluster ({error}): give --coordinator, --num_processes "
                "and --process_id"
            ) from error
