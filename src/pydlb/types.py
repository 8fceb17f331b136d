"""The values that cross pydlb's interface: events, scheduling types, amounts."""

from __future__ import annotations

import dataclasses
import enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["DomainStats", "PortStats", "Resources", "Sched", "event_dtype", "make_events", "priority_of", "sched_of"]

EVENT_SIZE: Final = 16


class Sched(enum.IntEnum):
    """How the elements of a queue are scheduled to its ports. The numbers are the device's."""

    ATOMIC = 0
    """All elements of one flow go to one port while any of them is unreleased."""
    UNORDERED = 1
    """To any port, in any order."""
    ORDERED = 2
    """To any port; what is forwarded takes its places in the order of arrival again."""
    DIRECTED = 3
    """To the one port that is paired with the queue."""


@cache
def event_dtype() -> np.dtype[np.void]:
    """The 16-byte event, also to be had as ``pydlb.EVENT_DTYPE``.

    Fields: ``data`` (u8) is carried through, as is ``opaque`` (u2). ``queue`` (u1) is the queue's id. ``sched`` (u1)
    holds the scheduling type in bits 0-1 (see :class:`Sched`) and the priority, 0 served first, in bits 2-4, as the
    device does. ``flow`` (u2) names the atomic flow. ``flags`` (u1) is 0 on events that are sent, and has bit 0 set on
    received ones that the device marked as bad. ``command`` (u1) is 0.
    """
    import numpy as np

    names = ["data", "opaque", "queue", "sched", "flow", "flags", "command"]
    formats = ["<u8", "<u2", "u1", "u1", "<u2", "u1", "u1"]
    offsets = [0, 8, 10, 11, 12, 14, 15]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": EVENT_SIZE})


