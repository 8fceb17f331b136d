"""pydlb: the program for operators and for those who try things out."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

from pydlb import __version__

__all__ = ["main"]

USAGE = """usage: pydlb COMMAND ...

commands:
  emulate [options] -- PROGRAM ARGS   run a program that sees emulated DLB devices as /dev/dlb0 and so on;
                                      pydlb emulate --help lists the options
  info                                list the DLB devices of this machine, and what each has left
  doctor                              say why hardware is or is not used, and what mends it
  serve [options] MODULE:APP          serve an ASGI or WSGI application on balanced workers, as uvicorn does
  top [URL | --pid PID]               watch a running balancer that has a metrics port
  envoy explain|migrate FILE          read a configuration of Envoy's DLB balancer: what it means here, and today
  version                             print pydlb's version

pydlb COMMAND --help says more about each.
"""

# Commands with options of their own, each a module with a main(arguments) that returns the exit status.
COMMANDS: Final = {
    "info": "pydlb.cli.info",
    "doctor": "pydlb.cli.doctor",
    "top": "pydlb.cli.top",
    "serve": "pydlb.cli.serve",
    "envoy": "pydlb.cli.envoy",
}


def _emulate(arguments: list[str]) -> NoReturn:
    """Become the launcher that lies beside the extension."""
    extension = importlib.util.find_spec("pydlb._native")
    launcher = Path(extension.origin if extension and extension.origin else "").parent / "pdlb-emulate"
    if not launcher.exists():
        sys.exit("pydlb: this build has no emulated device: it needs an x86-64 processor")
    os.execv(launcher, [str(launcher), *arguments])


def _run(command: str, arguments: list[str]) -> int:
    try:
        status: int = importlib.import_module(COMMANDS[command]).main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough, as head does. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        Its exit status; 2 if there is no such command.
    """
    match sys.argv[1:] if arguments is None else arguments:
        case ["emulate", *rest]:
            _emulate(rest)
        case [command, *rest] if command in COMMANDS:
            return _run(command, rest)
        case ["version"]:
            print(__version__)
            return 0
        case ["-h" | "--help"]:
            print(USAGE, end="")
            return 0
        case _:
            print(USAGE, end="", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
