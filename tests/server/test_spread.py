"""Long-lived connections are spread to within one of each other, however they are opened."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.alone

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
