"""What a balancer has done, added up while everything goes on."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from pydlb.stats import BalancerStats, ListenerStats

if TYPE_CHECKING:
    from pydlb import _native
    from pydlb.processes.pool import ProcessPool

    from .crew import Crew
    from .engines import Engines
    from .listeners import Listeners

__all__ = ["Account"]

logger = logging.getLogger("pydlb")


class Account:
    """Adds up what the acceptor and the workers have counted.

    Args:
        acceptor: Who accepts.
        crew: The workers.
        listeners: Where connections come from.
        engines: What carries connections to them.
        pool: Worker processes, which accept by themselves; None where there are none.

    **Synchronization**: any thread; nobody waits for one who reads.
    """

    def __init__(
        self,
        acceptor: _native.Acceptor,
        crew: Crew,
        listeners: Listeners,
        engines: Engines,
        pool: ProcessPool | None = None,
    ) -> None:
        self._acceptor = acceptor
        self._pool = pool
        self._crew = crew
        self._listeners = listeners
        self._engines = engines
        self._lock = threading.Lock()
        self._left = {"no_worker": 0, "closing": 0}  # by cause, of those that were refused at the end
        self._accept_error: str | None = None

    def refuse_left(self) -> None:
        """Close what was accepted and never taken by a worker."""
        cause = "closing" if self._crew.everybody else "no_worker"
        while (taken := self._acceptor.take_left()) is not None:
            with self._lock:
                self._left[cause] += 1
            socket.close(taken[0])

    def _accepting(self) -> dict[str, Any]:
        """What was counted where connections are accepted: by the acceptor, or by the workers' processes."""
        acceptor = self._acceptor.stats()
        if self._pool is None:
            return acceptor
        totals = self._pool.seats.totals()
        return {
            **acceptor,
            "accepted": acceptor["accepted"] + totals["permitted"],
            "aborted": acceptor["aborted"] + totals["gone"],
            "backoffs": acceptor["backoffs"] + totals["backoffs"],
            "last_errno": acceptor["last_errno"] or totals["last_errno"],
            "handoff": totals["handoff"],
        }

    def _by_listener(self) -> tuple[ListenerStats, ...]:
        addresses = self._listeners.addresses()
        counts = dict.fromkeys(addresses, (0, 0))
        for worker in self._crew.everybody:
            for number, (given, closed) in worker.by_listener().items():
                before = counts.get(number, (0, 0))
                counts[number] = before[0] + given, before[1] + closed
        return tuple(
            ListenerStats(number=number, address=addresses.get(number), accepted=given, open=given - closed)
            for number, (given, closed) in sorted(counts.items())
        )

    def stats(self) -> BalancerStats:
        """What was done until now.

        What left the workers is read before what came to them, and that before what was accepted: so the sums add up
        and nothing is negative, while everything goes on.
        """
        rewakes = self._engines.rewakes()
        records = [worker.stats() for worker in self._crew.everybody]
        acceptor = self._accepting()
        headers = {cause: acceptor[f"header_{cause}"] for cause in ("broken", "late", "gone")}
        turned_away = acceptor["refused"]
        in_all = min(turned_away, acceptor["refused_in_all"])
        with self._lock:
            left = dict(self._left)
        causes = {"limit": in_all, "worker_limit": turned_away - in_all}
        causes |= {f"header_{cause}": count for cause, count in headers.items()} | left
        refused = sum(causes.values())
        error = os.strerror(acceptor["last_errno"]) if acceptor["last_errno"] else None
        if error is not None and error != self._accept_error:
            self._accept_error = error
            logger.warning("cannot accept connections for the moment: %s; clients wait in the backlog", error)
        given = sum(record.accepted for record in records) + refused
        accepted = max(acceptor["accepted"], given)
        return BalancerStats(
            workers=tuple(records),
            accepted=accepted,
            waiting=accepted - given,
            open=sum(record.open for record in records),
            served=sum(record.served for record in records),
            refused=refused,
            refused_by=causes,
            listeners=self._by_listener(),
            refused_at_limit=turned_away,
            limited=acceptor["full"],
            overflowed=acceptor["overflowed"],
            refused_headers=headers,
            aborted=sum(record.aborted for record in records),
            drained=acceptor["drained"],
            gone=acceptor["aborted"],
            taken_back=rewakes + acceptor["taken_back"],
            held_up=acceptor["held_up"],
            retries=acceptor["retries"],
            kept=acceptor["kept"],
            resent=acceptor["resent"],
            fallbacks=self._engines.fallbacks,
            probes=self._engines.probes,
            recoveries=self._engines.recoveries,
            released_early=sum(record.released_early for record in records),
            backoffs=acceptor["backoffs"],
            accept_error=error,
            handoff_seconds=tuple(((1 << n) * 1e-6, count) for n, count in enumerate(acceptor["handoff"]) if count),
        )
