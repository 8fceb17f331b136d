"""Servers whose workers are processes, and clients that hold connections."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pydlb

# Where worker processes import their handlers from.
sys.path.insert(0, str(Path(__file__).parents[1]))

PATIENCE = 20.0  # seconds in which what is waited for must happen


@pytest.fixture(scope="session", autouse=True)
def helpers_run() -> None:
    """The processes that multiprocessing keeps, with their pipes: not for a test to be blamed."""
    forkserver.ensure_running()
    resource_tracker.ensure_running()


class Clients:
    """Client sockets that are all closed at the end of the test."""

    def __init__(self) -> None:
        self.open: list[socket.socket] = []

    def connect(self, address: Any) -> socket.socket:
        client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        client.settimeout(PATIENCE)
        self.open.append(client)
        client.connect(address)
        return client

    def ask(self, client: socket.socket, request: bytes = b"?\n") -> bytes:
        """An answer; empty if the connection ended without one."""
        try:
            client.sendall(request)
            return client.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            return b""

    def hold(self, address: Any, count: int) -> list[bytes]:
        """So many connections, one after the other: the answers."""
        return [self.ask(self.connect(address)) for _ in range(count)]

    def close(self) -> None:
        for client in self.open:
            client.close()
        self.open.clear()


@pytest.fixture
def clients() -> Iterator[Clients]:
    made = Clients()
    yield made
    made.close()


def wait(done: Callable[[], object]) -> None:
    """Wait for something that nobody announces; it must come."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    return wait


def check(stats: pydlb.BalancerStats) -> None:
    """What must hold at any moment."""
    assert stats.accepted == stats.waiting + stats.open + stats.served + stats.refused + stats.aborted
    for worker in stats.workers:
        assert worker.accepted == worker.open + worker.served + worker.aborted
        assert min(worker.open, worker.served, worker.aborted) >= 0


@pytest.fixture
def account() -> Callable[[pydlb.BalancerStats], None]:
    return check


def is_running(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


@pytest.fixture
def running() -> Callable[[int], bool]:
    return is_running
