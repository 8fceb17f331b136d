"""Worker processes that are picked for connections, and limits: as with threads."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import policies

from . import handlers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORKERS = 4


def processes(count: int, **arguments: Any) -> pydlb.Balancer:
    return pydlb.Balancer(count, handler=handlers.name_process, worker_class="process", **arguments)


def pids(balancer: pydlb.Balancer) -> list[int]:
    return [worker.pid for worker in balancer.workers]  # type: ignore[attr-defined]


def opened(balancer: pydlb.Balancer) -> list[int]:
    return [worker.open for worker in balancer.stats().workers]


@pytest.mark.parametrize("policy", ["exact", "round_robin", "random", "least", "hash"])
def test_every_policy_serves(policy: Any, clients: Any, account: Callable[..., None]) -> None:
    with processes(2, policy=policy, grace=2) as balancer:
        balancer.listen()
        for _ in range(20):
            (answer,) = clients.hold(balancer.address(), 1)
            assert int(answer) in pids(balancer)
            account(balancer.stats())
            clients.close()
    stats = balancer.stats()
    account(stats)
    assert (stats.accepted, stats.served, stats.aborted, stats.refused) == (20, 20, 0, 0)


async def held(balancer: pydlb.Balancer, count: int) -> list[Any]:
    async def ask() -> tuple[int, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*balancer.address())
        writer.write(b"?\n")
        return int((await reader.readline()).split()[0]), writer

    return list(await asyncio.gather(*(ask() for _ in range(count))))


def serve(main: Callable[[pydlb.Server], Any], **arguments: Any) -> None:
    """A server whose workers are processes with event loops."""

    async def run() -> None:
        server = await pydlb.start_server(
            handlers.name_process_by_streams, "127.0.0.1", 0, worker_class="process", grace=2, **arguments
        )
        async with server:
            await main(server)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("policy", ["exact", "round_robin"])
def test_burst_is_level(policy: Any) -> None:
    async def main(server: pydlb.Server) -> None:
        writers = await held(server.balancer, 200)
        assert opened(server.balancer) == [50] * WORKERS
        for _, writer in writers:
            writer.close()

    serve(main, workers=WORKERS, policy=policy)


def test_policy_changes_while_connections_come(clients: Any, wait_until: Callable[..., None]) -> None:
    with processes(2) as balancer:
        balancer.listen()
        one, other = pids(balancer)
        for policy, expected in (
            ("round_robin", {one: 4, other: 4}),
            (lambda workers, _arrival: workers[1], {other: 8}),
            ("dlb", {one: 4, other: 4}),
            (lambda workers, _arrival: workers[0], {one: 8}),
            ("exact", {one: 4, other: 4}),
        ):
            balancer.policy = policy
            # A function serves one connection at a time: the first is asked, the others wait for it.
            names: collections.Counter[int] = collections.Counter()
            for _ in range(8):
                names[int(clients.hold(balancer.address(), 1)[0])] += 1
                clients.close()
                wait_until(lambda: balancer.stats().open == 0)
            if policy != "dlb":  # which goes by open connections, and there are none
                assert names == expected, policy


def test_weights() -> None:
    async def main(server: pydlb.Server) -> None:
        balancer = server.balancer
        one, other = balancer.workers
        balancer.set_weight(one, 3)
        writers = await held(balancer, 40)
        assert opened(balancer) == [30, 10]
        balancer.set_weight(one, 0)
        writers += await held(balancer, 4)
        assert opened(balancer) == [30, 14]
        balancer.set_weight(one, 1)
        balancer.set_weight(other, 1)
        writers += await held(balancer, 4)
        assert sum(opened(balancer)) == 48
        for _, writer in writers:
            writer.close()

    serve(main, workers=2)


def test_weight_outlives_two_processes(wait_until: Callable[..., None]) -> None:
    """Also where the second one dies before it is ready."""
    with processes(2) as balancer:
        worker = balancer.workers[0]
        balancer.set_weight(worker, 3)
        balancer.pause_worker(worker)
        for _ in range(2):
            before = pids(balancer)[0]
            os.kill(before, signal.SIGKILL)
            wait_until(lambda before=before: pids(balancer)[0] not in {before, None})
        wait_until(lambda: balancer._steering.weight(worker) == 3)
        assert balancer._steering.is_paused(worker)


def test_client_stays_with_its_worker(clients: Any) -> None:
    def ask(client: str) -> bytes:
        with socket.create_connection(balancer.address(), timeout=20, source_address=(client, 0)) as sock:
            return bytes(clients.ask(sock))

    with processes(WORKERS, policy=policies.Hash(bound=1000), grace=2) as balancer:
        balancer.listen()
        first = {client: ask(client) for client in (f"127.0.0.{n}" for n in range(1, 41))}
        assert len(set(first.values())) == WORKERS
        assert {client: ask(client) for client in first} == first


def test_proxys_client_stays_with_its_worker(clients: Any) -> None:
    def ask(client: str) -> bytes:
        header = f"PROXY TCP4 {client} 10.0.0.1 1 80\r\n".encode()
        return bytes(clients.ask(clients.connect(balancer.address()), header + b"?\n"))

    with processes(WORKERS, policy=policies.Hash(bound=1000), grace=2) as balancer:
        balancer.listen(proxy_protocol=True)
        first = {}
        for client in (f"192.0.2.{n}" for n in range(1, 31)):
            first[client] = ask(client)
            clients.close()
        assert len(set(first.values())) == WORKERS
        for client, name in first.items():
            assert ask(client) == name
            clients.close()


def test_function_sees_workers_and_client(clients: Any) -> None:
    seen = []

    def fewest(workers: Sequence[pydlb.Worker], arrival: policies.Arrival) -> pydlb.Worker:
        seen.append((arrival.address, [worker.open for worker in workers]))
        return min(workers, key=lambda worker: worker.open)

    async def main(server: pydlb.Server) -> None:
        writers = [(await held(server.balancer, 1))[0] for _ in range(4)]
        addresses = [writer.get_extra_info("sockname") for _, writer in writers]
        assert [address for address, _ in seen] == addresses
        assert [sorted(counts) for _, counts in seen] == [[0, 0], [0, 1], [1, 1], [1, 2]]
        for _, writer in writers:
            writer.close()

    serve(main, workers=2, policy=fewest)


def test_what_waits_for_a_worker_that_is_killed_goes_to_another(clients: Any, wait_until: Callable[..., None]) -> None:
    """They lie on its shelf, already accepted: none of them is lost, and the account adds up."""
    with processes(2, policy=lambda workers, _arrival: workers[0], grace=3600) as balancer:
        balancer.listen()
        first, other = pids(balancer)
        os.kill(first, signal.SIGSTOP)
        waiting = [clients.connect(balancer.address()) for _ in range(5)]
        for client in waiting:
            client.sendall(b"?\n")
        wait_until(lambda: balancer.stats().workers[0].waiting == 5)
        assert balancer.workers[0].open == 5
        os.kill(first, signal.SIGKILL)
        for client in waiting:
            assert client.recv(100)
            client.close()
        wait_until(lambda: balancer.stats().served == 5)
        stats = balancer.stats()
        assert (stats.accepted, stats.aborted, stats.waiting) == (5, 0, 0)
        assert other in pids(balancer)


def test_what_waits_for_a_busy_worker_goes_to_an_idle_one(clients: Any) -> None:
    async def run() -> None:
        server = await pydlb.start_server(
            handlers.name_process_by_streams, "127.0.0.1", 0, workers=2, worker_class="process", policy="round_robin"
        )
        async with server:
            address = server.sockets[0].getsockname()
            blocked = clients.connect(address)
            busy = clients.ask(blocked).split()[0]
            blocked.sendall(b"block 3000\n")
            answers = await asyncio.to_thread(clients.hold, address, 20)
            assert busy not in {answer.split()[0] for answer in answers}
            assert blocked.recv(100).split()[0] == busy
            assert server.balancer.stats().taken_back >= 1
            clients.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("policy", ["dlb", "exact"])
def test_total_limit_leaves_others_in_the_backlog(policy: Any, clients: Any, wait_until: Callable[..., None]) -> None:
    async def main(server: pydlb.Server) -> None:
        address = server.sockets[0].getsockname()
        inside = [clients.connect(address) for _ in range(3)]
        for client in inside:
            assert await asyncio.to_thread(clients.ask, client)
        late = clients.connect(address)
        late.sendall(b"?\n")
        await asyncio.to_thread(wait_until, lambda: server.balancer.stats().limited >= 1)
        assert server.balancer.stats().accepted == 3
        inside[0].close()
        assert await asyncio.to_thread(late.recv, 100)
        clients.close()

    serve(main, workers=2, policy=policy, limits=pydlb.Limits(total=3, resume=1))


@pytest.mark.parametrize("policy", ["dlb", "round_robin"])
def test_those_that_are_too_many_are_answered(policy: Any, clients: Any, wait_until: Callable[..., None]) -> None:
    async def main(server: pydlb.Server) -> None:
        address = server.sockets[0].getsockname()
        inside = await held(server.balancer, 2)
        for _ in range(3):
            assert await asyncio.to_thread(clients.ask, clients.connect(address)) == b"full\n"
        stats = server.balancer.stats()
        assert (stats.refused_at_limit, stats.open, stats.accepted) == (3, 2, 5)
        inside[0][1].close()
        await asyncio.to_thread(wait_until, lambda: server.balancer.stats().open == 1)
        assert (await asyncio.to_thread(clients.hold, address, 1))[0].split()[0].isdigit()
        inside[1][1].close()
        clients.close()

    serve(main, workers=2, policy=policy, limits=pydlb.Limits(total=2, resume=1, when_full="reply", reply=b"full\n"))


def test_limit_of_each_worker(clients: Any, wait_until: Callable[..., None]) -> None:
    async def main(server: pydlb.Server) -> None:
        balancer = server.balancer
        inside = await held(balancer, 4)
        late = clients.connect(balancer.address())
        late.sendall(b"?\n")
        await asyncio.to_thread(wait_until, lambda: balancer.stats().limited >= 1)
        assert opened(balancer) == [2, 2]
        balancer.limits = pydlb.Limits(per_worker=2, when_full="overflow", resume=1)
        assert await asyncio.to_thread(late.recv, 100)
        assert balancer.stats().overflowed == 1
        balancer.limits = None
        inside += await held(balancer, 4)
        assert sum(opened(balancer)) == 9
        for _, writer in inside:
            writer.close()
        clients.close()

    serve(main, workers=2, limits=pydlb.Limits(per_worker=2, resume=1))


def test_listeners_are_counted(clients: Any, wait_until: Callable[..., None]) -> None:
    with processes(2, policy=policies.Exact(per_listener=True), grace=2) as balancer:
        first, second = balancer.listen(), balancer.listen()
        assert all(clients.hold(balancer.address(first), 2))
        wait_until(lambda: [listener.open for listener in balancer.stats().listeners] == [2, 0])
        clients.close()
        wait_until(lambda: balancer.stats().open == 0)
        assert len(set(clients.hold(balancer.address(second), 2))) == 2
        os.kill(pids(balancer)[0], signal.SIGKILL)
        wait_until(lambda: balancer.stats().aborted == 1)
        listeners = balancer.stats().listeners
        assert [(one.accepted, one.open) for one in listeners] == [(2, 0), (2, 1)]
        clients.close()


def test_loop_lag_is_told() -> None:
    async def main(server: pydlb.Server) -> None:
        lags: list[float | None] = [None]
        while None in lags:
            lags = [worker.loop_lag for worker in server.balancer.stats().workers]
            await asyncio.sleep(0.01)
        assert all(lag is not None and lag >= 0 for lag in lags)

    serve(main, workers=2)
