"""Workers: those who receive connections, each through a port of its own."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

from .errors import BusyError, ClosedError
from .stats import WorkerStats

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from . import _native
    from .port import LDBPort

__all__ = ["Connection", "Ticket", "Worker"]

logger = logging.getLogger("pydlb")


class Ticket:
    """Stands for one open connection in the balancer's count, until it is given back.

    **Synchronization**: any thread.
    """

    __slots__ = ("_lock", "_worker")

    def __init__(self, worker: Worker) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = worker

    def release(self, *, aborted: bool = False) -> None:
        """The connection is closed. May be called twice; the first call counts.

        Args:
            aborted: It did not end in the ordinary way.
        """
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.connection_closed(aborted=aborted)


class Connection:
    """A connection that a worker was given.

    Attributes:
        socket: The client's socket, blocking unless the worker's event loop took it.
        listener: The number of the listener that it came through, as :meth:`Balancer.listen` returned it.

    **Resource handling**: a context manager. `close` closes the socket and counts it; `detach` hands both out.
    """

    __slots__ = ("_ticket", "listener", "socket")

    def __init__(self, sock: socket.socket, listener: int, ticket: Ticket) -> None:
        self.socket: Final = sock
        self.listener: Final = listener
        self._ticket: Ticket | None = ticket

    def detach(self) -> tuple[socket.socket, Ticket]:
        """Give up the connection: its socket, and the ticket to release when the socket is closed."""
        if self._ticket is None:
            raise ClosedError("this connection is closed, or was detached")
        ticket, self._ticket = self._ticket, None
        return self.socket, ticket

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


class Worker:
    """One receiver of connections. Made by :meth:`Balancer.worker`; iterate over it, or call `accept`.

    Attributes:
        name: Its name in statistics and logs.

    **Synchronization**: one thread at a time receives; all else may be called from any thread.
    """

    def __init__(self, name: str, port: LDBPort, acceptor: _native.Acceptor) -> None:
        self.name: Final = name
        self.port: Final = port
        self._acceptor = acceptor
        self._lock = threading.Lock()
        self._aborted = 0
        self._last_stats: WorkerStats | None = None

    # ---- receiving ----------------------------------------------------------------------------------------------------

    def take(self, token: int, *, blocking: bool) -> Connection | None:
        """Turn a received token into the connection that it names; None if it names none any more."""
        taken = self._acceptor.take(token)
        if taken is None:
            self.port.release_later()
            return None
        descriptor, listener = taken
        ticket = Ticket(self)
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError:
            socket.close(descriptor)
            ticket.release(aborted=True)
            logger.exception("%s: the accepted descriptor %d cannot be used", self.name, descriptor)
            return None
        if blocking:
            sock.setblocking(True)
        return Connection(sock, listener, ticket)

    def accept_blocking(self, timeout: float | None = None) -> Connection | None:
        """Wait for the next connection.

        Args:
            timeout: Seconds to wait; None waits for ever, 0 polls.

        Returns:
            The connection, with a blocking socket; None if none came in time.

        Raises:
            ClosedError: The worker was closed, also while it waited.
            BusyError: Another thread receives.
        """
        while (token := self.port.recv_one(timeout)) is not None:
            connection = self.take(token, blocking=True)
            if connection is not None:
                return connection
        return None

    async def accept(self) -> Connection:
        """Wait for the next connection, in the running event loop.

        Returns:
            The connection, with a non-blocking socket.

        Raises:
            ClosedError: The worker was closed.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        while True:
            token = self.port.recv_one(0)
            if token is not None:
                connection = self.take(token, blocking=False)
                if connection is not None:
                    return connection
            elif self.port.fileno() >= 0:
                # The descriptor was armed by the receive above, or by being made: look again before sleeping.
                await _readable(loop, self.port.fileno())

    def __iter__(self) -> Iterator[Connection]:
        """The worker's connections, with blocking sockets, until it is closed."""
        while True:
            try:
                connection = self.accept_blocking()
            except ClosedError:
                return
            if connection is not None:
                yield connection

    def fileno(self) -> int:
        """A descriptor that is readable when there may be a connection, for event loops of any kind."""
        return self.port.fileno()

    # ---- counting -----------------------------------------------------------------------------------------------------

    def connection_closed(self, *, aborted: bool) -> None:
        """Count a connection as closed: called by its ticket, once."""
        if aborted:
            with self._lock:
                self._aborted += 1
        try:
            self.port.release_later()
        except ClosedError:
            # The port counted all that it held when it was closed.
            return

    def stats(self) -> WorkerStats:
        """What the worker has done until now."""
        with self._lock:
            aborted = self._aborted
            if self._last_stats is not None:
                return self._last_stats
            try:
                return self._read(aborted)
            except ClosedError:
                return WorkerStats(name=self.name, accepted=0, open=0, served=0, aborted=0, stalled=False)

    def _read(self, aborted: int) -> WorkerStats:
        port = self.port.stats()
        # Connections close while we read: never let the closed be fewer than those that were aborted.
        closed = max(port.received - port.in_flight, aborted)
        return WorkerStats(
            name=self.name,
            accepted=closed + port.in_flight,
            open=port.in_flight,
            served=closed - aborted,
            aborted=aborted,
            stalled=port.stalled,
        )

    def close(self) -> None:
        """Receive no more. Connections that are still open are counted as aborted from now on."""
        with self._lock:
            if self._last_stats is not None:
                return
            try:
                last = self._read(self._aborted)
            except ClosedError:
                return
            self.port.close()
            self._last_stats = WorkerStats(
                name=last.name,
                accepted=last.accepted,
                open=0,
                served=last.served,
                aborted=last.aborted + last.open,
                stalled=False,
            )

    def __repr__(self) -> str:
        """Its name."""
        return f"<pydlb.Worker {self.name}>"


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    """Wait until a descriptor is readable."""
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(descriptor, ready)
    try:
        await future
    finally:
        loop.remove_reader(descriptor)


class ThreadWorker:
    """A thread that calls a function for each connection, one at a time."""

    def __init__(self, worker: Worker, handler: Callable[[Connection], object]) -> None:
        self.worker: Final = worker
        self._handler = handler
        self._thread = threading.Thread(target=self._run, name=worker.name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        for connection in self.worker:
            try:
                with connection:
                    self._handler(connection)
            except Exception:
                logger.exception("%s: the handler failed; its connection is closed", self.worker.name)

    def stop(self, timeout: float) -> bool:
        """Wait for the thread to end after its worker was closed; False if it is still in a handler."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
