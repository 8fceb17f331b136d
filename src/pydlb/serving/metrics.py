"""The supervisor tells of the balancer that serves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.registry import Collector

from pydlb.metrics.prometheus import BalancerCollector
from pydlb.metrics.snapshot import Remote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from .supervisor import Supervisor

__all__ = ["SupervisorSource"]


class SupervisorSource:
    """What is told at ``--metrics-port``: of the serving process, as of its last sign of life.

    Args:
        supervisor: Of that process.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor: Final = supervisor

    def ready(self) -> str | None:
        """As the supervisor says."""
        return None if self._supervisor.ready else "nobody accepts connections"

    def alive(self) -> str | None:
        """As the supervisor says."""
        return None if self._supervisor.alive else "the serving process, or one of its workers, gives no sign of life"

    def snapshot(self) -> dict[str, Any]:
        """Of the process that serves; while none does, that there is none."""
        nobody = {"pid": os.getpid(), "state": "idle", "policy": "-", "backend": "-"}
        return self._supervisor.snapshot or {**nobody, "stats": {"accepted": 0, "workers": []}}

    def collector(self) -> Collector:
        """Of the process that serves."""
        return _Collector(self._supervisor)


class _Collector(Collector):
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor: Final = supervisor

    def describe(self) -> list[Metric]:
        """Nothing beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Nothing while nobody serves. What is counted begins anew with each serving process."""
        snapshot = self._supervisor.snapshot
        if snapshot is not None:
            yield from BalancerCollector(Remote(snapshot)).collect()
