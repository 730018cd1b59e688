"""The flags of training: what is left open, what is made of them, and what is told."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from perceptual_jax.cli import training_flags
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.flags import Flags
from perceptual_jax.cli.training_flags import Amount, Defaults
from perceptual_jax.io import images, resources
from perceptual_jax.models import networks
from perceptual_jax.models.networks import StyleNetwork, SuperResolutionNetwork
from perceptual_jax.training import photos

DEFAULTS = Defaults(
    accelerator=Amount(256, 4, 40000),
    cpu=Amount(128, 1, 4000),
    optimizer="adam",
    learning_rates={"adam": 1e-3, "muon": 2e-3},
    mean="log",
)


def values_of(*arguments: str) -> Any:
    flags = Flags()
    training_flags.define(flags, DEFAULTS)
    training_flags.define_folder(flags)
    flags.values(["run.py", *arguments])
    return flags.values


@pytest.mark.parametrize(
    ("backend", "expected"),
    [("cpu", DEFAULTS.cpu), ("gpu", DEFAULTS.accelerator), ("tpu", DEFAULTS.accelerator)],
)
def test_amounts_are_those_of_the_device(
    backend: str, expected: Amount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert DEFAULTS.amount() == expected


class TestSettings:
    @pytest.mark.parametrize(
        ("backend", "expected"),
        [("cpu", (128, 1, 4000)), ("gpu", (256, 4, 40000)), ("tpu", (256, 4, 40000))],
    )
    def test_what_is_left_open_follows_from_the_device(
        self, backend: str, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        settings = training_flags.settings_of(values_of(), DEFAULTS)
        assert tuple(settings[x] for x in ("image_size", "batch_size", "steps")) == expected

    @pytest.mark.parametrize(
        ("devices", "accumulate", "expected"), [(1, 1, 4), (3, 1, 6), (8, 1, 8), (2, 8, 16)]
    )
    def test_a_batch_that_is_left_open_fills_all_devices_evenly(
        self, devices: int, accumulate: int, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
        monkeypatch.setattr(jax, "device_count", lambda: devices)
        settings = training_flags.settings_of(values_of(f"--accumulate={accumulate}"), DEFAULTS)
        assert settings["batch_size"] == expected

    @pytest.mark.parametrize("backend", ["cpu", "gpu"])
    def test_what_is_given_stays(self, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        given = {"image_size": 64, "batch_size": 2, "steps": 7}
        flags = [f"--{name}={value}" for name, value in given.items()]
        assert training_flags.settings_of(values_of(*flags), DEFAULTS).items() >= given.items()

    def test_hold_every_flag_that_decides_the_result(self) -> None:
        """And none that does not: with those a run may be gone on with as one likes."""
        flags = Flags()
        training_flags.define(flags, DEFAULTS)
        deciding = {name for name in flags.values if name not in ("flagfile", "undefok")}
        assert set(training_flags.settings_of(values_of(), DEFAULTS)) == deciding


class TestRecipe:
    def test_is_what_the_flags_say(self) -> None:
        values = values_of(
            "--steps=70",
            "--optimizer=muon",
            "--learning_rate=0.003",
            "--schedule=constant",
            "--warmup_steps=5",
            "--loss_mean=linear",
            "--ema_decay=0.5",
            "--accumulate=3",
        )
        config = training_flags.config_of(values, training_flags.settings_of(values, DEFAULTS))
        assert (config.steps, config.optimizer, config.learning_rate) == (70, "muon", 0.003)
        assert config.schedule == "constant"
        assert (config.warmup_steps, config.mean, config.ema_decay) == (5, "linear", 0.5)
        assert (config.accumulate, config.styles_only) == (3, False)
        settings = training_flags.settings_of(values, DEFAULTS)
        assert training_flags.config_of(values, settings, styles_only=True).styles_only

    def test_is_by_default_the_papers_rate_on_the_mean_of_logarithms(self) -> None:
        values = values_of()
        config = training_flags.config_of(values, training_flags.settings_of(values, DEFAULTS))
        assert (config.learning_rate, config.schedule, config.mean) == (1e-3, "cosine", "log")
        assert config.optimizer == "adam"

    def test_the_rate_follows_from_the_optimizer(self) -> None:
        values = values_of("--optimizer=muon")
        config = training_flags.config_of(values, training_flags.settings_of(values, DEFAULTS))
        assert (config.optimizer, config.learning_rate) == ("muon", 2e-3)


class TestPlaces:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ([], ("runs/wave", "runs/wave/network.safetensors")),
            (["--workdir=gs://b/run"], ("gs://b/run", "gs://b/run/network.safetensors")),
            (["--output=wave.safetensors"], ("runs/wave", "wave.safetensors")),
            (["--workdir=a", "--output=b/c.safetensors"], ("a", "b/c.safetensors")),
        ],
    )
    def test_are_as_asked_or_called_by_the_name(
        self, flags: list[str], expected: tuple[str, str]
    ) -> None:
        assert training_flags.places_of(values_of(*flags), "wave") == expected

    @pytest.mark.parametrize("place", ["{home}", "~/networks"])
    def test_the_network_needs_a_file(
        self, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Found out before the training and not after it."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        (tmp_path / "networks").mkdir()
        output = place.format(home=tmp_path)
        with pytest.raises(
            (UserError, OSError), match=f"--output={output} is a folder: give the path of a"
        ):
            training_flags.places_of(values_of(f"--output={output}"), "wave")


class TestCrop:
    @pytest.mark.parametrize(
        ("network", "sides"),
        [
            (StyleNetwork(), [32, 33, 5]),
            (networks.paper_style_network(), [41]),
            (SuperResolutionNetwork(factor=4), [20, 36, 288]),
            (SuperResolutionNetwork(factor=8), [40, 144]),
        ],
    )
    def test_of_these_sides_are_taken(self, network: Any, sides: list[int]) -> None:
        for side in sides:
            training_flags.check_crop(network, {"image_size": side})

    @pytest.mark.parametrize(
        ("network", "side", "told"),
        [
            (StyleNetwork(), 4, "needs crops of 5 pixels: raise --image_size=4"),
            (networks.paper_style_network(), 40, "needs crops of 41 pixels: raise --image_size=40"),
            (SuperResolutionNetwork(factor=4), 16, "needs crops of 20 pixels: raise"),
            (SuperResolutionNetwork(factor=8), 32, "needs crops of 40 pixels: raise"),
            (SuperResolutionNetwork(factor=4), 34, "--image_size=34 must be a multiple of 4, the"),
            (SuperResolutionNetwork(factor=8), 44, "--image_size=44 must be a multiple of 8, the"),
        ],
    )
    def test_of_other_sides_it_is_told(self, network: Any, side: int, told: str) -> None:
        with pytest.raises((UserError, OSError), match=told):
            training_flags.check_crop(network, {"image_size": side})


class TestProcesses:
    @pytest.fixture(autouse=True)
    def joined(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """With what JAX was told to join."""
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
    def test_are_joined_as_asked(
        self, flags: list[str], expected: list[Any], joined: list[Any]
    ) -> None:
        training_flags.join_processes(values_of(*flags))
        assert joined == expected

    @pytest.mark.parametrize("flag", ["--num_processes=2", "--process_id=0"])
    def test_a_coordinator_needs_to_know_how_many_and_which(self, flag: str) -> None:
        with pytest.raises((UserError, OSError), match="needs --num_processes and --process_id"):
            training_flags.join_processes(values_of("--coordinator=host:1234", flag))

    def test_no_cluster_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise ValueError("coordinator_address should be defined.")

        monkeypatch.setattr(jax.distributed, "initialize", fail)
        with pytest.raises(
            (UserError, OSError), match=r"found no cluster \(coord.*give --coordinator"
        ):
            training_flags.join_processes(values_of("--distributed"))

    @pytest.mark.parametrize("flag", ["--num_processes=2", "--process_id=1"])
    def test_how_many_and_which_need_a_coordinator(self, flag: str) -> None:
        """Else each of them would train alone, in one folder."""
        with pytest.raises((UserError, OSError), match="need --coordinator"):
            training_flags.join_processes(values_of(flag))


class TestPhotos:
    def test_by_default_are_the_samples_and_it_is_told(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = training_flags.photo_source(values_of())
        samples = list((resources.folder("examples") / "sample_photos").glob("*.jpg"))
        assert len(found) == len(samples) > 50
        out = capsys.readouterr().out
        assert out.startswith(f"Training on the {len(samples)} sample photos of examples/.")
        assert "--data=FOLDER" in out
        assert out.count("\n") == 1

    def test_of_a_folder_nothing_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        folder = resources.folder("examples") / "content"
        assert len(training_flags.photo_source(values_of(f"--data={folder}"))) == 4
        assert capsys.readouterr().out == ""

    def test_that_could_not_be_used_are_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images.write(tmp_path / "good.png", np.zeros((40, 40, 3), np.float32))
        (tmp_path / "bad.jpg").write_bytes(b"not a photo")
        found = training_flags.photo_source(values_of(f"--data={tmp_path}"))
        training_flags.tell_skipped(found)
        assert capsys.readouterr().out == ""
        for _ in range(2):
            found.read_or_next(0, short_side=40)
        training_flags.tell_skipped(found)
        assert capsys.readouterr().out == "1 of the 2 photos could not be used\n"


class TestBatches:
    SETTINGS = {"batch_size": 12, "accumulate": 2, "image_size": 32, "seed": 3}  # noqa: RUF012

    @pytest.fixture
    def as_dict(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What was asked of `photos.batches`, by the third of three processes of two devices."""
        found: dict[str, Any] = {}
        monkeypatch.setattr(jax, "process_count", lambda: 3)
        monkeypatch.setattr(jax, "process_index", lambda: 2)
        monkeypatch.setattr(jax, "device_count", lambda: 6)
        monkeypatch.setattr(photos, "batches", lambda source, **given: found.update(given) or [])
        return found

    def test_are_this_processes_share(self, asked: dict[str, Any]) -> None:
        training_flags.batches_of(self.SETTINGS, photos.Photos(1, bytes, str), flip=False)
        assert asked == {
            "batch_size": 4,
            "crop": 32,
            "seed": 3,
            "process_index": 2,
            "process_count": 3,
            "flip": False,
        }

    @pytest.mark.usefixtures("asked")
    @pytest.mark.parametrize("batch_size", [1, 6, 15])
    def test_fill_all_devices_evenly(self, batch_size: int) -> None:
        settings = {**self.SETTINGS, "batch_size": batch_size}
        with pytest.raises(
            UserError, match=rf"--batch_size={batch_size} must be a multiple of the 6 devices times"
        ):
            training_flags.batches_of(settings, photos.Photos(1, bytes, str))

    def test_a_seed_that_is_too_large_is_told(self) -> None:
        settings = {**self.SETTINGS, "seed": 2**32}
        with pytest.raises((UserError, OSError), match="eed must be an integer between 0 and"):
            training_flags.batches_of(settings, photos.Photos(1, bytes, str))
