"""What a balancer has done: records that do not change, and whose sums always add up."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["BalancerStats", "ListenerStats", "WorkerStats"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What one worker has done. ``accepted == open + served + aborted``, always.

    Attributes:
        name: The worker's name.
        accepted: Connections that it was given.
        open: Of these, open now.
        served: Of these, closed in the ordinary way.
        aborted: Of these, ended by an error of the handler, a failed TLS handshake, or the balancer's closing.
        waiting: Connections that it was picked for and has not taken yet; not in `accepted`.
        stalled: Whether it was due for a connection and did not come for it in time.
        released_early: Of `accepted`, how many the device was told to forget on receive, because its history list was
            used up: it balances without them.
        loop_lag: Seconds that its event loop took, the last time that it was asked, to come to what it was asked to do;
            None of a worker without a loop.
    """

    name: str
    accepted: int
    open: int
    served: int
    aborted: int
    waiting: int
    stalled: bool
    released_early: int = 0
    loop_lag: float | None = None

    @property
    def downstream_cx_total(self) -> int:
        """`accepted`, by Envoy's name."""
        return self.accepted

    @property
    def downstream_cx_active(self) -> int:
        """`open`, by Envoy's name."""
        return self.open


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStats:
    """What became of one listener's connections.

    Attributes:
        number: As :meth:`Balancer.listen` returned it.
        address: What it listens on, in words; None once it is removed.
        accepted: Connections that workers were given.
        open: Of these, open now.
    """

    number: int
    address: str | None
    accepted: int
    open: int

    @property
    def downstream_cx_total(self) -> int:
        """`accepted`, by Envoy's name."""
        return self.accepted

    @property
    def downstream_cx_active(self) -> int:
        """`open`, by Envoy's name."""
        return self.open


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BalancerStats:
    """What a balancer has done. ``accepted == waiting + open + served + refused + aborted``, always.

    Attributes:
        workers: The workers, also those that have left.
        accepted: Connections taken from the listeners' backlogs.
        waiting: Of these, on their way to a worker now.
        open: Of these, open on a worker now.
        served: Of these, closed in the ordinary way.
        refused: Of these, closed without having been given to a worker.
        refused_by: These by cause: ``"limit"``, there were too many in all; ``"worker_limit"``, on each worker;
            ``"header_broken"``, ``"header_late"`` and ``"header_gone"``, as `refused_headers`; ``"closing"``, they were
            still waiting when the balancer was closed, after its drain; ``"no_worker"``, there never was one.
        refused_headers: Of these, for want of the header of the PROXY protocol, by cause: ``"broken"``, it was none;
            ``"late"``, it did not come in time; ``"gone"``, the client left before.
        aborted: Of these, ended by an error of the handler, a failed TLS handshake, or the balancer's closing.
        drained: Of those accepted, how many were still in a backlog when its listener was told to stop.
        gone: Connections that clients gave up before they could be accepted; not in `accepted`.
        taken_back: Times that a connection was offered to another worker, because the first did not come for it.
        held_up: Times that connections had to stay in the backlog, because too many were waiting.
        listeners: The listeners that there are or were.
        refused_at_limit: Of those refused, how many were turned away at a limit.
        limited: Times that a limit was reached.
        overflowed: Connections that a worker was given beyond its limit.
        retries: Times that what the engine had refused was sent again.
        kept: With ``accept="workers"``, connections that stayed with the worker that accepted them: it was picked, or
            they could not be sent.
        resent: Connections that were sent again after the engine was replaced.
        fallbacks: Times that a device failed, also at the start, and the software engine took over (or nothing, with
            ``fallback=None``).
        probes: Times that a device that had failed was tried.
        recoveries: Times that the device was usable again, and took over.
        released_early: As the workers': summed up.
        backoffs: Times that accepting stopped for a moment for want of descriptors or memory.
        accept_error: What was missing the last time, in the system's words; None if nothing was.
        handoff_seconds: For each power of two of microseconds, how many connections waited less than that from accept
            to their worker (and not less than half of it), as pairs of seconds and count.
    """

    workers: Sequence[WorkerStats]
    accepted: int
    waiting: int
    open: int
    served: int
    refused: int
    refused_headers: Mapping[str, int]
    aborted: int
    drained: int
    gone: int
    taken_back: int
    held_up: int
    backoffs: int
    accept_error: str | None
    handoff_seconds: Sequence[tuple[float, int]]
    listeners: Sequence[ListenerStats] = ()
    refused_by: Mapping[str, int] = dataclasses.field(default_factory=dict)
    refused_at_limit: int = 0
    limited: int = 0
    overflowed: int = 0
    retries: int = 0
    kept: int = 0
    resent: int = 0
    fallbacks: int = 0
    probes: int = 0
    recoveries: int = 0
    released_early: int = 0

    @property
    def downstream_cx_total(self) -> int:
        """`accepted`, by Envoy's name."""
        return self.accepted

    @property
    def downstream_cx_active(self) -> int:
        """`open`, by Envoy's name."""
        return self.open

    @property
    def fairness(self) -> float:
        """Jain's index of the workers' open connections: 1 is even, one over their number is all on one worker."""
        counts = [worker.open for worker in self.workers]
        return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts)) if sum(counts) else 1.0

    @property
    def imbalance(self) -> float:
        """Open connections of the fullest worker over their mean; 1 is even. 1 if nothing is open."""
        counts = [worker.open for worker in self.workers]
        return max(counts) * len(counts) / sum(counts) if sum(counts) else 1.0

    def handoff_quantile(self, fraction: float) -> float:
        """Seconds within which this fraction of the connections came from accept to their worker (an upper bound)."""
        total = sum(count for _, count in self.handoff_seconds)
        seen = 0
        for seconds, count in self.handoff_seconds:
            seen += count
            if total and seen >= fraction * total:
                return seconds
        return 0.0
