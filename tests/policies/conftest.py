"""Balancers whose workers hold what they are given, and clients that stay."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0


class Holder:
    """A worker's thread: holds every connection until its client is gone, or until it is told to close."""

    def __init__(self, worker: pydlb.Worker) -> None:
        self.worker = worker
        self.held: list[pydlb.Connection] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        for connection in self.worker:
            self.held.append(connection)
            connection.socket.sendall(self.worker.name.encode())
            self.may_go_on.wait()

    def close_all(self) -> None:
        held, self.held = self.held, []
        for connection in held:
            connection.close()


class House:
    """A balancer, its holders and its clients."""

    def __init__(self, workers: int, **options: Any) -> None:
        self.balancer = pydlb.Balancer(workers=0, max_workers=max(16, workers), **options)
        self.listener = self.balancer.listen(backlog=1024)
        self.holders = [Holder(self.balancer.worker()) for _ in range(workers)]
        self.clients: list[socket.socket] = []

    def connect(self, count: int = 1, listener: int | None = None, source: str | None = None) -> list[socket.socket]:
        """At once, without waiting for anybody to take them."""
        made = []
        for _ in range(count):
            address = self.balancer.address(self.listener if listener is None else listener)
            client = socket.create_connection(address, source_address=(source, 0) if source else None)
            client.settimeout(PATIENCE)
            made.append(client)
        self.clients += made
        return made

    def visit(self, count: int = 1, **options: Any) -> list[str]:
        """One by one, each taken before the next one comes: who took them."""
        return [self.connect(1, **options)[0].recv(100).decode() for _ in range(count)]

    def answers(self, clients: list[socket.socket]) -> list[str]:
        return [client.recv(100).decode() for client in clients]

    @property
    def workers(self) -> list[pydlb.Worker]:
        return [holder.worker for holder in self.holders]

    @property
    def counts(self) -> list[int]:
        return [len(holder.held) for holder in self.holders]

    @property
    def spread(self) -> int:
        return max(self.counts) - min(self.counts)

    def wait_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, f"it did not happen: {self.balancer.stats()}"
            time.sleep(0.001)

    def close(self) -> pydlb.BalancerStats:
        for client in self.clients:
            client.close()
        for holder in self.holders:
            holder.may_go_on.set()
            holder.close_all()
        stats = self.balancer.close()
        for holder in self.holders:
            holder.thread.join(PATIENCE)
            holder.close_all()
        assert stats.accepted == stats.served + stats.refused + stats.aborted
        return stats


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    """``house(workers, policy=...)``."""
    with contextlib.ExitStack() as stack:

        def make(workers: int = 4, **options: Any) -> House:
            made = House(workers, **options)
            stack.callback(made.close)
            return made

        yield make
