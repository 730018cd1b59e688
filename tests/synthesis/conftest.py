"""Fixtures of the tests of this folder."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def optaxs_promotion() -> Iterator[None]:
    """optax's Adam and line search add integers to floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield
