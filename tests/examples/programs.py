"""Examples as running programs."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCOUNT = re.compile(r"(\d+) accepted = (\d+) served \+ (\d+) refused \+ (\d+) aborted")


class Program:
    """A running example that has said where it serves."""

    def __init__(
        self, name: str, *arguments: str, before: Any = None, stdout: Any = subprocess.PIPE, under: Sequence[str] = ()
    ) -> None:
        self.process = subprocess.Popen(
            [*under, sys.executable, "-W", "error", EXAMPLES / name, *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )
        self.said = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        """The first line of its output, from here on, that has the pattern."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"it never said {pattern}: {self.said}{self.errors()}")

    def address(self) -> tuple[str, int]:
        host, port = self.read_until(r"(?:curl http://|open http://|nc )([\d.]+)[: ](\d+)").groups()
        return host, int(port)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def stop(self, number: int = signal.SIGINT) -> tuple[int, int, int, int]:
        """End it by a signal; it must leave cleanly, with an account that adds up. Returns that account."""
        self.process.send_signal(number)
        return self.account()

    def account(self, *, complaints: str = "") -> tuple[int, int, int, int]:
        """The account of its end; what it said on standard error must match the pattern."""
        rest, errors = self.process.communicate(timeout=60)
        self.said += rest
        assert re.fullmatch(complaints, errors), errors
        assert self.process.returncode == 0
        found = ACCOUNT.search(self.said)
        assert found is not None
        accepted, served, refused, aborted = map(int, found.groups())
        assert accepted == served + refused + aborted
        assert "DOES NOT ADD UP" not in self.said
        return accepted, served, refused, aborted


@contextlib.contextmanager
def running(name: str, *arguments: str, **options: Any) -> Iterator[Program]:
    program = Program(name, *arguments, **options)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()
