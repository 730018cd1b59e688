"""The flags of training, and the configuration, settings and options that they give."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from perceptual_jax.cli import training_flags
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.flags import Flags
from perceptual_jax.cli.training_flags import TrainSettings

ACCELERATOR = TrainSettings(image_size=256, batch_size=4, steps=40_000)
CPU = dataclasses.replace(ACCELERATOR, image_size=128, batch_size=1, steps=4_000)


def defined() -> Flags:
    flags = Flags()
    flags.group("Network")
    flags.integer("width", 32, "Of a mode.", least=1)
    training_flags.define(flags, ACCELERATOR, CPU)
    training_flags.define_run(flags)
    return flags


def values_of(*arguments: str) -> Any:
    flags = defined()
    flags.values(["run.py", *arguments])
    return flags.values


def config_of(*arguments: str, **changes: Any) -> TrainSettings:
    return training_flags.config_of(values_of(*arguments), ACCELERATOR, CPU, **changes)


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)


class TestConfig:
    @pytest.mark.usefixtures("one_device")
    @pytest.mark.parametrize(
        ("backend", "expected"), [("cpu", CPU), ("gpu", ACCELERATOR), ("tpu", ACCELERATOR)]
    )
    def test_is_by_default_that_of_the_device(
        self, backend: str, expected: TrainSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        assert config_of() == dataclasses.replace(expected, learning_rate=1e-3)

    def test_the_defaults_of_both_kinds_of_device_are_in_the_help(self) -> None:
        text = " ".join(defined().help().split())
        assert "--image_size=none Side of the crops" in text
        for sentence in ("256, on a CPU 128.", "4, on a CPU 1.", "40000, on a CPU 4000."):
            assert f"If not given: {sentence}" in text

    @pytest.mark.parametrize(
        ("devices", "accumulate", "expected"), [(1, 1, 4), (3, 1, 6), (8, 1, 8), (2, 8, 16)]
    )
    def test_a_batch_that_is_not_given_fills_all_devices_evenly(
        self, devices: int, accumulate: int, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
        monkeypatch.setattr(jax, "device_count", lambda: devices)
        assert config_of(f"--accumulate={accumulate}").batch_size == expected

    def test_parts_stay_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jax, "device_count", lambda: 2)
        assert config_of(parts=4).batch_size == 8
        assert config_of("--batch_size=16", parts=4).batch_size == 16
        message = r"--batch_size=12 must be a multiple of the 2 devices .*1 times --parts=4"
        with pytest.raises(UserError, match=message):
            config_of("--batch_size=12", parts=4)

    @pytest.mark.parametrize("batch_size", [1, 6, 15])
    def test_a_batch_that_does_not_is_refused(
        self, batch_size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jax, "device_count", lambda: 6)
        with pytest.raises(
            UserError, match=rf"--batch_size={batch_size} must be a multiple of the 6 devices times"
        ):
            config_of(f"--batch_size={batch_size}", "--accumulate=2")

    @pytest.mark.parametrize("backend", ["cpu", "gpu"])
    def test_has_the_values_of_the_flags(
        self, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        expected = {
            "data": "photos",
            "image_size": 64,
            "batch_size": 12,
            "steps": 70,
            "optimizer": "muon",
            "learning_rate": 0.003,
            "schedule": "constant",
            "warmup_steps": 5,
            "loss_mean": "linear",
            "ema_decay": 0.5,
            "accumulate": 3,
            "dtype": "bfloat16",
            "seed": 9,
        }
        found = config_of(*(f"--{name}={value}" for name, value in expected.items()))
        assert dataclasses.asdict(found) == {**expected, "styles_only": False}

    def test_takes_changes(self) -> None:
        assert config_of(styles_only=True).styles_only

    @pytest.mark.parametrize(("optimizer", "expected"), [("adam", 1e-3), ("muon", 2e-3)])
    def test_the_rate_is_that_of_the_optimizer(self, optimizer: str, expected: float) -> None:
        assert config_of(f"--optimizer={optimizer}").learning_rate == expected

    def test_or_that_of_the_mode(self) -> None:
        slow, slow_cpu = (dataclasses.replace(x, learning_rate=5e-4) for x in (ACCELERATOR, CPU))
        flags = Flags()
        training_flags.define(flags, slow, slow_cpu)
        flags.values(["run.py", "--optimizer=muon"])
        config = training_flags.config_of(flags.values, slow, slow_cpu)
        assert config.learning_rate == 5e-4

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--ema_decay=1", r"ema_decay must be in \[0, 1\), got 1.0"),
            ("--learning_rate=0", "learning_rate must be positive, got 0.0"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, flag: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            config_of(flag)


class TestSettings:
    def test_are_all_flags_that_decide_the_result(self) -> None:
        """And no other: those may change while a run goes on."""
        values = values_of("--steps=7", "--width=3", "--workdir=a", "--noplot", "--store=float32")
        config = training_flags.config_of(values, ACCELERATOR, CPU)
        found = training_flags.settings_of(values, config)
        fields = {field.name for field in dataclasses.fields(TrainSettings)}
        assert set(found) == {"width", *fields} - {"styles_only"}
        assert (found["width"], found["steps"], found["learning_rate"]) == (3, 7, 1e-3)


class TestOptions:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ([], ("runs/wave", "runs/wave/network.safetensors")),
            (["--workdir=gs://b/run"], ("gs://b/run", "gs://b/run/network.safetensors")),
            (["--output=wave.safetensors"], ("runs/wave", "wave.safetensors")),
            (["--workdir=a", "--output=b/c.safetensors"], ("a", "b/c.safetensors")),
        ],
    )
    def test_are_those_of_the_flags_or_called_by_the_name(
        self, flags: list[str], expected: tuple[str, str]
    ) -> None:
        options = training_flags.options_of(values_of(*flags), "wave")
        assert (options.workdir, options.output) == expected

    @pytest.mark.parametrize("place", ["{home}", "~/networks"])
    def test_the_network_needs_a_file(
        self, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Found out before the training and not after it."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        (tmp_path / "networks").mkdir()
        output = place.format(home=tmp_path)
        with pytest.raises(UserError, match=f"--output={output} is a folder: give the path of a"):
            training_flags.options_of(values_of(f"--output={output}"), "wave")

    def test_have_the_values_of_the_flags(self) -> None:
        values = values_of(
            "--store=float32", "--checkpoint_every=7", "--preview_every=0", "--noplot"
        )
        found = training_flags.options_of(values, "wave")
        assert (found.store, found.checkpoint_every, found.preview_every, found.plot) == (
            "float32",
            7,
            0,
            False,
        )


class TestProcesses:
    @pytest.fixture(autouse=True)
    def joined(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """The arguments of `jax.distributed.initialize`."""
        found: list[Any] = []
        monkeypatch.setattr(jax.distributed, "initialize", lambda *given: found.append(given))
        return found

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ([], []),
            (["--distributed"], [()]),
            (
                ["--coordinator=host:1234", "--num_processes=4", "--process_id=0"],
                [("host:1234", 4, 0)],
            ),
        ],
    )
    def test_are_joined_by_the_flags(
        self, flags: list[str], expected: list[Any], joined: list[Any]
    ) -> None:
        training_flags.join_processes(values_of(*flags))
        assert joined == expected

    @pytest.mark.parametrize("flag", ["--num_processes=2", "--process_id=0"])
    def test_a_coordinator_needs_to_know_how_many_and_which(self, flag: str) -> None:
        with pytest.raises(UserError, match="needs --num_processes and --process_id"):
            training_flags.join_processes(values_of("--coordinator=host:1234", flag))

    def test_no_cluster_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise ValueError("coordinator_address should be defined.")

        monkeypatch.setattr(jax.distributed, "initialize", fail)
        with pytest.raises(UserError, match=r"found no cluster \(coord.*give --coordinator"):
            training_flags.join_processes(values_of("--distributed"))

    @pytest.mark.parametrize("flag", ["--num_processes=2", "--process_id=1"])
    def test_how_many_and_which_need_a_coordinator(self, flag: str) -> None:
        """Else each of them would train alone, in one folder."""
        with pytest.raises(UserError, match="need --coordinator"):
            training_flags.join_processes(values_of(flag))
