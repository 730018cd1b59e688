"""Fixtures of the modes that train."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from perceptual_jax.cli.modes import train_superres, train_transform
from perceptual_jax.io import resources
from perceptual_jax.pretrained.vgg import load_vgg
from tests import reference


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs are alike: a program that one of them compiled is read by the next."""
    settings: dict[str, Any] = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def small_examples() -> Iterator[None]:
    """One photo in previews; for super-resolution a VGG of a few channels, for style read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "example_names", lambda kind: ["chelsea"])
        patch.setattr(train_transform, "load_vgg", functools.cache(load_vgg))
        patch.setattr(
            train_superres,
            "load_vgg",
            lambda name: reference.random_vgg() if name == "vgg16" else load_vgg(name),
        )
        yield
