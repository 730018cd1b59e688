"""The flags of the command line: how they are defined, grouped and explained.

A mode takes its own `Flags` and calls the functions here for what modes share, so that a flag has
one name and one meaning everywhere.
"""

import contextlib
import dataclasses
import functools
import math
import os
import textwrap
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags as absl_flags

from perceptual_jax import __version__
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.messages import say
from perceptual_jax.io.storage import local_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from perceptual_jax.objective import Objective

_Config = TypeVar("_Config", bound="DataclassInstance")

# Ways to keep a photo's colours; what they do differs a little between modes.
KEEP_COLORS = ("none", "luminance", "histogram")

_WIDTH = 90

# In the name of one file.
_MOST_COMMAS = 20


class _ListParser(absl_flags.ListParser):
    """Splits at commas, but not within the name of a file: a painting may be called `a, b.png`."""

    def parse(self, argument: Any) -> list[str]:
        if not isinstance(argument, str) or argument.lstrip().startswith('"'):
            return list(super().parse(argument))
        names, parts = [], argument.split(",") if argument else []
        while parts:
            for count in range(min(len(parts), _MOST_COMMAS + 1), 0, -1):
                name = ",".join(parts[:count])
                if not _is_file(name):
                    name = name.strip()
                if _is_file(name):
                    break
            names.append(name)
            del parts[:count]
        return names


class _IntegersParser(absl_flags.ArgumentParser[list[int]]):
    """Ascending integers."""

    def __init__(self, least: int) -> None:
        self._least = least

    def parse(self, argument: Any) -> list[int]:
        texts = argument.split(",") if isinstance(argument, str) else argument
        with contextlib.suppress(ValueError):
            numbers = [int(text) for text in texts]
            if numbers == sorted(set(numbers)) and numbers[0] >= self._least:
                return numbers
        raise ValueError(f"it must be integers from {self._least} on, ascending, with commas")


class _FloatParser(absl_flags.FloatParser):
    """Without infinity and NaN, which no flag has a use for and no bound keeps out."""

    def convert(self, argument: str | float) -> float:
        value = float(super().convert(argument))
        if not math.isfinite(value):
            raise ValueError("it must be a finite number")
        return value


