"""Plain asyncio and uvloop: the handlers of :func:`asyncio.start_server`."""

from __future__ import annotations

import asyncio
import functools
import weakref
from typing import TYPE_CHECKING, Any, Final

from .prompt import Beginnings, can_begin, first_bytes
from .protocols import Link, ProtocolAdapter

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Awaitable, Callable, Coroutine

    ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]

__all__ = ["StreamAdapter"]

_LIMIT: Final = 2**16


class _Protocol(asyncio.StreamReaderProtocol):
    """Streams whose end gives the ticket back.

    It does not refer to itself, or each connection would be left to the cycle collector.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, link: Link, client_connected: ClientConnected, limit: int
    ) -> None:
        writes: type[asyncio.StreamWriter] | None = _FirstWriter if isinstance(self, _Begun) else None

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Coroutine[None, None, None]:
            if writes is not None:
                writer.__class__ = writes
                writer._protocol.first_writer = weakref.ref(writer)  # type: ignore[attr-defined]
            return _serve(loop, link, client_connected, reader, writer)

        super().__init__(asyncio.StreamReader(limit=limit, loop=loop), connected, loop=loop)
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(self._link.opened(transport))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._link.ended()


class _Begun(_Protocol):
    """Streams of which the loop does not know yet: their end is told of for them until it does."""

    _stream_reader: Any
    _transport: Any
    first_writer: weakref.ref[Any]  # asyncio has kept none since 3.13

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        asyncio.StreamReaderProtocol.connection_made(self, transport)

    def connection_lost(self, error: Exception | None) -> None:
        asyncio.StreamReaderProtocol.connection_lost(self, error)

    def is_the_loops(self, transport: asyncio.BaseTransport) -> None:
        """The loop's transport tells it what happens."""
        self._link.opened(transport)
        self.__class__ = _Moving


class _Moving(_Begun):
    """Streams of which the loop knows, and that know of its transport, or will in the next turn."""

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._link.ended()

    def move(self, transport: asyncio.BaseTransport) -> None:
        """Write to the loop's transport."""
        if self._transport is None:  # it has ended
            return
        self._transport = transport
        if self._stream_reader is not None:
            self._stream_reader._transport = transport
        writer = self.first_writer()
        if writer is not None:
            writer._transport = transport
            writer.__class__ = asyncio.StreamWriter


class _FirstWriter(asyncio.StreamWriter):
    """A writer to a connection of which the loop does not know yet."""

    _transport: Any

    async def drain(self) -> None:
        self._transport.flush()
        await asyncio.StreamWriter.drain(self)

    async def start_tls(self, *arguments: Any, **options: Any) -> None:
        await self._transport.become_the_loops()  # only with its own transport it does
        await asyncio.StreamWriter.start_tls(self, *arguments, **options)


async def _serve(
    loop: asyncio.AbstractEventLoop,
    link: Link,
    client_connected: ClientConnected,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    try:
        result = client_connected(reader, writer)
        if result is not None:
            await result
    except asyncio.CancelledError:
        link.failed = True
        writer.transport.abort()  # the end of the task: asyncio before 3.12 would report it as an error
    except Exception as error:
        link.failed = True
        loop.call_exception_handler(
            {
                "message": "Unhandled exception in client_connected_cb",
                "exception": error,
                "transport": writer.transport,
            }
        )
        writer.transport.abort()


class StreamAdapter(ProtocolAdapter):
    """Calls a function with a reader and a writer for each connection.

    Args:
        client_connected: The function, or coroutine function.
        limit: The readers' buffer limit in bytes.
        ssl: For TLS; handshakes run on the worker.
        ssl_handshake_timeout: Seconds that a TLS handshake may take.
        ssl_shutdown_timeout: Seconds that the end of a TLS connection may take.

    **Error handling**: an exception of the function goes to the loop's exception handler; its connection is aborted
    and counted.
    """

    def __init__(
        self,
        client_connected: ClientConnected,
        *,
        limit: int = _LIMIT,
        ssl: ssl_module.SSLContext | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        super().__init__(
            ssl=ssl, ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout
        )
        self._client_connected = client_connected
        self._limit = limit

    async def start(self) -> None:
        """Nothing is to be started, but the loop is known now."""
        await super().start()
        if self._by_descriptor:
            self.beginnings = Beginnings(self._loop, _Moving.move)

    def connect(self, link: Link, descriptor: int, family: int) -> None:
        """Begin to serve a connection: with what its client has sent, if that has come."""
        data = None
        if self.beginnings is not None and can_begin(link, family):
            data = first_bytes(descriptor)
        if data:
            make = functools.partial(_Begun, self._loop, link, self._client_connected, self._limit)
            self.beginnings.begin(link, descriptor, family, make, data)  # type: ignore[union-attr]
        else:
            super().connect(link, descriptor, family)

    def make_protocol(self, link: Link) -> asyncio.BaseProtocol:
        """A reader and a writer, and the function called with them."""
        return _Protocol(self._loop, link, self._client_connected, self._limit)
