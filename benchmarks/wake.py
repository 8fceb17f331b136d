#!/usr/bin/env python3
"""Row 7: the wake of a consumer that sleeps, beside a bare futex: how long it takes, and how many system calls.

    python benchmarks/wake.py [--rounds 7] [--json FILE]

Needs the C core's programs (`make core-test` builds them); strace for the count of system calls.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from programs import ours
from results import LeftOut, Result, program, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

WAKES = 300


def run(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{f"PDLB_{name.upper()}": str(value) for name, value in settings.items()}}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def latency(bench: str, rounds: int, *, apart: bool) -> Result:
    """Median wakes of each round, in which the kinds take turns wake by wake."""
    times: dict[str, list[float]] = {"futex": [], "port": []}
    for line in run([bench], rounds=rounds, wakes=WAKES, apart=int(apart)).stdout.splitlines():
        kind, nanoseconds = line.split()
        times[kind].append(float(nanoseconds))
    where = "on two processors" if apart else "where the kernel puts them"
    return ratio(
        "7",
        f"wake of a sleeping port, beside a raw futex, {where}",
        times["port"],
        times["futex"],
        bar=1.1,
        better="less",
        unit="ns",
    )


def doorbells(bench: str) -> Result:
    """Futex calls for each sleep, of both sides together: one sleeps, one wakes."""
    command = ["strace", "-f", "-c", "-e", "trace=futex,write,read,ppoll,epoll_wait", bench]
    counted = run(command, kind="port", rounds=1, wakes=WAKES).stderr
    lines = [line.split() for line in counted.splitlines()]  # % time, seconds, usecs/call, calls, errors or none, name
    calls = {words[-1]: int(words[3]) for words in lines if len(words) in (5, 6) and words[3].isdecimal()}
    given = (calls.get("futex", 0) - WAKES) / WAKES
    return Result(
        row="7",
        what="doorbell system calls for each sleep",
        value=given,
        least=given,
        most=given,
        unit="",
        bar=1.02,  # the thread's own start and end take one or two
        better="less",
    )


def measure(rounds: int) -> Iterator[Result]:
    """The row that this program fills."""
    bench = ours("bench_wake")
    for apart in (True, False):
        yield latency(bench, rounds, apart=apart)
    if shutil.which("strace") is None:
        raise LeftOut("system calls are not counted: there is no strace")
    yield doorbells(bench)


if __name__ == "__main__":
    sys.exit(program("The wake of a consumer that sleeps, beside a bare futex.", measure))
