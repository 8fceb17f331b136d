"""Loops to serve on, clients that are closed in the end, and certificates."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

try:
    import uvloop
except ImportError:
    uvloop = None
else:
    # Its first loop opens two descriptors that the process keeps.
    uvloop.new_event_loop().close()

CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine in a new loop; it must end."""

    def run_in_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def in_time() -> Any:
            return await asyncio.wait_for(coroutine, 60)

        return asyncio.run(in_time())

    return run_in_time


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What the workers' loops are made with: once asyncio's own, once uvloop's."""
    if request.param == "asyncio":
        return None
    if uvloop is None:
        pytest.skip("uvloop has no wheel for this interpreter")
    return uvloop.new_event_loop


class Clients:
    """Client connections by streams, all closed at the end."""

    def __init__(self, address: Any, context: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.context = context
        self.open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.address, str):
            made = await asyncio.open_unix_connection(self.address, ssl=self.context)
        else:
            made = await asyncio.open_connection(*self.address[:2], ssl=self.context)
        self.open.append(made)
        return made

    async def ask(self, request: bytes = b"?\n") -> str:
        """One more connection that is held, and its first answer."""
        reader, writer = await self.connect()
        writer.write(request)
        return (await reader.readline()).decode().strip()

    async def close(self, streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        for stream in streams:
            self.open.remove(stream)
            stream[1].close()
        for _, writer in streams:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
def connecting() -> Callable[..., contextlib.AbstractAsyncContextManager[Clients]]:
    """``async with connecting(server) as clients``."""

    @contextlib.asynccontextmanager
    async def make(server: Any, context: ssl.SSLContext | None = None) -> AsyncIterator[Clients]:
        clients = Clients(server.sockets[0].getsockname(), context)
        try:
            yield clients
        finally:
            await clients.close(list(clients.open))

    return make


async def name_worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line with the worker's name."""
    while await reader.readline():
        writer.write(threading.current_thread().name.encode() + b"\n")
        await writer.drain()
    writer.close()


@pytest.fixture
def handler() -> Callable[..., Coroutine[Any, Any, None]]:
    return name_worker


@pytest.fixture
def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@pytest.fixture
def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))
