#!/usr/bin/env python3
"""Rows 1 to 4 and 16: instructions per event in the C core, beside DPDK's rings and software event devices.

    python benchmarks/engine_instructions.py [--json FILE]

Enqueue, schedule, dequeue and release in one thread, 1,024 flows, all priorities, in memory that processes share.
Callgrind counts n and 2n events, and the difference leaves the set-up out. Counts do not depend on what else the
machine does, so one round is enough. Needs valgrind, the core's programs (make core-test), and DPDK for the peers.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

from programs import instructions, ours, peer
from results import Result, program

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS = 65536
PEERS = {"rte_ring": "rte_ring ", "eventdev": ""}

# Row, scheduling type, batch, and for each peer its program's options and the bar.
ROWS: list[tuple[str, str, int, list[tuple[str, list[str], float]]]] = [
    ("1", "unordered", 32, [("rte_ring", ["mt"], 1.5), ("eventdev", ["event_sw0", "parallel"], 0.06)]),
    ("2", "atomic", 32, [("eventdev", ["event_dsw0", "atomic"], 0.5), ("eventdev", ["event_sw0", "atomic"], 0.11)]),
    ("3", "ordered", 32, [("eventdev", ["event_sw0", "ordered"], 0.25)]),
    ("4", "atomic", 1, [("rte_ring", ["mt"], 2.0), ("eventdev", ["event_dsw0", "atomic"], 0.36)]),
]
FLAT = 1.10
GROWTH = {
    "ports": [["--ports", ports] for ports in ("1", "8", "64")],
    "queues": [["--queues", queues] for queues in ("1", "8", "32")],
    "flows per queue": [["--flows", flows] for flows in ("1000", "8000", "65000")],
    # What a balancer does for each connection, while its four ports hold others.
    "open connections": [
        ["--held", held, "--sched", "unordered", "--even", "--ports", "4", "--batch", "1"]
        for held in ("4", "1000", "100000")
    ],
}


@functools.cache
def of_core(*options: str) -> float:
    """Instructions per event of ours."""
    count = functools.partial(instructions, ours("bench_engine"))
    return (count("--events", str(2 * EVENTS), *options) - count("--events", str(EVENTS), *options)) / EVENTS


@functools.cache
def of_peer(name: str, *options: str) -> float:
    """Instructions per event of a peer's program, whose last argument is the number of events."""
    path = peer(name)
    return (instructions(path, *options, str(2 * EVENTS)) - instructions(path, *options, str(EVENTS))) / EVENTS


def beside(
    row: str, sched: str, batch: int, name: str, options: list[str], bar: float, *, on_recv: bool = False
) -> Result:
    mine = of_core("--sched", sched, "--batch", str(batch), *(["--on-recv"] if on_recv else []))
    other = of_peer(name, *options, str(batch))
    return Result(
        row=row,
        what=f"instructions/event, {sched}, batch {batch}{', released on recv' if on_recv else ''}, "
        f"beside {PEERS[name]}{' '.join(options)}",
        value=mine / other,
        least=mine / other,
        most=mine / other,
        bar=bar,
        better="less",
        ours=f"{mine:.1f}",
        theirs=f"{other:.1f}",
    )


def growth(what: str, settings: list[list[str]]) -> Result:
    """The dearest setting over the first and least one."""
    costs = [of_core("--sched", "atomic", "--batch", "32", *options) for options in settings]
    return Result(
        row="16",
        what=f"growth of an event's cost over {what}: {settings[0][1]} to {settings[-1][1]}",
        value=max(costs) / costs[0],
        least=min(costs) / costs[0],
        most=max(costs) / costs[0],
        bar=FLAT,
        better="less",
        ours=f"{max(costs):.1f}",
        theirs=f"{costs[0]:.1f}",
    )


def measure(rounds: int) -> Iterator[Result]:
    """The rows that this program fills."""
    del rounds
    for row, sched, batch, peers in ROWS:
        for name, options, bar in peers:
            yield beside(row, sched, batch, name, options, bar)
            if row == "4":
                yield beside(row, sched, batch, name, options, bar, on_recv=True)
    mine = of_core("--sched", "ordered", "--forward", "--batch", "32")
    yield Result(
        row="3",
        what="instructions/event, ordered, forwarded to a second queue and released",
        value=mine,
        least=mine,
        most=mine,
        unit="",
        bar=None,
        better="less",
    )
    for what, settings in GROWTH.items():
        yield growth(what, settings)


if __name__ == "__main__":
    sys.exit(program("Instructions per event in the C core, beside DPDK's.", measure, rounds=1))
