"""Whether a balancer is ready for connections, and whether it is alive at all."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydlb.balancer import Balancer

__all__ = ["Health"]


class Health:
    """Answers the probes of an orchestrator.

    Args:
        balancer: Whom they ask about.
        patience: Seconds that connections may wait with no worker taking any, before the balancer is called dead.
        clock: Seconds, as of :func:`time.monotonic`.

    **Synchronization**: any thread.
    """

    def __init__(
        self, balancer: Balancer, *, patience: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._balancer: Final = balancer
        self._patience: Final = patience
        self._clock: Final = clock
        self._lock = threading.Lock()
        self._taken = -1
        self._moved_at = clock()

    def ready(self) -> str | None:
        """None if new connections would be served; else why not.

        A balancer that is closing is not ready, so that an orchestrator sends clients elsewhere while it drains.
        """
        state = self._balancer.state
        return None if state == "accepting" else f"the balancer is {state}"

    def alive(self) -> str | None:
        """None unless connections have been waiting for long while no worker took any; else since when.

        Draining is being alive, and so is having nothing to do. The time runs from one question to the next.
        """
        stats = self._balancer.stats()
        taken = sum(worker.accepted for worker in stats.workers)
        with self._lock:
            now = self._clock()
            if taken != self._taken or stats.waiting == 0:
                self._taken, self._moved_at = taken, now
            stuck = now - self._moved_at
        if stuck < self._patience:
            return None
        return f"{stats.waiting} connections wait, and no worker has taken one for {stuck:.0f} s"
