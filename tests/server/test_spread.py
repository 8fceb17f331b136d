"""Long-lived connections are spread to within one of each other, however they are opened."""

from __future__ import annotations

import asyncio
import platform
import random
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import policies

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.alone

# As sandboxes say that they are, which do not know what a worker sleeps by.
NOBODY_LEADS = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2]) < (5, 11)

WORKERS = 4
CONNECTIONS = 400


async def one_by_one(clients: Any, count: int) -> None:
    for _ in range(count):
        await clients.ask()


async def in_waves(clients: Any, count: int) -> None:
    """Twenty at a time, as they come at a high rate."""
    for _ in range(count // 20):
        await asyncio.gather(*(clients.ask() for _ in range(20)))


async def in_a_burst(clients: Any, count: int) -> None:
    await asyncio.gather(*(clients.ask() for _ in range(count)))


def wait_for_open(server: pydlb.Server, count: int) -> None:
    """Until the server, too, has seen that the others are closed."""
    deadline = time.monotonic() + 30
    while server.balancer.stats().open > count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(("opening", "difference"), [(one_by_one, 1), (in_waves, 1), (in_a_burst, 3)])
def test_four_hundred_long_lived(
    opening: Callable[..., Any],
    difference: int,
    run: Callable[..., Any],
    loop_factory: Any,
    connecting: Any,
    handler: Any,
) -> None:
    async def main() -> None:
        server = await pydlb.start_server(
            handler, "127.0.0.1", 0, workers=WORKERS, loop_factory=loop_factory, backlog=CONNECTIONS
        )
        async with server, connecting(server) as clients:
            await opening(clients, CONNECTIONS)
            check(server, difference)
            seed = random.randrange(2**32)
            print(f"seed {seed}")
            gone = random.Random(seed).sample(clients.open, CONNECTIONS // 2)
            await clients.close(gone)
            while server.balancer.stats().open > CONNECTIONS // 2:
                await asyncio.sleep(0.001)
            await opening(clients, CONNECTIONS // 2)
            check(server, difference)

    def check(server: pydlb.Server, difference: int) -> None:
        stats = server.balancer.stats()
        counts = [worker.open for worker in stats.workers]
        assert sum(counts) == CONNECTIONS
        assert max(counts) - min(counts) <= difference, counts
        assert stats.imbalance == max(counts) * WORKERS / CONNECTIONS

    run(main())


def test_clients_see_the_same_spread(run: Callable[..., Any], connecting: Any, handler: Any) -> None:
    """The account is no mere book-keeping: the answers come from the workers that it names."""

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=WORKERS)
        async with server, connecting(server) as clients:
            answers = Counter([await clients.ask() for _ in range(40)])
            stats = server.balancer.stats()
            assert answers == {worker.name: worker.open for worker in stats.workers}
            assert set(answers.values()) == {10}

    run(main())


@pytest.mark.parametrize("workers", [1, 2, 20])
def test_any_number_of_workers(workers: int, run: Callable[..., Any], connecting: Any, handler: Any) -> None:
    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=workers)
        async with server, connecting(server) as clients:
            answers = Counter([await clients.ask() for _ in range(2 * workers)])
            assert set(answers.values()) == {2}
            assert len(answers) == workers

    run(main())


def test_a_worker_that_stands_still_keeps_nobody_waiting(run: Callable[..., Any], loop_factory: Any) -> None:
    """Workers may accept by themselves while they sleep: one that does not leaves it to others."""
    stands, goes_on = threading.Event(), threading.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readline()
        if request == b"stand\n":
            stands.set()
            goes_on.wait()
        writer.write(b"\n")
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await pydlb.start_server(handle, "127.0.0.1", 0, workers=WORKERS, loop_factory=loop_factory)
        async with server:
            clients = []

            async def ask(request: bytes) -> Any:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                clients.append(writer)
                writer.write(request)
                return reader.readline()

            for _ in range(2 * WORKERS):
                await (await ask(b"go\n"))
            stuck = asyncio.ensure_future(await ask(b"stand\n"))
            await asyncio.to_thread(stands.wait)
            for _ in range(10 * WORKERS):
                await (await ask(b"go\n"))
            assert not stuck.done()
            goes_on.set()
            assert await stuck == b"\n"
            for client in clients:
                client.close()

    try:
        run(main())
    finally:
        goes_on.set()


@pytest.mark.skipif(NOBODY_LEADS, reason="needs Linux 5.11")
def test_who_is_next_accepts(run: Callable[..., Any], connecting: Any, handler: Any) -> None:
    """A connection that comes alone to loops of uvloop's wakes one thread."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop has no wheel for this interpreter")

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=WORKERS, loop_factory=uvloop.new_event_loop)
        async with server, connecting(server) as clients:
            acceptor = server.balancer._acceptor
            while not acceptor.stats()["led"]:  # each time, unless the machine is busy
                await clients.ask()
                await asyncio.sleep(0.001)
            stats = server.balancer.stats()
            assert stats.accepted == stats.open == len(clients.open)
            counts = [worker.open for worker in stats.workers]
            assert max(counts) - min(counts) <= 1, counts

    run(main())


class WaitsForLoops(policies.Policy):
    """Asks every loop before it picks, as one does that looks what they have."""

    def __init__(self, loops: set[asyncio.AbstractEventLoop]) -> None:
        self.loops = loops
        self.answers = 0

    def pick(self, arrival: policies.Arrival) -> None:
        async def answer() -> None:
            self.answers += 1

        for loop in self.loops:
            asyncio.run_coroutine_threadsafe(answer(), loop).result(10)


@pytest.mark.skipif(NOBODY_LEADS, reason="needs Linux 5.11")
def test_a_new_policy_may_wait_for_loops(run: Callable[..., Any], connecting: Any) -> None:
    """Also for the one that was to accept next."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop has no wheel for this interpreter")
    loops: set[asyncio.AbstractEventLoop] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loops.add(asyncio.get_running_loop())
        await reader.readline()
        writer.write(b"\n")
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await pydlb.start_server(handle, "127.0.0.1", 0, workers=WORKERS, loop_factory=uvloop.new_event_loop)
        async with server, connecting(server) as clients:
            led = 0
            while len(loops) < WORKERS or server.balancer._acceptor.stats()["led"] == led:
                led = server.balancer._acceptor.stats()["led"]
                await clients.ask()
                await asyncio.sleep(0.001)
            server.balancer.policy = policy = WaitsForLoops(set(loops))
            await clients.ask()
            assert policy.answers == WORKERS

    run(main())
