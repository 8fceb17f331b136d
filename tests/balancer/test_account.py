"""The account adds up at every moment, and at the end to the last connection."""

from __future__ import annotations

import contextlib
import random
import threading
from typing import TYPE_CHECKING

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Clients


def test_snapshots_add_up_and_only_grow_while_all_is_in_motion(
    clients: Clients, account: Callable[[pydlb.BalancerStats], None]
) -> None:
    def handler(connection: pydlb.Connection) -> None:
        if connection.socket.recv(1) == b"!":
            raise ConnectionError
        connection.socket.sendall(b"done")

    with pydlb.Balancer(4, handler=handler) as balancer:
        address = balancer.address(balancer.listen())
        over = threading.Event()
        snapshots: list[pydlb.BalancerStats] = []

        def look() -> None:
            while not over.wait(0.0002):  # a thread that never waits would have the interpreter to itself
                snapshots.append(balancer.stats())

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for number in range(300):
                clients.ask(*clients.connect(address), b"!" if number % 10 == 0 else b"?")
                clients.close(clients.open[:-5])
            final = balancer.close()
        finally:
            over.set()
            looking.join()
    for snapshot in snapshots:
        account(snapshot)
    for before, after in zip(snapshots, [*snapshots[1:], final], strict=True):
        for name in ("accepted", "served", "aborted", "refused"):
            assert getattr(before, name) <= getattr(after, name)
    assert (final.accepted, final.served, final.aborted, final.open) == (300, 270, 30, 0)


def test_what_no_worker_took_is_refused_and_counted(clients: Clients, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(0) as balancer:
        address = balancer.address(balancer.listen())
        waiting = clients.connect(address, 7)
        wait_until(lambda: balancer.stats().waiting == 7)
        stats = balancer.close(timeout=0)
        assert (stats.accepted, stats.refused, stats.waiting) == (7, 7, 0)
        for client in waiting:
            assert clients.ask(client) == b""


def test_beyond_max_waiting_connections_stay_in_the_backlog(clients: Clients, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(0, max_waiting=3) as balancer:
        address = balancer.address(balancer.listen())
        waiting = clients.connect(address, 10)
        wait_until(lambda: balancer.stats().held_up > 0)
        assert balancer.stats().accepted == 3
        worker = balancer.worker()
        for client in waiting:
            connection = worker.accept_blocking(30)
            assert connection is not None
            with connection:
                connection.socket.sendall(b"at last")
            assert client.recv(100) == b"at last"
        assert balancer.stats().served == 10


def test_a_full_balancer_sleeps(clients: Clients, wait_until: Callable[..., None]) -> None:
    """Nothing spins while there is no room: the process uses no processor time to speak of."""
    import os
    import time

    with pydlb.Balancer(0, max_waiting=1) as balancer:
        clients.connect(balancer.address(balancer.listen()), 5)
        wait_until(lambda: balancer.stats().held_up > 0)
        before = os.times()
        time.sleep(0.5)
        after = os.times()
        assert after.user + after.system - before.user - before.system < 0.25
        balancer.close(timeout=0)


def test_random_lives_of_connections(clients: Clients, account: Callable[[pydlb.BalancerStats], None]) -> None:
    """Opened, answered, closed by either side, in any order: workers stay within one of each other."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with pydlb.Balancer(0) as balancer:
        workers = [balancer.worker() for _ in range(3)]
        address = balancer.address(balancer.listen())
        held: list[tuple[pydlb.Connection, int]] = []
        for _ in range(150):
            if held and chance.random() < 0.4:
                connection, _ = held.pop(chance.randrange(len(held)))
                connection.close()
                continue
            clients.connect(address)
            fewest = min(worker.stats().open for worker in workers)
            due = [worker for worker in workers if worker.stats().open == fewest]
            taken = None
            while taken is None:
                for number, worker in enumerate(workers):
                    taken = worker.accept_blocking(0)
                    if taken is not None:
                        assert worker in due
                        held.append((taken, number))
                        break
            account(balancer.stats())
        for connection, _ in held:
            connection.close()


def test_workers_come_and_go(clients: Clients, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(0, max_workers=3) as balancer:
        address = balancer.address(balancer.listen())
        first, second = balancer.worker(), balancer.worker()
        clients.connect(address, 4)
        kept = [connection for worker in (first, second, first, second) if (connection := worker.accept_blocking(30))]
        balancer.worker()
        try:
            balancer.worker()
        except pydlb.ResourceExhausted:
            pass
        else:
            raise AssertionError("max_workers was exceeded")
        assert balancer.remove_worker(first, timeout=0) == 2
        assert (first.stats().aborted, first.stats().open) == (2, 0)
        for connection in kept:
            connection.close()
        stats = balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (4, 2, 2)
        assert [worker.name for worker in stats.workers] == ["worker_0", "worker_1", "worker_2"]
        balancer.worker()


# ---- who was refused, and why ----------------------------------------------------------------------------------------


def causes(stats: pydlb.BalancerStats) -> dict[str, int]:
    """Those that there were; they are all that were refused."""
    assert sum(stats.refused_by.values()) == stats.refused
    return {cause: count for cause, count in stats.refused_by.items() if count}


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        (pydlb.Limits(total=1, when_full="reset"), "limit"),
        (pydlb.Limits(per_worker=1, when_full="reset"), "worker_limit"),
    ],
)
def test_refused_at_a_limit(
    limits: pydlb.Limits, cause: str, clients: Clients, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    with pydlb.Balancer(0, limits=limits) as balancer:
        worker = balancer.worker()
        address = balancer.address(balancer.listen())
        clients.connect(address)
        connection = worker.accept_blocking(30)
        for _ in range(3):
            with contextlib.suppress(ConnectionResetError):
                clients.connect(address)
        wait_until(lambda: balancer.stats().refused == 3)
        assert causes(balancer.stats()) == {cause: 3}
        assert connection is not None
        connection.close()


@pytest.mark.parametrize(("workers", "cause"), [(0, "no_worker"), (1, "closing")])
def test_refused_at_the_end(
    workers: int, cause: str, clients: Clients, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    balancer = pydlb.Balancer(0)
    for _ in range(workers):
        balancer.worker()
    clients.connect(balancer.address(balancer.listen()), 2)
    wait_until(lambda: balancer.stats().waiting == 2)
    assert causes(balancer.stats()) == {}
    assert causes(balancer.close(timeout=0)) == {cause: 2}
