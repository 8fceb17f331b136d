"""One item at a time, between threads and from a thread into an event loop: pydlb beside what Python has."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

import pydlb

from .measure import CountError, Figures, Plan, alternate, percentiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Get: TypeAlias = Callable[[], int | None]
    Put: TypeAlias = Callable[[int], object]
    KindOfQueue: TypeAlias = type[queue.SimpleQueue[int] | queue.Queue[int]]

__all__ = ["measure"]

# Items are integers that Python does not keep ready. 0 tells a receiver that there are no more.
_FIRST: Final = 1 << 31
_END: Final = 0
_CREDITS: Final = 1 << 15
_BATCH: Final = 256
_TIMEOUT: Final = 60.0


@contextlib.contextmanager
def _domain(backend: str, queues: int, receivers: int) -> Iterator[pydlb.Domain]:
    with pydlb.open(backend, limits="large") as device:
        credits = min(_CREDITS, device.resources().ldb_credits)
        with device.create_domain(ldb_queues=queues, ldb_ports=receivers, dir_ports=1, credits=credits) as domain:
            yield domain


def _port(domain: pydlb.Domain) -> pydlb.LDBPort:
    """A port that is given one item after the other: of a device, by having room for no more."""
    room = {} if domain.device.is_software else {"cq_depth": 1, "history_entries": 1}
    return domain.create_ldb_port(release="on_recv", **room)


def _check(count: int, total: int) -> None:
    expected = count * _FIRST + count * (count - 1) // 2
    if total != expected:
        raise CountError(f"the items add up to {total}, not {expected}: something was lost or came twice")


# ---- from thread to thread -------------------------------------------------------------------------------------------


def _send_all(send_one: Callable[[int, pydlb.Queue], bool], target: pydlb.Queue, count: int, receivers: int) -> None:
    """What a user of a port writes: without a credit, let others have the processor and try again."""
    for item in range(_FIRST, _FIRST + count):
        while not send_one(item, target):
            time.sleep(0)
    for _ in range(receivers):
        while not send_one(_END, target):
            time.sleep(0)


def _put_all(put: Put, count: int, receivers: int) -> None:
    """What a user of a queue writes."""
    for item in range(_FIRST, _FIRST + count):
        put(item)
    for _ in range(receivers):
        put(_END)


def _add_all(get: Get) -> int:
    """Receive until the end is told; the items' sum."""
    total = 0
    while item := get():
        total += item
    return total


def _between_threads(pool: ThreadPoolExecutor, produce: Callable[[], None], gets: Sequence[Get], count: int) -> Figures:
    start, start_cpu = time.perf_counter(), time.process_time()
    sums = [pool.submit(_add_all, get) for get in gets]
    producer = pool.submit(produce)
    try:
        total = sum(each.result(_TIMEOUT) for each in sums)
    except TimeoutError:
        raise CountError(f"{count} items did not come within {_TIMEOUT:.0f} s") from None
    spent, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    producer.result()
    _check(count, total)
    return Figures(count / spent, per_cpu=count / cpu)


def _through_ports(backend: str, receivers: int, count: int) -> Figures:
    # The pool is the last to be left: closing the domain ends every thread that waits.
    with ThreadPoolExecutor(receivers + 1) as pool, _domain(backend, 1, receivers) as domain:
        items = domain.create_ldb_queue()
        ports = [_port(domain) for _ in range(receivers)]
        for port in ports:
            port.link(items)
        sender = domain.create_dir_port()
        domain.start()
        produce = functools.partial(_send_all, sender.send_one, items, count, receivers)
        return _between_threads(pool, produce, [port.recv_one for port in ports], count)


def _through_queue(kind: KindOfQueue, receivers: int, count: int) -> Figures:
    items = kind()
    produce = functools.partial(_put_all, items.put, count, receivers)
    with ThreadPoolExecutor(receivers + 1) as pool:
        return _between_threads(pool, produce, [items.get] * receivers, count)


# ---- there and back --------------------------------------------------------------------------------------------------


def _echo(get: Get, put: Put) -> None:
    with contextlib.suppress(pydlb.ClosedError):
        while item := get():
            put(item)


def _round_trips(pool: ThreadPoolExecutor, there: Put, other: Callable[[], None], back: Get, count: int) -> Figures:
    """One item at a time to another thread and back: nothing else is on its way, so each side sleeps in between."""
    pool.submit(other)
    times = []
    try:
        start = begin = time.perf_counter()
        for item in range(_FIRST, _FIRST + count):
            there(item)
            came = back()
            end = time.perf_counter()
            times.append((end - begin) * 1e6)
            begin = end
            if came != item:
                raise CountError(f"{item} was sent, {came} came back")
        return Figures(count / (begin - start), latencies=percentiles(times))
    finally:
        there(_END)


