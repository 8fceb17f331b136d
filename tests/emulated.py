"""Programs that are run under `pydlb emulate`, on the emulated device that several processes share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pydlb import _native


def run_emulated(version: str, program: Path, *arguments: object) -> None:
    """Run a program of Python: it ends in order, and the device has nothing to complain of.

    Raises:
        AssertionError: It does not; the message has the arguments, the seed among them, and what it printed.
    """
    emulate = Path(_native.__file__).with_name("pdlb-emulate")
    done = subprocess.run(
        [emulate, "--version", version, "--", sys.executable, str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{program.name} {arguments}: {done.stdout}"
    assert "emulated device" not in done.stdout, f"{program.name} {arguments}: it was misused: {done.stdout}"
