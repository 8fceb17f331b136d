"""A balancer that answers for itself."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Served:
    """A balancer whose workers keep each connection until the client says that it is done."""

    def __init__(self, **options: object) -> None:
        self.balancer = pydlb.Balancer(2, handler=self.handle, backend="software", metrics_port=0, **options)
        self.number = self.balancer.listen()
        self.taken = threading.Semaphore(0)

    def handle(self, connection: pydlb.Connection) -> None:
        self.taken.release()
        connection.socket.recv(1)

    @contextlib.contextmanager
    def clients(self, count: int) -> Iterator[None]:
        """So many open connections, each with a worker."""
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(socket.create_connection(self.balancer.address(self.number)))
                assert self.taken.acquire(timeout=10)
            yield

    @property
    def url(self) -> str:
        assert self.balancer.metrics_address is not None
        host, port = self.balancer.metrics_address
        return f"http://{host}:{port}"


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    try:
        yield served
    finally:
        served.balancer.close()


@pytest.fixture
def get() -> Callable[[str], tuple[int, str]]:
    """Status and text of an address."""

    def ask(url: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return ask
