"""Which worker gets a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .port import LDBQueue
    from .workers import Worker

__all__ = ["Policy", "PolicyName", "check_policy", "make_policy"]

PolicyName = Literal["dlb"]


class Policy(Protocol):
    """Knows the workers, and brings each its connections.

    What a worker has open is counted by the balancer, from the moment at which the worker takes it.
    """

    def register(self, worker: Worker) -> None:
        """The worker may be given connections from now on."""

    def unregister(self, worker: Worker) -> None:
        """The worker is given no more; what it was not given yet goes to others."""


class DLBPolicy:
    """Through one load-balanced queue: to the worker with the fewest open connections among those not busy.

    The queue chooses, when a worker comes for a connection; until then it is nobody's.
    """

    def __init__(self, queue: LDBQueue) -> None:
        self._queue = queue

    def register(self, worker: Worker) -> None:
        """Link the worker's port to the queue."""
        worker.port.link(self._queue)

    def unregister(self, worker: Worker) -> None:
        """Unlink it."""
        worker.port.unlink(self._queue)


_POLICIES: Final[dict[str, Callable[[LDBQueue], Policy]]] = {"dlb": DLBPolicy}


def check_policy(name: str) -> None:
    """Raise ConfigError unless there is such a policy."""
    if name not in _POLICIES:
        raise ConfigError(f"policy is {name!r}: it is one of {', '.join(map(repr, _POLICIES))}")


def make_policy(name: PolicyName, queue: LDBQueue) -> Policy:
    """The policy of that name, over the queue into which connections are accepted."""
    return _POLICIES[name](queue)
