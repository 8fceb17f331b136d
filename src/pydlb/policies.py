"""Which worker gets a connection.

Built-in policies are named, or given as objects where they have options::

    Balancer(policy="exact")
    Balancer(policy=policies.Exact(tie="first"))
    balancer.policy = policies.Hash(bound=1.5)

They pick in native code. Any function of the workers and the :class:`Arrival` is a policy too, and so is any subclass
of :class:`Policy`; those are called on the accepting thread, with the interpreter lock. With ``accept="workers"`` it is
the thread of the worker that accepted: what is called there must not wait for that worker's loop, which waits for it.

Whatever the policy, a worker that is paused or draining is not picked, and one that does not come for a connection
within the balancer's `grace` loses it to one that is idle.
"""

from __future__ import annotations

import dataclasses
import random
import socket
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, get_args

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .workers import Worker

__all__ = [
    "DLB",
    "Arrival",
    "Exact",
    "Hash",
    "Least",
    "Nop",
    "Policy",
    "PolicyLike",
    "PolicyName",
    "Random",
    "RoundRobin",
    "Tie",
    "check_policy",
    "make_policy",
]

Tie = Literal["rotate", "first", "local"]

# As enum pdlb_policy and enum pdlb_tie have them.
_QUEUE, _EXACT, _ROUND_ROBIN, _RANDOM, _LEAST, _HASH, _LOCAL, _CALLER = range(8)
_TIES: Final = {"rotate": 0, "first": 1, "local": 2}
_MOST_CHOICES: Final = 16
_MOST_BOUND: Final = 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class NativePick:
    """What the accepting thread is told of a policy. Fields as in ``struct pdlb_policy_config``."""

    policy: int
    tie: int = 0
    choices: int = 2
    bound: float = 1.25
    per_listener: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Arrival:
    """A connection that a worker is to be picked for.

    Attributes:
        listener: The number of its listener.
        current: The worker that accepted it, with ``Balancer(accept="workers")``; None if the accepting thread did.
        family: Its address family.
    """

    listener: int
    current: Worker | None
    family: int
    _address: bytes

    @property
    def address(self) -> tuple[str, int] | None:
        """The client's host and port; None for UNIX sockets."""
        if self.family == socket.AF_INET and len(self._address) >= 8:
            return socket.inet_ntop(socket.AF_INET, self._address[4:8]), int.from_bytes(self._address[2:4], "big")
        if self.family == socket.AF_INET6 and len(self._address) >= 24:
            return socket.inet_ntop(socket.AF_INET6, self._address[8:24]), int.from_bytes(self._address[2:4], "big")
        return None


class Policy:
    """Picks workers: the base of policies of one's own. The contract is that of Envoy's connection balancers.

    What a worker has open is counted by the balancer, from the moment at which it was picked: `Worker.open`.

    **Synchronization**: `pick` is called on one thread at a time, the others on any.

    **Error handling**: an exception of `pick` is reported as unraisable, and the connection goes to whichever worker
    comes first.
    """

    name: ClassVar[str] = "custom"

    def register(self, worker: Worker) -> None:
        """The worker may be picked from now on."""

    def unregister(self, worker: Worker) -> None:
        """The worker may not be picked any more."""

    def pick(self, arrival: Arrival) -> Worker | None:
        """The worker for a connection; None for whichever comes first for it."""
        raise NotImplementedError

    def native(self) -> NativePick:
        """How the accepting thread picks."""
        return NativePick(_CALLER)

    @property
    def picks(self) -> bool:
        """Whether it picks workers, in place of the queue that all share."""
        return self.native().policy != _QUEUE

    def __str__(self) -> str:
        """Its name."""
        return self.name


class _Native(Policy):
    """One that picks in native code; asked for a worker itself, it has none."""

    def pick(self, arrival: Arrival) -> Worker | None:
        """Nobody: the accepting thread picks."""
        return None


class DLB(_Native):
    """Through one load-balanced queue: to the worker with the fewest open connections among those not busy.

    The queue chooses, when a worker comes for a connection; until then it is nobody's. Queues do not weigh: once
    workers have different weights, it picks as :class:`Exact` does.
    """

    name = "dlb"

    def native(self) -> NativePick:
        """Nobody is picked."""
        return NativePick(_QUEUE)


class Nop(_Native):
    """Nobody is picked: a connection stays with the worker that took it first, as from a listening socket.

    With ``Balancer(accept="workers")`` it is the one that accepted it.
    """

    name = "nop"

    def native(self) -> NativePick:
        """Nobody is picked."""
        return NativePick(_QUEUE)

    def stay(self) -> NativePick:
        """The same where workers accept by themselves."""
        return NativePick(_LOCAL)