def _round_trips_of_ports(backend: str, count: int) -> Figures:
    with ThreadPoolExecutor(1) as pool, _domain(backend, 2, 2) as domain:
        there, back = domain.create_ldb_queue(), domain.create_ldb_queue()
        # A port that receives sends as well: it is used by one thread.
        ours, theirs = (domain.create_ldb_port(release="on_recv") for _ in range(2))
        theirs.link(there)
        ours.link(back)
        domain.start()
        other = functools.partial(_echo, theirs.recv_one, lambda item: theirs.send_one(item, back))
        return _round_trips(pool, lambda item: ours.send_one(item, there), other, ours.recv_one, count)


def _round_trips_of_queues(kind: KindOfQueue, count: int) -> Figures:
    there, back = kind(), kind()
    with ThreadPoolExecutor(1) as pool:
        return _round_trips(pool, there.put, functools.partial(_echo, there.get, back.put), back.get, count)


# ---- into an event loop ----------------------------------------------------------------------------------------------


async def _receive_all(receiver: pydlb.Port, pool: ThreadPoolExecutor, produce: Callable[[], None], count: int) -> int:
    """The loop watches the port's descriptor, and takes all that is there."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()
    into = np.empty(_BATCH, dtype=pydlb.EVENT_DTYPE)
    seen = total = 0

    def receive() -> None:
        nonlocal seen, total
        data = receiver.recv(_BATCH, 0, into)["data"].tolist()
        seen += len(data)
        total += sum(data)
        if seen >= count and not done.done():
            done.set_result(total)
        elif len(data) == _BATCH:
            loop.call_soon(receive)  # a full batch does not arm the port: there may be more

    loop.add_reader(receiver.fileno(), receive)
    try:
        pool.submit(produce)
        return await asyncio.wait_for(done, _TIMEOUT)
    finally:
        loop.remove_reader(receiver.fileno())


async def _be_called(pool: ThreadPoolExecutor, count: int) -> int:
    """Each item is a callback that the other thread schedules."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()
    seen = total = 0

    def receive(item: int) -> None:
        nonlocal seen, total
        seen += 1
        total += item
        if seen >= count and not done.done():
            done.set_result(total)

    def produce() -> None:
        for item in range(_FIRST, _FIRST + count):
            loop.call_soon_threadsafe(receive, item)

    pool.submit(produce)
    return await asyncio.wait_for(done, _TIMEOUT)


def _timed(count: int, receive: Callable[[], int]) -> Figures:
    start, start_cpu = time.perf_counter(), time.process_time()
    try:
        total = receive()
    except TimeoutError:
        raise CountError(f"{count} items did not come within {_TIMEOUT:.0f} s") from None
    spent, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    _check(count, total)
    return Figures(count / spent, per_cpu=count / cpu)


def _port_into_loop(backend: str, count: int) -> Figures:
    with ThreadPoolExecutor(1) as pool, _domain(backend, 1, 1) as domain:
        items = domain.create_ldb_queue()
        receiver = domain.create_ldb_port(cq_depth=_BATCH, release="on_recv")
        receiver.link(items)
        sender = domain.create_dir_port()
        domain.start()
        produce = functools.partial(_send_all, sender.send_one, items, count, 0)
        return _timed(count, lambda: asyncio.run(_receive_all(receiver, pool, produce, count)))


def _call_soon_threadsafe(count: int) -> Figures:
    with ThreadPoolExecutor(1) as pool:
        return _timed(count, lambda: asyncio.run(_be_called(pool, count)))


def measure(plan: Plan, *, items: int | None) -> None:
    """Measure all hand-offs.

    Args:
        plan: How.
        items: How many items each run hands over; None for as many as it can in the planned time.
    """
    for receivers in (1, 4):
        alternate(
            plan,
            f"hand-off, one item at a time, 1 sending and {receivers} receiving threads",
            "items/s",
            {
                "pydlb send_one, recv_one": functools.partial(_through_ports, plan.backend, receivers),
                "queue.Queue": functools.partial(_through_queue, queue.Queue, receivers),
                "queue.SimpleQueue": functools.partial(_through_queue, queue.SimpleQueue, receivers),
            },
            count=items,
        )
    alternate(
        plan,
        "hand-off, one item to another thread and back",
        "round trips/s",
        {
            "pydlb send_one, recv_one": functools.partial(_round_trips_of_ports, plan.backend),
            "queue.Queue": functools.partial(_round_trips_of_queues, queue.Queue),
            "queue.SimpleQueue": functools.partial(_round_trips_of_queues, queue.SimpleQueue),
        },
        count=items,
    )
    alternate(
        plan,
        "hand-off, one item at a time, from a thread into an asyncio loop",
        "items/s",
        {
            "pydlb port": functools.partial(_port_into_loop, plan.backend),
            "loop.call_soon_threadsafe": _call_soon_threadsafe,
        },
        count=items,
    )