class Flags:
    """absl flags in titled groups."""

    def __init__(self) -> None:
        # Not absl's global flags, to which any imported library may add its own.
        self.values = absl_flags.FlagValues()
        # Flags may stand behind arguments that are none.
        self.values.set_gnu_getopt(True)
        self._group = ""
        self._positional: tuple[str, ...] = ()

    def group(self, title: str) -> None:
        """The flags defined from here on stand under this title."""
        self._group = title

    def _define(self, define: Any, name: str, default: Any, text: str, **options: Any) -> None:
        options |= {"flag_values": self.values, "module_name": self._group}
        define(name, default=default, help=text, **options)

    def string(self, name: str, default: str | None, text: str) -> None:
        self._define(absl_flags.DEFINE_string, name, default, text)

    def list(self, name: str, default: Sequence[str] | None, text: str) -> None:
        """A comma-separated list, see `_ListParser`."""
        define = functools.partial(
            absl_flags.DEFINE, _ListParser(), serializer=absl_flags.CsvListSerializer(",")
        )
        self._define(define, name, default and list(default), text)

    def integers(self, name: str, default: Sequence[int], text: str, *, least: int = 0) -> None:
        """One integer or several, ascending, with commas between them."""
        define = functools.partial(
            absl_flags.DEFINE, _IntegersParser(least), serializer=absl_flags.CsvListSerializer(",")
        )
        self._define(define, name, list(default), text)

    def integer(self, name: str, default: int | None, text: str, *, least: int = 0) -> None:
        self._define(absl_flags.DEFINE_integer, name, default, text, lower_bound=least)

    def float(self, name: str, default: float | None, text: str, *, least: float = 0.0) -> None:
        define = functools.partial(
            absl_flags.DEFINE,
            _FloatParser(lower_bound=least),
            serializer=absl_flags.ArgumentSerializer(),
        )
        self._define(define, name, default, text)

    def enum(self, name: str, default: str | None, choices: Sequence[str], text: str) -> None:
        self._define(absl_flags.DEFINE_enum, name, default, text, enum_values=list(choices))

    def boolean(self, name: str, default: bool, text: str) -> None:
        self._define(absl_flags.DEFINE_boolean, name, default, text)

    def fields(self, config: Any, *names: str) -> None:
        """A flag for every field of a dataclass that has `help` in its metadata, or for these.

        The default is the value of the instance; `choices` or `least` in the metadata limit it.
        """
        kinds: dict[Any, Any] = {
            bool: self.boolean,
            int: self.integer,
            float: self.float,
            str: self.string,
            tuple[str, ...]: self.list,
        }
        described = _described(config)
        types = typing.get_type_hints(type(config))
        for name in names or described:
            metadata = dict(described[name])
            text, kind = metadata.pop("help"), types[name]
            if type(None) in (members := typing.get_args(kind)):
                kind = members[0]  # `float` of `float | None`.
            define = self.enum if "choices" in metadata else kinds[kind]
            define(name, default=getattr(config, name), text=text, **metadata)

    def positional(self, *names: str) -> None:
        """The flags whose values, if they are not given by name, are arguments without one."""
        self._positional = names

    def parse(self, arguments: Sequence[str]) -> Sequence[str]:
        """Reads the arguments of a program, and returns those that are the value of no flag."""
        _, *rest = self.values(["", *arguments])
        unset = [name for name in self._positional if self.values[name].using_default_value]
        for name, value in zip(unset, rest, strict=False):
            setattr(self.values, name, value)
        return rest[len(unset) :]

    def help(self) -> str:
        """Every flag with its default, by group, in the order of their definition."""
        blocks = []
        for title, members in self.values.flags_by_module_dict().items():
            lines = [f"{title}:"]
            for flag in members:
                default = flag.default_as_str or "none"
                lines.append(f"  --{flag.name}={default.strip(chr(39))}")
                lines += [f"      {line}" for line in textwrap.wrap(flag.help, _WIDTH)]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)


def _described(config: Any) -> dict[str, Mapping[str, Any]]:
    """The metadata of the fields that have `help` in it."""
    fields = dataclasses.fields(config)
    return {field.name: field.metadata for field in fields if "help" in field.metadata}


def filled(config: _Config, values: absl_flags.FlagValues, **changes: Any) -> _Config:
    """The dataclass instance with the values of flags that were given, and `changes`.

    A field without a flag, or whose flag was not given, stays as it is. A `ValueError` is the
    dataclass's own.
    """
    given = {
        name: tuple(value) if isinstance(value := values[name].value, list) else value
        for name in _described(config)
        if name in values and not values[name].using_default_value
    }
    return dataclasses.replace(config, **given | changes)


def settings(config: Any) -> dict[str, Any]:
    """The fields that `Flags.fields` makes flags of, for the record of how a result was made."""
    return {
        name: list(value) if isinstance(value := getattr(config, name), tuple) else value
        for name in _described(config)
    }


def pictures(flags: Flags) -> None:
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
    flags.integer("image_size", 512, "Long side of the result, in pixels.", least=16)
    flags.float(
        "style_scale",
        1.0,
        "Long side of the painting, as a multiple of --image_size: larger gives larger strokes.",
        least=0.05,
    )


def objective(flags: Flags, default: "Objective", *names: str, presets: Sequence[str] = ()) -> None:
    """VGG, layers and weights, by default those of a preset; with `names` only these fields.

    With `presets`, names of `objective.PRESETS` of which the first is `default`, there is a choice.
    """
    flags.group("Objective")
    text = "vgg16 (embedded), vgg16-torchvision or vgg19-torchvision (fetched once), or a file."
    flags.string("vgg", "vgg16", text)
    if presets:
        flags.enum(
            "preset",
            presets[0],
            presets,
            "What the flags below are where they are not given: by default as shown, else the "
            "objective of the paper by that name.",
        )
    flags.fields(default, *names)


def optimization(flags: Flags, default: Any, *, steps: int, steps_text: str) -> None:
    """How pixels are moved; `default` is a `synthesis.Optimizer`."""
    flags.group("Optimisation")
    flags.integer("steps", steps, steps_text, least=1)
    flags.fields(default)
    flags.integer("seed", 0, "Of the white noise.")


