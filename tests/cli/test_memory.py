"""Memory: what is refused and how it is said, and what the allocator keeps."""

import platform
import re
import subprocess
import sys
from pathlib import Path

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


class TestGroups:
    """Control groups, each a folder of small files, in a tree that is made up."""

    GB = 10**9

    def tree(self, folder: Path, lines: str, files: dict[str, object]) -> list[int]:
        (folder / "proc" / "self").mkdir(parents=True)
        (folder / "proc" / "self" / "cgroup").write_text(lines)
        for name, content in files.items():
            path = folder / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return list(memory._free_of_groups(folder / "proc", folder / "groups"))

    def test_none_without_a_limit(self, tmp_path: Path) -> None:
        files = {"memory.max": "max", "memory.current": 1, "memory.stat": "inactive_file 0"}
        assert self.tree(tmp_path, "0::/\n", files) == []
        assert list(memory._free_of_groups(tmp_path / "nothing", tmp_path / "nothing")) == []

    def test_the_limit_of_any_parent_counts(self, tmp_path: Path) -> None:
        """By hand: 8 - 1 of the group itself, and 6 - 2 of the grandparent."""
        found = self.tree(
            tmp_path,
            "0::/user.slice/app.slice/run.scope\n",
            {
                "user.slice/memory.max": 6 * self.GB,
                "user.slice/memory.current": 2 * self.GB,
                "user.slice/memory.stat": "anon 2",
                "user.slice/app.slice/memory.max": "max",
                "user.slice/app.slice/run.scope/memory.max": 8 * self.GB,
                "user.slice/app.slice/run.scope/memory.current": self.GB,
                "user.slice/app.slice/run.scope/memory.stat": "anon 1",
            },
        )
        assert sorted(found) == [4 * self.GB, 7 * self.GB]

    def test_in_a_container_the_path_may_be_the_hosts(self, tmp_path: Path) -> None:
        files = {"memory.max": 3 * self.GB, "memory.current": self.GB, "memory.stat": ""}
        assert self.tree(tmp_path, "0::/docker/0123abc\n", files) == [2 * self.GB]

    def test_of_version_1(self, tmp_path: Path) -> None:
        """Beside a version 2 that has no memory of its own, as on systems with both."""
        group = "memory/docker/0123abc/"
        found = self.tree(
            tmp_path,
            "12:pids:/docker/0123abc\n4:cpu,memory:/docker/0123abc\n0::/docker/0123abc\n",
            {
                "memory/memory.limit_in_bytes": 9223372036854771712,
                "memory/memory.usage_in_bytes": 5 * self.GB,
                "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 0",
                f"{group}memory.limit_in_bytes": 2 * self.GB,
                f"{group}memory.usage_in_bytes": self.GB,
                f"{group}memory.stat": f"inactive_file 7\ntotal_inactive_file {self.GB // 2}",
            },
        )
        assert min(found) == 2 * self.GB - self.GB + self.GB // 2
        assert len(found) == 2

    def test_what_can_be_given_up_counts_as_free(self, tmp_path: Path) -> None:
        """A training that has read 6 GB of photos has not used these up."""
        files = {
            "memory.max": 8 * self.GB,
            "memory.current": 7 * self.GB,
            "memory.stat": f"anon {self.GB}\nactive_file 5\ninactive_file {6 * self.GB}",
        }
        assert self.tree(tmp_path, "0::/\n", files) == [7 * self.GB]

    @pytest.mark.parametrize("lines", ["", "nonsense\n", "0::\n", "0::/../../etc\n"])
    def test_nonsense_is_passed_over(self, tmp_path: Path, lines: str) -> None:
        assert self.tree(tmp_path, lines, {"memory.max": "?"}) == []


class TestLimits:
    @pytest.mark.parametrize(("flag", "page"), [("RLIMIT_AS", 0), ("RLIMIT_DATA", 5)])
    def test_ulimit_less_what_is_in_use(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, page: int
    ) -> None:
        """Pages of 4096 bytes: by hand, 1000 of them are 4,096,000 bytes."""
        resource = pytest.importorskip("resource")
        kind, infinite = getattr(resource, flag), resource.RLIM_INFINITY
        limits = {kind: (10_000_000, infinite)}
        monkeypatch.setattr(
            resource, "getrlimit", lambda kind: limits.get(kind, (infinite, infinite))
        )
        monkeypatch.setattr(resource, "getpagesize", lambda: 4096)
        pages = [0] * 7
        pages[page] = 1000
        (tmp_path / "self").mkdir()
        (tmp_path / "self" / "statm").write_text(" ".join(map(str, pages)))
        assert list(memory._free_of_limits(tmp_path)) == [10_000_000 - 4_096_000]

    def test_is_seen_by_the_program(self) -> None:
        """By a process whose own limit is a gigabyte above what it has, without `/proc` made up."""
        resource = pytest.importorskip("resource")
        if not Path("/proc/self/statm").exists():
            pytest.skip("the system does not tell what is in use")
        before = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, before[1]))
        try:
            found = memory._host_bytes()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        assert found is not None
        assert found <= 10**9
