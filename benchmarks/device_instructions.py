#!/usr/bin/env python3
"""Row 17: instructions that the device backend takes for a line of four events.

    python benchmarks/device_instructions.py [--json FILE]

What one more line in a call costs, credits included, by callgrind. The device's store is left out: in the program it is
a function that returns, and calling it takes 8 instructions (three arguments, call and return, and what the call makes
be loaded again). Needs valgrind and the core's programs (make core-test).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from programs import instructions, ours
from results import Result, program

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS = 5000
LINES = 8
STORE = 8
ROWS = [("enqueue", "port_send", STORE, 40), ("dequeue", "port_recv", 0, 60)]


def counted(function: str, lines: int) -> int:
    os.environ.update(PDLB_COUNT=str(CALLS), PDLB_BATCH=str(lines))
    return instructions(ours("bench_device"), function=function)


def measure(rounds: int) -> Iterator[Result]:
    """The row that this program fills."""
    del rounds
    for what, function, store, bar in ROWS:
        more = (counted(function, LINES) - counted(function, 1)) / CALLS / (LINES - 1) - store
        yield Result(
            row="17",
            what=f"instructions to {what} a line of 4 events",
            value=more,
            least=more,
            most=more,
            unit="",
            bar=bar,
            better="less",
        )


if __name__ == "__main__":
    sys.exit(program("Instructions of the device backend for a line of four events.", measure, rounds=1))
