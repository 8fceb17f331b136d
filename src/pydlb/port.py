"""Queues, and the ports through which events go in and out."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Final, Self

from . import calls
from .errors import ConfigError, closed
from .types import PortStats, Sched

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._backend import BackendDomain, BackendPort
    from .device import Domain

__all__ = ["DirPort", "DirQueue", "LDBPort", "LDBQueue", "Port", "Queue"]


class Queue:
    """A queue of a scheduling domain. Made by its domain; lives as long as it.

    Attributes:
        id: The queue's number among those of its kind.
        domain: The domain that it belongs to.
        default_sched: The scheduling type of what is sent to it without one named.

    **Synchronization**: any thread.
    """

    __slots__ = ("_key", "_native_domain", "default_sched", "domain", "id")

    def __init__(self, domain: Domain, native_domain: BackendDomain, number: int, default_sched: Sched) -> None:
        self.domain: Final = domain
        self.id: Final = number
        self.default_sched: Final = default_sched
        self._native_domain = native_domain
        self._key = number | default_sched << 8

    @property
    def directed(self) -> bool:
        """Whether one port is fed by it, or as many as are linked."""
        return self.default_sched == Sched.DIRECTED

    @property
    def depth(self) -> int:
        """Events that wait in it. What was given to ports does not count."""
        return self._native_domain.queue_depth(self.id, self.directed)

    def __repr__(self) -> str:
        """Kind and number."""
        return f"<pydlb.{type(self).__name__} {self.id}>"


class LDBQueue(Queue):
    """A load-balanced queue: its events are scheduled to the ports that are linked to it."""

    __slots__ = ()


class DirQueue(Queue):
    """A directed queue: its events go to the one port that is paired with it, in order."""

    __slots__ = ()


class Port:
    """A port: events are sent into queues through it, and received from the queues that feed it.

    A received event is held until it is released or forwarded, oldest first; a port holds at most `history_entries`.

    Attributes:
        domain: The domain that it belongs to.
        cq_depth: The most events that one receive returns.
        releases_on_recv: Whether each receive first releases what the one before returned.

    What is called for each event or batch is an attribute that holds a function, of the types in :mod:`pydlb.calls`,
    which say more:

    - ``send(events, timeout=0) -> int``, ``forward(events) -> int``: send a batch; how many were taken.
    - ``recv(max=32, timeout=None, out=None) -> array``: receive a batch.
    - ``send_one(data, queue, *, flow=0, priority=0, sched=None, opaque=0) -> bool``: send one event; False if the
      domain has no credit left.
    - ``recv_one(timeout=None) -> int | None``: receive one event's `data`.
    - ``release(n=1) -> int``: complete the oldest events held.
    - ``release_later(n=1)``, ``set_parked(parked)``: from any thread, for event loops.

    **Synchronization**: a port has one user thread at a time; a second one gets :class:`~pydlb.BusyError`. `link`,
    `unlink`, `enable`, `disable`, `fileno`, `stats`, `in_flight`, `release_later`, `set_parked` and `close` may be
    called from any thread.

    **Resource handling**: a context manager. `close` ends a wait in another thread with
    :class:`~pydlb.ClosedError`, releases what is held, and may be called twice.
    """

    __slots__ = {
        "__weakref__": None,
        "_native": None,
        "cq_depth": None,
        "domain": None,
        "forward": calls.Forward.__call__.__doc__,
        "recv": calls.Recv.__call__.__doc__,
        "recv_one": calls.RecvOne.__call__.__doc__,
        "release": calls.Release.__call__.__doc__,
        "release_later": calls.ReleaseLater.__call__.__doc__,
        "releases_on_recv": None,
        "send": calls.Send.__call__.__doc__,
        "send_one": calls.SendOne.__call__.__doc__,
        "set_parked": calls.SetParked.__call__.__doc__,
    }

    send: calls.Send
    forward: calls.Forward
    recv: calls.Recv
    send_one: calls.SendOne
    recv_one: calls.RecvOne
    release: calls.Release
    release_later: calls.ReleaseLater
    set_parked: calls.SetParked

    def __init__(
        self,
        domain: Domain,
        native: BackendPort,
        native_domain: BackendDomain,
        cq_depth: int,
        *,
        releases_on_recv: bool = False,
    ) -> None:
        self.domain: Final = domain
        self.releases_on_recv: Final = releases_on_recv
        self.cq_depth: Final = cq_depth
        self._native = native
        for name, call in native.bind_calls(native_domain, cq_depth).items():
            setattr(self, name, call)

    # ---- any thread --------------------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """The port's number among those of its kind."""
        return self._native.id

    @property
    def in_flight(self) -> int:
        """Events received and not yet released."""
        return self._native.in_flight

    def stats(self) -> PortStats:
        """What the port has done until now."""
        return PortStats(**self._native.stats())

    def fileno(self) -> int:
        """A descriptor for select, epoll, asyncio, uvloop or trio: readable when the port was chosen for an event.

        By then another port may have taken it, so receive without waiting. A receive that returns fewer events than
        were asked for arms the port again; until then the descriptor may stay readable.

        Raises:
            ResourceExhausted: No descriptor can be had.

        **Resource handling**: the descriptor belongs to the port; do not read or close it.
        """
        return self._native.fileno()

    def enable(self) -> None:
        """Let the port be given events again."""
        self._native.set_enabled(True)

    def disable(self) -> None:
        """Give the port no more events, and refuse what it sends. What waits goes to other ports; a wait goes on."""
        self._native.set_enabled(False)

    @property
    def closed(self) -> bool:
        """Whether the port was closed."""
        return self._native.closed

    def close(self) -> None:
        """Close the port: end a wait in another thread, release what is held, unlink."""
        self._native.close()

    def __bool__(self) -> bool:
        """Whether the port is open."""
        return not self.closed

    def __enter__(self) -> Self:
        """The port itself, which must be open."""
        if self.closed:
            raise closed("port")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the port."""
        self.close()

    # What it calls is bound here: at the end of the program it may be called when this module is empty already.
    def __del__(
        self, _warn: Callable[..., None] = warnings.warn, _is_finalizing: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        """Warn about an open port that nobody holds any more, then close it."""
        native = getattr(self, "_native", None)
        if native is not None and not native.closed:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            if not _is_finalizing():  # a thread that will not go on may hold what closing needs
                native.close()

    def __repr__(self) -> str:
        """Kind and number, or that it is closed."""
        return f"<pydlb.{type(self).__name__} {'closed' if self.closed else self.id}>"


class LDBPort(Port):
    """A load-balanced port: it is fed by the queues that it is linked to, 8 at the most."""

    __slots__ = ()

    def link(self, queue: LDBQueue, priority: int = 0) -> None:
        """Let the queue feed the port.

        Args:
            queue: A load-balanced queue of the same domain.
            priority: 0 to 7; events of a queue with a lower number are received first. Linking again changes it.

        Raises:
            ConfigError: The queue is of another domain or directed, or the priority out of range.
            ResourceExhausted: The port is linked to 8 queues already.
        """
        self._check(queue)
        if not 0 <= priority <= 7:
            raise ConfigError(f"priority is {priority}: it goes from 0 (served first) to 7")
        self._native.link(queue.id, priority)

    def unlink(self, queue: LDBQueue) -> None:
        """Let the queue feed the port no more. Events that the port holds stay with it until they are released.

        Raises:
            ConfigError: The port is not linked to the queue.
        """
        self._check(queue)
        self._native.unlink(queue.id)

    def _check(self, queue: LDBQueue) -> None:
        if not isinstance(queue, LDBQueue):
            raise ConfigError(f"queue is {queue!r}: only load-balanced queues can be linked")
        if queue.domain is not self.domain:
            raise ConfigError(f"{queue!r} belongs to another scheduling domain than {self!r}")


class DirPort(Port):
    """A directed port: it is fed by the directed queue that it is paired with, or only sends."""

    __slots__ = ()
