"""The flags of the command line: how they are defined, grouped and explained.

A mode takes its own `Flags` and calls the functions here for what modes share, so that a flag has
one name and one meaning everywhere.
"""

import dataclasses
import math
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags as absl_flags

from perceptual_jax.cli.errors import UserError
from perceptual_jax.objective import GATYS, Objective

# Ways to keep a photo's colours; what they do differs a little between modes.
KEEP_COLORS = ("none", "luminance", "histogram")

_WIDTH = 96

# absl puts these into every set of flags.
_ABSL_FLAGS = ("flagfile", "undefok")


class Flags:
    """absl flags in titled groups."""

    def __init__(self) -> None:
        # Not absl's global flags, to which any imported library may add its own.
        self.values = absl_flags.FlagValues()
        self._group = ""

    def group(self, title: str) -> None:
        """The flags defined from here on stand under this title."""
        self._group = title

    def _define(self, define: Any, name: str, default: Any, text: str, **options: Any) -> None:
        options = {"flag_values": self.values, "module_name": self._group, **options}
        define(name, default=default, help=text, **options)

    def string(self, name: str, default: str | None, text: str) -> None:
        self._define(absl_flags.DEFINE_string, name, default, text)

    def list(self, name: str, default: Sequence[str] | None, text: str) -> None:
        """A comma-separated list."""
        self._define(absl_flags.DEFINE_list, name, default, text)

    def integer(self, name: str, default: int | None, text: str, *, least: int) -> None:
        self._define(absl_flags.DEFINE_integer, name, default, text, lower_bound=least)

    def float(self, name: str, default: float | None, text: str, *, least: float = 0.0) -> None:
        self._define(absl_flags.DEFINE_float, name, default, text, lower_bound=least)

    def enum(self, name: str, default: str, choices: Sequence[str], text: str) -> None:
        self._define(absl_flags.DEFINE_enum, name, default, text, enum_values=list(choices))

    def boolean(self, name: str, default: bool, text: str) -> None:
        self._define(absl_flags.DEFINE_boolean, name, default, text)

    def fields(self, config: Any, *names: str) -> None:
        """A flag for every field of a dataclass whose metadata has `help`, or for those named.

        A setting is so written down once, with its meaning: name, type and help are the field's,
        the default is the instance's, `choices` and `least` in the metadata are the flag's too.
        """
        types = typing.get_type_hints(type(config))
        for field in dataclasses.fields(config):
            if "help" not in field.metadata or (names and field.name not in names):
                continue
            default, text = getattr(config, field.name), field.metadata["help"]
            kinds = set(typing.get_args(types[field.name])) or {types[field.name]}
            if "choices" in field.metadata:
                self.enum(field.name, default, field.metadata["choices"], text)
            elif bool in kinds:
                self.boolean(field.name, default, text)
            elif str in kinds and isinstance(default, tuple):
                self.list(field.name, list(default), text)
            elif str in kinds:
                self.string(field.name, default, text)
            elif int in kinds:
                self.integer(field.name, default, text, least=field.metadata.get("least", 0))
            else:
                self.float(field.name, default, text, least=field.metadata.get("least", 0.0))

    def help(self) -> str:
        """Every flag with its default, by group, in the order of their definition."""
        blocks = []
        for title, members in self.values.flags_by_module_dict().items():
            lines = [f"{title}:"]
            for flag in members:
                default = flag.default_as_str or "none"
                lines.append(f"  --{flag.name}={default.strip(chr(39))}")
                lines += textwrap.wrap(
                    flag.help, _WIDTH, initial_indent="      ", subsequent_indent="      "
                )
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)


def filled(config: Any, values: Any, **changes: Any) -> Any:
    """The dataclass instance with what the flags of `Flags.fields` say, and `changes`."""
    given = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(config)
        if "help" in field.metadata and field.name in values
        for value in [getattr(values, field.name)]
    }
    return dataclasses.replace(config, **{**given, **changes})


def settings(config: Any) -> dict[str, Any]:
    """What decides a result, for its record: the fields that have flags."""
    return {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(config)
        if "help" in field.metadata
        for value in [getattr(config, field.name)]
    }


def pictures(flags: Flags) -> None:
    """The photo, the paintings and what to make of them."""
    flags.group("Pictures")
    flags.string("content", "rocket", "The photo: a file, or the name of one in examples/content.")
    flags.list(
        "style",
        ["starry_night"],
        "The painting, or several with commas: files, or names from examples/styles. Several are "
        "blended, each with a weight if one is given (wave:0.7,the_kiss:0.3).",
    )
    flags.string(
        "output",
        None,
        "The picture to write, format by suffix: png, jpg, webp, tif, bmp. By default "
        "CONTENT-STYLE.png, here or in --workdir.",
    )
    flags.integer(
        "image_size",
        512,
        "Long side of the result, in pixels. The short side keeps the photo's aspect.",
        least=16,
    )
    flags.float(
        "style_scale",
        1.0,
        "Long side of the painting, as a multiple of --image_size: larger gives larger strokes.",
        least=0.05,
    )


