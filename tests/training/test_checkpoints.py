"""Checkpoints: bit for bit what was saved, whole or not at all, the damaged passed over."""

import contextlib
import json
import logging
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from perceptual_jax.io.storage import FileError
from perceptual_jax.training.checkpoints import Checkpoints, Restored

SETTINGS = {"style": "wave", "style_weight": 5.0, "layers": ["relu1_2", "relu2_2"], "seed": None}


class State(NamedTuple):
    step: jax.Array
    weights: dict[str, dict[str, jax.Array]]
    optimizer: Any


def state_at(step: int) -> State:
    """Weights that no compression makes small, so that most of a checkpoint is their bytes."""
    kernel = np.random.default_rng(step).normal(size=(3, 3, 8, 32)).astype(np.float32)
    weights = {"conv1": {"kernel": jnp.asarray(kernel), "bias": jnp.full(32, step, jnp.float32)}}
    return State(jnp.int32(step), weights, optax.adam(1e-3).init(weights))


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def assert_same_bits(found: Any, expected: Any) -> None:
    def compare(x: jax.Array, y: jax.Array) -> None:
        assert (x.dtype, x.shape, x.sharding) == (y.dtype, y.shape, y.sharding)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()

    jax.tree.map(compare, found, expected)


def save(folder: Path, *steps: int) -> None:
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_at(step), {"next_index": step}, SETTINGS)


def latest(folder: Path, state: Any = None) -> Restored | None:
    with Checkpoints(folder) as checkpoints:
        return checkpoints.latest(abstract(state_at(0) if state is None else state))


def steps_on_disk(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_gives_back_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path, 7)
    found = latest(tmp_path)
    assert found is not None
    assert_same_bits(found.state, state_at(7))
    assert (found.step, found.position, found.settings) == (7, {"next_index": 7}, SETTINGS)


@pytest.mark.parametrize(
    "bits",
    [
        np.array([0x7FC00001, 0xFFA5A5A5, 0x80000000, 0x00000001], np.uint32).view(np.float32),
        np.array([0x7FC1, 0xFFFF, 0x8000, 0x0001], np.uint16).view(jnp.bfloat16),
        np.array([-(2**31), 2**31 - 1], np.int32),
        np.array([0, 2**32 - 1], np.uint32),
        np.array([True, False]),
        np.array(2.5, jnp.bfloat16),
        np.array(-0.0, np.float32),
    ],
    ids=lambda bits: f"{bits.dtype}{list(bits.shape)}",
)
def test_every_bit_survives(tmp_path: Path, bits: np.ndarray) -> None:
    """NaN payloads, negative zeros, subnormals, keys, scalars."""
    state = {"x": jax.device_put(bits)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, {})
        found = checkpoints.latest(abstract(state))
    assert found is not None
    assert_same_bits(found.state, state)
    assert np.asarray(found.state["x"]).tobytes() == bits.tobytes()


def test_a_new_folder_has_none(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "a" / "b") as checkpoints:
        assert checkpoints.latest(abstract(state_at(0))) is None
        assert checkpoints.settings() is None


def test_a_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("run"), 1)
    assert latest(tmp_path / "run") is not None


def test_a_folder_may_be_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        ocp.training, "Checkpointer", lambda folder, **_: opened.append(str(folder))
    )
    Checkpoints("gs://bucket/runs/wave")
    assert opened == ["gs://bucket/runs/wave/checkpoints"]


def test_the_newest_is_given_and_the_newest_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (2, 9, 10, 100):
            checkpoints.save(step, state_at(step), {}, {})
        found = checkpoints.latest(abstract(state_at(0)))
    assert found is not None
    assert found.step == 100
    assert steps_on_disk(tmp_path) == ["10", "100"]


def test_the_same_step_is_not_written_again(tmp_path: Path) -> None:
    """A run that ends, or is stopped, where it has just saved."""
    save(tmp_path, 5)
    before = (tmp_path / "checkpoints" / "5").stat().st_mtime_ns
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.latest(abstract(state_at(0)))
        checkpoints.save(5, state_at(5), {}, {})
        checkpoints.save(6, state_at(6), {}, {})
        checkpoints.save(6, state_at(6), {}, {})
    assert (tmp_path / "checkpoints" / "5").stat().st_mtime_ns == before