@dataclasses.dataclass(frozen=True)
class Exact(_Native):
    """The worker with the fewest open connections, for its weight; Envoy's ``exact_balance``.

    Attributes:
        tie: Of several with as few: ``"rotate"`` takes them in turn, ``"first"`` the one that was added first, as Envoy
            does, ``"local"`` the one that accepted the connection (with ``Balancer(accept="workers")``).
        per_listener: Count connections of the same listener only, as Envoy does, in place of all.
    """

    tie: Tie = "rotate"
    per_listener: bool = False
    name: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        """Check what was given."""
        if self.tie not in _TIES:
            raise ConfigError(f"tie is {self.tie!r}: it is one of {', '.join(map(repr, get_args(Tie)))}")

    def native(self) -> NativePick:
        """With its options."""
        return NativePick(_EXACT, tie=_TIES[self.tie], per_listener=self.per_listener)


class RoundRobin(_Native):
    """Each in turn, by weight."""

    name = "round_robin"

    def native(self) -> NativePick:
        """In turn."""
        return NativePick(_ROUND_ROBIN)


@dataclasses.dataclass(frozen=True)
class Random(_Native):
    """Any, by weight.

    Attributes:
        seed: To repeat a sequence; None for another one each time.
    """

    seed: int | None = None
    name: ClassVar[str] = "random"

    def native(self) -> NativePick:
        """With its seed."""
        return NativePick(_RANDOM, seed=_seed(self.seed))


@dataclasses.dataclass(frozen=True)
class Least(_Native):
    """Of a few that are drawn, the one with the fewest open connections for its weight.

    Attributes:
        choices: How many are drawn, 1 to 16.
        per_listener: Count connections of the same listener only.
        seed: To repeat a sequence; None for another one each time.
    """

    choices: int = 2
    per_listener: bool = False
    seed: int | None = None
    name: ClassVar[str] = "least"

    def __post_init__(self) -> None:
        """Check what was given."""
        if not 1 <= self.choices <= _MOST_CHOICES:
            raise ConfigError(f"choices is {self.choices}: it goes from 1 to {_MOST_CHOICES}")

    def native(self) -> NativePick:
        """With its options."""
        return NativePick(_LEAST, choices=self.choices, per_listener=self.per_listener, seed=_seed(self.seed))


@dataclasses.dataclass(frozen=True)
class Hash(_Native):
    """By the client's address, without its port: the same worker each time, unless that has too much.

    When a worker comes or goes, only its own clients move. Clients of UNIX sockets are all different ones.

    Attributes:
        bound: A worker gets no more than so many times its share of what is open, more than 1; the rest goes to the
            client's next choice.
        per_listener: Count connections of the same listener only.
    """

    bound: float = 1.25
    per_listener: bool = False
    name: ClassVar[str] = "hash"

    def __post_init__(self) -> None:
        """Check what was given."""
        if not 1 < self.bound <= _MOST_BOUND:
            raise ConfigError(f"bound is {self.bound}: it is more than 1, and at most a million")

    def native(self) -> NativePick:
        """With its options."""
        return NativePick(_HASH, bound=self.bound, per_listener=self.per_listener, seed=_seed(None))


class Function(Policy):
    """A function of the workers and the arrival, as a policy."""

    name = "function"

    def __init__(self, function: Callable[[Sequence[Worker], Arrival], Worker | None]) -> None:
        self._function = function
        self._workers: tuple[Worker, ...] = ()

    def register(self, worker: Worker) -> None:
        """Show it to the function."""
        self._workers = (*self._workers, worker)

    def unregister(self, worker: Worker) -> None:
        """Show it no more."""
        self._workers = tuple(other for other in self._workers if other is not worker)

    def pick(self, arrival: Arrival) -> Worker | None:
        """As the function says."""
        return self._function(self._workers, arrival)

    def __str__(self) -> str:
        """The function's name."""
        return getattr(self._function, "__name__", self.name)


PolicyName = Literal["dlb", "exact", "nop", "random", "round_robin", "least", "hash"]
PolicyLike: TypeAlias = "PolicyName | Policy | Callable[[Sequence[Worker], Arrival], Worker | None]"

_POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "dlb": DLB,
    "exact": Exact,
    "nop": Nop,
    "random": Random,
    "round_robin": RoundRobin,
    "least": Least,
    "hash": Hash,
}


def _seed(seed: int | None) -> int:
    return random.getrandbits(64) if seed is None else seed & (2**64 - 1)


def check_policy(name: str) -> None:
    """Raise ConfigError unless there is a policy of that name."""
    if name not in _POLICIES:
        raise ConfigError(f"policy is {name!r}: it is one of {', '.join(map(repr, _POLICIES))}, or a function")


def make_policy(policy: Any) -> Policy:  # noqa: ANN401  # whatever a caller gives
    """The policy that is meant: a name, a policy, or a function of workers and arrival.

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, str):
        check_policy(policy)
        return _POLICIES[policy]()
    if isinstance(policy, type) or not callable(policy):
        raise ConfigError(
            f"policy is {policy!r}: it is one of {', '.join(map(repr, _POLICIES))}, a pydlb.policies.Policy, or a "
            "function of the workers and the arrival"
        )
    return Function(policy)
