#!/usr/bin/env python3
"""Row 15: what pydlb takes before it does anything: memory of a balancer that idles, and time until a server listens.

python benchmarks/start.py [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from results import Result, program

if TYPE_CHECKING:
    from collections.abc import Iterator

IMPORT = """
import time
before = time.perf_counter()
import pydlb
print((time.perf_counter() - before) * 1000)
"""

SERVER = """
import time
before = time.perf_counter()
import asyncio, pydlb
async def main():
    server = await pydlb.start_server(lambda reader, writer: None, "127.0.0.1", 0, workers=4)
    print((time.perf_counter() - before) * 1000)
    server.close()
    await server.wait_closed()
asyncio.run(main())
"""

MEMORY = """
import pathlib, pydlb
def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
pydlb.Balancer  # the modules are not its own
before = resident()
with pydlb.Balancer(handler=print) as balancer:
    balancer.listen()
    print(resident() - before)
"""

ROWS = [
    ("import pydlb", IMPORT, "ms", 60.0),
    ("first start_server, imports included", SERVER, "ms", 300.0),
    ("a default balancer, idle", MEMORY, "MB", 4.0),
]


def measure(rounds: int) -> Iterator[Result]:
    """The rows that this program fills; the first round warms the file cache and does not count."""
    for what, source, unit, bar in ROWS:
        command = [sys.executable, "-c", source]
        figures = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(rounds + 1)
        ][1:]
        yield Result(
            row="15",
            what=what,
            value=statistics.median(figures),
            least=min(figures),
            most=max(figures),
            unit=unit,
            bar=bar,
            better="less",
        )


if __name__ == "__main__":
    sys.exit(program("What pydlb takes before it does anything.", measure))
