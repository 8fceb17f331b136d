"""How many events a second go through a queue: by scheduling type, batch size and number of receivers."""

from __future__ import annotations

import functools
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

import numpy as np

import pydlb

from .measure import CountError, Figures, Plan, alternate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["LARGEST_BATCH", "measure"]

LARGEST_BATCH: Final = 1024  # what a port can be given at once

_FLOWS: Final = 1024
_WINDOW: Final = 1 << 14  # events made ready at a time, so that what is timed is sending and receiving
_CREDITS: Final = 4 * _WINDOW
_TIMEOUT: Final = 30.0

TYPES: Final = {
    "unordered": pydlb.Sched.UNORDERED,
    "atomic": pydlb.Sched.ATOMIC,
    "ordered": pydlb.Sched.ORDERED,
    "directed": pydlb.Sched.DIRECTED,
}


class Tally:
    """Counts numbered events, and tells whether each came once.

    Three sums that a lost, a doubled and a changed number cannot leave as they are.
    """

    def __init__(self) -> None:
        self.count = self.sum = self.squares = 0

    def add(self, numbers: NDArray[np.uint64]) -> None:
        """These numbers came."""
        self.count += len(numbers)
        self.sum += int(numbers.sum())
        self.squares += int((numbers * numbers).sum())

    def check(self, count: int) -> None:
        """Each number from 0 up to `count` must have come once.

        Raises:
            CountError: It did not.
        """
        # As the sums of 64-bit numbers do, what is expected wraps around; so do the sums of several receivers.
        expected = (count, count * (count - 1) // 2, (count - 1) * count * (2 * count - 1) // 6)
        found = (self.count, self.sum, self.squares)
        if any((mine - other) % (1 << 64) for mine, other in zip(found, expected, strict=True)):
            raise CountError(f"{self.count} of {count} events came, and their numbers add up to {self.sum}")


class _Window:
    """Numbered events to send, made ready in batches."""

    def __init__(self, target: pydlb.Queue, sched: pydlb.Sched, batch: int, count: int) -> None:
        self.size = min(_WINDOW // batch, -(-count // batch)) * batch
        numbers = np.arange(self.size)
        self.events = pydlb.make_events(numbers, target, sched=sched, priority=numbers % 8, flow=numbers % _FLOWS)
        self.batches = [self.events[at : at + batch] for at in range(0, self.size, batch)]

    def advance(self) -> None:
        """Number them on."""
        self.events["data"] += self.size


class _Rig:
    """A domain with one queue, a sender and receivers.

    Software has room for the largest batches. A device is asked for what it has, shared out over the receivers.
    """

    def __init__(self, backend: str, sched: pydlb.Sched, receivers: int) -> None:
        self.device = pydlb.open(backend, limits="large")
        try:
            self._build(sched, receivers)
        except BaseException:
            self.device.close()
            raise

    def _build(self, sched: pydlb.Sched, receivers: int) -> None:
        left = self.device.resources()
        depth, slots, numbers = LARGEST_BATCH, 64, 2048
        if not self.device.is_software:
            depth = min(depth, 1 << (left.history_entries // (2 * receivers)).bit_length() - 1)
            slots, numbers = 1, 64
        domain = self.device.create_domain(
            ldb_queues=1,
            ldb_ports=receivers,
            dir_ports=2,
            credits=min(_CREDITS, left.ldb_credits),
            history_entries=receivers * 2 * depth,
            sequence_slots=(slots, 0),
            atomic_inflights=2048,
        )
        self.queue: pydlb.Queue
        self.ports: list[pydlb.Port]
        if sched == pydlb.Sched.DIRECTED:
            self.queue = directed = domain.create_dir_queue()
            self.ports = [domain.create_dir_port(directed, cq_depth=depth)]
        else:
            sequence_numbers = numbers if sched == pydlb.Sched.ORDERED else 0
            self.queue = balanced = domain.create_ldb_queue(sequence_numbers=sequence_numbers, atomic_inflights=2048)
            linked = [domain.create_ldb_port(cq_depth=depth) for _ in range(receivers)]
            for port in linked:
                port.link(balanced)
            self.ports = [*linked]
        self.sender = domain.create_dir_port()
        domain.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close()


def _one_thread(backend: str, sched: pydlb.Sched, batch: int, count: int) -> Figures:
    """Sender and receiver in turn: what the calls cost."""
    tally = Tally()
    with _Rig(backend, sched, 1) as rig:
        window = _Window(rig.queue, sched, batch, count)
        received = np.empty_like(window.events)
        pairs = [(out, received[at * batch : (at + 1) * batch]) for at, out in enumerate(window.batches)]
        send, recv, release = rig.sender.send, rig.ports[0].recv, rig.ports[0].release
        at_once = rig.device.is_software
        spent = cpu = 0.0
        while tally.count < count:
            start, start_cpu = time.perf_counter(), time.process_time()
            got = 0
            for out, into in pairs:
                send(out)
                if at_once:
                    got += len(recv(batch, 0, into))
                    release(batch)
                else:
                    got += _take(rig.ports[0], into)
            spent, cpu = spent + time.perf_counter() - start, cpu + time.process_time() - start_cpu
            if got != window.size:
                raise CountError(f"{got} of {window.size} events came")
            tally.add(received["data"])
            window.advance()
    tally.check(tally.count)
    return Figures(tally.count / spent, per_cpu=tally.count / cpu)


def _take(port: pydlb.Port, into: NDArray[np.void]) -> int:
    """Receive as many events as have room, however many come at a time; fewer if no more come."""
    got = 0
    while got < len(into) and (more := len(port.recv(len(into) - got, 1.0, into[got:]))):
        port.release(more)
        got += more
    return got


def _receive(port: pydlb.Port, batch: int, tally: Tally, arrived: Callable[[int], None]) -> None:
    """Receive until the port is closed. Events are looked at many at a time, after they were counted."""
    window = np.empty(_WINDOW, dtype=pydlb.EVENT_DTYPE)
    at = 0
    try:
        while True:
            if at > _WINDOW - batch:
                tally.add(window["data"][:at])
                at = 0
            got = len(port.recv(batch, out=window[at : at + batch]))
            port.release(got)
            at += got
            arrived(got)
    except pydlb.ClosedError:
        tally.add(window["data"][:at])


def _many_threads(backend: str, sched: pydlb.Sched, batch: int, receivers: int, count: int) -> Figures:
    """One thread sends, others receive."""
    # The rig is closed before the pool, so that receivers end whatever happens.
    with ThreadPoolExecutor(receivers) as pool, _Rig(backend, sched, receivers) as rig:
        window = _Window(rig.queue, sched, batch, count)
        total = -(-count // window.size) * window.size
        tallies = [Tally() for _ in rig.ports]
        complete, lock = threading.Event(), threading.Lock()
        left = total

        def arrived(count: int) -> None:
            nonlocal left
            with lock:
                left -= count
                if left <= 0:
                    complete.set()

        futures = [
            pool.submit(_receive, port, batch, tally, arrived) for port, tally in zip(rig.ports, tallies, strict=True)
        ]
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(total // window.size):
            for out in window.batches:
                rig.sender.send(out, timeout=None)
            window.advance()
        complete.wait(_TIMEOUT)
        spent, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        for port in rig.ports:
            port.close()
        for future in futures:
            future.result()
    together = Tally()
    for tally in tallies:
        together.count += tally.count
        together.sum += tally.sum
        together.squares += tally.squares
    together.check(total)
    return Figures(total / spent, per_cpu=total / cpu, spread=[tally.count for tally in tallies])


def _lists_in_one_thread(batch: int, count: int) -> Figures:
    """A list of so many integers through queue.SimpleQueue, which moves one pointer."""
    turns = -(-count // batch)
    items: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    out = list(range(batch))
    put, get = items.put, items.get
    start, start_cpu = time.perf_counter(), time.process_time()
    got = 0
    for _ in range(turns):
        put(out)
        got += len(get())
    spent, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return Figures(got / spent, per_cpu=got / cpu)


def _lists_between_threads(batch: int, receivers: int, count: int) -> Figures:
    turns = -(-count // batch)
    items: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    out = list(range(batch))

    def receive() -> int:
        got = 0
        while batch_of_items := items.get():
            got += len(batch_of_items)
        return got

    with ThreadPoolExecutor(receivers) as pool:
        futures = [pool.submit(receive) for _ in range(receivers)]
        start, start_cpu = time.perf_counter(), time.process_time()
        try:
            for _ in range(turns):
                items.put(out)
        finally:
            for _ in range(receivers):
                items.put([])
        spread = [future.result() for future in futures]
        spent, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return Figures(sum(spread) / spent, per_cpu=sum(spread) / cpu, spread=spread)


def measure(plan: Plan, *, batches: list[int], receivers: list[int], events: int | None) -> None:
    """Measure all scheduling types, beside queue.SimpleQueue moving one list of so many items.

    Args:
        plan: How.
        batches: Batch sizes to measure in one thread, 1 to `LARGEST_BATCH`.
        receivers: Numbers of receiving threads to measure beside a sending one.
        events: How many events each run moves; None for as many as it can in the planned time.
    """
    one = functools.partial(_one_thread, plan.backend)
    many = functools.partial(_many_threads, plan.backend)
    for batch in batches:
        title = f"engine, one thread, batches of {batch}"
        runs: dict[str, Callable[[int], Figures]] = {
            name: functools.partial(one, sched, batch) for name, sched in TYPES.items()
        }
        runs["queue.SimpleQueue, one list"] = functools.partial(_lists_in_one_thread, batch)
        alternate(plan, title, "events/s", runs, count=events, parameters={"batch": batch})
    batch = 32 if 32 in batches else max(batches)
    for number in receivers:
        title = f"engine, 1 sending and {number} receiving threads, batches of {batch}"
        runs = {
            name: functools.partial(many, sched, batch, number)
            for name, sched in TYPES.items()
            if sched != pydlb.Sched.DIRECTED or number == 1
        }
        runs["queue.SimpleQueue, one list"] = functools.partial(_lists_between_threads, batch, number)
        alternate(plan, title, "events/s", runs, count=events, parameters={"batch": batch, "receivers": number})
