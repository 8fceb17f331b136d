"""Clients for balancers, and ways to wait for what others do."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pydlb

PATIENCE = 30.0  # seconds in which what is waited for must happen


class Clients:
    """Client sockets that are all closed at the end of the test."""

    def __init__(self) -> None:
        self.open: list[socket.socket] = []

    def connect(self, address: object, count: int = 1) -> list[socket.socket]:
        """So many new connections to an address."""
        made = []
        for _ in range(count):
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            if isinstance(address, tuple) and ":" in address[0]:
                family = socket.AF_INET6
            client = socket.socket(family)
            client.settimeout(PATIENCE)
            self.open.append(client)
            client.connect(address)
            made.append(client)
        return made

    def ask(self, client: socket.socket, request: bytes = b"?") -> bytes:
        """Send a request and wait for its answer; empty if the connection ended without one."""
        client.sendall(request)
        try:
            return client.recv(100)
        except ConnectionResetError:
            return b""

    def close(self, clients: list[socket.socket]) -> None:
        """Close these."""
        for client in clients:
            client.close()
            self.open.remove(client)

    def close_all(self) -> None:
        self.close(list(self.open))


@pytest.fixture
def clients() -> Iterator[Clients]:
    made = Clients()
    yield made
    made.close_all()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something that nobody announces; it must come."""

    def wait(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.001)

    return wait


def check_account(stats: pydlb.BalancerStats) -> None:
    """What must hold at any moment."""
    assert stats.accepted == stats.waiting + stats.open + stats.served + stats.refused + stats.aborted
    assert min(stats.waiting, stats.open, stats.served, stats.refused, stats.aborted) >= 0
    for worker in stats.workers:
        assert worker.accepted == worker.open + worker.served + worker.aborted
        assert min(worker.open, worker.served, worker.aborted) >= 0
    for name in ("open", "served", "aborted"):
        assert getattr(stats, name) == sum(getattr(worker, name) for worker in stats.workers)


@pytest.fixture
def account() -> Callable[[pydlb.BalancerStats], None]:
    return check_account
