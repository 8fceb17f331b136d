"""Who receives connections, through a port of its own."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from pydlb import _native
from pydlb.bell import Bell
from pydlb.errors import ClosedError, ConfigError, DeviceGone, DLBError
from pydlb.stats import WorkerStats
from pydlb.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydlb.port import Port

    from .connection import Connection
    from .station import Accepting, Source, Station

__all__ = ["Worker"]

logger = logging.getLogger("pydlb")


class Worker:
    """One receiver of connections. Made by :meth:`Balancer.worker`; iterate over it, or call `accept`.

    Attributes:
        name: Its name in statistics and logs.
        number: Its number for the accepting thread.
        door: A descriptor beside `fileno` that is readable when there may be a connection: one to accept, or one that
            was received before, whose PROXY header has come; None where others see to that.
        batch: How many connections its event loop takes at a time; None for what suits.
        measure_lag: Tells how late its event loop is, in seconds; None if nobody does.

    **Synchronization**: one thread at a time receives; all else may be called from any thread.
    """

    def __init__(
        self,
        name: str,
        station: Station,
        source: Source,
        number: int,
        *,
        blocking: bool,
        report: Callable[[], object] | None = None,
        door: int | None = None,
        accepting: Accepting | None = None,
        batch: int | None = None,
    ) -> None:
        self.name: Final = name
        self._bell = None if report is None else Bell(station.port)
        self._report = report or (lambda: None)
        self.number: Final = number
        self._source = source
        self._inlet: Final = _native.Inlet(source, number, blocking)
        self._inlet.set_sockets(socket.socket)
        self._lock = threading.Lock()
        self._has_moved = threading.Condition(self._lock)
        self.station = station
        self._use(station)
        self._closed = False
        self._wake: Callable[[], object] | None = None
        self._accepting = accepting
        self._accept_lock = threading.Lock()
        self.door: Final = door if accepting is None else accepting.door.door()
        self.batch: Final = batch
        self._either: Watch | None = None
        self._note_move: Callable[[Port], object] | None = None
        self.measure_lag: Callable[[], float] | None = None

    @property
    def port(self) -> Port:
        """What it receives from now; another one after the balancer has switched to another engine."""
        return self.station.port

    def _use(self, station: Station) -> None:
        self._inlet.move(station.port, station.holds, station.history or 0)

    def move(self, station: Station) -> None:
        """Receive from another port from now on, and close the old one. Whoever waits goes on waiting there."""
        with self._lock:
            if self._closed:
                station.close()
                return
            before, self.station = self.station, station
            self._use(station)
            if self._bell is not None:
                self._bell.move(station.port)
            note = self._note_move
            self._has_moved.notify_all()
        before.close()
        if note is not None:
            note(station.port)

    def when_moved(self, note: Callable[[Port], object]) -> None:
        """Have a function called with the port, on any thread, when it has changed."""
        with self._lock:
            self._note_move = note

    def keep_lock(self) -> None:
        """Have sockets from now on whose calls keep the interpreter lock unless they have to wait.

        Not for those who hand them to libraries that take exactly :class:`socket.socket`, and no subclass of it.
        """
        self._inlet.set_sockets(_native.Socket)

    # ---- receiving -------------------------------------------------------------------------------------------------

    def receive(self, most: int) -> tuple[list[Connection], bool]:
        """Take what there is now. Where workers accept by themselves, accept what there is, and send it, before that.

        Args:
            most: Take no more than so many, up to 64.

        Returns:
            The connections, with non-blocking sockets, and whether there may be more. If not, `fileno` tells of any
            that come.

        Raises:
            ClosedError: The worker was closed.
            BusyError: Another thread receives.
        """
        if self._bell is None and self._accepting is None:
            return self._inlet.receive(most)
        return self._accept_or_receive(most)

    def hand_on(self) -> None:
        """Let another worker accept the next connection in the accepting thread's place, if this one did."""
        self._inlet.hand_on()

    def rest(self) -> bool:
        """Nothing is in hand: let another worker lead, and the port be chosen again, if nothing waits for it.

        Returns:
            Whether something may wait, to be received first.

        Raises:
            ClosedError: The worker was closed.
        """
        return self._bell is not None or self._accepting is not None or self._inlet.rest()

    def _accept_or_receive(self, most: int) -> tuple[list[Connection], bool]:
        kept = self._accept_some(most)
        if len(kept) == most:
            return kept, True
        try:
            given, more = self._receive_from_port(most - len(kept))
        except ClosedError:
            for connection in kept:
                connection.close(aborted=True)
            raise
        return kept + given, more

    def _receive_from_port(self, most: int) -> tuple[list[Connection], bool]:
        if self._bell is None:
            return self._inlet.receive(most)
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self!r} is closed")
            port = self.port
            self._bell.answer()
        try:
            return self._inlet.receive(most)
        except DeviceGone:
            with self._lock:
                if port is self.port:
                    self._bell.mute()
            self._report()
            return [], False

    def _accept_some(self, most: int) -> list[Connection]:
        """Where workers accept by themselves: take what there is, send it, and return what stays here."""
        if self._accepting is None:
            return []
        with self._accept_lock:
            sender = self.station.sender
            if sender is None or self._closed:
                return []
            return self._inlet.accept_own(sender._native, most, self._accepting.retries)

    @contextlib.contextmanager
    def accepts_nothing(self) -> Iterator[None]:
        """Accept nothing meanwhile: what it sends by is about to be replaced."""
        with self._accept_lock:
            yield

    def by_listener(self) -> dict[int, tuple[int, int]]:
        """For each listener, how many of its connections the worker was given, and how many of those are closed."""
        return self._inlet.by_listener()

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
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._accepting is not None:
            return self._accept_either(deadline)
        while True:
            port = self.port
            try:
                return self._inlet.accept(_left(deadline))
            except (ClosedError, DeviceGone) as error:
                if not self._await_move(port, error, deadline):
                    return None

    def _accept_either(self, deadline: float | None) -> Connection | None:
        """The next one that it accepts or is given."""
        while True:
            connections, more = self.receive(1)
            if connections:
                connections[0].socket.setblocking(True)
                return connections[0]
            left = _left(deadline)
            if left == 0:
                return None
            if not more:  # it was given what had gone elsewhere, and is not armed
                self._watch_all().wait(left)

    def _await_move(self, port: Port, error: DLBError, deadline: float | None) -> bool:
        """Wait until it has another port than this one, that failed; False if there is none in time."""
        if self._bell is not None and isinstance(error, DeviceGone):
            self._report()
        with self._lock:
            while self.port is port:
                if self._closed:
                    raise ClosedError(f"{self!r} is closed") from error
                if self._bell is None:
                    raise error
                if not self._has_moved.wait(_left(deadline)):
                    return False
        return True

    async def accept(self) -> Connection:
        """Wait for the next connection, in the running event loop.

        Returns:
            The connection, with a non-blocking socket.

        Raises:
            ClosedError: The worker was closed.
        """
        while True:
            connections, more = self.receive(1)
            if connections:
                return connections[0]
            # What it was given may have gone elsewhere meanwhile. If there was nothing, the receive armed the port: its
            # descriptor tells of anything that came since.
            if not more:
                await self._readable()

    async def _readable(self) -> None:
        """Wait until there may be something to receive, or the worker is closed."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def ready() -> None:
            if not future.done():
                future.set_result(None)

        descriptor = self.fileno_of_all()
        loop.add_reader(descriptor, ready)
        self.when_closed(lambda: loop.call_soon_threadsafe(ready))
        try:
            await future
        finally:
            self.when_closed(None)
            loop.remove_reader(descriptor)

    def __iter__(self) -> Iterator[Connection]:
        """The worker's connections, with blocking sockets, until it is closed."""
        accept = self._inlet.accept if self._accepting is None else self.accept_blocking
        while True:
            try:
                connection = accept()
            except (ClosedError, DeviceGone):
                try:
                    connection = self.accept_blocking()  # which goes on where it has moved to
                except ClosedError:
                    return
            if connection is not None:
                yield connection

    def sleeps_in(self, loop_set: int | None) -> None:
        """Let it accept in the accepting thread's place what wakes its event loop: one thread is woken then, not two.

        Args:
            loop_set: The epoll set in which the loop sleeps, and `fileno` is watched by its number; None before
                the set is closed.
        """
        if not isinstance(self._source, _native.Acceptor) or self._bell is not None or self._accepting is not None:
            return
        if loop_set is None:
            self._source.set_loop(self.number, -1, 0, 0)
        else:
            self._source.set_loop(self.number, loop_set, self.port.fileno(), self.port.id)

    def fileno(self) -> int:
        """A descriptor that is readable when there may be a connection, for event loops of any kind."""
        return self.port.fileno() if self._bell is None else self._bell.fileno()

    def fileno_of_all(self) -> int:
        """The same, which is also readable when `door` is: for who waits for one descriptor."""
        return self.fileno() if self.door is None else self._watch_all().fileno()

    def _watch_all(self) -> Watch:
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self!r} is closed")
            if self._either is None:
                assert self.door is not None
                self._either = Watch((self.fileno(), self.door))
            return self._either

    def when_closed(self, wake: Callable[[], object] | None) -> None:
        """Have a function called, on any thread, when the worker is closed; at once if it is. None for no more.

        For whoever waits on `fileno`, which tells nothing more once the worker is closed.

        Raises:
            ConfigError: `wake` cannot be called.
        """
        if wake is not None and not callable(wake):
            raise ConfigError(f"wake is {wake!r}: it is a function without arguments, or None")
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
        """Whether it has no connection, and is not about to take one."""
        if self.stats().open or self._source.worker_stats(self.number)[0]:
            return False
        try:
            return self.port.releases_on_recv or self.port.in_flight == 0
        except ClosedError:
            return True

    @property
    def stalled(self) -> bool:
        """Whether it did not come in time for what it was given."""
        return not self._closed and self._source.worker_stats(self.number)[2]

    def stats(self) -> WorkerStats:
        """What the worker has done until now."""
        closed = self._closed
        accepted, ended, aborted, early = self._inlet.counts()
        _, waiting, stalled = self._source.worker_stats(self.number)
        try:
            stalled = not closed and (stalled or self.port.stats().stalled)
        except ClosedError:
            stalled = False
        return WorkerStats(
            name=self.name,
            accepted=accepted,
            open=accepted - ended,
            served=ended - aborted,
            aborted=aborted,
            released_early=early,
            loop_lag=None if closed or self.measure_lag is None else self.measure_lag(),
            waiting=0 if closed else waiting,
            stalled=stalled,
        )

    def close(self) -> None:
        """Receive no more, and end a wait in progress. Connections that are open are counted as aborted from now on."""
        with self._accept_lock, self._lock:
            if self._closed:
                return
            self._closed = True
            self._inlet.close()
            wake = self._wake
            if self._bell is not None:
                self._bell.close()
            self._has_moved.notify_all()
            either = self._either
        self.port.close()
        if either is not None:
            either.close()
        self._source.remove_worker(self.number)
        if wake is not None:
            try:
                wake()
            except RuntimeError:
                return  # its loop is closed

    def __repr__(self) -> str:
        """Its name."""
        return f"<pydlb.Worker {self.name}>"


def _left(deadline: float | None) -> float | None:
    """Seconds until then, at least 0; None for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
