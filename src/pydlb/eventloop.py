"""asyncio's event loop as a worker runs it."""

from __future__ import annotations

import asyncio
import selectors
import sys
from asyncio import events, selector_events
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    import socket
    import ssl
    from collections import deque
    from collections.abc import Awaitable, Callable
    from contextvars import Context

    from .selector import WorkerSelector

__all__ = ["WorkerLoop", "let_begin_tls"]


class _Freed(selector_events._SelectorSocketTransport):  # type: ignore[misc, name-defined]
    """asyncio's transport, which before Python 3.12 refers to itself for ever, by the method that it reads with.

    Each connection would be left to the cycle collector then, which stops all workers of a process for a fraction of a
    millisecond, every fifty connections or so: and that is the tail of their latencies.
    """

    def _call_connection_lost(self, error: Exception | None) -> None:
        super()._call_connection_lost(error)
        self._read_ready_cb = None


_SocketTransport: Any = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
_Transport: Final[Any] = _Freed if sys.version_info < (3, 12) else _SocketTransport

_Ts = TypeVarTuple("_Ts")
_Kind = TypeVar("_Kind", bound=asyncio.BaseTransport)


class WorkerLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, over a selector that knows its worker. It can be handed connections without a task for each.

    What a connection has done by it some ten times takes fewer steps here than in asyncio, which has a function for
    each check of the two that only count while the loop is debugged.

    Args:
        selector: What it waits with.
    """

    _closed: bool
    _debug: bool
    _ready: deque[asyncio.Handle]

    def __init__(self, selector: WorkerSelector) -> None:
        self._worker_selector = selector
        super().__init__(selector)

    def serve_accepted(self, sock: socket.socket, protocol: asyncio.BaseProtocol, *, read: bool = False) -> None:
        """Connect an accepted socket to its protocol, and look at once whether the client has sent something.

        As `connect_accepted_socket` without TLS, but nobody waits for `connection_made` to have been called.

        Args:
            sock: The socket, which does not block.
            protocol: Its protocol.
            read: What the client had sent was read just now.
        """
        descriptor = sock.fileno()
        _Transport(self, sock, protocol)  # whose descriptor is new: no other transport can have it
        if not read:
            self._worker_selector.expect(descriptor)

    def _make_socket_transport(
        self, sock: socket.socket, protocol: asyncio.BaseProtocol, waiter: object = None, **options: object
    ) -> asyncio.Transport:
        """As the loop itself calls it."""
        self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        return _Transport(self, sock, protocol, waiter, **options)  # type: ignore[no-any-return]

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As in asyncio."""
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    # What needs asyncio's own transport.

    async def sendfile(
        self,
        transport: asyncio.WriteTransport,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """As in asyncio, also over a connection of which the loop does not know yet."""
        return await super().sendfile(await _of_the_loop(transport), file, offset, count, fallback=fallback)

    async def start_tls(
        self,
        transport: asyncio.BaseTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport | None:
        """As in asyncio, also over a connection of which the loop does not know yet."""
        return await super().start_tls(
            await _of_the_loop(transport, reading=False),
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    # As asyncio has them since 3.12: to ask for what is not there costs no exception.

    def _add_reader(self, descriptor: int, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts) -> asyncio.Handle:
        if self._closed or self._worker_selector.has(descriptor):
            return super()._add_reader(descriptor, callback, *args)  # type: ignore[misc, no-any-return]
        handle = events.Handle(callback, args, self, None)
        self._worker_selector.register(descriptor, selectors.EVENT_READ, (handle, None))
        return handle

    def _remove_writer(self, descriptor: int) -> bool:
        if not self._worker_selector.has(descriptor):
            return False
        return super()._remove_writer(descriptor)  # type: ignore[misc, no-any-return]


def let_begin_tls(loop: asyncio.AbstractEventLoop) -> None:
    """Have a loop of another maker's begin TLS over a connection of which it does not know yet, as `WorkerLoop` does.

    Args:
        loop: uvloop's, whose methods are looked up in the instance first; of one that allows none, nothing changes.
    """
    if isinstance(loop, WorkerLoop) or "start_tls" in getattr(loop, "__dict__", {"start_tls": None}):
        return
    begin = loop.start_tls

    async def start_tls(
        transport: asyncio.BaseTransport, protocol: asyncio.BaseProtocol, sslcontext: ssl.SSLContext, **options: object
    ) -> asyncio.Transport | None:
        own = await _of_the_loop(transport, reading=False)
        return await begin(own, protocol, sslcontext, **options)  # type: ignore[arg-type]

    loop.start_tls = start_tls  # type: ignore[method-assign]


async def _of_the_loop(transport: _Kind, *, reading: bool = True) -> _Kind:
    become: Callable[..., Awaitable[_Kind]] | None = getattr(transport, "become_the_loops", None)
    return transport if become is None else await become(reading=reading)
