"""Plain asyncio and uvloop: the handlers of :func:`asyncio.start_server`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

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

    def make_protocol(self, link: Link) -> asyncio.BaseProtocol:
        """A reader and a writer, and the function called with them."""
        return _Protocol(self._loop, link, self._client_connected, self._limit)
