"""Which CPUs a worker runs on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .options import Placement

__all__ = ["cpus_for", "numa_nodes"]

_NODES: Final = Path("/sys/devices/system/node")


def numa_nodes(folder: Path = _NODES) -> list[set[int]]:
    """The CPUs of each NUMA node, of those that this process may use; one node where the machine does not tell."""
    usable = os.sched_getaffinity(0)
    nodes = []
    for path in sorted(folder.glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        cpus = _parse((path / "cpulist").read_text()) & usable
        if cpus:
            nodes.append(cpus)
    return nodes or [set(usable)]


def _parse(text: str) -> set[int]:
    """A list of CPUs as the kernel writes it: ``0-3,8-11``."""
    cpus: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def cpus_for(worker: int, pin: Placement) -> set[int]:
    """The CPUs for the worker of that number: workers go round the CPUs, or round the nodes."""
    if pin == "none":
        return set(os.sched_getaffinity(0))
    nodes = numa_nodes()
    if pin == "numa":
        return nodes[worker % len(nodes)]
    # One CPU of each node in turn, so that a few workers have the caches and memory of all nodes.
    ordered = sorted((place, node, cpu) for node, cpus in enumerate(nodes) for place, cpu in enumerate(sorted(cpus)))
    return {ordered[worker % len(ordered)][2]}
