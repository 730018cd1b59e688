"""What is typed by habit, of another program or of another style, is understood or explained."""

import pytest

from perceptual_jax.cli import flags, main, spelling
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.modes import gatys, stylize
from perceptual_jax.objective import GATYS

Captured = pytest.CaptureFixture[str]


def defined() -> flags.Flags:
    found = flags.Flags()
    flags.pictures(found)
    flags.objective(found, GATYS)
    flags.run_folder(found)
    return found


class TestArguments:
    @pytest.mark.parametrize(
        ("given", "understood"),
        [
            ("--image-size=64", "--image_size=64"),
            ("-image-size", "--image_size"),
            ("--output=a-b.png", "--output=a-b.png"),
            ("--no-plot", "--noplot"),
            ("--noplot", "--noplot"),
            ("--nocheck-memory", "--nocheck_memory"),
            ("--input=a.jpg", "--content=a.jpg"),
            # What is no flag of ours stays as it is: a value, or a mistake to be told.
            ("-", "-"),
            ("--", "--"),
            ("a-b.jpg", "a-b.jpg"),
            ("-a-b.jpg", "-a-b.jpg"),
            ("--colour-space=x", "--colour-space=x"),
        ],
    )
    def test_are_ours(self, given: str, understood: str) -> None:
        assert list(spelling.arguments([given], defined().values)) == [understood]

    def test_may_be_values_that_look_like_flags(self) -> None:
        values = defined().values
        values(
            ["run.py", *spelling.arguments(["--output", "-x-y.png", "--style-scale", "2"], values)]
        )
        assert (values.output, values.style_scale) == ("-x-y.png", 2.0)

    def test_of_a_mode_may_be_those_of_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(gatys, "main", lambda values: seen.append(values.content))
        monkeypatch.setattr(stylize, "main", lambda values: seen.append(values.input))
        for mode in ("gatys", "stylize"):
            for flag in ("--content", "--input"):
                assert main.main(["run.py", f"--mode={mode}", f"{flag}=me.jpg"]) == 0
        assert seen == ["me.jpg"] * 4


class TestUnknownFlags:
    @pytest.mark.parametrize(
        ("mode", "argument", "told"),
        [
            ("gatys", "--content-image=x", "--content-image is --content here"),
            ("gatys", "--content_image=x", "--content_image is --content here"),
            ("gatys", "--style-image=x", "--style-image is --style here"),
            ("gatys", "--model=vgg19", "--model is --vgg here"),
            ("gatys", "--iterations=9", "--iterations is --steps here"),
            ("stylize", "--content-image=x", "--content-image is --input here"),
            ("stylize", "--model=x.pth", "--model is --network here"),
            ("superres", "--upscale=4", "--upscale is --factor here"),
            ("train_transform", "--dataset=coco", "--dataset is --data here"),
            ("gatys", "--gpu=0", "JAX_PLATFORMS"),
            ("gatys", "--stile=wave", "Did you mean: style"),
            ("gatys", "--contnet=a.jpg", "Did you mean: content"),
            ("gatys", "--nonsense=1", "See --mode=gatys --help"),
        ],
    )
    def test_are_explained(self, mode: str, argument: str, told: str, capsys: Captured) -> None:
        assert main.main(["run.py", f"--mode={mode}", argument]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert told in err

    def test_dashes_leave_the_weights_of_terms_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(gatys, "main", lambda values: seen.append(values.content_weight))
        assert main.main(["run.py", "gatys", "--content-weight=3"]) == 0
        assert seen == [3.0]


class TestMode:
    NAMES = ("gatys", "stylize", "superres", "train_superres", "train_transform")

    @pytest.mark.parametrize(
        ("name", "found"), [("gatys", "gatys"), ("train-transform", "train_transform")]
    )
    def test_is_found(self, name: str, found: str) -> None:
        assert spelling.mode(name, list(self.NAMES)) == found

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("gaty", "did you mean gatys?"),
            ("Gatys", "did you mean gatys?"),
            ("style", "did you mean stylize?"),
            ("train", "did you mean train_superres or train_transform?"),
            ("", "one of gatys, stylize"),
            ("../gatys", "did you mean gatys?"),
        ],
    )
    def test_that_is_none_names_the_nearest(self, name: str, meant: str) -> None:
        with pytest.raises(UserError) as raised:
            spelling.mode(name, list(self.NAMES))
        assert f"there is no mode {name!r}: {meant}" in str(raised.value)
