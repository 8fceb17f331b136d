"""One item at a time from thread to thread, and from a thread into an event loop: pydlb beside what Python has."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from typing import TYPE_CHECKING

import pydlb

from .measure import CountError, Figures, Progress, Row, alternate

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["measure"]

# Items are integers that Python does not keep ready.
_FIRST = 1 << 31


def _check(total: int, count: int) -> None:
    expected = count * _FIRST + count * (count - 1) // 2
    if total != expected:
        raise CountError(f"the items' sum is {total}, not {expected}: something was lost or came twice")


def _between_threads(put: Callable[[int], object], get: Callable[[], int], count: int) -> Figures:
    def produce() -> None:
        for item in range(_FIRST, _FIRST + count):
            put(item)

    producer = threading.Thread(target=produce)
    total = 0
    start = time.perf_counter()
    producer.start()
    for _ in range(count):
        total += get()
    seconds = time.perf_counter() - start
    producer.join()
    _check(total, count)
    return Figures(count / seconds)


def _pydlb_threads(count: int) -> Figures:
    with pydlb.open("auto") as device, device.create_domain(credits=8192) as domain:
        items = domain.create_ldb_queue()
        receiver = domain.create_ldb_port(release="on_recv")
        receiver.link(items)
        sender = domain.create_dir_port()
        domain.start()
        send_one, recv_one = sender.send_one, receiver.recv_one

        def put(item: int) -> None:
            while not send_one(item, items):
                time.sleep(0.0001)

        return _between_threads(put, recv_one, count)  # type: ignore[arg-type]


def _simple_queue(count: int) -> Figures:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    return _between_threads(items.put, items.get, count)


def _queue(count: int) -> Figures:
    items: queue.Queue[int] = queue.Queue()
    return _between_threads(items.put, items.get, count)


def _pydlb_loop(count: int) -> Figures:
    """A loop that reads the port's descriptor."""
    with pydlb.open("auto") as device, device.create_domain(credits=8192) as domain:
        items = domain.create_ldb_queue()
        receiver = domain.create_ldb_port(cq_depth=256, release="on_recv")
        receiver.link(items)
        sender = domain.create_dir_port()
        domain.start()
        send_one = sender.send_one

        def produce() -> None:
            for item in range(_FIRST, _FIRST + count):
                while not send_one(item, items):
                    time.sleep(0.0001)

        async def consume() -> int:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[int] = loop.create_future()
            seen = total = 0

            def receive() -> None:
                nonlocal seen, total
                data = receiver.recv(256, 0)["data"].tolist()
                total += sum(data)
                seen += len(data)
                if seen == count and not done.done():
                    done.set_result(total)
                elif len(data) == 256:
                    loop.call_soon(receive)

            loop.add_reader(receiver.fileno(), receive)
            try:
                return await done
            finally:
                loop.remove_reader(receiver.fileno())

        return _into_loop(produce, consume, count)


def _call_soon_threadsafe(count: int) -> Figures:
    box: list[Callable[[int], None]] = []
    loops: list[asyncio.AbstractEventLoop] = []
    ready = threading.Event()

    def produce() -> None:
        ready.wait()
        for item in range(_FIRST, _FIRST + count):
            loops[0].call_soon_threadsafe(box[0], item)

    async def consume() -> int:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        seen = total = 0

        def receive(item: int) -> None:
            nonlocal seen, total
            seen += 1
            total += item
            if seen == count:
                done.set_result(total)

        loops.append(loop)
        box.append(receive)
        ready.set()
        return await done

    return _into_loop(produce, consume, count)


def _into_loop(produce: Callable[[], None], consume: Callable[[], object], count: int) -> Figures:
    producer = threading.Thread(target=produce)
    start = time.perf_counter()
    producer.start()
    total: int = asyncio.run(consume())  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    producer.join()
    _check(total, count)
    return Figures(count / seconds)


def measure(*, items: int, rounds: int, progress: Progress) -> dict[str, list[Row]]:
    """Measure both hand-offs.

    Args:
        items: How many items each run hands over.
        rounds: How many runs of each.
        progress: Where to say what is going on.
    """
    threads = "hand-off, one item at a time, thread to thread"
    loop = "hand-off, one item at a time, thread to asyncio loop"
    return {
        threads: alternate(
            {
                "pydlb send_one, recv_one": lambda: _pydlb_threads(items),
                "queue.Queue": lambda: _queue(max(1, items // 10)),
                "queue.SimpleQueue": lambda: _simple_queue(items),
            },
            rounds=rounds,
            unit="items/s",
            progress=progress,
            title=threads,
        ),
        loop: alternate(
            {
                "pydlb port": lambda: _pydlb_loop(items),
                "loop.call_soon_threadsafe": lambda: _call_soon_threadsafe(max(1, items // 10)),
            },
            rounds=rounds,
            unit="items/s",
            progress=progress,
            title=loop,
        ),
    }