def test_a_long_run_does_not_gather_threads(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        counts = []
        for step in range(6):
            checkpoints.save(step, {"x": jnp.zeros(1)}, {}, {})
            checkpoints.wait()
            counts.append(threading.active_count())
    assert counts[-1] <= counts[1]


def test_settings_are_read_without_the_state(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "state")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.settings() == SETTINGS


def test_the_state_may_be_donated_at_once(tmp_path: Path) -> None:
    step = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf * 0 - 1, x), donate_argnums=0)
    state = {"x": jnp.arange(1 << 20, dtype=jnp.float32), "y": jnp.arange(3)}
    expected = jax.tree.map(np.array, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, {})
        donated, state = state, step(state)
        assert donated["x"].is_deleted()
        jax.block_until_ready(state)
        found = checkpoints.latest(abstract(state))
    assert found is not None
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found.state[name], leaf)


def test_is_placed_by_the_abstract_state_wherever_it_was(tmp_path: Path) -> None:
    """Saved from one device, read to two; and what was read may be donated."""
    state = {"x": jnp.arange(1 << 10, dtype=jnp.float32), "step": jnp.int32(3)}
    mesh = Mesh(np.array(jax.devices()), ("data",))
    shardings = {
        "x": NamedSharding(mesh, PartitionSpec("data")),
        "step": NamedSharding(mesh, PartitionSpec()),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, {})
        on_two = jax.device_put(state, shardings)
        found = checkpoints.latest(abstract(on_two))
        assert found is not None
        assert_same_bits(found.state, on_two)

        checkpoints.save(2, on_two, {}, {})
        replicated = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        found = checkpoints.latest(abstract(replicated))
    assert found is not None
    assert_same_bits(found.state, replicated)
    after = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)(found.state)
    for shard in after["x"].addressable_shards:
        np.testing.assert_array_equal(shard.data, np.arange(1, (1 << 10) + 1))


def largest_file(folder: Path) -> Path:
    return max((x for x in folder.rglob("*") if x.is_file()), key=lambda x: x.stat().st_size)


def flip_a_bit(checkpoint: Path) -> None:
    path = largest_file(checkpoint / "state")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_a_bit_unnoticed_by_orbax(checkpoint: Path) -> None:
    """Another array under the same name, as intact as the first."""
    with Checkpoints(checkpoint.parent.parent / "other") as checkpoints:
        state = state_at(int(checkpoint.name))
        kernel = state.weights["conv1"]["kernel"]
        state.weights["conv1"]["kernel"] = jax.lax.bitcast_convert_type(
            jax.lax.bitcast_convert_type(kernel, jnp.uint32).at[0, 0, 0, 0].add(jnp.uint32(1)),
            jnp.float32,
        )
        checkpoints.save(1, state, {}, {})
    shutil.rmtree(checkpoint / "state")
    shutil.copytree(
        checkpoint.parent.parent / "other" / "checkpoints" / "1" / "state", checkpoint / "state"
    )


def truncate(checkpoint: Path) -> None:
    path = largest_file(checkpoint / "state")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_the_data(checkpoint: Path) -> None:
    largest_file(checkpoint / "state").unlink()


def lose_the_state(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "state")


def lose_the_tree(checkpoint: Path) -> None:
    (checkpoint / "state" / "_METADATA").unlink()


def lose_the_metadata(checkpoint: Path) -> None:
    (checkpoint / "_CHECKPOINT_METADATA").unlink()


def empty_the_metadata(checkpoint: Path) -> None:
    (checkpoint / "_CHECKPOINT_METADATA").write_bytes(b"")


def change_the_position(checkpoint: Path) -> None:
    path = checkpoint / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["contents"]["positions"][0]["next_index"] += 1
    path.write_text(json.dumps(metadata))


