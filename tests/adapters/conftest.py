"""Servers of other people's frameworks behind a balancer, and real clients."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CERTIFICATE = Path(__file__).parents[1] / "server" / "localhost.pem"


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine in a new loop; it must end."""

    def run_in_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def in_time() -> Any:
            return await asyncio.wait_for(coroutine, 60)

        return asyncio.run(in_time())

    return run_in_time


class Http:
    """HTTP connections that are held until the end, by the standard library's client."""

    def __init__(self, address: Any, context: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.context = context
        self.held: list[http.client.HTTPConnection] = []

    def connect(self) -> http.client.HTTPConnection:
        host, port = self.address[:2]
        if self.context is None:
            connection = http.client.HTTPConnection(host, port, timeout=60)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=60, context=self.context)
        self.held.append(connection)
        return connection

    def ask(self, connection: http.client.HTTPConnection, path: str = "/") -> http.client.HTTPResponse:
        """One request, its whole response."""
        connection.request("GET", path)
        response = connection.getresponse()
        response.text = response.read().decode()  # type: ignore[attr-defined]
        return response

    def get(self, path: str = "/") -> Any:
        """One request over a new connection, which is held."""
        return self.ask(self.connect(), path)

    def close(self) -> None:
        for connection in self.held:
            connection.close()


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Callable[..., Http]:
    """Make a client for an address."""

    def make(address: Any, context: ssl.SSLContext | None = None) -> Http:
        made = Http(address, context)
        request.addfinalizer(made.close)
        return made

    return make


@pytest.fixture
def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


@pytest.fixture
def certificate() -> Path:
    return CERTIFICATE


def worker_name() -> str:
    """Who answers."""
    return threading.current_thread().name
