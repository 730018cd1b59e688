"""Flags and modes as other programs, and hasty fingers, write them."""

import difflib
from collections.abc import Iterable, Iterator

from absl import flags as absl_flags

from perceptual_jax.cli.errors import UserError

# The photo is --content where it is half of the work and --input where it is all of it: either is
# understood.
_SAME = {"content": "input", "input": "content"}

# What other programs for style transfer and super-resolution call our flags; of several the first
# that a mode has.
_ELSEWHERE = {
    **dict.fromkeys(
        ["content_image", "content_img", "content_path", "image", "photo", "source", "img"],
        ("content", "input"),
    ),
    **dict.fromkeys(
        ["style_image", "style_images", "style_img", "style_path", "styles", "painting"],
        ("style",),
    ),
    **dict.fromkeys(
        ["output_image", "output_img", "output_path", "output_file", "out", "result", "save_path"],
        ("output",),
    ),
    **dict.fromkeys(["output_dir", "save_dir", "checkpoint_dir", "log_dir"], ("workdir", "output")),
    **dict.fromkeys(["model", "model_file", "model_path", "checkpoint"], ("network", "vgg")),
    **dict.fromkeys(["dataset", "dataset_path", "train_path", "photos"], ("data",)),
    **dict.fromkeys(["size", "content_size", "img_size", "max_size", "width"], ("image_size",)),
    **dict.fromkeys(
        ["iterations", "num_iterations", "iters", "max_iter", "n_iter", "num_steps"], ("steps",)
    ),
    **dict.fromkeys(["lr", "rate"], ("learning_rate",)),
    **dict.fromkeys(["scale", "upscale", "outscale"], ("factor",)),
    **dict.fromkeys(["mask", "masks"], ("content_mask",)),
    **dict.fromkeys(["original_colors", "preserve_color", "preserve_colors"], ("keep_colors",)),
    **dict.fromkeys(["alpha", "content_alpha"], ("strength", "content_weight")),
}

_DEVICE = ("device", "gpu", "cuda", "backend")


def arguments(given: Iterable[str], values: absl_flags.FlagValues) -> Iterator[str]:
    """Arguments with the names of flags as they are defined: `--image-size` is `--image_size`."""
    for argument in given:
        flag, equals, value = argument.partition("=")
        name = flag.lstrip("-").replace("-", "_")
        if name.startswith("no_") and name[3:] in values and values[name[3:]].boolean:
            name = "no" + name[3:]
        elif name not in values:
            name = _SAME.get(name, name)
        is_known = name in values or name.removeprefix("no") in values
        yield f"--{name}{equals}{value}" if flag.startswith("-") and is_known else argument


def unknown_flag(
    error: absl_flags.UnrecognizedFlagError, mode: str, values: absl_flags.FlagValues
) -> UserError:
    """What is meant by a flag that a mode does not have, as far as that is known."""
    name = str(error.flagname).replace("-", "_")
    if ours := next((flag for flag in _ELSEWHERE.get(name, ()) if flag in values), None):
        return UserError(f"--{error.flagname} is --{ours} here: see --mode={mode} --help")
    if name in _DEVICE:
        return UserError(
            f"there is no --{error.flagname}: JAX takes the fastest device, or that of the "
            "environment variable JAX_PLATFORMS, such as cpu"
        )
    text = str(error)
    stop = "" if text.endswith("?") else "."
    return UserError(f"{text}{stop} See --mode={mode} --help")


def mode(name: str, names: list[str]) -> str:
    """The name of a mode, of which `names` are all.

    Raises:
      UserError: it is not among them; the message names the nearest.
    """
    if (found := name.replace("-", "_")) in names:
        return found
    near = difflib.get_close_matches(name.lower(), names, n=2)
    near += [known for known in names if name and known.startswith(name) and known not in near]
    meant = f"did you mean {' or '.join(near)}? There are" if near else "one of"
    raise UserError(f"there is no mode {name!r}: {meant} {', '.join(names)}")
