"""The command line around the modes: what is printed where, and with which exit code."""

import importlib
import pkgutil
from typing import Any

import jax
import pytest

import perceptual_jax
from perceptual_jax.cli import main, modes
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.modes import gatys

Captured = pytest.CaptureFixture[str]
NAMES = [module.name for module in pkgutil.iter_modules(modes.__path__)]


def run(*arguments: str) -> int:
    return main.main(["run.py", *arguments])


def complaint(capsys: Captured) -> str:
    """The one line on stderr, where a person's mistake leaves nothing else."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").strip()


class TestHelp:
    @pytest.mark.parametrize("flag", ["--help", "-h", "-help", "--helpfull"])
    def test_lists_every_mode_with_what_it_does(self, flag: str, capsys: Captured) -> None:
        assert run(flag) == 0
        out, err = capsys.readouterr()
        assert err == ""
        for name in NAMES:
            summary = (importlib.import_module(f"perceptual_jax.modes.{name}").__doc__ or "").split(
                "\n"
            )[0]
            assert summary
            assert any(name in line and summary in line for line in out.splitlines())

    @pytest.mark.parametrize("name", NAMES)
    def test_of_a_mode_shows_its_flags(self, name: str, capsys: Captured) -> None:
        for arguments in ([f"--mode={name}", "--help"], ["--help", "--mode", name]):
            assert run(*arguments) == 0
            out, err = capsys.readouterr()
            assert err == ""
            assert out.startswith(f"--mode={name}: ")
            assert "  --" in out

    def test_tells_the_version(self, capsys: Captured) -> None:
        assert run("--version") == 0
        assert capsys.readouterr().out == f"perceptual_jax {perceptual_jax.__version__}\n"

    def test_without_anything_says_what_there_is(self, capsys: Captured) -> None:
        assert run() == 2
        assert "usage: python run.py --mode=MODE" in capsys.readouterr().out

    def test_runs_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gatys, "main", lambda values: pytest.fail("it ran"))
        assert run("--mode=gatys", "--steps=1", "--help") == 0


class TestMode:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--mode=gatys", "--steps=3"],
            ["--mode", "gatys", "--steps=3"],
            ["--steps=3", "--mode=gatys"],
            ["-mode=gatys", "--steps", "3"],
        ],
    )
    def test_is_given_its_flags(
        self, arguments: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        monkeypatch.setattr(gatys, "main", lambda values: seen.append(values.steps))
        assert run(*arguments) == 0
        assert seen == [3]

    def test_its_exit_code_is_the_programs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gatys, "main", lambda values: 143)
        assert run("--mode=gatys") == 143

    def test_missing(self, capsys: Captured) -> None:
        assert run("--steps=3") == 2
        assert complaint(capsys) == f"--mode is missing: one of {', '.join(NAMES)}"

    @pytest.mark.parametrize("name", ["gaty", "", "main", "../gatys", "--steps=3"])
    def test_unknown(self, name: str, capsys: Captured) -> None:
        assert run("--mode", name) == 2
        assert complaint(capsys) == f"there is no mode {name!r}: one of {', '.join(NAMES)}"


class TestMistakes:
    @pytest.mark.parametrize(
        ("argument", "told"),
        [
            ("--nonsense=3", "nonsense"),
            ("--image_sise=512", "image_size"),  # What was meant.
            ("--steps=many", "--steps"),
            ("--steps=0", "--steps"),
            ("--pooling=mean", "<max|avg>"),
            ("photo.jpg", "what is 'photo.jpg'? Flags look like --name=value; see --help"),
            ("--flagfile=nowhere", "nowhere"),
        ],
    )
    def test_are_told_in_a_line(self, argument: str, told: str, capsys: Captured) -> None:
        assert run("--mode=gatys", argument) == 2
        assert told in complaint(capsys)

    def test_of_a_person_in_many_lines_are_one(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(values: Any) -> None:
            raise UserError("this is\n  wrong: do that")

        monkeypatch.setattr(gatys, "main", fail)
        assert run("--mode=gatys") == 2
        assert complaint(capsys) == "this is wrong: do that"

    @pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours")])
    def test_of_ours_keep_their_traceback(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(values: Any) -> None:
            raise error

        monkeypatch.setattr(gatys, "main", fail)
        with pytest.raises(type(error), match="ours"):
            run("--mode=gatys")

    def test_ctrl_c_is_no_error(self, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(values: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(gatys, "main", stop)
        assert run("--mode=gatys") == 130
        assert capsys.readouterr() == ("", "interrupted\n")


class TestCompilationCache:
    @pytest.fixture
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What the program sets in jax, with nothing set."""
        found: dict[str, Any] = {}
        monkeypatch.setattr(jax.config, "update", found.__setitem__)
        monkeypatch.setattr(gatys, "main", lambda values: 0)
        monkeypatch.delenv("PERCEPTUAL_JAX_COMPILATION_CACHE", raising=False)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        monkeypatch.setenv("PERCEPTUAL_JAX_CACHE", "somewhere")
        return found

    def test_is_beside_the_weights(self, settings: dict[str, Any]) -> None:
        run("--mode=gatys")
        assert settings["jax_compilation_cache_dir"].endswith("compiled")
        assert "somewhere" in settings["jax_compilation_cache_dir"]

    def test_can_be_put_elsewhere(
        self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
        run("--mode=gatys")
        assert "jax_compilation_cache_dir" not in settings

    def test_can_be_turned_off(
        self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PERCEPTUAL_JAX_COMPILATION_CACHE", "off")
        run("--mode=gatys")
        assert settings == {}
