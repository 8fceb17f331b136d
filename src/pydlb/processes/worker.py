"""A worker that is a process, as the process with the balancer sees it."""

from __future__ import annotations

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
        pid: The number of its process; None while it has none.
        was_paused: Whether it was to be given nothing when its last process died.

    **Synchronization**: any thread.
    """

    def __init__(self, name: str, station: Station, acceptor: _native.Acceptor, number: int, seats: Seats) -> None:
        super().__init__(name, station, acceptor, number, blocking=False)
        self.seat = seats.take()
        self.pid: int | None = None
        self.was_paused = False
        self._seats = seats
        self._end_lock = threading.Lock()
        self._last: WorkerStats | None = None

    # ---- what it counts --------------------------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """Connections that are open in its process."""
        return self.stats().open

    @property
    def stalled(self) -> bool:
        """Whether it did not come in time for what it was given."""
        return self.stats().stalled

    def is_empty(self) -> bool:
        """Whether it has no connection, and is not about to accept one."""
        in_hand = self._seats.board.stats(self.seat)["in_hand"] if self._last is None else 0
        return in_hand == 0 and self.stats().open == 0

    def stats(self) -> WorkerStats:
        """What its processes have done until now."""
        read = self._read() if self._last is None else None
        return self._last or read or self._read()  # the seat may have been given to another one meanwhile

    def _read(self) -> WorkerStats:
        counts = self._seats.board.stats(self.seat)
        try:
            stalled = self.port.stats().stalled
        except ClosedError:
            stalled = False
        return WorkerStats(
            name=self.name,
            accepted=counts["accepted"],
            open=counts["accepted"] - counts["served"] - counts["aborted"],
            served=counts["served"],
            aborted=counts["aborted"],
            waiting=0,
            stalled=stalled,
        )

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
        lost = self._seats.board.bury(self.seat)
        self.port.close()
        return lost

    def close(self) -> None:
        """Its process has ended, and it gets no other one."""
        with self._end_lock:
            if self._last is not None:
                return
            self.bury()
            self._last = self._read()
            self._seats.give_back(self.seat)
        self._source.remove_worker(self.number)

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
