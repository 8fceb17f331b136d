#!/usr/bin/env python3
"""Rows 8 and 9: what one item, and a batch of 32, costs from Python, beside queue.SimpleQueue and queue.Queue.

    python benchmarks/python_items.py [--rounds 7] [--json FILE]

Items are integers above 2**30, sent by one thread and received, and released, by one or four others. With an
interpreter lock only one of them runs at a time, and processor time per item is the steadier figure; both are shown.
Run it with a free-threaded interpreter too: the bars are others then.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from results import Result, alternate, program, ratio

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ITEMS = 400_000
FIRST = 1 << 31
END = 0
CREDITS = 1 << 15
BATCH = 32
AHEAD = 32  # what a port that takes ahead may take at once
LOCKED = getattr(sys, "_is_gil_enabled", lambda: True)()
KIND = "GIL" if LOCKED else "no GIL"


@contextlib.contextmanager
def line(receivers: int, ahead: int = 1) -> Iterator[tuple[pydlb.DirPort, pydlb.LDBQueue, list[pydlb.LDBPort]]]:
    """A port that sends, a queue, and ports that receive from it."""
    with pydlb.open("software", limits="large") as device:
        domain = device.create_domain(ldb_queues=1, ldb_ports=receivers, dir_ports=1, credits=CREDITS)
        target = domain.create_ldb_queue()
        ports = [domain.create_ldb_port(release="on_recv", cq_depth=64, prefetch=ahead) for _ in range(receivers)]
        for port in ports:
            port.link(target)
        sender = domain.create_dir_port()
        domain.start()
        yield sender, target, ports


def timed(produce: Callable[[], None], gets: list[Callable[[], Any]]) -> tuple[float, float]:
    """Seconds of the clock and of the processors until every receiver has met the end."""
    ready = threading.Barrier(len(gets) + 2)

    def take(get: Callable[[], Any]) -> None:
        ready.wait()
        while get():
            pass

    def give() -> None:
        ready.wait()
        produce()

    threads = [threading.Thread(target=take, args=(get,)) for get in gets] + [threading.Thread(target=give)]
    for thread in threads:
        thread.start()
    ready.wait()
    start, start_cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, time.process_time() - start_cpu


def through_ports(ahead: int, receivers: int) -> tuple[float, float]:
    with line(receivers, ahead) as (sender, target, ports):
        send_one = sender.send_one

        def produce() -> None:
            for item in range(FIRST, FIRST + ITEMS):
                while not send_one(item, target):
                    time.sleep(0)
            for _ in ports:
                while not send_one(END, target):
                    time.sleep(0)

        return timed(produce, [port.recv_one for port in ports])


def through_queue(receivers: int) -> tuple[float, float]:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()

    def produce() -> None:
        put = items.put
        for item in range(FIRST, FIRST + ITEMS):
            put(item)
        for _ in range(receivers):
            put(END)

    return timed(produce, [items.get] * receivers)


def one_item(rounds: int, receivers: int, bar: float) -> Iterator[Result]:
    sides = {
        "one at a time": functools.partial(through_ports, 1),
        "ports that take ahead": functools.partial(through_ports, AHEAD),
        "SimpleQueue": through_queue,
    }
    clock: dict[str, list[float]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    through_ports(1, receivers)
    for _ in range(rounds):
        for side, run in sides.items():
            wall, processors = run(receivers)
            clock[side].append(ITEMS / wall / 1e6)
            cpu[side].append(ITEMS / processors / 1e6)
    for side in list(sides)[:2]:
        what = f"items/s, {side}, 1 to {receivers} threads, {KIND}, beside SimpleQueue"
        yield ratio("8", what, clock[side], clock["SimpleQueue"], bar=bar, better="more", unit="M/s")
        what = f"the same for each second of processor time, {side}, 1 to {receivers}"
        yield ratio("8", what, cpu[side], cpu["SimpleQueue"], bar=None, better="more", unit="M/s")


def batches(count: int, out: np.ndarray[Any, Any], events: np.ndarray[Any, Any], send: Any, recv: Any) -> float:  # noqa: ANN401 - a port's calls
    start = time.perf_counter()
    for _ in range(count):
        send(events)
        recv(BATCH, 0, out)
    return BATCH * count / (time.perf_counter() - start) / 1e6


def lists(count: int) -> float:
    items: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    ready, put, get = list(range(FIRST, FIRST + BATCH)), items.put, items.get
    start = time.perf_counter()
    for _ in range(count):
        put(ready)
        get()
    return BATCH * count / (time.perf_counter() - start) / 1e6


def singles(count: int) -> float:
    items: queue.Queue[int] = queue.Queue()
    put, get = items.put, items.get
    start = time.perf_counter()
    for item in range(FIRST, FIRST + count):
        put(item)
        get()
    return count / (time.perf_counter() - start) / 1e6


def batch_of_32(rounds: int) -> Iterator[Result]:
    """In one thread: what the calls cost."""
    with line(1) as (sender, target, ports):
        events = pydlb.make_events(np.arange(BATCH), target, sched=pydlb.Sched.UNORDERED)
        out = np.empty(BATCH, dtype=pydlb.EVENT_DTYPE)
        mine = functools.partial(batches, 50_000, out, events, sender.send, ports[0].recv)
        mine()
        what = f"events/s, {BATCH} a call, {KIND}, beside SimpleQueue with one list of {BATCH}"
        figures = alternate(rounds, mine, functools.partial(lists, 100_000))
        yield ratio("9", what, *figures, bar=0.25, better="more", unit="M/s")
        figures = alternate(rounds, mine, functools.partial(singles, 30_000))
        what = f"events/s, {BATCH} a call, {KIND}, beside queue.Queue with single items"
        yield ratio("9", what, *figures, bar=100, better="more", unit="M/s")


def measure(rounds: int) -> Iterator[Result]:
    """The rows that this program fills."""
    yield from one_item(rounds, 1, 1.0 if LOCKED else 1.5)
    yield from one_item(rounds, 4, 1.0 if LOCKED else 2.0)
    yield from batch_of_32(rounds)


if __name__ == "__main__":
    sys.exit(program("What one item and a batch of 32 cost from Python.", measure))