def objective(flags: Flags, default: Objective = GATYS) -> None:
    """Layers and weights, by default those of a preset."""
    flags.group("Objective")
    flags.string(
        "vgg",
        "vgg16",
        "The network: vgg16 (embedded), vgg16-torchvision, "
        "vgg19-torchvision (fetched once), or a file of weights.",
    )
    flags.enum(
        "pooling",
        default.pooling,
        ["max", "avg"],
        "VGG's pooling: max as trained, avg as in Gatys et al. 2015.",
    )
    flags.list(
        "content_layers",
        list(default.content_layers),
        "Layers at which the result resembles the photo.",
    )
    flags.list(
        "style_layers",
        list(default.style_layers),
        "Layers at which the result resembles the painting; each counts as much.",
    )
    flags.float(
        "content_weight", default.content_weight, "alpha, lambda_c: factor of the content loss."
    )
    flags.float("style_weight", default.style_weight, "beta, lambda_s: factor of the style loss.")
    flags.float(
        "tv_weight",
        default.tv_weight,
        "Factor of the squared total variation of pixels in 0..255: higher is smoother.",
    )
    flags.float(
        "range_weight",
        default.range_weight,
        "Factor of the squared distance of pixels from 0..255, into which they are clipped at "
        "the end.",
    )


def optimization(flags: Flags, default: Any, *, steps: int, steps_text: str) -> None:
    """How pixels are moved; `default` is a `synthesis.Optimizer`."""
    flags.group("Optimisation")
    flags.integer("steps", steps, steps_text, least=1)
    flags.fields(default)
    flags.integer("seed", 0, "Of the white noise.", least=0)


def run_folder(flags: Flags) -> None:
    """What is kept of a run beside its result."""
    flags.group("Run")
    flags.string(
        "workdir",
        None,
        "Folder that keeps the run: config.json, metrics.jsonl, a plot of the terms, previews.",
    )
    flags.integer(
        "preview_every",
        0,
        "Write the picture so far about every so many iterations; 0 for never.",
        least=0,
    )
    flags.boolean("plot", True, "Draw the terms into the folder; takes a second.")
    flags.boolean("check_memory", True, "Refuse a size that will not fit into memory.")


def inference(flags: Flags) -> None:
    """How a trained network is computed."""
    flags.integer(
        "batch_size",
        None,
        "Pictures of equal size done at once. By default 8, on a CPU 1.",
        least=1,
    )
    flags.enum("dtype", "float32", ["float32", "bfloat16"], "What convolutions compute in.")


def batch_size_of(values: Any) -> int:
    """Pictures done at once, as the flags of `inference` say."""
    return values.batch_size or (1 if jax.default_backend() == "cpu" else 8)


def objective_of(values: Any, default: Objective = GATYS) -> Objective:
    """The objective that the flags of `objective` ask for, in the formulation of the preset."""
    return dataclasses.replace(
        default,
        content_layers=tuple(values.content_layers),
        content_weight=values.content_weight,
        style_layers=tuple(values.style_layers),
        style_weight=values.style_weight,
        tv_weight=values.tv_weight,
        range_weight=values.range_weight,
        pooling=values.pooling,
    )


def as_dict(values: Any) -> dict[str, Any]:
    """Every flag with its value, for the record of how a result was made."""
    return {
        name: value for name, value in values.flag_values_dict().items() if name not in _ABSL_FLAGS
    }


def objective_settings(values: Any) -> dict[str, Any]:
    """What the flags of `objective` say, for the record and to be compared with it."""
    names = (
        "vgg",
        "pooling",
        "content_layers",
        "style_layers",
        "content_weight",
        "style_weight",
        "tv_weight",
        "range_weight",
    )
    return {name: getattr(values, name) for name in names}


def weighted_names(texts: Sequence[str]) -> list[tuple[str, float]]:
    """The names of `--style` with their weights.

    Raises:
      UserError: there is none, or no weight above 0.
    """
    names = [_weighted_name(text) for text in texts]
    if not names:
        raise UserError("--style is empty: give a painting")
    if not any(weight for _, weight in names):
        raise UserError("--style: at least one weight must be above 0")
    return names


def _weighted_name(text: str) -> tuple[str, float]:
    """`wave:0.7` is the painting and its weight; a file may have a colon in its name."""
    name, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        return text, 1.0
    if not 0 <= value < math.inf:
        raise UserError(f"--style={text}: the weight must be a number of at least 0")
    return name, value
