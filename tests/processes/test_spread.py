"""Connections over worker processes: how evenly, however the processes were started."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

from . import handlers

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.alone

WORKERS = 4


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_serve_functions(method: Any, clients: Any, account: Callable[..., None]) -> None:
    handler = handlers.name_process
    with pydlb.Balancer(WORKERS, handler=handler, worker_class="process", start_method=method) as balancer:
        balancer.listen()
        answers = clients.hold(balancer.address(), WORKERS)
        assert sorted(answers) == sorted(b"%d\n" % worker.pid for worker in balancer.workers)  # type: ignore[attr-defined]
        clients.close()
    stats = balancer.stats()
    account(stats)
    assert (stats.accepted, stats.served, stats.aborted) == (WORKERS, WORKERS, 0)


async def one_by_one(address: Any, count: int) -> list[asyncio.StreamWriter]:
    return [await ask(address) for _ in range(count)]


async def in_a_burst(address: Any, count: int) -> list[asyncio.StreamWriter]:
    return list(await asyncio.gather(*(ask(address) for _ in range(count))))


async def ask(address: Any) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"?\n")
    await reader.readline()
    return writer


@pytest.mark.parametrize("count", [16, 64, 200])
@pytest.mark.parametrize(("opening", "difference"), [(one_by_one, 1), (in_a_burst, 2)], ids=["one by one", "burst"])
def test_held_connections_are_level(opening: Callable[..., Any], difference: int, count: int) -> None:
    async def main() -> None:
        server = await pydlb.start_server(
            handlers.name_process_by_streams,
            "127.0.0.1",
            0,
            workers=WORKERS,
            worker_class="process",
            grace=2,  # the processors may be others' for a while
        )
        async with server:
            writers = await opening(server.sockets[0].getsockname(), count)
            counts = [worker.open for worker in server.balancer.stats().workers]
            for writer in writers:
                writer.close()
            assert sum(counts) == count
            assert max(counts) - min(counts) <= difference, counts

    asyncio.run(asyncio.wait_for(main(), 60))


def test_busy_process_gets_nothing_while_another_is_idle(clients: Any) -> None:
    """Two workers, one of which does one thing for long: all that come are answered by the other one."""

    async def main() -> None:
        server = await pydlb.start_server(
            handlers.name_process_by_streams, "127.0.0.1", 0, workers=2, worker_class="process"
        )
        async with server:
            address = server.sockets[0].getsockname()
            blocked = clients.connect(address)
            busy = clients.ask(blocked).split()[0]
            blocked.sendall(b"block 3000\n")
            answers = await asyncio.to_thread(clients.hold, address, 20)
            assert {answer.split()[0] for answer in answers} - {busy}
            assert busy not in {answer.split()[0] for answer in answers}
            assert blocked.recv(100).split()[0] == busy
            clients.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_closed_connections_make_room_again(clients: Any, wait_until: Callable[..., None]) -> None:
    """What a worker closed does not count against it: the next ones go to the worker that has the fewest."""
    with pydlb.Balancer(2, handler=handlers.name_process, worker_class="process") as balancer:
        balancer.listen()
        for _ in range(10):
            first = clients.connect(balancer.address())
            name = clients.ask(first)
            other = clients.ask(clients.connect(balancer.address()))
            assert other != name
            first.close()
            wait_until(lambda: sum(worker.open for worker in balancer.stats().workers) == 1)
            assert clients.ask(clients.connect(balancer.address())) == name
            clients.close()
            wait_until(lambda: balancer.stats().open == 0)


def test_nop_leaves_it_to_who_comes_first(clients: Any) -> None:
    with pydlb.Balancer(2, handler=handlers.name_process, worker_class="process", policy="nop") as balancer:
        balancer.listen()
        assert all(clients.hold(balancer.address(), 2))
        clients.close()


def test_unix_sockets(clients: Any, tmp_path: Any) -> None:
    with pydlb.Balancer(WORKERS, handler=handlers.name_process, worker_class="process") as balancer:
        balancer.listen(path=tmp_path / "socket")
        assert len(set(clients.hold(balancer.address(), WORKERS))) == WORKERS
        clients.close()
    assert balancer.stats().served == WORKERS
