"""How many events a second go through a queue: by scheduling type, batch size and number of consumers."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

import numpy as np

import pydlb

from .measure import CountError, Figures, Progress, Row, alternate

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["measure"]

_FLOWS = 1024

# What each scheduling type is compared with is the cheapest of them, which comes last.
TYPES = {
    "atomic": pydlb.Sched.ATOMIC,
    "ordered": pydlb.Sched.ORDERED,
    "directed": pydlb.Sched.DIRECTED,
    "unordered": pydlb.Sched.UNORDERED,
}


class _Rig:
    """A domain with one queue, one sender and some receivers."""

    def __init__(self, sched: pydlb.Sched, batch: int, consumers: int) -> None:
        self.device = pydlb.open("auto", limits="large")
        self.domain = self.device.create_domain(
            ldb_queues=1, ldb_ports=consumers, dir_ports=2, credits=4096, history_entries=1 << 14,
            sequence_slots=(64, 0), atomic_inflights=2048,
        )  # fmt: skip
        self.queue: pydlb.Queue
        self.ports: list[pydlb.Port]
        if sched == pydlb.Sched.DIRECTED:
            self.queue = directed = self.domain.create_dir_queue()
            self.ports = [self.domain.create_dir_port(directed, cq_depth=256)]
        else:
            ordered = sched == pydlb.Sched.ORDERED
            self.queue = balanced = self.domain.create_ldb_queue(
                sequence_numbers=2048 if ordered else 0, atomic_inflights=2048
            )
            receivers = [self.domain.create_ldb_port(cq_depth=256, history_entries=1024) for _ in range(consumers)]
            for port in receivers:
                port.link(balanced)
            self.ports = list(receivers)
        self.sender = self.domain.create_dir_port()
        self.domain.start()
        self.events = pydlb.make_events(
            np.arange(batch), self.queue, sched=sched, priority=np.arange(batch) % 8, flow=np.arange(batch) % _FLOWS
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close()


def _one_thread(sched: pydlb.Sched, batch: int, count: int) -> Figures:
    """Sender and receiver in turn: what the calls cost."""
    with _Rig(sched, batch, 1) as rig:
        send, port, events, out = rig.sender.send, rig.ports[0], rig.events, rig.events.copy()
        turns = max(1, count // batch)
        received = total = 0
        start = time.perf_counter()
        for _ in range(turns):
            send(events)
            got = len(port.recv(batch, 0, out))
            total += int(out["data"][:got].sum())
            port.release(got)
            received += got
        seconds = time.perf_counter() - start
    if received != turns * batch or total != turns * batch * (batch - 1) // 2:
        raise CountError(f"{received} of {turns * batch} events came, with a sum of {total}")
    return Figures(received / seconds)


def _many_threads(sched: pydlb.Sched, batch: int, consumers: int, count: int) -> Figures:
    """One thread sends, others receive."""
    turns = max(1, count // batch)
    with _Rig(sched, batch, consumers) as rig:
        received = [0] * len(rig.ports)

        def consume(index: int, port: pydlb.Port) -> None:
            try:
                while True:
                    got = len(port.recv(batch))
                    port.release(got)
                    received[index] += got
            except pydlb.ClosedError:
                return

        threads = [threading.Thread(target=consume, args=entry) for entry in enumerate(rig.ports)]
        for thread in threads:
            thread.start()
        start = time.perf_counter()
        for _ in range(turns):
            rig.sender.send(rig.events, timeout=None)
        while sum(received) < turns * batch and time.perf_counter() - start < 60:
            time.sleep(0.0005)
        seconds = time.perf_counter() - start
        for port in rig.ports:
            port.close()
        for thread in threads:
            thread.join()
    if sum(received) != turns * batch:
        raise CountError(f"{sum(received)} of {turns * batch} events came")
    return Figures(sum(received) / seconds, spread=received)


def measure(
    *, batches: list[int], consumers: list[int], events: int, rounds: int, progress: Progress
) -> dict[str, list[Row]]:
    """Measure all scheduling types, against each other.

    Args:
        batches: Batch sizes to measure in one thread.
        consumers: Numbers of receiving threads to measure beside a sending one.
        events: How many events each run moves.
        rounds: How many runs of each.
        progress: Where to say what is going on.
    """
    tables: dict[str, list[Row]] = {}
    for batch in batches:
        title = f"engine, one thread, batches of {batch}"
        runs: dict[str, Callable[[], Figures]] = {
            name: lambda sched=sched, batch=batch: _one_thread(sched, batch, events)  # type: ignore[misc]
            for name, sched in TYPES.items()
        }
        tables[title] = alternate(runs, rounds=rounds, unit="events/s", progress=progress, title=title)
    for number in consumers:
        title = f"engine, 1 sending and {number} receiving threads, batches of 32"
        runs = {
            name: lambda sched=sched, number=number: _many_threads(sched, 32, number, events)  # type: ignore[misc]
            for name, sched in TYPES.items()
            if sched != pydlb.Sched.DIRECTED or number == 1
        }
        tables[title] = alternate(runs, rounds=rounds, unit="events/s", progress=progress, title=title)
    return tables
