"""How the program begins: by a process of its own, which Ctrl-C ends in a line."""

import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "run.py"

# Work in place of the command line, which says when it has begun.
SLOW = """
import signal, sys
def work():
    print("begun", flush=True)
    signal.pause()
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "perceptual_jax.cli.main":
            work()
sys.meta_path.insert(0, Finder())
from perceptual_jax.cli import start
start.run()
"""


def interrupted(program: str, *, ignored: bool = False) -> tuple[int, str]:
    """The exit code and standard error of a process that gets SIGINT when it says so."""
    # Where these tests run in the background of a shell it would be ignored in any case.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    shell = 'trap "" INT; exec "$0" -c "$1"' if ignored else 'exec "$0" -c "$1"'
    with subprocess.Popen(
        ["sh", "-c", shell, sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        if ignored:
            assert process.poll() is None
            process.terminate()
        return process.wait(), process.communicate()[1]


def test_ctrl_c_during_an_import_is_a_line() -> None:
    assert interrupted(SLOW) == (130, "interrupted\n")


def test_ctrl_c_that_the_shell_ignores_stays_ignored() -> None:
    assert interrupted(SLOW, ignored=True) == (-signal.SIGTERM, "")


def test_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, PROGRAM, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("perceptual_jax ")
