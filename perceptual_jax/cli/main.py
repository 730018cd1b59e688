"""The command line: picks a mode, reads its flags, and reports errors in one line."""

import ast
import importlib
import io
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

# Before jax is imported: jaxlib 0.10 warns, in pages for every program that it reads from the
# compilation cache, that this machine might not run it, although it was compiled here. Fatal errors
# are still logged.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from perceptual_jax import __version__
from perceptual_jax.cli import modes, spelling
from perceptual_jax.cli.errors import UserError, message
from perceptual_jax.cli.flags import Flags
from perceptual_jax.cli.messages import say, set_up_logging, show, standard_output

_USAGE = """perceptual_jax {version}: neural style transfer and perceptual losses in JAX.

usage: python run.py --mode=MODE [flags]      or: perceptual-jax --mode=MODE [flags]
       python run.py --mode=MODE --help       the flags of a mode

modes:
{modes}"""

# What a shell shows of a program that SIGPIPE ended.
_BROKEN_PIPE = 141


def run() -> None:
    """Runs the command line of this process, and ends it."""
    # Where a stream is closed, the next file that is opened, such as a picture, would get its place
    # and whatever libraries print.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115
    code = main(sys.argv)
    try:
        print(end="", flush=True)
    except OSError:
        # Python would try again as it exits, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Runs the command line `argv`, the program first, and returns the exit code.

    It is 0, 1 where some pictures of a folder were left out, 2 for a mistake in the flags or files,
    or 128 and the number of the signal that stopped it.
    """
    # A name of bytes that are no UTF-8, and any name in a terminal that knows ASCII alone.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    set_up_logging()
    try:
        code = _main(argv)
        with standard_output():  # So that a full disk or a closed pipe is an error of this run.
            print(end="", flush=True)
        return code
    except BrokenPipeError:
        # Whoever read the output, such as `head`, wants no more of it.
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        say("interrupted", aside=True)
        return 130
    except Exception as error:
        line = _platform_problem(error)
        if not line and isinstance(error, (UserError, OSError, absl_flags.Error)):
            line = message(error).removeprefix("flag ")
        if not line:
            raise
        say(f"error: {line}", aside=True)
        return 2


def _platform_problem(error: BaseException) -> str:
    """What to say if an error comes from JAX, which can use none of the platforms that it may."""
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    # Of either kind, and when they are read, files of networks hide them behind their own.
    if not any(isinstance(cause, (RuntimeError, AssertionError)) for cause in causes):
        return ""
    import jax

    platform = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}"
    try:
        jax.devices()
    except Exception:
        return (
            f"JAX finds no device of the platform {platform}: unset that, or install what the "
            "platform needs, by the extra [cuda] or [tpu]"
        )
    return ""


def _main(argv: Sequence[str]) -> int:
    name, arguments = _split_mode(argv[1:])
    wants_help = any(argument in ("--help", "-h", "-help", "--helpfull") for argument in arguments)
    if name is None:
        if arguments == ["--version"]:
            show(f"perceptual_jax {__version__}")
            return 0
        if arguments and not wants_help:
            raise UserError(f"--mode is missing: one of {', '.join(_mode_names())}")
        show(_overview())
        return 0 if wants_help else 2
    name = spelling.mode(name, _mode_names())
    mode = importlib.import_module(f"{modes.__name__}.{name}")
    flags = Flags()
    mode.define_flags(flags)
    if wants_help:
        show(f"--mode={name}: {mode.__doc__}\n\n{flags.help()}")
        return 0
    try:
        rest = flags.parse(list(spelling.arguments(arguments, flags.values)))
    except absl_flags.UnrecognizedFlagError as error:
        raise spelling.unknown_flag(error, name, flags.values) from error
    if rest:
        raise UserError(f"what is {rest[0]!r}? Flags look like --name=value; see --help")
    _set_up_jax(getattr(flags.values, "dtype", None))
    return int(mode.main(flags.values) or 0)


def _split_mode(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--mode`, which says whose flags the others are, and the others.

    The first argument may be that value alone, as in `perceptual-jax gatys`.
    """
    mode, rest, remaining = None, [], iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag in ("--mode", "-mode"):
            mode = value if equals else next(remaining, "")
        else:
            rest.append(argument)
    if mode is None and rest and not rest[0].startswith("-"):
        mode = rest.pop(0)
    return mode, rest


def _mode_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(modes.__path__)]


def _overview() -> str:
    lines = []
    for name in _mode_names():
        # Not imported: importing jax is slow.
        source = Path(modes.__path__[0], f"{name}.py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines.append(f"  {name:18} {summary}")
    return _USAGE.format(version=__version__, modes="\n".join(lines))


def _set_up_jax(dtype: str | None) -> None:
    """Keeps compiled programs, but those for a CPU's matrix units, which cannot be written."""
    import jax

    from perceptual_jax.io.storage import FileError, check_writable
    from perceptual_jax.ops import backend
    from perceptual_jax.pretrained import download

    off = os.environ.get("PERCEPTUAL_JAX_COMPILATION_CACHE") == "off"
    if off or (dtype == "bfloat16" and backend.use_matrix_units()):
        return
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = download.cache_folder() / "compiled"
            check_writable(folder / "program")
        except FileError:
            return  # JAX would warn of every program that it cannot write.
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