def run_folder(flags: Flags) -> None:
    flags.group("Run")
    flags.string("workdir", None, "Folder for config.json, metrics.jsonl, a plot and previews.")
    flags.integer("preview_every", 0, "Iterations between previews; 0 for none.")
    flags.boolean("plot", True, "Draw the terms into the folder; takes a second.")
    flags.boolean("check_memory", True, "Refuse a size that will not fit into memory.")


def say_examples(values: Any, *names: str) -> None:
    """Says which examples are taken because these flags, for pictures, were not given."""
    flags = [values[name] for name in names if values[name].using_default_value]
    if flags:
        examples = (f"{flag.default_as_str.strip(chr(39))} (--{flag.name})" for flag in flags)
        say(f"taking from the examples: {', '.join(examples)}", aside=True)


def input_and_output(flags: Flags, example: str, label: str) -> None:
    """The pictures to which a trained network is applied, and its results."""
    flags.group("Pictures")
    flags.string(
        "input", example, "A file, a name from examples/content, a folder, or - for standard input."
    )
    flags.string(
        "output",
        None,
        "The picture to write, format by suffix, or - for PNG on standard output; for a folder of "
        f"pictures a folder. By default INPUT-{label}.png here, or - for -.",
    )


def factor(flags: Flags) -> None:
    """By how much super-resolution enlarges."""
    flags.integer("factor", 4, "By which each side becomes larger: 4 or 8.", least=1)
    absl_flags.register_validator(
        "factor", lambda factor: factor in (4, 8), "must be 4 or 8", flag_values=flags.values
    )


def inference(flags: Flags) -> None:
    """How a trained network is computed."""
    text = "Pictures of equal size done at once. By default 8, on a CPU 1."
    flags.integer("batch_size", None, text, least=1)
    flags.enum("dtype", "float32", ["float32", "bfloat16"], "What convolutions compute in.")


def batch_size_of(values: Any) -> int:
    """Pictures done at once, by the flags of `inference`."""
    import jax

    return values.batch_size or (1 if jax.default_backend() == "cpu" else 8)


def record(mode: str, values: Any) -> dict[str, Any]:
    """The settings that are kept with a result: how it was made."""
    return {"program": f"perceptual_jax {__version__}", "mode": mode, **values.flag_values_dict()}


def check_content_masks(values: Any, count: int, regions: str) -> None:
    """Raises `UserError` unless there are as many masks as regions, or one fewer."""
    given = len(values.content_mask)
    if given not in (count, count - 1):
        raise UserError(
            f"--content_mask needs a mask for each of {count} {regions}, or one fewer, got {given}"
        )


def weighted_names(texts: Sequence[str]) -> list[tuple[str, float]]:
    """The names of `--style` with their weights, of which one at least must be above 0."""
    names = [_weighted_name(text) for text in texts]
    if not names:
        raise UserError("--style is empty: give a painting")
    if not any(weight for _, weight in names):
        raise UserError("--style: at least one weight must be above 0")
    return names


def mixed(styles: Sequence[tuple[str, float]]) -> dict[str, float]:
    """How much there is of each style, which may be named more than once."""
    mix = dict.fromkeys((name for name, _ in styles), 0.0)
    for name, weight in styles:
        mix[name] += weight
    return mix


def _is_file(text: str) -> bool:
    """Whether it names a file, perhaps with a weight behind."""
    name, _, weight = text.rpartition(":")
    names = [text, name] if weight.replace(".", "").isdecimal() else [text]
    # Not `Path.exists`, which raises for what is too long for a name, as a list can be.
    return any(name and os.path.lexists(local_path(name)) for name in names)


def _weighted_name(text: str) -> tuple[str, float]:
    """`wave:0.7` is the painting and its weight; a file may have a colon in its name."""
    name, colon, weight = text.rpartition(":")
    if not colon or os.path.lexists(local_path(text)):
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        return text, 1.0
    if not 0 <= value < math.inf:
        raise UserError(f"--style={text}: the weight must be a number of at least 0")
    return name, value
