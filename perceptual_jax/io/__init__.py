"""Pictures and files: `images`, `masks`, `image_grid`, and below them `storage` and `resources`."""

import importlib
from types import ModuleType

__all__ = ["image_grid", "images", "masks", "resources", "storage"]


def __getattr__(name: str) -> ModuleType:
    """Imports a module when it is first used: files without pictures need no Pillow."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
