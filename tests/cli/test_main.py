"""The command line around the modes: what is printed where, and with which exit code."""

import importlib
import io
import logging
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import perceptual_jax
from perceptual_jax.cli import main, messages, modes
from perceptual_jax.cli.errors import UserError
from perceptual_jax.cli.modes import gatys
from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError

Captured = pytest.CaptureFixture[str]
PROGRAM = Path(__file__).parents[2] / "run.py"
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
            mode = importlib.import_module(f"perceptual_jax.cli.modes.{name}")
            summary = (mode.__doc__ or "").split("\n")[0]
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

    @pytest.mark.parametrize("arguments", [[], ["--help"], ["--steps=3"], ["--mode=gaty"]])
    def test_of_the_program_imports_no_mode(self, arguments: list[str]) -> None:
        """Importing jax takes longer than everything else that is done here."""
        program = (
            "import sys\n"
            "from perceptual_jax.cli.main import main\n"
            f"main(['run.py', *{arguments}])\n"
            "heavy = {'jax', 'flax', 'numpy', 'PIL', 'perceptual_jax.cli.modes.gatys'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "gatys" in done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "[]"

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
            ["gatys", "--steps=3"],
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

    def test_is_one_file(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "posterize.py").write_text(
            '"""Use few colours.\n\nThe rest of the help."""\n'
            "def define_flags(define):\n"
            "    define.integer('colors', 4, 'How many.')\n"
            "def main(values):\n"
            "    return values.colors\n"
        )
        monkeypatch.setattr(modes, "__path__", [str(tmp_path)])
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.delitem(sys.modules, "perceptual_jax.cli.modes.posterize", raising=False)
        assert run("--help") == 0
        assert "  posterize          Use few colours.\n" in capsys.readouterr().out
        assert run("--mode=posterize", "--help") == 0
        assert "--colors=4" in capsys.readouterr().out
        assert run("--mode=posterize", "--colors=3") == 3

    def test_missing(self, capsys: Captured) -> None:
        assert run("--steps=3") == 2
        assert complaint(capsys) == f"--mode is missing: one of {', '.join(NAMES)}"

    @pytest.mark.parametrize("name", ["gaty", "", "main", "../gatys", "--steps=3"])
    def test_unknown(self, name: str, capsys: Captured) -> None:
        assert run("--mode", name) == 2
        told = complaint(capsys)
        assert told.startswith(f"there is no mode {name!r}: ")
        assert told.endswith(", ".join(NAMES))

    def test_that_is_misspelt_names_the_right_one(self, capsys: Captured) -> None:
        for arguments in (["--mode=gaty"], ["gaty", "--steps=3"]):
            assert run(*arguments) == 2
            assert "did you mean gatys?" in complaint(capsys)


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

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (FileError("cannot read x.png: it is empty"), "cannot read x.png: it is empty"),
            (OSError(28, "No space left on device", "x.png"), "No space left on device: 'x.png'"),
            (OSError(18, "Invalid link", "a", None, "b"), "Invalid link: 'a' -> 'b'"),
            (PermissionError(13, "Permission denied"), "Permission denied"),
        ],
    )
    def test_of_files_are_told_without_their_number(
        self, error: OSError, line: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(values: Any) -> None:
            raise error

        monkeypatch.setattr(gatys, "main", fail)
        assert run("--mode=gatys") == 2
        assert complaint(capsys) == line

    @pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours")])
    def test_of_ours_keep_their_traceback(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(values: Any) -> None:
            raise error

        monkeypatch.setattr(gatys, "main", fail)
        with pytest.raises(type(error), match="ours"):
            run("--mode=gatys")

    @pytest.mark.parametrize(
        "error",
        [AssertionError(), RuntimeError("Unable to initialize backend"), FileError("damaged")],
    )
    def test_of_the_platform_are_told_as_such(
        self, error: Exception, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever hides it: the file of a network that is read, say."""

        def devices() -> None:
            raise AssertionError

        def fail(values: Any) -> None:
            try:
                devices()
            except AssertionError as cause:
                raise error from cause

        monkeypatch.setattr(gatys, "main", fail)
        if not isinstance(error, FileError):  # With a device it is ours.
            with pytest.raises(type(error)):
                run("--mode=gatys")
        monkeypatch.setattr(jax, "devices", devices)
        assert run("--mode=gatys") == 2
        assert complaint(capsys).startswith("JAX finds no device of the platform JAX_PLATFORMS=cpu")

    def test_of_a_platform_that_is_not_there(self) -> None:
        photo = resources.picture("chelsea", "content")
        done = subprocess.run(
            [sys.executable, PROGRAM, "--mode=superres", f"--input={photo}", "--output=-"],
            env=os.environ | {"JAX_PLATFORMS": "cuda"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "error: JAX finds no device of the platform JAX_PLATFORMS=cuda" in done.stderr

    def test_ctrl_c_is_no_error(self, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(values: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(gatys, "main", stop)
        assert run("--mode=gatys") == 130
        assert capsys.readouterr() == ("", "interrupted\n")


def start(stdout: Any) -> "subprocess.Popen[str]":
    """The help as a process, with this standard output."""
    program = "from perceptual_jax.cli.main import run; run()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "--help"],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestOutput:
    def test_that_nobody_reads_is_no_error(self) -> None:
        """As by `perceptual-jax --help | head -1`."""
        reading, writing = os.pipe()
        os.close(reading)
        with start(writing) as process:
            os.close(writing)
            assert process.communicate()[1] == ""
        assert process.returncode == 141  # 128 and the number of SIGPIPE, from POSIX.

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is full")
    def test_to_a_full_disk_is_told_in_a_line(self) -> None:
        with Path("/dev/full").open("w") as full, start(full) as process:
            told = "error: cannot write to standard output (No space left on device)\n"
            assert process.communicate()[1] == told
        assert process.returncode == 2

    def test_may_be_closed(self) -> None:
        for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
            command = f'"$0" -c "from perceptual_jax.cli.main import run; run()" --help {closed}'
            arguments = ["sh", "-c", command, sys.executable]
            done = subprocess.run(arguments, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")

    def test_that_is_closed_leaves_its_place_to_no_file(self, tmp_path: Path) -> None:
        """Whatever a library prints would be written into it."""
        program = (
            "import os, sys; from perceptual_jax.cli import main\n"
            "main.main = lambda argv: open(sys.argv[1], 'w').fileno()\n"
            "main.run()"
        )
        command = '"$0" -c "$1" "$2" <&- >&-'
        arguments = ["sh", "-c", command, sys.executable, program, str(tmp_path / "file")]
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode > 2


class TestNames:
    """Those that a terminal cannot show, or would take for commands."""

    @pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp1252"])
    def test_turn_no_success_into_an_error(
        self, encoding: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        name = os.fsdecode("über\u2013海".encode() + b"\xff.png")
        monkeypatch.setattr(gatys, "main", lambda values: messages.say(name))
        assert run("--mode=gatys") == 0
        shown = stream.buffer.getvalue().decode(encoding)
        escaped = name.encode(encoding, "backslashreplace").decode(encoding)
        assert shown.strip() == escaped.strip()

    def test_are_no_commands_to_a_terminal(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(values: Any) -> None:
            raise FileError("cannot read \x1b[2J\x9b.png")

        monkeypatch.setattr(gatys, "main", fail)
        assert run("--mode=gatys") == 2
        assert complaint(capsys) == r"cannot read \x1b[2J\x9b.png"
        assert run("--mode=gatys", "--\x1bc") == 2
        assert r"\x1bc" in complaint(capsys)

    def test_are_none_in_a_log_either(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        run("--version")
        (handler,) = logging.getLogger().handlers
        record = logging.makeLogRecord({"msg": "skipped: \x1bc"})
        assert handler.format(record) == r"skipped: \x1bc"


class TestCompilationCache:
    @pytest.fixture
    def settings(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
        """What the program sets in jax, with nothing set."""
        found: dict[str, Any] = {}
        monkeypatch.setattr(jax.config, "update", found.__setitem__)
        monkeypatch.setattr(gatys, "main", lambda values: 0)
        monkeypatch.delenv("PERCEPTUAL_JAX_COMPILATION_CACHE", raising=False)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PERCEPTUAL_JAX_CACHE", "somewhere")
        return found

    def test_is_beside_the_weights(self, settings: dict[str, Any]) -> None:
        run("--mode=gatys")
        assert settings["jax_compilation_cache_dir"].endswith("compiled")
        assert "somewhere" in settings["jax_compilation_cache_dir"]

    @pytest.mark.parametrize("place", ["no home", "a file"])
    def test_is_left_out_where_nothing_can_be_kept(
        self,
        place: str,
        settings: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def no_home(path: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        if place == "no home":
            monkeypatch.delenv("PERCEPTUAL_JAX_CACHE")
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
            monkeypatch.setattr(Path, "expanduser", no_home)
        else:
            (tmp_path / "file").touch()
            monkeypatch.setenv("PERCEPTUAL_JAX_CACHE", str(tmp_path / "file"))
        assert run("--mode=gatys") == 0
        assert settings == {}

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
