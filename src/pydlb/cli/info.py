"""pydlb info: every DLB device node, and what it has."""

from __future__ import annotations

import argparse
import dataclasses
import grp
import json
import pwd
import sys
from typing import TYPE_CHECKING, Any

from pydlb import hardware

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_ACCESS = {
    "granted": "yes",
    "no node": "no: there is no node",
    "wrong node": "no: this is not the device's node",
    "mode": "no: the node's mode does not let it",
    "container": "no: the container was not granted it",
}


def main(arguments: list[str]) -> int:
    """Tell what there is.

    Returns:
        0; 1 if there is no device.
    """
    options = _parser().parse_args(arguments)
    found = hardware.survey(options.root)
    if options.json:
        print(json.dumps(_as_json(found), indent=1))
    else:
        print("\n\n".join(_describe(node) for node in found.nodes) or _nothing(found))
    return 0 if found.nodes else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pydlb info",
        description="List the DLB device nodes of this machine, with what each has and has left. No device is opened.",
        epilog="The exit status is 1 if there is none. pydlb doctor says why.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument(
        "--root", default="/", metavar="DIRECTORY", help="look at the dev, sys and proc in this directory"
    )
    return parser


def _as_json(found: hardware.Hardware) -> dict[str, Any]:
    told = dataclasses.asdict(found)
    told["cpu_features"] = sorted(found.cpu_features)
    for node, described in zip(found.nodes, told["nodes"], strict=True):
        described["mode"] = None if node.mode is None else f"{node.mode:04o}"
        described["opened_by"] = _opened_by(node)
    return told


def _nothing(found: hardware.Hardware) -> str:
    if not found.functions:
        return "This machine has no DLB device. pydlb works in software; pydlb doctor says more."
    there = ", ".join(function.address for function in found.functions)
    return f"This machine has a DLB ({there}), but no device node for it. pydlb doctor says why."


def _describe(node: hardware.Node) -> str:
    lines = [f"{node.path}  {_kind(node)}"]
    opened_by = ", ".join(_opened_by(node)) or "nobody"
    lines.append(f"  may be opened by  {opened_by}; this process: {_ACCESS[node.access]}")
    if node.total is None or node.free is None:
        lines.append("  the kernel does not tell what it has")
    else:
        lines.append(f"  {'resource':18}{'total':>8}{'free':>8}")
        total, free = dataclasses.asdict(node.total), dataclasses.asdict(node.free)
        lines += [f"  {name:18}{_amount(total[name]):>8}{_amount(free[name]):>8}" for name in total]
    return "\n".join(lines)


def _kind(node: hardware.Node) -> str:
    function = node.function
    words = [f"driver {node.driver_version}"] if node.driver_version else []
    if function is not None:
        words = [f"DLB {function.version} {function.kind} at {function.address}", *words]
        words.append("memory node unknown" if function.numa_node is None else f"memory node {function.numa_node}")
        if function.num_vfs:
            words.append(f"{function.num_vfs} virtual functions")
    return ", ".join(words) or "not a device that the driver knows"


def _amount(value: int | tuple[int, ...]) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _opened_by(node: hardware.Node) -> list[str]:
    """Who may read and write it by owner and mode; the superuser always may."""
    if node.owner is None or node.mode is None:
        return []
    user, group = node.owner
    allowed = ["root"]
    if node.mode & 0o600 == 0o600 and user != 0:
        allowed.append(f"user {_name(lambda: pwd.getpwuid(user).pw_name, user)}")
    if node.mode & 0o060 == 0o060:
        allowed.append(f"group {_name(lambda: grp.getgrgid(group).gr_name, group)}")
    return ["everybody"] if node.mode & 0o006 == 0o006 else allowed


def _name(look_up: Callable[[], str], number: int) -> str:
    try:
        return look_up()
    except KeyError:
        return str(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
