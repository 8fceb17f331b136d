#!/usr/bin/env python3
"""Rows 11 to 14: connections through pydlb's servers, beside C and Python ones under the same load.

    python benchmarks/connections.py [--rounds 5] [--json FILE]
    PDLB_ROWS=14 python benchmarks/connections.py

The load generator (peers/connload.c) and the C server (peers/csrv.c) are built with cc. What is counted for each
second of processor time is that of the server's process. against_c.py shows the same and more as tables.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
from typing import TYPE_CHECKING, Any

from against_c import beside, build, c_server, pydlb_server, python_server
from results import Result, program, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT = ["-k", "64", "-n", "8000", "-w", "200", "-t", "20"]
LIGHT = ["-r", "500", "-n", "1000", "-w", "50", "-t", "10"]
EVEN = ["-k", "64", "-n", "4000", "-w", "200", "-t", "20"]

# Four loops in one process, or in one each; as our servers are called, and as those of peers/python_server.py are.
KINDS = (("workers", "threads"), ("processes", "processes"))

Runs = dict[str, list[dict[str, Any]]]


def figures(runs: Runs, name: str, key: str) -> list[float]:
    return [run[key] for run in runs[name]]


def compared(row: str, what: str, runs: Runs, ours: str, peer: str, key: str, bar: float | None) -> Result:
    better, unit = ("less", "us") if key == "p50" else ("more", "/CPU s")
    mine, other = figures(runs, ours, key), figures(runs, peer, key)
    return ratio(row, f"{what}: {ours}, beside {peer}", mine, other, bar=bar, better=better, unit=unit)  # type: ignore[arg-type]


def short(servers: dict[str, list[str]], loops: list[str], rounds: int) -> Iterator[Result]:
    """Rows 11 and 12: what a connection costs."""
    runs = beside(SHORT, rounds, servers)
    what = "short connections, 64 at a time"
    yield compared("11", what, runs, "threads", "C acceptor + shared queue", "per_cpu", 0.8)
    yield compared("11", what, runs, "threads", "acceptor + SimpleQueue", "per_cpu", 1.15)
    # Python's threads with nothing handed on: what is lost there no hand-off has cost.
    yield compared("11", what, runs, "threads", "threads by themselves", "per_cpu", None)
    yield compared("11", what, runs, "threads by themselves", "acceptor + SimpleQueue", "per_cpu", None)
    for loop in loops:
        for kind, _ in KINDS:
            ours, alone = f"{loop} {kind}", f"{loop} {kind} by themselves"
            yield compared("12", what, runs, ours, f"one {loop} loop", "per_cpu", 0.95)
            # As many loops, each with a listener of its own: what is lost there no hand-off has cost.
            yield compared("12", what, runs, ours, alone, "per_cpu", None)
            yield compared("12", what, runs, alone, f"one {loop} loop", "per_cpu", None)


def light(servers: dict[str, list[str]], rounds: int) -> Iterator[Result]:
    """Row 13: how long one takes."""
    left_out = ("uvloop", "processes", "by themselves")
    runs = beside(
        LIGHT, rounds, {name: server for name, server in servers.items() if not any(word in name for word in left_out)}
    )
    what = "p50 at 500 a second"
    yield compared("13", what, runs, "threads", "C acceptor + shared queue", "p50", 1.25)
    yield compared("13", what, runs, "asyncio workers", "one asyncio loop", "p50", 1.1)


def even(servers: dict[str, list[str]], rounds: int) -> Iterator[Result]:
    """Row 14: how many each worker is given."""
    runs = beside(
        EVEN, rounds, {name: server for name, server in servers.items() if name.endswith(("threads", *dict(KINDS)))}
    )
    for name in runs:
        uneven = figures(runs, name, "max_mean")
        yield Result(
            row="14",
            what=f"4,000 short connections, 64 at a time, over 4 workers: {name}, max/mean",
            value=statistics.median(uneven),
            least=min(uneven),
            most=max(uneven),
            unit="",
            bar=1.05,
            better="less",
        )


def measure(rounds: int) -> Iterator[Result]:
    """The rows that this program fills."""
    build()
    only = os.environ.get("PDLB_ROWS", "11,12,13,14").split(",")
    loops = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
    servers = {
        "threads": pydlb_server("threads"),
        **{f"{loop} workers": pydlb_server(loop) for loop in loops},
        **{f"{loop} processes": pydlb_server(f"{loop}-processes") for loop in loops},
        "C acceptor + shared queue": c_server("pull", 0),
        "acceptor + SimpleQueue": python_server("queue"),
        "threads by themselves": python_server("accept"),
        **{f"one {loop} loop": python_server(loop) for loop in loops},
        **{f"{loop} {kind} by themselves": python_server(f"{loop}-{how}") for loop in loops for kind, how in KINDS},
    }
    if "11" in only or "12" in only:
        yield from short(servers, loops, rounds)
    if "13" in only:
        yield from light(servers, rounds)
    if "14" in only:
        yield from even(servers, rounds)


if __name__ == "__main__":
    sys.exit(program("Connections through pydlb's servers, beside others.", measure, rounds=5))
