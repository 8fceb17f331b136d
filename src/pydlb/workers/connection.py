"""A connection, and what stands for it in the count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from pydlb.errors import ClosedError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import TracebackType

    from pydlb._backend import Taken
    from pydlb.port import Port
    from pydlb.proxied import Address, Proxied

    from .worker import Worker

__all__ = ["Connection", "Ticket"]


class Ticket:
    """Stands for one open connection in the balancer's count, until it is given back.

    Attributes:
        listener: The number of its listener.
        port: Which holds it; None for one that came through no port.

    **Synchronization**: any thread.
    """

    __slots__ = ("_worker", "counts", "listener", "port")

    def __init__(self, worker: Worker, listener: int, port: Port | None) -> None:
        self._worker: Final = worker
        self.listener: Final = listener
        self.port: Final = port
        self.counts = True  # for the worker, under its lock

    def release(self, *, aborted: bool = False) -> None:
        """The connection is closed. May be called twice; the first call counts.

        Args:
            aborted: It did not end in the ordinary way.
        """
        self._worker.close_ticket(self, aborted)

    def forget(self) -> None:
        """Its connection was thrown away; in the middle of whatever its thread does."""
        self._worker.forget_ticket(self)


class Connection:
    """A connection that a worker was given.

    Attributes:
        socket: The client's socket, blocking unless the worker's event loop took it.
        listener: The number of the listener that it came through, as :meth:`Balancer.listen` returned it.
        proxied: What a proxy said of it by the PROXY protocol: the client's address and the one that it connected to,
            with their family; None if none did.

    **Resource handling**: a context manager. `close` closes the socket and counts it; `detach` hands both out. One that
    is forgotten counts as aborted, and its socket warns.
    """

    __slots__ = ("_make", "_socket", "_taken", "_ticket", "listener", "proxied")

    def __init__(
        self, taken: Taken, make: Callable[[Taken], socket.socket], ticket: Ticket, proxied: Proxied | None = None
    ) -> None:
        self.listener: Final = taken[1]
        self.proxied: Final = proxied
        self._taken = taken
        self._make = make
        self._socket: socket.socket | None = None
        self._ticket: Ticket | None = ticket

    @property
    def client_address(self) -> Address:
        """The client's address: that of which the proxy told, if there is one, else the socket's.

        Raises:
            OSError: The client has left.
        """
        return self.socket.getpeername() if self.proxied is None else self.proxied.client

    def detach(self) -> tuple[socket.socket, Ticket]:
        """Give up the connection: its socket, and the ticket to release when the socket is closed."""
        if self._ticket is None:
            raise ClosedError("this connection is closed, or was detached")
        ticket, self._ticket = self._ticket, None
        return self.socket, ticket

    def detach_descriptor(self) -> tuple[int, int, Ticket]:
        """The same for who needs no socket object: its descriptor, its family, and the ticket."""
        if self._socket is not None or self._ticket is None:
            sock, ticket = self.detach()
            return sock.detach(), sock.family, ticket
        ticket, self._ticket = self._ticket, None
        self._make = _detached
        return self._taken[0], self._taken[2], ticket

    def close(self, *, aborted: bool = False) -> None:
        """Close the socket, and count the connection as closed. May be called twice."""
        if self._ticket is None:
            return
        ticket, self._ticket = self._ticket, None
        self.socket.close()
        ticket.release(aborted=aborted)

    def __enter__(self) -> Self:
        """The connection itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; one that ends by an exception is counted as aborted."""
        self.close(aborted=kind is not None)

    def __del__(self) -> None:
        if self._ticket is None:
            return
        try:
            _ = self.socket  # which warns of itself, and closes the descriptor
        finally:
            self._ticket.forget()

    @property
    def socket(self) -> socket.socket:
        """The client's socket."""
        if self._socket is None:
            self._socket = self._make(self._taken)
        return self._socket


def _detached(_: Taken) -> socket.socket:
    raise ClosedError("this connection's descriptor was detached")