def lose_all(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGES: list[Callable[[Path], None]] = [
    flip_a_bit,
    flip_a_bit_unnoticed_by_orbax,
    truncate,
    lose_the_data,
    lose_the_state,
    lose_the_tree,
    lose_the_metadata,
    empty_the_metadata,
    change_the_position,
    lose_all,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_one_is_passed_over_with_a_line_of_warning(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 10, 20)
    damage(tmp_path / "checkpoints" / "20")
    with caplog.at_level(logging.WARNING):
        found = latest(tmp_path)
    assert found is not None
    assert (found.step, found.position) == (10, {"next_index": 10})
    assert_same_bits(found.state, state_at(10))
    (warning,) = caplog.messages
    assert warning.startswith(f"checkpoint 20 in {tmp_path / 'checkpoints'} is damaged: ")
    assert "\n" not in warning


def test_if_all_are_damaged_it_says_so_and_deletes_none(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for step in steps_on_disk(tmp_path):
        flip_a_bit(tmp_path / "checkpoints" / step)
    with pytest.raises(FileError, match=r"no checkpoint in .* can be read .*: delete that folder"):
        latest(tmp_path)
    assert steps_on_disk(tmp_path) == ["1", "2"]


def test_training_goes_on_from_before_the_damage(tmp_path: Path) -> None:
    """The damaged ones are newer, and must not push out the good ones that follow."""
    save(tmp_path, 10, 20, 30)
    for step in ("20", "30"):
        flip_a_bit(tmp_path / "checkpoints" / step)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        found = checkpoints.latest(abstract(state_at(0)))
        assert found is not None
        assert found.step == 10
        checkpoints.save(15, state_at(15), {}, {})
        checkpoints.save(20, state_at(20), {}, {})
    assert steps_on_disk(tmp_path) == ["15", "20"]
    found = latest(tmp_path)
    assert found is not None
    assert_same_bits(found.state, state_at(20))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, r"float32\[3\] as weights/bias, where this run has nothing"),
        (
            {"bias": jnp.zeros(3), "extra": jnp.zeros(1)},
            r"nothing as weights/extra, .* float32\[1\]",
        ),
        ({"bias": jnp.zeros(4)}, r"float32\[3\] as weights/bias, where this run has float32\[4\]"),
        ({"bias": jnp.zeros(3, jnp.bfloat16)}, r"float32\[3\] as weights/bias, .* bfloat16\[3\]"),
    ],
    ids=["surplus", "missing", "shape", "dtype"],
)
def test_another_state_is_refused_by_the_name_of_a_leaf(
    tmp_path: Path, weights: dict[str, jax.Array], message: str
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"weights": {"bias": jnp.zeros(3)}}, {}, {})
        checkpoints.save(2, {"weights": {"bias": jnp.zeros(3)}}, {}, {})
        with pytest.raises(FileError, match=f"checkpoint 2 in .* another network.* {message}"):
            checkpoints.latest(abstract({"weights": weights}))


class OldState(NamedTuple):
    """The state of runs that were begun when `ema` was called `average`."""

    step: jax.Array
    average: dict[str, jax.Array]


class NewState(NamedTuple):
    step: jax.Array
    ema: dict[str, jax.Array]


def test_an_average_of_older_runs_is_read_as_ema(tmp_path: Path) -> None:
    leaves = (jnp.int32(3), {"conv1": jnp.arange(3, dtype=jnp.float32)})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, OldState(*leaves), {}, {})
        found = checkpoints.latest(abstract(NewState(*leaves)))
    assert found is not None
    assert_same_bits(found.state, NewState(*leaves))


@contextlib.contextmanager
def nearly_full_disk() -> Iterator[None]:
    """No file may grow beyond what the metadata need."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    "surface",
    [
        Checkpoints.wait,
        Checkpoints.close,
        lambda checkpoints: checkpoints.save(3, {"x": jnp.zeros(1)}, {}, {}),
        lambda checkpoints: checkpoints.latest({"x": jax.ShapeDtypeStruct((1,), jnp.float32)}),
    ],
    ids=["wait", "close", "save", "latest"],
)
def test_a_write_that_fails_in_the_background_is_an_error(
    tmp_path: Path, surface: Callable[[Checkpoints], object]
) -> None:
    noise = np.random.default_rng(0).integers(1 << 32, size=1 << 16, dtype=np.uint32)
    state = {"x": jnp.asarray(noise)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.zeros(3)}, {}, {})
    checkpoints.wait()
    with nearly_full_disk():
        checkpoints.save(2, state, {}, {})
        with pytest.raises(FileError, match=r"cannot write to .*checkpoints: .*File too large"):
            surface(checkpoints)
    if surface is not Checkpoints.close:
        checkpoints.save(2, state, {}, {})  # Not taken for one that is there already.
        checkpoints.close()
        found = latest(tmp_path, state)
        assert found is not None
        assert_same_bits(found.state, state)
    assert "2" in steps_on_disk(tmp_path) or surface is Checkpoints.close


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FileError, match=r"cannot open the checkpoints of .*taken: "):
        Checkpoints(tmp_path / "taken")


def test_a_date_that_orbax_cannot_read_is_an_error(tmp_path: Path) -> None:
    """Orbax looks at the dates of all of them before it opens any."""
    save(tmp_path, 1)
    path = tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["commit_timestamp_nsecs"] *= 2**20
    path.write_text(json.dumps(metadata))
    with pytest.raises(FileError, match=r"cannot open the checkpoints of .*: year .* out of range"):
        Checkpoints(tmp_path)


@pytest.mark.parametrize("change", ["[]", '{"commit_timestamp_nsecs": 1e30}', '{"metrics": 3}'])
def test_metadata_that_keeps_orbax_from_all_checkpoints_is_named(
    tmp_path: Path, change: str
) -> None:
    save(tmp_path, 1, 2)
    damaged = tmp_path / "checkpoints" / "2"
    (damaged / "_CHECKPOINT_METADATA").write_text(change)
    with pytest.raises(
        FileError, match=rf"; {damaged} is damaged: remove it to go on from another"
    ):
        Checkpoints(tmp_path)
    shutil.rmtree(damaged)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_damage_is_told_without_tracebacks(tmp_path: Path) -> None:
    """Those of other threads, which no test of this process sees."""
    state = {str(i): jnp.full(1000, i) for i in range(20)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {}, {})
    for path in (tmp_path / "checkpoints" / "2" / "state").rglob("manifest.ocdbt"):
        path.write_bytes(bytes(path.stat().st_size))
    program = """
