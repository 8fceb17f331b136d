"""The seats on the board in shared memory, on which worker processes count."""

from __future__ import annotations

import threading
from typing import Any, Final

from pydlb import _native
from pydlb.errors import ResourceExhausted

__all__ = ["Seats"]

_SUMS: Final = ("permitted", "gone", "backoffs", "empty")


class Seats:
    """Gives out seats, and adds up what was counted on all.

    Args:
        count: How many there are.

    Attributes:
        board: The board.
        listeners: The numbers of the listeners that there are or were.

    **Synchronization**: any thread; workers are not asked.
    """

    def __init__(self, count: int) -> None:
        self.board: Final = _native.Board(count)
        self.listeners: Final[list[int]] = []
        self._lock = threading.Lock()
        self._free = list(range(count))[::-1]
        self._taken: set[int] = set()
        self._past: dict[str, Any] = dict.fromkeys(_SUMS, 0) | {"handoff": []}

    def take(self) -> int:
        """A seat for a new worker.

        Raises:
            ResourceExhausted: There is none left.
        """
        with self._lock:
            if not self._free:
                raise ResourceExhausted(0, "there is no seat left: make the balancer with more max_workers", op="add")
            seat = self._free.pop()
            self.board.clear(seat)
            self._taken.add(seat)
            return seat

    def give_back(self, seat: int) -> None:
        """The worker has left for good; what it counted stays in the sums."""
        with self._lock:
            self._add(self._past, self.board.stats(seat))
            self._taken.discard(seat)
            self._free.append(seat)

    def totals(self) -> dict[str, Any]:
        """What all that there are and were have counted, but for what workers tell themselves.

        Returns:
            The sums ``permitted``, ``gone``, ``backoffs``, ``empty`` and ``handoff``, and the error number
            ``last_errno`` of an accept that failed.
        """
        with self._lock:
            totals = dict(self._past)
            errors = [0]
            for seat in self._taken:
                stats = self.board.stats(seat)
                self._add(totals, stats)
                errors.append(stats["last_errno"])
            return totals | {"last_errno": max(errors)}

    @staticmethod
    def _add(totals: dict[str, Any], stats: dict[str, Any]) -> None:
        for name in _SUMS:
            totals[name] += stats[name]
        before = totals["handoff"] or [0] * len(stats["handoff"])
        totals["handoff"] = [one + other for one, other in zip(before, stats["handoff"], strict=True)]
