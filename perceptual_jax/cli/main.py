"""The command line: picks a mode, reads its flags, and tells people what they can mend."""

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

from absl import flags as absl_flags

# Before jax is imported: jaxlib 0.10 fears, in pages for each program that it reads from the
# compilation cache, that a machine cannot run what it compiled itself. What is fatal is still told.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from perceptual_jax import __version__
from perceptual_jax.cli import modes
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.flags import Flags

_USAGE = """perceptual_jax {version}: neural style transfer and perceptual losses in JAX.

usage: python run.py --mode=MODE [flags]      or: perceptual-jax --mode=MODE [flags]
       python run.py --mode=MODE --help       the flags of a mode

modes:
{modes}"""


def run() -> None:
    """Entry point of `run.py` and of the installed command."""
    sys.exit(main(sys.argv))


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Args:
      argv: as `sys.argv`, the program first.

    Returns:
      The exit code: 0, 1 where some pictures of a folder were left out, 2 for a mistake in the
      flags or files, or 128 and the number of the signal that stopped it.
    """
    try:
        return _main(argv)
    except (UserError, OSError, absl_flags.Error) as error:
        message = " ".join(str(error).split())
        print(f"error: {message.removeprefix('flag ')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _main(argv: Sequence[str]) -> int:
    name, arguments = _split_mode(argv[1:])
    wants_help = any(argument in ("--help", "-h", "-help", "--helpfull") for argument in arguments)
    if name is None:
        if arguments == ["--version"]:
            print(f"perceptual_jax {__version__}")
            return 0
        if arguments and not wants_help:
            raise UserError(f"--mode is missing: one of {', '.join(_mode_names())}")
        print(_overview())
        return 0 if wants_help else 2
    if name not in _mode_names():
        raise UserError(f"there is no mode {name!r}: one of {', '.join(_mode_names())}")

    mode = _mode(name)
    flags = Flags()
    mode.define_flags(flags)
    if wants_help:
        print(f"--mode={name}: {mode.__doc__}\n\n{flags.help()}")
        return 0
    rest = flags.values([argv[0], *arguments])[1:]
    if rest:
        raise UserError(f"what is {rest[0]!r}? Flags look like --name=value; see --help")
    _set_up_jax(getattr(flags.values, "dtype", None))
    return int(mode.main(flags.values) or 0)


def _split_mode(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--mode`, which says whose flags the others are, and the others."""
    mode, rest, waiting = None, [], False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if waiting:
            mode, waiting = argument, False
        elif flag in ("--mode", "-mode"):
            mode, waiting = value, not equals
        else:
            rest.append(argument)
    return mode, rest


def _mode_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(modes.__path__)]


def _mode(name: str) -> ModuleType:
    return importlib.import_module(f"{modes.__name__}.{name}")


def _overview() -> str:
    lines = []
    for name in _mode_names():
        summary = (_mode(name).__doc__ or "").splitlines()[0]
        lines.append(f"  {name:18} {summary}")
    return _USAGE.format(version=__version__, modes="\n".join(lines))


def _set_up_jax(dtype: str | None) -> None:
    """Keeps compiled programs between runs, which saves a second or two of each start.

    But for those that use a CPU's matrix units, which cannot be kept.
    """
    import jax

    from perceptual_jax.ops import backend
    from perceptual_jax.pretrained import download

    if dtype == "bfloat16" and backend.use_matrix_units():
        return
    if os.environ.get("PERCEPTUAL_JAX_COMPILATION_CACHE") == "off":
        return
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = download.cache_folder() / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
