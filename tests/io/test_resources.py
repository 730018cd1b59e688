"""The weights and examples of the package, and the names that stand for their paths."""

from pathlib import Path

import pytest
from PIL import Image

from perceptual_jax.cli import flags
from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError


def test_weights_and_examples_are_there() -> None:
    assert (resources.folder("weights") / "vgg16.safetensors").is_file()
    assert (resources.folder("examples") / "SOURCES.md").is_file()


@pytest.mark.parametrize("kind", ["content", "styles"])
def test_every_example_can_be_called_by_its_name(kind: str) -> None:
    names = resources.example_names(kind)
    assert names == sorted(set(names))
    assert names
    for name in names:
        path = resources.picture(name, kind)
        assert path.stem == name
        assert resources.picture(path.name, kind) == path
        with Image.open(path) as image:
            image.verify()


def test_the_default_pictures_are_examples() -> None:
    defaults = flags.Flags()
    flags.pictures(defaults)
    defaults.values(["run.py"])
    assert defaults.values.content in resources.example_names("content")
    assert set(defaults.values.style) <= set(resources.example_names("styles"))


def test_an_example_is_of_its_kind() -> None:
    with pytest.raises(FileError, match="no picture 'wave'"):
        resources.picture("wave", "content")


class TestAPath:
    def test_is_taken_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "mine.jpg").touch()
        assert resources.picture(tmp_path / "mine.jpg", "content") == tmp_path / "mine.jpg"

    def test_of_a_file_wins_over_an_example(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        example = resources.picture("wave.jpg", "styles")
        (tmp_path / "wave.jpg").touch()
        assert resources.picture("wave.jpg", "styles") == Path("wave.jpg")
        assert resources.picture("wave", "styles") == example

    def test_of_a_folder_does_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As after `--style=wave --workdir=wave`."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "wave").mkdir()
        assert resources.picture("wave", "styles").name == "wave.jpg"

    def test_of_a_folder_is_left_to_who_opens_it(self, tmp_path: Path) -> None:
        """`images.read` says what is wrong with it."""
        assert resources.picture(tmp_path, "styles") == tmp_path

    def test_may_start_at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        (tmp_path / "mine.png").touch()
        assert resources.picture("~/mine.png", "content") == tmp_path / "mine.png"

    @pytest.mark.parametrize("name", ["nothing", "nothing.jpg", "elsewhere/wave.jpg", "SOURCES.md"])
    def test_that_leads_nowhere_is_reported_with_the_examples(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileError) as caught:
            resources.picture(name, "styles")
        assert f"there is no picture '{name}'" in str(caught.value)
        for example in resources.example_names("styles"):
            assert example in str(caught.value)
