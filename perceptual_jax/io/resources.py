"""The folders `weights/` and `examples/` of the package, and names of files in them."""

from pathlib import Path

from perceptual_jax.io import storage
from perceptual_jax.io.storage import FileError, pictures_in


def folder(name: str) -> Path:
    """The folder `weights` or `examples`: in an installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def example_names(kind: str) -> list[str]:
    """Names, without suffix, of the pictures in `examples/<kind>`: `content` or `styles`."""
    return [file.stem for file in _examples(kind)]


def picture(path_or_name: str | Path, kind: str) -> Path:
    """The file behind a path, or behind the name of an example (`wave` or `wave.jpg`).

    A file that exists wins over an example of the same name, and an example over a folder.

    Raises:
      FileError: there is neither; the message lists the examples.
    """
    path = storage.local_path(path_or_name)
    if path.exists() and not path.is_dir():  # A pipe is no regular file.
        return path
    if len(path.parts) == 1:
        for example in _examples(kind):
            if path.name in (example.name, example.stem):
                return example
    if path.exists():
        return path
    raise FileError(
        f"there is no picture {str(path_or_name)!r}: give the path of a file, "
        f"or one of the examples {', '.join(example_names(kind))}"
    )


def _examples(kind: str) -> list[Path]:
    return pictures_in(folder("examples") / kind)
