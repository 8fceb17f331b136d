"""The five calls that every adapter has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydlb.workers import Connection

__all__ = ["Active", "Adapter"]


class Active(Protocol):
    """A connection that an adapter serves."""

    def close(self) -> None:
        """Close it once what was written to it is sent."""

    def abort(self) -> None:
        """End it now; it is counted as aborted."""


class Adapter(Protocol):
    """Serves connections with a framework's own protocol, on one worker's event loop.

    There is one adapter for each worker: it is made on the worker, and all its calls are made from the worker's loop.

    **Synchronization**: the worker's loop only.

    **Resource handling**: from `submit` on, the adapter owns the socket; it releases the connection's ticket when the
    socket is closed, on every path. After `stop` it owns nothing.
    """

    async def start(self) -> None:
        """Start the application. No connection comes before this has returned.

        Raises:
            Exception: Whatever keeps the application from starting; the worker does not start then.
        """

    def submit(self, connection: Connection) -> None:
        """Serve one more connection, whose socket is non-blocking. Returns at once."""

    @property
    def active(self) -> Collection[Active]:
        """The connections that are open: TLS handshakes in progress count too."""

    async def drain(self, timeout: float | None = None) -> int:
        """Ask all connections to end in the protocol's own way, also those submitted later, and wait until they have.

        Args:
            timeout: Seconds to wait; None waits for ever, 0 asks only.

        Returns:
            How many are still open.
        """

    async def stop(self) -> None:
        """End what is still open, then stop the application."""
