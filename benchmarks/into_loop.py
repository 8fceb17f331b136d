#!/usr/bin/env python3
"""Row 10: items from a thread into an asyncio loop, beside call_soon_threadsafe for each.

python benchmarks/into_loop.py [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
from results import Result, alternate, program, ratio

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST = 1 << 31
BATCH = 256
TIMEOUT = 60.0


async def until_done(start: Callable[[asyncio.Future[None]], Callable[[], None]]) -> float:
    """Seconds from the start of a thread that gives until all was received."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    thread = threading.Thread(target=start(done))
    begin = time.perf_counter()
    thread.start()
    await asyncio.wait_for(done, TIMEOUT)
    spent = time.perf_counter() - begin
    thread.join()
    return spent


def by_port(count: int) -> float:
    """The loop watches the port's descriptor, and takes all that is there."""
    with pydlb.open("software", limits="large") as device:
        domain = device.create_domain(ldb_queues=1, ldb_ports=1, dir_ports=1, credits=1 << 15)
        target, receiver = domain.create_ldb_queue(), domain.create_ldb_port(release="on_recv", cq_depth=BATCH)
        receiver.link(target)
        sender = domain.create_dir_port()
        domain.start()
        into = np.empty(BATCH, dtype=pydlb.EVENT_DTYPE)
        seen = 0

        def start(done: asyncio.Future[None]) -> Callable[[], None]:
            loop = done.get_loop()

            def receive() -> None:
                nonlocal seen
                items = receiver.recv(BATCH, 0, into)["data"].tolist()
                seen += len(items)
                if seen >= count:
                    loop.remove_reader(receiver.fileno())
                    done.set_result(None)
                elif len(items) == BATCH:
                    loop.call_soon(receive)  # a full batch does not arm the port: there may be more

            loop.add_reader(receiver.fileno(), receive)

            def produce() -> None:
                send_one = sender.send_one
                for item in range(FIRST, FIRST + count):
                    while not send_one(item, target):
                        time.sleep(0)

            return produce

        return count / asyncio.run(until_done(start)) / 1e6


def by_callbacks(count: int) -> float:
    seen = 0

    def start(done: asyncio.Future[None]) -> Callable[[], None]:
        loop = done.get_loop()

        def receive(item: int) -> None:
            nonlocal seen
            seen += 1
            if item == FIRST + count - 1:
                done.set_result(None)

        def produce() -> None:
            for item in range(FIRST, FIRST + count):
                loop.call_soon_threadsafe(receive, item)

        return produce

    return count / asyncio.run(until_done(start)) / 1e6


def measure(rounds: int) -> Iterator[Result]:
    """The row that this program fills."""
    figures = alternate(rounds, lambda: by_port(400_000), lambda: by_callbacks(30_000))
    what = "items/s from a thread into an asyncio loop, beside call_soon_threadsafe"
    yield ratio("10", what, *figures, bar=15, better="more", unit="M/s")


if __name__ == "__main__":
    sys.exit(program("Items from a thread into an asyncio loop.", measure))
