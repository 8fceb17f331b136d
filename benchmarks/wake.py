#!/usr/bin/env python3
"""The wake of a consumer that sleeps, beside a bare futex: how long it takes, and how many system calls.

    python benchmarks/wake.py [--bench build/core/plain/tests/bench_wake] [--rounds 7]

Needs the C core's programs (`make core-test` builds them); strace for the count of system calls.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from results import Result, ratio, show

BENCH = Path(__file__).parent.parent / "build" / "core" / "plain" / "tests" / "bench_wake"
WAKES = 300


def run(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{f"PDLB_{name.upper()}": str(value) for name, value in settings.items()}}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def latency(bench: Path, rounds: int) -> Result:
    """Median wakes of each round, one kind after the other."""
    times: dict[str, list[float]] = {"futex": [], "port": []}
    for line in run([str(bench)], rounds=rounds, wakes=WAKES).stdout.splitlines():
        kind, nanoseconds = line.split()
        times[kind].append(float(nanoseconds))
    return ratio(
        "7", "wake of a sleeping port, beside a raw futex", times["port"], times["futex"], bar=1.1, better="less"
    )


def doorbells(bench: Path) -> Result:
    """Futex calls for each sleep, of both sides together: one sleeps, one wakes."""
    command = ["strace", "-f", "-c", "-e", "trace=futex,write,read,ppoll,epoll_wait", str(bench)]
    counted = run(command, kind="port", rounds=1, wakes=WAKES).stderr
    calls = {match[2]: int(match[1]) for match in re.finditer(r"(\d+)\s+(?:\d+\s+)?(\w+)$", counted, re.MULTILINE)}
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


def measure(bench: Path = BENCH, rounds: int = 7) -> list[Result]:
    """The rows that this program fills."""
    results = [latency(bench, rounds)]
    if shutil.which("strace"):
        results.append(doorbells(bench))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="The wake of a consumer that sleeps, beside a bare futex.")
    parser.add_argument("--bench", type=Path, default=BENCH)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    show(measure(options.bench, options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
