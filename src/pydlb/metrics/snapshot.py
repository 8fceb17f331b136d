"""A balancer's figures as JSON, for who shows them in another process."""

from __future__ import annotations

import dataclasses
import os
import types
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydlb.balancer import Balancer
    from pydlb.stats import BalancerStats

__all__ = ["Remote", "take"]


def take(balancer: Balancer) -> dict[str, Any]:
    """Statistics, and what they are of."""
    stats = balancer.stats()
    return {
        "format": 1,
        "pid": os.getpid(),
        "backend": balancer.backend,
        "fallback_reason": balancer.fallback_reason,
        "policy": str(balancer.policy),
        "state": balancer.state,
        "stats": dataclasses.asdict(stats),
        "imbalance": stats.imbalance,
        "fairness": stats.fairness,
        "handoff_seconds": {str(part): stats.handoff_quantile(part) for part in (0.5, 0.99, 0.999)},
    }


class Remote:
    """A balancer of another process, as far as its snapshot tells.

    Attributes:
        backend: What does the work there.
        policy: Which worker gets a connection there.
    """

    def __init__(self, snapshot: Mapping[str, Any]) -> None:
        self.backend: Final[str] = snapshot["backend"]
        self.policy: Final[str] = snapshot["policy"]
        self._figures: Final = {
            **snapshot["stats"],
            "imbalance": snapshot["imbalance"],
            "fairness": snapshot["fairness"],
        }

    def stats(self) -> BalancerStats:
        """Its statistics: their fields, without their methods."""
        parts = {
            name: [types.SimpleNamespace(**part) for part in self._figures.get(name, ())]
            for name in ("workers", "listeners")
        }
        return cast("BalancerStats", types.SimpleNamespace(**{**self._figures, **parts}))
