"""Limits: how many connections there may be, in all and on one worker, and what becomes of the others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import policies
from pydlb.testing import EmulatedDevice

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from .conftest import Clients

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
PATIENCE = 30.0


class Holding:
    """A balancer whose workers hold what they are given."""

    def __init__(self, workers: int = 2, **options: Any) -> None:
        self.balancer = pydlb.Balancer(0, **options)
        self.address = self.balancer.address(self.balancer.listen())
        self.held: list[pydlb.Connection] = []
        self.workers = [self.balancer.worker() for _ in range(workers)]
        self.threads = [threading.Thread(target=self._run, args=(worker,)) for worker in self.workers]
        for thread in self.threads:
            thread.start()

    def _run(self, worker: pydlb.Worker) -> None:
        for connection in worker:
            self.held.append(connection)  # before the client knows, who may end the test
            connection.socket.sendall(b"hello")

    def let_go(self, count: int) -> None:
        for _ in range(count):
            self.held.pop().close()

    @property
    def counts(self) -> list[int]:
        return [worker.stats().open for worker in self.workers]

    def close(self) -> None:
        while self.held:
            self.let_go(1)
        self.balancer.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def holding(account: Callable[[pydlb.BalancerStats], None]) -> Iterator[Callable[..., Holding]]:
    made: list[Holding] = []

    def make(*arguments: Any, **options: Any) -> Holding:
        made.append(Holding(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        account(one.balancer.stats())
        one.close()
        account(one.balancer.stats())


def served(clients: list[socket.socket]) -> bool:
    return all(client.recv(100) == b"hello" for client in clients)


def test_at_the_limit_accepting_pauses_until_enough_have_gone(
    holding: Callable[..., Holding], clients: Clients, wait_until: Callable[..., None]
) -> None:
    made = holding(limits=pydlb.Limits(total=10, resume=0.5))
    assert served(clients.connect(made.address, 10))
    late = clients.connect(made.address, 5)
    wait_until(lambda: made.balancer.stats().limited == 1)
    made.let_go(4)
    for client in late:
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(PATIENCE)
    made.let_go(1)  # five are left: half
    assert served(late)
    assert made.balancer.stats().refused == 0


def test_those_too_many_are_reset(
    holding: Callable[..., Holding], clients: Clients, wait_until: Callable[..., None]
) -> None:
    made = holding(limits=pydlb.Limits(total=4, when_full="reset", resume=1.0))
    assert served(clients.connect(made.address, 4))
    for _ in range(6):
        with pytest.raises(ConnectionResetError):  # perhaps as soon as it connects
            clients.connect(made.address)[0].recv(1)
    wait_until(lambda: made.balancer.stats().refused == 6)
    stats = made.balancer.stats()
    assert (stats.accepted, stats.refused_at_limit, stats.open) == (10, 6, 4)
    made.let_go(1)
    assert served(clients.connect(made.address, 1))


def test_those_too_many_are_told(holding: Callable[..., Holding], clients: Clients) -> None:
    """Also a client that has sent much, and is slow to read."""
    made = holding(limits=pydlb.Limits(total=2, when_full="reply", reply=BUSY))
    assert served(clients.connect(made.address, 2))
    for size in (0, 10, 100_000):
        (client,) = clients.connect(made.address)
        client.sendall(b"x" * size)
        told = b""
        while part := client.recv(1000):
            told += part
        assert told == BUSY
        client.close()
    assert made.balancer.stats().refused_at_limit == 3


@pytest.mark.parametrize("backend", ["software", "emulated"])
@pytest.mark.parametrize("policy", ["dlb", "exact", "nop", "random", "hash", "round_robin"])
def test_a_worker_at_its_limit_is_passed_over(
    policy: Any, backend: Any, holding: Callable[..., Holding], clients: Clients, wait_until: Callable[..., None]
) -> None:
    made = holding(
        3,
        policy=policy,
        backend=EmulatedDevice() if backend == "emulated" else backend,
        limits=pydlb.Limits(per_worker=5, resume=1.0),
    )
    assert served(clients.connect(made.address, 15))
    wait_until(lambda: made.counts == [5, 5, 5])
    late = clients.connect(made.address, 1)
    wait_until(lambda: made.balancer.stats().limited == 1)
    made.let_go(1)
    assert served(late)
    assert made.counts == [5, 5, 5]


def test_overflow_goes_beyond(holding: Callable[..., Holding], clients: Clients) -> None:
    made = holding(2, policy="exact", limits=pydlb.Limits(per_worker=3, when_full="overflow"))
    assert served(clients.connect(made.address, 10))
    assert made.counts == [5, 5]
    assert made.balancer.stats().overflowed == 4


def test_a_policy_that_names_a_full_worker_gets_whoever_has_room(
    holding: Callable[..., Holding], clients: Clients
) -> None:
    made = holding(2, policy=lambda workers, _: workers[0], limits=pydlb.Limits(per_worker=4))
    assert served(clients.connect(made.address, 8))
    assert made.counts == [4, 4]


def test_limits_change_while_connections_come(
    holding: Callable[..., Holding], clients: Clients, wait_until: Callable[..., None]
) -> None:
    made = holding(2)
    assert served(clients.connect(made.address, 8))
    made.balancer.limits = pydlb.Limits(total=6)
    late = clients.connect(made.address, 2)
    wait_until(lambda: made.balancer.stats().limited == 1)
    made.balancer.limits = pydlb.Limits(per_worker=20)
    assert served(late)
    made.balancer.limits = None
    made.balancer.policy = policies.Exact()
    assert served(clients.connect(made.address, 4))
    assert sum(made.counts) == 14


def test_a_full_balancer_can_be_closed(clients: Clients) -> None:
    with pydlb.Balancer(0, limits=pydlb.Limits(total=1)) as balancer:
        worker = balancer.worker()
        clients.connect(balancer.address(balancer.listen()), 3)
        connection = worker.accept_blocking(PATIENCE)
        assert connection is not None
        stats = balancer.close(timeout=0.1)
        connection.close()
    assert (stats.accepted, stats.aborted) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"total": 0},
        {"per_worker": -1},
        {"total": 1.5},
        {"resume": 0},
        {"resume": 1.1},
        {"when_full": "panic"},
        {"when_full": "reply"},
        {"reply": b"x"},
        {"when_full": "reply", "reply": b"x" * 65537},
        {"when_full": "overflow", "total": 3},
    ],
)
def test_what_is_no_limit_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydlb.ConfigError):
        pydlb.Limits(**wrong)
