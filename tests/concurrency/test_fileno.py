"""A port's descriptor with everything that can wait for one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import select
import selectors
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import pydlb
    from conftest import Team

WAIT = 30.0


class Line:
    def __init__(self, domain: pydlb.Domain, consumers: int = 1) -> None:
        self.queue = domain.create_ldb_queue()
        self.producer = domain.create_dir_port()
        self.consumers = [domain.create_ldb_port() for _ in range(consumers)]
        for port in self.consumers:
            port.link(self.queue)
        domain.start()

    def send(self, data: int) -> None:
        while not self.producer.send_one(data, self.queue):
            time.sleep(0)  # let those run who receive


def by_select(port: pydlb.Port, timeout: float) -> bool:
    return bool(select.select([port], [], [], timeout)[0])


def by_poll(port: pydlb.Port, timeout: float) -> bool:
    poll = select.poll()
    poll.register(port, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def by_epoll(port: pydlb.Port, timeout: float) -> bool:
    with select.epoll() as epoll:
        epoll.register(port, select.EPOLLIN)
        return bool(epoll.poll(timeout))


def by_selector(port: pydlb.Port, timeout: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(port, selectors.EVENT_READ)
        return bool(selector.select(timeout))


@pytest.mark.parametrize("wait", [by_select, by_poll, by_epoll, by_selector])
def test_readable_after_one_event(domain: pydlb.Domain, team: Team, wait: Callable[[pydlb.Port, float], bool]) -> None:
    line = Line(domain)
    (port,) = line.consumers
    assert not wait(port, 0)
    team.start(line.send, 5)
    assert wait(port, WAIT)
    assert port.recv_one(timeout=WAIT) == 5
    while port.recv_one(timeout=0) is not None:
        pass
    assert port.release() == 1
    assert not wait(port, 0)
    line.send(6)
    assert wait(port, 0)


def test_descriptor_stays_the_same(domain: pydlb.Domain) -> None:
    (port,) = Line(domain).consumers
    assert port.fileno() == port.fileno() > 2


def test_edge_triggered(domain: pydlb.Domain) -> None:
    """Drained until a receive comes back short, each further event is an edge."""
    line = Line(domain)
    (port,) = line.consumers
    with select.epoll() as epoll:
        epoll.register(port, select.EPOLLIN | select.EPOLLET)
        for data in range(100):
            line.send(data)
            assert epoll.poll(WAIT)
            assert list(port.recv(8, timeout=0)["data"]) == [data]
            assert port.release() == 1
            assert not epoll.poll(0)


# ---- event loops -----------------------------------------------------------------------------------------------------


def new_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()  # type: ignore[no-any-return]


LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(
        new_uvloop,
        id="uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="uvloop has no wheel for this interpreter"
        ),
    ),
]


async def receive_all(port: pydlb.Port, take: Callable[[list[int]], None], over: asyncio.Event) -> None:
    """As a consumer with an event loop does: woken by the descriptor, receive until a short batch."""
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        batch = 16
        while True:
            received = port.recv(batch, timeout=0)
            if len(received):
                port.release(len(received))
                take([int(data) for data in received["data"]])
            if len(received) < batch:
                return

    loop.add_reader(port.fileno(), on_readable)
    try:
        await over.wait()
    finally:
        loop.remove_reader(port.fileno())


def run_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    port: pydlb.Port,
    take: Callable[[list[int]], None],
    ready: Callable[[Callable[[], None]], None],
) -> None:
    loop = new_loop()
    over = asyncio.Event()
    ready(lambda: loop.call_soon_threadsafe(over.set))
    try:
        loop.run_until_complete(receive_all(port, take, over))
    finally:
        loop.close()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_event_loops_in_threads_lose_nothing(
    domain: pydlb.Domain, team: Team, events: int, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Four loops, each asleep whenever it has nothing to do; every event one by one."""
    line = Line(domain, consumers=4)
    total = min(events, 100_000)
    received: list[int] = []
    lock = threading.Lock()
    stops: list[Callable[[], None]] = []

    def take(batch: list[int]) -> None:
        with lock:
            received.extend(batch)
        team.advance(len(batch))

    for port in line.consumers:
        team.start(run_loop, new_loop, port, take, stops.append)
    try:
        for data in range(total):
            line.send(data)
            if data % 64 == 0:
                team.wait_for(data - 200)  # so that all of them fall asleep again and again
        team.wait_for(total)
    finally:
        for stop in stops:
            with contextlib.suppress(RuntimeError):  # it failed and has ended
                stop()
    team.join()
    assert sorted(received) == list(range(total))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_each_event_wakes_a_sleeping_loop(
    domain: pydlb.Domain, team: Team, events: int, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """There and back, one event at a time: a wake-up that is lost hangs."""
    there, back = domain.create_ldb_queue(), domain.create_ldb_queue()
    main, loop_port = domain.create_ldb_port(), domain.create_ldb_port()
    main.link(back)
    loop_port.link(there)
    domain.start()
    stops: list[Callable[[], None]] = []

    def answer(batch: list[int]) -> None:
        for data in batch:
            assert loop_port.send_one(data, back)

    team.start(run_loop, new_loop, loop_port, answer, stops.append)
    try:
        for data in range(min(events, 100_000) // 10):
            assert main.send_one(data, there)
            assert main.recv_one(timeout=WAIT) == data
            assert main.release() == 1
    finally:
        for stop in stops:
            stop()


def test_one_loop_woken_for_one_event(domain: pydlb.Domain) -> None:
    line = Line(domain, consumers=4)
    for port in line.consumers:
        assert not by_poll(port, 0)
        port.set_parked(True)  # known to be idle: nobody else is told in case it does not come
    line.send(1)
    assert sum(by_poll(port, 0) for port in line.consumers) == 1
    assert domain.stats().wakes == 1
    line.send(2)
    assert sum(by_poll(port, 0) for port in line.consumers) == 2
    assert domain.stats().wakes == 2
