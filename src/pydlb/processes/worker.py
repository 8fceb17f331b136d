"""A worker that is a process, as the process with the balancer sees it."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING

from pydlb.errors import ClosedError, ConfigError
from pydlb.stats import WorkerStats
from pydlb.workers import Connection, Station, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydlb import _native

    from .board import Seats

__all__ = ["ProcessWorker"]


class ProcessWorker(Worker):
    """One place in the balancer, and the process that has it. If that dies, another one gets it, with a new port.

    What it counts is the sum over all of its processes, read from shared memory: it answers also while the process is
    busy, stopped, or dead.

    Attributes:
        seat: Its seat on the board.
        shelf: The descriptor of its shelf, which stays the acceptor's.
        pid: The number of its process; None while it has none.
        was_paused: Whether it was to be given nothing when its last process died.
        had_weight: The weight that it had then.
        port_is_lost: Whether its port cannot be another process's, though it stays where it is.

    **Synchronization**: any thread.
    """

    def __init__(self, name: str, station: Station, acceptor: _native.Acceptor, number: int, seats: Seats) -> None:
        super().__init__(name, station, acceptor, number, blocking=False)
        self._acceptor = acceptor
        self.seat = seats.take()
        try:
            self.shelf = acceptor.seat_worker(number, self.seat)
        except BaseException:
            seats.give_back(self.seat)
            raise
        self.pid: int | None = None
        self.was_paused = False
        self.had_weight = 1.0
        self.port_is_lost = False
        self._seats = seats
        self._end_lock = threading.Lock()
        self._last: WorkerStats | None = None

    # ---- what it counts --------------------------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """Connections that it was picked for or took, and that are not closed."""
        return self._acceptor.worker_stats(self.number)[0] if self._last is None else 0

    @property
    def stalled(self) -> bool:
        """Whether it did not come in time for what it was given."""
        return self.stats().stalled

    def is_empty(self) -> bool:
        """Whether it has no connection, and is not about to accept one."""
        in_hand = self._seats.board.stats(self.seat)["in_hand"] if self._last is None else 0
        return in_hand == 0 and self.open == 0 and self.stats().open == 0

    def stats(self) -> WorkerStats:
        """What its processes have done until now."""
        read = self._read() if self._last is None else None
        return self._last or read or self._read()  # the seat may have been given to another one meanwhile

    def _read(self) -> WorkerStats:
        counts = self._seats.board.stats(self.seat)
        _, waiting, stalled = self._acceptor.worker_stats(self.number)
        try:
            stalled |= self.port.stats().stalled
        except ClosedError:
            stalled = False
        return WorkerStats(
            name=self.name,
            accepted=counts["accepted"],
            open=counts["accepted"] - counts["served"] - counts["aborted"],
            served=counts["served"],
            aborted=counts["aborted"],
            waiting=waiting,
            stalled=stalled,
            loop_lag=counts["late"] if counts["beat_at"] else None,
        )

    def by_listener(self) -> dict[int, tuple[int, int]]:
        """For each listener, how many of its connections the worker was given, and how many of those are closed."""
        return self._by_listener if self._last is not None else self._read_listeners()

    def _read_listeners(self) -> dict[int, tuple[int, int]]:
        counts = {number: self._seats.board.by_listener(self.seat, number) for number in self._seats.listeners}
        return {number: count for number, count in counts.items() if count[0]}

    def silence(self, interval: float) -> float:
        """Seconds for which its event loop has not turned, although it was to within `interval`; 0 if it has.

        Also 0 of one that has no event loop, or none yet.
        """
        if self._last is not None:
            return 0.0
        turned = self._seats.board.stats(self.seat)["beat_at"]
        return max(0.0, time.monotonic() - turned - interval) if turned else 0.0

    # ---- its processes ---------------------------------------------------------------------------------------------

    def bury(self) -> int:
        """Its process has ended: what that still had counts as aborted. Returns how many connections that were."""
        self.pid = None
        self._acceptor.bury_worker(self.number)
        lost = self._seats.board.bury(self.seat)
        if not self.station.stays or self.port_is_lost:
            self.port.close()
        return lost

    def close(self) -> None:
        """Its process has ended, and it gets no other one."""
        with self._end_lock:
            if self._last is not None:
                return
            self.bury()
            self._by_listener = self._read_listeners()
            self._last = dataclasses.replace(self._read(), waiting=0, stalled=False, loop_lag=None)
            self._acceptor.remove_worker(self.number)  # which does not look at the seat any more
            self._seats.give_back(self.seat)

    # ---- what only its process does --------------------------------------------------------------------------------

    def receive(self, most: int) -> tuple[list[Connection], bool]:
        """Not here."""
        raise self._elsewhere()

    def accept_blocking(self, timeout: float | None = None) -> Connection | None:
        """Not here."""
        raise self._elsewhere()

    async def accept(self) -> Connection:
        """Not here."""
        raise self._elsewhere()

    def __iter__(self) -> Iterator[Connection]:
        """Not here."""
        raise self._elsewhere()

    def _elsewhere(self) -> ConfigError:
        return ConfigError(f"{self!r} is a process: its connections are received there")

    def __repr__(self) -> str:
        """Its name and its process."""
        return f"<pydlb.Worker {self.name}, process {self.pid}>"
