"""A peer in a process of its own, that works when it is asked to, and waits while we do."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Peer:
    """A program that answers a line of JSON on standard input by one on standard output.

    Attributes:
      greeting: the line that it printed at its start.
    """

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.greeting = self._hear()

    def ask(self, **request: Any) -> Any:
        """The answer.

        Raises:
          RuntimeError: the program has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer has ended with exit code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the program, which has read all that it is asked."""
        self._process.communicate()
