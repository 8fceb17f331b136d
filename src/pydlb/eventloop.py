"""asyncio's event loop as a worker runs it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from .selector import WorkerSelector

__all__ = ["WorkerLoop"]


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
        self._make_socket_transport(sock, protocol)  # type: ignore[attr-defined]  # what the loop itself calls
        self._worker_selector.expect(sock.fileno())
