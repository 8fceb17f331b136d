"""Programs in C: how ours and the peers' are built, run and counted."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from results import LeftOut

HERE = Path(__file__).parent
BUILT = HERE.parent / "build" / "peers"
CORE = HERE.parent / "build" / "core" / "plain" / "tests"

# The counted programs are built without -march=native: valgrind may not know all of this processor's instructions.
FLAGS = {
    "csrv": ["-O2", "-pthread"],
    "connload": ["-O2"],
    "rte_ring": ["-O3", "-pthread"],
    "eventdev": ["-O3", "-pthread"],
}
DPDK = {"rte_ring", "eventdev"}


def peer(name: str) -> str:
    """The path of a peer's program, built if its source is newer.

    Raises:
        LeftOut: It cannot be built on this machine.
    """
    source, program = HERE / "peers" / f"{name}.c", BUILT / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return str(program)
    if shutil.which("cc") is None:
        raise LeftOut("there is no C compiler")
    compile_flags, link_flags = _dpdk() if name in DPDK else ([], ["-lm"])
    BUILT.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", *FLAGS[name], *compile_flags, "-o", program, source, *link_flags], check=True)
    return str(program)


def _dpdk() -> tuple[list[str], list[str]]:
    if shutil.which("pkg-config") is None or subprocess.run(["pkg-config", "--exists", "libdpdk"]).returncode:
        raise LeftOut("DPDK is not installed (Debian: libdpdk-dev, dpdk)")

    def ask(what: str) -> list[str]:
        return subprocess.run(
            ["pkg-config", what, "libdpdk"], capture_output=True, text=True, check=True
        ).stdout.split()

    return ask("--cflags"), ask("--libs")


def ours(name: str) -> str:
    """The path of one of the core's own programs.

    Raises:
        LeftOut: It was not built.
    """
    program = CORE / name
    if not program.exists():
        raise LeftOut(f"there is no {program.relative_to(HERE.parent)}: make core-test builds it")
    return str(program)


def run(*command: str) -> str:
    """What a program prints.

    Raises:
        LeftOut: It failed.
    """
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LeftOut(f"{Path(command[0]).name} failed: {result.stderr.strip().splitlines()[-1:]}")
    return result.stdout


def megaevents(*command: str) -> float:
    """The Mev/s that a program prints."""
    found = re.search(r"([\d.]+) Mev/s", run(*command))
    if found is None:
        raise LeftOut(f"{command[0]} printed no rate")
    return float(found[1])


def instructions(*command: str, function: str | None = None) -> int:
    """The instructions that a program executes, or one of its functions with all that it calls, by callgrind.

    Raises:
        LeftOut: There is no valgrind, or it counted nothing.
    """
    if shutil.which("valgrind") is None:
        raise LeftOut("there is no valgrind")
    only = [f"--toggle-collect={function}", "--collect-atstart=no"] if function else []
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *only]
    result = subprocess.run([*valgrind, *command], capture_output=True, text=True, check=False)
    found = re.search(r"Collected : *(\d+)", result.stderr)
    if result.returncode or found is None:
        raise LeftOut(f"{Path(command[0]).name} under valgrind: {result.stderr.strip().splitlines()[-1:]}")
    return int(found[1])
