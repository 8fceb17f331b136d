"""Our `exact` and `nop` beside Envoy's own, worker by worker."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import envoy

from . import real
from .inputs import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WORKERS = 4
EXACT = "connection_balance_config: {exact_balance: {}}"
ADMIN = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n"


@contextlib.contextmanager
def envoy_with(fields: str, path: Path) -> Iterator[tuple[Any, Callable[[], dict[str, int]]]]:
    """Its address, and what it tells of its workers."""
    path.write_text(ADMIN + bootstrap(fields))
    with real.running(path, WORKERS) as running:
        yield running.address(), running.active


@contextlib.contextmanager
def pydlb_with(fields: str, *, parity: bool) -> Iterator[tuple[Any, Callable[[], dict[str, int]]]]:
    """The same of ours: workers echo, and hold what they have."""
    with envoy.load(bootstrap(fields)).make_balancer(parity=parity, max_workers=16) as balancer:
        holders = [Holder(balancer.worker()) for _ in range(WORKERS)]
        try:
            yield balancer.address(), lambda: {worker.name: worker.open for worker in balancer.workers}
        finally:
            for holder in holders:
                holder.close()


class Holder:
    """A worker that echoes, and keeps each connection until its client has gone."""

    def __init__(self, worker: pydlb.Worker) -> None:
        self.worker = worker
        self.threads = [threading.Thread(target=self.run)]
        self.threads[0].start()

    def run(self) -> None:
        for connection in self.worker:
            self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
            self.threads[-1].start()

    def serve(self, connection: pydlb.Connection) -> None:
        with connection:
            while data := connection.socket.recv(100):
                connection.socket.sendall(data)

    def close(self) -> None:
        self.worker.close()
        for thread in self.threads:
            thread.join()


def hold(address: Any, count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """One by one, each answered before the next one comes."""
    clients = []
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(address, timeout=real.PATIENCE))
        client.sendall(b"here")
        assert client.recv(100) == b"here"
        clients.append(client)
    return clients


def wait_for(tell: Callable[[], dict[str, int]], total: int) -> dict[str, int]:
    """What is told once so many are open: Envoy's statistics come late."""
    deadline = time.monotonic() + real.PATIENCE
    while sum((told := tell()).values()) != total:
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return told


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("count", [16, 64, 400])
def test_exact_beside_envoys(count: int, parity: bool, tmp_path: Path) -> None:
    """One by one, a third gone, half of these come again: each worker has the same in both, by rank."""
    with (
        envoy_with(EXACT, tmp_path / "envoy.yaml") as (theirs, tell_theirs),
        pydlb_with(EXACT, parity=parity) as (ours, tell_ours),
        contextlib.ExitStack() as stack,
    ):
        spreads = []
        for address, tell in ((theirs, tell_theirs), (ours, tell_ours)):
            clients = hold(address, count, stack)
            first = wait_for(tell, count)
            gone = count // 3
            for client in clients[:gone]:
                client.close()
            wait_for(tell, count - gone)
            hold(address, gone // 2, stack)
            then = wait_for(tell, count - gone + gone // 2)
            spreads.append((sorted(first), sorted(first.values()), sorted(then.values())))
            assert max(then.values()) - min(then.values()) <= 1
    assert spreads[0] == spreads[1]
    assert spreads[1][:2] == ([f"worker_{n}" for n in range(WORKERS)], [count // WORKERS] * WORKERS)


@pytest.mark.parametrize("parity", [False, True])
def test_nop_beside_envoys(parity: bool, tmp_path: Path) -> None:
    """Neither balances; in both every connection has a worker, and that keeps it."""
    with (
        envoy_with("", tmp_path / "envoy.yaml") as (theirs, tell_theirs),
        pydlb_with("", parity=parity) as (ours, tell_ours),
        contextlib.ExitStack() as stack,
    ):
        for address, tell in ((theirs, tell_theirs), (ours, tell_ours)):
            hold(address, 16, stack)
            told = wait_for(tell, 16)
            assert sorted(told) == [f"worker_{n}" for n in range(WORKERS)]
            assert min(told.values()) >= 0
