"""asyncio's event loop as a worker runs it."""

from __future__ import annotations

import asyncio
from asyncio import selector_events
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from .selector import WorkerSelector

__all__ = ["WorkerLoop"]


class _Transport(selector_events._SelectorSocketTransport):  # type: ignore[misc, name-defined]
    """asyncio's transport, which before Python 3.12 refers to itself for ever, by the method that it reads with.

    Each connection would be left to the cycle collector then, which stops all workers of a process for a fraction of a
    millisecond, every fifty connections or so: and that is the tail of their latencies.
    """

    def _call_connection_lost(self, error: Exception | None) -> None:
        super()._call_connection_lost(error)
        self._read_ready_cb = None


class WorkerLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, over a selector that knows its worker. It can be handed connections without a task for each.

    Args:
        selector: What it waits with.
    """

    def __init__(self, selector: WorkerSelector) -> None:
        super().__init__(selector)
        self._worker_selector = selector

    def serve_accepted(self, sock: socket.socket, protocol: asyncio.BaseProtocol) -> None:
        """Connect an accepted socket to its protocol, and look at once whether the client has sent something.

        As `connect_accepted_socket` without TLS, but nobody waits for `connection_made` to have been called.
        """
        self._make_socket_transport(sock, protocol)
        self._worker_selector.expect(sock.fileno())

    def _make_socket_transport(
        self, sock: socket.socket, protocol: asyncio.BaseProtocol, waiter: object = None, **options: object
    ) -> asyncio.Transport:
        """As the loop itself calls it."""
        self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        return _Transport(self, sock, protocol, waiter, **options)