import gc, sys, jax, jax.numpy as jnp
from perceptual_jax.training.checkpoints import Checkpoints
with Checkpoints(sys.argv[1]) as checkpoints:
    assert checkpoints.latest({str(i): jnp.full(1000, i) for i in range(20)}).step == 1
gc.collect()
"""
    with python(program, str(tmp_path)) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert "checkpoint 2 in" in said
    assert said.count("\n") == 1


@contextlib.contextmanager
def python(program: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A process, which is ended and waited for whatever happens."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_importing_it_does_not_import_orbax() -> None:
    program = "import sys, perceptual_jax.training.checkpoints; print('orbax' in sys.modules)"
    with python(program) as process:
        assert process.communicate(timeout=600) == ("False\n", "")


KILLED = """
import os, signal, sys
import jax.numpy as jnp, numpy as np
from perceptual_jax.training.checkpoints import Checkpoints

checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"x": jnp.ones(3)}, {}, {})
checkpoints.wait()
# Random, and large enough to take a while.
many = np.random.default_rng(0).integers(1 << 32, size=1 << 23, dtype=np.uint32)
checkpoints.save(2, {"x": jnp.asarray(many)}, {}, {})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_it_writes_leaves_the_one_before(tmp_path: Path) -> None:
    with python(KILLED, str(tmp_path)) as process:
        assert process.communicate(timeout=600) == ("", "")
    assert process.returncode == -9
    assert len(steps_on_disk(tmp_path)) == 2

    # Another program that looks on cannot know whether the write goes on.
    with Checkpoints(tmp_path, only_read=True) as checkpoints:
        assert checkpoints.settings() == {}
    assert len(steps_on_disk(tmp_path)) == 2

    state = {"x": jnp.ones(3)}
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.latest(abstract(state))
        assert found is not None
        assert_same_bits(found.state, state)
        checkpoints.save(2, state, {}, {})
    assert steps_on_disk(tmp_path) == ["1", "2"]


ONE_OF_TWO = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(
    coordinator_address=sys.argv[2], num_processes=2, process_id=int(sys.argv[3])
)
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from perceptual_jax.training.checkpoints import Checkpoints

replicated = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())
kernel = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
state = {"x": jax.make_array_from_callback(kernel.shape, replicated, lambda index: kernel[index])}
abstract = {"x": jax.ShapeDtypeStruct(kernel.shape, kernel.dtype, sharding=replicated)}
position = {"next_index": 10 ** (4000 * jax.process_index())}  # Of another length in each.
step = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)

with jax.transfer_guard("disallow"), Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, state, position, {"a": 1})
    state = step(state)
    checkpoints.save(2, state, {}, {})
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.wait()
    if jax.process_index() == 1:  # Which the other process can read.
        good = Checkpoints._leaves
        def unreadable(self, step, contents):
            from perceptual_jax.training.checkpoints import _DamagedError
            leaves = good(self, step, contents)
            if step == 2:
                raise _DamagedError("unreadable here")
            return leaves
        Checkpoints._leaves = unreadable
    found = checkpoints.latest(abstract)
    assert found.step == 1
    assert found.position == position
    assert found.settings == {"a": 1}
    assert checkpoints.settings() == {}
    for shard in found.state["x"].addressable_shards:
        assert shard.data.tobytes() == kernel.tobytes()
    assert step(found.state)["x"].sharding == replicated
"""


def test_two_processes_save_and_restore_together(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(python(ONE_OF_TWO, str(tmp_path), address, str(index)))
            for index in range(2)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
    state = {"x": jax.device_put(np.zeros((64, 64), np.float32), jax.devices()[0])}
    # One process may go on from where both were at the same place in their data, and only there.
    found = latest(tmp_path, state)
    assert found is not None
    assert (found.step, found.position) == (2, {})
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    with pytest.raises(FileError, match="of a run with 2 processes, this one has 1: resume with"):
        latest(tmp_path, state)
