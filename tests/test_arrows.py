"""The arrows of the house: which room may import which, and what belongs to the command line."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "perceptual_jax"

# What a room may import, beside itself and other projects' packages.  The first seven rooms are the
# mathematics, which imports no other packages than jax, numpy and the standard library.
ALLOWED: dict[str, set[str]] = {
    "ops": set(),
    "losses": {"ops"},
    "color": {"ops"},
    "alexnet": {"ops"},
    "vgg": {"ops", "losses"},
    "metrics": {"ops", "alexnet", "vgg"},
    "objective": {"ops", "losses", "vgg"},
    "models": {"ops", "losses", "color", "vgg", "objective"},
    "synthesis": {"ops", "losses", "color", "vgg", "objective"},
    "io": set(),
    "pretrained": {"io", "models", "vgg"},
    "export": {"models", "ops", "pretrained"},
    "training": {"ops", "losses", "color", "vgg", "objective", "models", "io"},
}
ALLOWED["cli"] = set(ALLOWED)
MATHEMATICS = ("ops", "losses", "color", "alexnet", "vgg", "metrics", "objective")
BELOW_CLI = [room for room in ALLOWED if room != "cli"]

FLAG = re.compile(
    r"--(?!xla_)[a-z][a-z_]*"
)  # XLA's own options are set in an environment variable.


def files(room: str) -> list[Path]:
    module = PACKAGE / f"{room}.py"
    return [module] if module.exists() else sorted((PACKAGE / room).rglob("*.py"))


def imported_by(path: Path) -> Iterator[tuple[str, str]]:
    """What a file imports, in functions too: the line, and the dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        place = f"{path.relative_to(PACKAGE.parent)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from ((place, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place} has a relative import"
            yield from ((place, f"{node.module}.{alias.name}") for alias in node.names)


def imported(room: str) -> Iterator[tuple[str, str]]:
    for path in files(room):
        yield from imported_by(path)


def test_every_file_belongs_to_a_room() -> None:
    covered = {path for room in ALLOWED for path in files(room)}
    assert set(PACKAGE.rglob("*.py")) - covered == {PACKAGE / "__init__.py"}
    assert all(files(room) for room in ALLOWED)


def test_the_program_is_the_command_line() -> None:
    names = [name for _, name in imported_by(PACKAGE.parent / "run.py")]
    assert names == ["perceptual_jax.cli.start.run"]


def test_no_circles_are_allowed() -> None:
    graphlib.TopologicalSorter(ALLOWED).prepare()


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_down(room: str) -> None:
    wrong = []
    for place, name in imported(room):
        package, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        # Of the package itself only its version.
        if package == "perceptual_jax" and target not in ALLOWED[room] | {room, "__version__"}:
            wrong.append(f"{place} imports {name}")
    assert not wrong


@pytest.mark.parametrize("room", MATHEMATICS)
def test_the_mathematics_imports_jax_and_numpy_alone(room: str) -> None:
    known = {"perceptual_jax", "jax", "numpy", *sys.stdlib_module_names}
    wrong = [f"{place} imports {name}" for place, name in imported(room)]
    assert not [line for line in wrong if line.split()[-1].partition(".")[0] not in known]


@pytest.mark.parametrize("room", BELOW_CLI)
def test_only_the_command_line_knows_absl(room: str) -> None:
    assert not [place for place, name in imported(room) if name.partition(".")[0] == "absl"]


@pytest.mark.parametrize("room", BELOW_CLI)
def test_only_the_command_line_names_flags(room: str) -> None:
    """In no message, docstring or comment: the text of the file is searched."""
    assert not [
        f"{path.relative_to(PACKAGE.parent)}:{number}: {line.strip()}"
        for path in files(room)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FLAG.search(line)
    ]
