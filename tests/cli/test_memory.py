"""Memory: what is refused and how it is said, and what the allocator keeps."""

import platform
import re
import subprocess
import sys

import pytest

from perceptual_jax.cli import memory
from perceptual_jax.cli.errors import UserError
from perceptual_jax.io import images
from perceptual_jax.objective import GATYS
from perceptual_jax.synthesis import Optimizer
from perceptual_jax.synthesis.memory import synthesis_bytes
from tests import reference

PARAMS = reference.random_vgg(widths=reference.VGG_WIDTHS)
OPTIMIZER = Optimizer(memory=50)


class TestCheck:
    SIZE = (2666, 4000)

    def test_lets_through_what_fits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        needed = synthesis_bytes(GATYS, PARAMS, self.SIZE, optimizer=OPTIMIZER)
        for available in (needed, 10 * needed, None):
            monkeypatch.setattr(memory, "available_bytes", lambda x=available: x)
            memory.check(GATYS, PARAMS, self.SIZE, optimizer=OPTIMIZER)

    @pytest.mark.parametrize("gigabytes", [0.8, 1.0, 1.7, 3.0, 5.5, 11.0])
    def test_names_the_largest_size_that_fits(
        self, gigabytes: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: int(gigabytes * 1e9))
        with pytest.raises(UserError, match=r"4000x2666 needs about \d+\.\d GB") as caught:
            memory.check(GATYS, PARAMS, self.SIZE, optimizer=OPTIMIZER)
        assert f"{gigabytes:.1f} GB are free" in str(caught.value)
        assert "--nocheck_memory" in str(caught.value)
        largest = int(re.findall(r"--image_size=(\d+)", str(caught.value))[0])
        memory.check(GATYS, PARAMS, images.size_for(self.SIZE, largest), optimizer=OPTIMIZER)
        larger = images.size_for(self.SIZE, round(1.02 * largest) + 2)
        with pytest.raises(UserError):
            memory.check(GATYS, PARAMS, larger, optimizer=OPTIMIZER)

    def test_names_none_where_not_even_the_program_fits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
        with pytest.raises(UserError, match="no size fits") as caught:
            memory.check(GATYS, PARAMS, self.SIZE, optimizer=OPTIMIZER)
        assert "--image_size" not in str(caught.value)

    def test_adam_fits_where_lbfgs_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which holds 100 copies more: 1.2 GB."""
        monkeypatch.setattr(memory, "available_bytes", lambda: 3_000_000_000)
        size = (1000, 1000)
        memory.check(GATYS, PARAMS, size, optimizer=Optimizer(optimizer="adam", memory=50))
        with pytest.raises(UserError):
            memory.check(GATYS, PARAMS, size, optimizer=OPTIMIZER)

    def test_many_pictures_at_once_are_smaller(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: 2_000_000_000)
        found = []
        for count in (1, 4):
            with pytest.raises(UserError) as caught:
                memory.check(GATYS, PARAMS, (1000, 1000), optimizer=OPTIMIZER, images=count)
            found.append(int(re.findall(r"--image_size=(\d+)", str(caught.value))[0]))
        assert found[0] == pytest.approx(2 * found[1], abs=4)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the settings")
def test_what_is_kept_is_not_cleared_anew() -> None:
    """Pages of 256 MB, taken and given back ten times by a thread, in a process of its own."""
    program = """
import resource, sys, threading
import numpy as np
from perceptual_jax.cli import memory

def take():
    for _ in range(10):
        np.ones(32 << 20)

if sys.argv[1] == "kept":
    memory.keep()
thread = threading.Thread(target=take)
thread.start()
thread.join()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=take)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def pages(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program, how], check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    assert pages("kept") < pages("as it is") / 10


def test_a_picture_larger_than_memory_is_refused_before_it_is_made() -> None:
    memory.check_picture((3000, 4000))
    with pytest.raises(UserError, match=r"900000x600000 needs 32400.0 GB .* lower --image_size"):
        memory.check_picture((600_000, 900_000))


def test_what_is_free_is_less_than_what_there_is() -> None:
    """Where the machine tells; between a hundredth of a gigabyte and a hundred terabytes."""
    available = memory.available_bytes()
    if available is not None:
        assert isinstance(available, int)
        assert 1e7 < available < 1e14
