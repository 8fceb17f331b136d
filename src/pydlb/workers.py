"""Workers: those who receive connections, each through a port of its own."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Final, Protocol, Self

from .errors import ClosedError
from .stats import WorkerStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from ._backend import BackendPort
    from .port import LDBPort

__all__ = ["Connection", "Ticket", "Worker"]

logger = logging.getLogger("pydlb")

# No queue.
NOBODY: Final = 0xFFFFFFFF


class Ticket:
    """Stands for one open connection in the balancer's count, until it is given back.

    **Synchronization**: any thread.
    """

    __slots__ = ("_open", "_worker", "listener")

    def __init__(self, worker: Worker, listener: int) -> None:
        self._worker: Final = worker
        self.listener: Final = listener
        self._open = True

    def release(self, *, aborted: bool = False) -> None:
        """The connection is closed. May be called twice; the first call counts.

        Args:
            aborted: It did not end in the ordinary way.
        """
        self._worker.close_ticket(self, aborted=aborted)

    def spend(self) -> bool:
        """True the first time. For the worker, under its lock."""
        was_open, self._open = self._open, False
        return was_open


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


class Source(Protocol):
    """Where a worker gets its connections: the acceptor, or in another process a receiver."""

    def receive(self, port: BackendPort, worker: int, max: int) -> tuple[list[tuple[int, int, int, int]], bool]:
        """Take what the port is given now: descriptors, listeners, families and protocols; and if there is more."""

    def take(self, worker: int, token: int) -> tuple[int, int, int, int] | None:
        """Take the connection for which the port was given a token; None if there is none any more."""

    def closed(self, worker: int, listener: int, aborted: bool) -> None:
        """A connection that was taken is closed."""

    def worker_stats(self, worker: int) -> tuple[int, int, bool]:
        """Connections that it has, those of them that it did not take yet, and whether it stalls."""

    def remove_worker(self, worker: int) -> None:
        """It takes no more."""


class Worker:
    """One receiver of connections. Made by :meth:`Balancer.worker`; iterate over it, or call `accept`.

    Attributes:
        name: Its name in statistics and logs.
        number: Its number for the accepting thread.

    **Synchronization**: one thread at a time receives; all else may be called from any thread.
    """

    def __init__(self, name: str, port: LDBPort, source: Source, number: int, *, blocking: bool) -> None:
        self.name: Final = name
        self.port = port
        self.number: Final = number
        self._source = source
        self._blocking = blocking  # what the source makes of descriptors
        self._lock = threading.Lock()
        self._accepted = 0
        self._served = 0
        self._aborted = 0
        self._closed = False
        self._wake: Callable[[], object] | None = None

    # ---- receiving -------------------------------------------------------------------------------------------------

    def receive(self, most: int) -> tuple[list[Connection], bool]:
        """Take what there is now.

        Args:
            most: Take no more than so many, up to 64.

        Returns:
            The connections, with non-blocking sockets, and whether there may be more. If not, `fileno` tells of any
            that come.

        Raises:
            ClosedError: The worker was closed.
            BusyError: Another thread receives.
        """
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self!r} is closed")
            taken, more = self._source.receive(self.port._native, self.number, most)
            self._accepted += len(taken)
        more |= bool(taken) and self.port.releases_on_recv  # the next one comes when it is asked for
        return [self._connection(one, blocking=False) for one in taken], more

    def _take(self, token: int) -> Connection | None:
        """Turn a received token into the connection that it names; None if it names none any more."""
        with self._lock:
            taken = None if self._closed else self._source.take(self.number, token)
            if taken is not None:
                self._accepted += 1
        if taken is None:
            self._release()
            return None
        return self._connection(taken, blocking=True)

    def _connection(self, taken: tuple[int, int, int, int], *, blocking: bool) -> Connection:
        descriptor, listener, family, protocol = taken
        # To say what the descriptor is costs nothing; to ask the kernel would.
        kind = socket.SOCK_STREAM if self._blocking else socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        sock = socket.socket(family, kind, protocol, descriptor)
        if blocking != self._blocking:
            sock.setblocking(blocking)
        return Connection(sock, listener, Ticket(self, listener))

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
            connection = self._take(token)
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
        while True:
            connections, _ = self.receive(1)
            if connections:
                return connections[0]
            # The receive armed the port: its descriptor tells of anything that came since.
            await self._readable()

    async def _readable(self) -> None:
        """Wait until there may be something to receive, or the worker is closed."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def ready() -> None:
            if not future.done():
                future.set_result(None)

        descriptor = self.port.fileno()
        loop.add_reader(descriptor, ready)
        self.when_closed(lambda: loop.call_soon_threadsafe(ready))
        try:
            await future
        finally:
            self.when_closed(None)
            loop.remove_reader(descriptor)

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

    def when_closed(self, wake: Callable[[], object] | None) -> None:
        """Have a function called, on any thread, when the worker is closed; at once if it is. None for no more.

        For whoever waits on `fileno`, which tells nothing more once the worker is closed.
        """
        with self._lock:
            self._wake = wake
            closed = self._closed
        if closed and wake is not None:
            wake()

    @property
    def open(self) -> int:
        """Connections that it was picked for or took, and that are not closed."""
        return 0 if self._closed else self._source.worker_stats(self.number)[0]

    def is_empty(self) -> bool:
        """Whether it has no connection."""
        return self.stats().open == 0

    @property
    def stalled(self) -> bool:
        """Whether it did not come in time for what it was given."""
        return not self._closed and self._source.worker_stats(self.number)[2]

    # ---- counting --------------------------------------------------------------------------------------------------

    def close_ticket(self, ticket: Ticket, *, aborted: bool) -> None:
        """Count a connection as closed: called by its ticket."""
        with self._lock:
            if not ticket.spend():
                return
            self._source.closed(self.number, ticket.listener, aborted or self._closed)
            if self._closed:
                return  # what is open at the end is counted as aborted then
            if aborted:
                self._aborted += 1
            else:
                self._served += 1
        self._release()

    def _release(self) -> None:
        if self.port.releases_on_recv:
            return
        try:
            self.port.release_later()
        except ClosedError:
            return  # what the port held was released when it was closed

    def stats(self) -> WorkerStats:
        """What the worker has done until now."""
        with self._lock:
            accepted, served, aborted, closed = self._accepted, self._served, self._aborted, self._closed
        _, waiting, stalled = self._source.worker_stats(self.number)
        try:
            stalled = not closed and (stalled or self.port.stats().stalled)
        except ClosedError:
            stalled = False
        return WorkerStats(
            name=self.name,
            accepted=accepted,
            open=accepted - served - aborted,
            served=served,
            aborted=aborted,
            waiting=0 if closed else waiting,
            stalled=stalled,
        )

    def close(self) -> None:
        """Receive no more, and end a wait in progress. Connections that are open are counted as aborted from now on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._aborted = self._accepted - self._served
            wake = self._wake
        self.port.close()
        self._source.remove_worker(self.number)
        if wake is not None:
            try:
                wake()
            except RuntimeError:
                return  # its loop is closed

    def __repr__(self) -> str:
        """Its name."""
        return f"<pydlb.Worker {self.name}>"


class ThreadWorker:
    """A thread that calls a function for each connection, one at a time."""

    def __init__(self, worker: Worker, handler: Callable[[Connection], object]) -> None:
        self.worker: Final = worker
        self._handler = handler
        self._lock = threading.Lock()
        self._served: socket.socket | None = None
        self._cut = False
        self._thread = threading.Thread(target=self.run, name=worker.name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait_started(self) -> None:
        """There is nothing to wait for."""

    def run(self) -> None:
        """Serve in the calling thread until `stop`."""
        for connection in self.worker:
            with self._lock:
                self._served = connection.socket
            try:
                self._handler(connection)
            except (Exception, SystemExit):
                logger.exception("%s: the handler failed; its connection is closed", self.worker.name)
                self._close(connection, aborted=True)
            else:
                self._close(connection, aborted=False)

    def _close(self, connection: Connection, *, aborted: bool) -> None:
        with self._lock:
            self._served = None
            aborted |= self._cut
            self._cut = False
        connection.close(aborted=aborted)

    def begin_drain(self, timeout: float | None) -> None:
        """A function that serves one connection at a time is not asked to hurry."""

    def close_connections(self) -> None:
        """Let the handler see the end of its client's data."""
        self._shut(socket.SHUT_RD)

    def abort(self) -> None:
        """End the connection that is being served, so that a handler that waits for its client returns."""
        self._shut(socket.SHUT_RDWR, cut=True)

    def _shut(self, how: int, *, cut: bool = False) -> None:
        with self._lock:
            if self._served is not None:
                self._cut |= cut
                with contextlib.suppress(OSError):
                    self._served.shutdown(how)

    def stop(self) -> None:
        """Tell the thread to end: it gets no more connections."""
        self.worker.close()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if it is still in a handler."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
