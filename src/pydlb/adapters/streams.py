"""Plain asyncio and uvloop: the handlers of :func:`asyncio.start_server`."""

from __future__ import annotations

import asyncio
import functools
import weakref
from typing import TYPE_CHECKING, Any, Final

from pydlb.eventloop import let_begin_tls

from .descriptors import connect_descriptor
from .prompt import Beginnings
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
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Coroutine[None, None, None]:
            return _serve(loop, link, client_connected, reader, writer)

        super().__init__(asyncio.StreamReader(limit=limit, loop=loop), connected, loop=loop)
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(self._link.opened(transport))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._link.ended()


class _Begun(asyncio.StreamReaderProtocol):
    """Streams of which the loop does not know yet: their end is told of for them until it does."""

    link: Link
    _stream_reader: Any
    _transport: Any
    first_writer: weakref.ref[Any]  # asyncio has kept none since 3.13

    def is_the_loops(self, transport: asyncio.BaseTransport) -> None:
        """The loop's transport tells it what happens."""
        self.link.opened(transport)
        self.__class__ = _Moving


class _Moving(_Begun):
    """Streams of which the loop knows, and that know of its transport, or will in the next turn.

    Their socket tells of the end: handlers may give the transport another protocol.
    """

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
    """A writer to a connection of which the loop does not know yet.

    Its methods may have been taken before it became asyncio's, and be called afterwards.
    """

    _transport: Any

    async def drain(self) -> None:
        if type(self) is _FirstWriter:
            self._transport.flush()
        await asyncio.StreamWriter.drain(self)

    async def start_tls(self, *arguments: Any, **options: Any) -> None:
        if type(self) is _FirstWriter:
            # Only with its own transport the loop does. What the client sends now is no stream's.
            await self._transport.become_the_loops(reading=False)
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
    except (Exception, asyncio.CancelledError) as error:
        _abort(loop, link, writer, error)


def _abort(loop: asyncio.AbstractEventLoop, link: Link, writer: asyncio.StreamWriter, error: BaseException) -> None:
    """The function has failed, or its task was cancelled: asyncio before 3.12 would report that as an error."""
    link.failed = True
    if not isinstance(error, asyncio.CancelledError):
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
        self._rests_in = -1  # a descriptor that is readable when a connection is that rests

    async def start(self) -> None:
        """Nothing is to be started, but the loop is known now."""
        await super().start()
        if self._by_descriptor:
            self.beginnings = Beginnings(self, self._loop, self._make_begun, _Moving.move)
            self._let_rest(self.beginnings)

    def _let_rest(self, beginnings: Beginnings) -> None:
        self._rests_in = beginnings.let_rest()
        self._loop.add_reader(self._rests_in, beginnings.look)
        let_begin_tls(self._loop)

    async def stop(self) -> None:
        """End all connections that are still open."""
        try:
            await super().stop()
        finally:
            if self.beginnings is not None and self._rests_in >= 0:
                self._loop.remove_reader(self._rests_in)
                self._rests_in = -1
                self.beginnings.rest_no_more()

    def _make_begun(self, link: Link) -> _Begun:
        reader = asyncio.StreamReader(self._limit, self._loop)
        protocol = _Begun(reader, self._begun, self._loop)
        protocol.link = link
        return protocol

    async def _begun(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.__class__ = _FirstWriter
        protocol: Any = writer._protocol  # type: ignore[attr-defined]
        protocol.first_writer = weakref.ref(writer)
        try:
            result = self._client_connected(reader, writer)
            if result is not None:
                await result
        except (Exception, asyncio.CancelledError) as error:
            _abort(self._loop, protocol.link, writer, error)

    def connect(self, link: Link, descriptor: int, family: int) -> None:
        """Begin to serve a connection of which nothing has come."""
        make = functools.partial(self.make_protocol, link)
        link.connecting = connect_descriptor(self._loop, make, descriptor, family, ended=link.ended)

    def make_protocol(self, link: Link) -> asyncio.BaseProtocol:
        """A reader and a writer, and the function called with them."""
        return _Protocol(self._loop, link, self._client_connected, self._limit)
