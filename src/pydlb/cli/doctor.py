"""pydlb doctor: why hardware is or is not used."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING

import pydlb
from pydlb import diagnosis, hardware

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_MARKS = {"good": "ok  ", "note": "note", "bad": "BAD "}


def main(arguments: list[str]) -> int:
    """Look at everything that hardware needs.

    Returns:
        0 if the hardware can be used, 1 if not.
    """
    options = _parser().parse_args(arguments)
    found = hardware.survey(options.root)
    findings = diagnosis.diagnose(found)
    ready = diagnosis.usable(found)
    backend = _what_auto_opens() if options.root == "/" else None
    works = bool(ready) and (backend is None or backend[0] != "software")
    if options.json:
        told = [dataclasses.asdict(finding) for finding in findings]
        auto = None if backend is None else {"backend": backend[0], "fallback_reason": backend[1]}
        nodes = [node.path for node in ready]
        print(json.dumps({"usable": works, "nodes": nodes, "auto": auto, "findings": told}, indent=1))
    else:
        _print(findings, ready if works else [], backend)
    return 0 if works else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pydlb doctor",
        description="Say why DLB hardware is or is not used on this machine, and which command mends what is wrong.",
        epilog="The exit status is 0 if the hardware can be used, 1 if not. Without it pydlb works in software.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument(
        "--root", default="/", metavar="DIRECTORY", help="look at the dev, sys and proc in this directory; open nothing"
    )
    return parser


def _what_auto_opens() -> tuple[str, str | None]:
    """The backend that a program gets that leaves the choice to pydlb, and why it is no better one."""
    asked = os.environ.get("PYDLB_BACKEND")
    try:
        with pydlb.open("auto") as device:
            return device.backend, f"PYDLB_BACKEND is {asked}" if asked else device.fallback_reason
    except pydlb.DLBError as error:
        return "none", str(error)


def _print(
    findings: Sequence[diagnosis.Finding], ready: Sequence[hardware.Node], backend: tuple[str, str | None] | None
) -> None:
    for finding in findings:
        print(f"{_MARKS[finding.level]} {finding.subject}: {finding.text}")
        for command in finding.commands:
            print(f"       {command}")
    print()
    if ready:
        print(f"Hardware can be used: {', '.join(node.path for node in ready)}.")
    else:
        print("No hardware can be used. pydlb does the same work in software.")
    if backend is not None:
        name, reason = backend
        print(f'pydlb.open("auto") opens: {name}{f" ({reason})" if reason else ""}.')


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