class _Target(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def default_sched(self) -> Sched: ...


def check_events(name: str, given: object) -> None:
    """See to it that what a caller gave as `name` is an array of events.

    Raises:
        ConfigError: It is none, or of other items, which may have the size of events.
    """
    dtype = getattr(given, "dtype", None)
    if dtype != event_dtype():
        found = type(given).__name__ if dtype is None else f"an array of {dtype}"
        raise ConfigError(f"{name} is {found}: it must be an array of pydlb.EVENT_DTYPE; pydlb.make_events makes one")


def make_events(
    data: ArrayLike,
    queue: _Target,
    *,
    sched: Sched | int | None = None,
    priority: ArrayLike = 0,
    flow: ArrayLike = 0,
    opaque: ArrayLike = 0,
) -> NDArray[np.void]:
    """Make a batch of events for one queue.

    Args:
        data: What each event carries: unsigned integers below 2**64, one an event.
        queue: The queue to send to, an LDBQueue or DirQueue.
        sched: The scheduling type of all; None for the queue's own default.
        priority: 0 (served first) to 7, for all or one an event.
        flow: 0 to 65535, for all or one an event.
        opaque: 0 to 65535, carried through, for all or one an event.

    Returns:
        An array of ``pydlb.EVENT_DTYPE`` with the shape of `data`, flattened.

    Raises:
        ConfigError: A value is no whole number, is out of its range, or there are not as many as `data`.
    """
    import numpy as np

    values = _integers("data", data, 2**64 - 1).ravel()
    if not hasattr(queue, "default_sched"):
        raise ConfigError(f"queue is {queue!r}: it is an LDBQueue or a DirQueue")
    kind = queue.default_sched if sched is None else sched
    if kind not in range(len(Sched)):
        raise ConfigError(f"sched is {kind!r}: it must be a pydlb.Sched")
    events = np.zeros(len(values), dtype=event_dtype())
    events["data"] = values
    events["queue"] = queue.id
    events["sched"] = kind | _one_each("priority", priority, 7, len(values)).astype(np.uint8) << np.uint8(2)
    events["flow"] = _one_each("flow", flow, 0xFFFF, len(values))
    events["opaque"] = _one_each("opaque", opaque, 0xFFFF, len(values))
    return events


def _integers(name: str, given: ArrayLike, most: int) -> NDArray[np.uint64]:
    """Whole numbers from 0 to `most`; what numpy would cut off or wrap around is refused."""
    import numpy as np

    numbers = np.asarray(given)
    if numbers.dtype.kind in "fO" and not isinstance(given, np.ndarray):
        numbers = np.asarray(given, dtype=object)  # numbers of 64 bits among smaller ones
        if not all(isinstance(number, int) for number in numbers.flat):
            raise ConfigError(f"{name} must be whole numbers")
    elif numbers.dtype.kind not in "iu" and numbers.size:
        raise ConfigError(f"{name} must be whole numbers, not {numbers.dtype}")
    if numbers.size and (numbers.min() < 0 or numbers.max() > most):
        raise ConfigError(f"{name} must be from 0 to {most}, got values from {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.uint64)


def _one_each(name: str, given: ArrayLike, most: int, count: int) -> NDArray[np.uint64]:
    """The same, one for all or one for each of `count`."""
    numbers = _integers(name, given, most)
    if numbers.shape not in ((), (1,), (count,)):
        raise ConfigError(f"{name} has the shape {numbers.shape}: give one for all, or one for each of {count} events")
    return numbers


def _octets(events: NDArray[np.void]) -> NDArray[np.uint8]:
    check_events("events", events)
    octets: NDArray[np.uint8] = events["sched"]
    return octets


def sched_of(events: NDArray[np.void]) -> NDArray[np.uint8]:
    """The scheduling types of events, as numbers of :class:`Sched`."""
    import numpy as np

    return _octets(events) & np.uint8(3)


def priority_of(events: NDArray[np.void]) -> NDArray[np.uint8]:
    """The priorities of events, 0 to 7."""
    import numpy as np

    return _octets(events) >> np.uint8(2) & np.uint8(7)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Amounts of everything that a device has, or has left.

    Attributes:
        domains: Scheduling domains.
        ldb_queues: Load-balanced queues.
        ldb_ports: Load-balanced ports.
        dir_ports: Pairs of a directed port and the directed queue that feeds it.
        ldb_credits: Credits, in events; with combined credits (DLB 2.5, software) all of them.
        dir_credits: Credits of directed queues; 0 with combined credits.
        history_entries: Events received and not yet released, over all ports.
        atomic_inflights: Events of atomic queues in flight.
        sequence_slots: Slots of 64 sequence numbers for ordered queues, in two groups.
    """

    domains: int
    ldb_queues: int
    ldb_ports: int
    dir_ports: int
    ldb_credits: int
    dir_credits: int
    history_entries: int
    atomic_inflights: int
    sequence_slots: tuple[int, int]

    @classmethod
    def of(cls, amounts: Mapping[str, Any]) -> Resources:
        """From the core's dictionary."""
        return cls(**amounts)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DomainStats:
    """What a domain has done. Counts only grow; ``enqueued == scheduled + queued + lost`` when nothing moves.

    Attributes:
        enqueued: Events taken by send and forward.
        scheduled: Events given to ports.
        refused_no_credit: Events not taken because the credits were used up.
        wakes: Idle ports told that there is work.
        rewakes: Of these, because the one told first did not come in time.
        credits_free: Credits left now.
        queued: Events waiting now, in queues or in an ordered line; on a device also in the consumer queues of ports.
        lost: Events that the device dropped, or that were queued on it when it was reset or went away.
    """

    enqueued: int
    scheduled: int
    refused_no_credit: int
    wakes: int
    rewakes: int
    credits_free: int
    queued: int
    lost: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PortStats:
    """What a port has done.

    Attributes:
        sent: Events taken from it by send and forward.
        received: Events given to it.
        released: Events completed, by release or forward.
        wakes: How often it was told that there is work.
        in_flight: Events received and not released, now.
        armed: Whether it will be told of new work.
        stalled: Whether it was due for work and did not come in time.
    """

    sent: int
    received: int
    released: int
    wakes: int
    in_flight: int
    armed: bool
    stalled: bool
