"""Settings that hold for every test: strict promotion, two CPU devices, full precision."""

import functools
import os
from collections.abc import Iterator

# Before jax is imported anywhere: tests use no accelerator and no network, and leave the user's
# compilation cache as it is.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["PERCEPTUAL_JAX_COMPILATION_CACHE"] = "off"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="module", autouse=True)
def forgets_programs() -> Iterator[None]:
    """Compiled programs are kept for a module, no longer.

    Those of all tests take more memory maps than the 65,530 that Linux gives a process by default;
    XLA aborts where it gets none.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_quickly() -> Iterator[None]:
    """For tests that compile more than they compute: programs are hardly optimised."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def training_steps() -> Iterator[None]:
    """A step of the same loss and configuration is compiled once for all tests of a module."""
    from perceptual_jax.training import step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "make_step", functools.cache(step.make_step))
        yield


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
