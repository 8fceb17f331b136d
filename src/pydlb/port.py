"""Queues, and the ports through which events go in and out."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Final, Self

from .errors import ConfigError, closed
from .types import PortStats, Sched, event_dtype

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from ._backend import BackendDomain, BackendPort, RecvOne, Release, ReleaseLater, SendOne, SetParked
    from .device import Domain

__all__ = ["DirPort", "DirQueue", "LDBPort", "LDBQueue", "Port", "Queue"]

# How long a send that waits for credits sleeps between tries, in seconds: from, to.
_FIRST_PAUSE: Final = 20e-6
_LONGEST_PAUSE: Final = 1e-3


def _check_dtype(name: str, array: NDArray[np.void]) -> None:
    """Raise ConfigError for another array, whose items happen to have the size of events."""
    dtype = getattr(array, "dtype", None)
    if dtype != event_dtype():
        given = type(array).__name__ if dtype is None else f"an array of {dtype}"
        raise ConfigError(f"{name} is {given}: it must be an array of pydlb.EVENT_DTYPE; pydlb.make_events makes one")


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
        send_one: ``send_one(data, queue, *, flow=0, priority=0, sched=None, opaque=0) -> bool``. Send one event; False
            if the domain has no credit left. Raises as :meth:`send` does. The quickest way for single events.
        recv_one: ``recv_one(timeout=None) -> int | None``. Receive one event and return its ``data``; None if none came
            within `timeout` seconds (None waits for ever, 0 polls).
        release: ``release(n=1) -> int``. Complete the `n` oldest events that the port holds; returns how many there
            were.
        release_later: ``release_later(n=1)``. The same from any thread, carried out at the port's next call; for
            balancing it counts at once. The caller sees to it that `n` events are held.
        set_parked: ``set_parked(flag)``. An event loop tells that it is about to wait on :meth:`fileno` (True), or has
            come back (False); from any thread. A port that tells is woken only while it waits, and before those that do
            not tell.

    **Synchronization**: a port has one user thread at a time; a second one gets :class:`~pydlb.BusyError`. `link`,
    `unlink`, `enable`, `disable`, `fileno`, `stats`, `in_flight`, `release_later`, `set_parked` and `close` may be
    called from any thread.

    **Resource handling**: a context manager. `close` ends a wait in another thread with
    :class:`~pydlb.ClosedError`, releases what is held, and may be called twice.
    """

    __slots__ = (
        "__weakref__",
        "_calls",
        "_native",
        "cq_depth",
        "domain",
        "recv_one",
        "release",
        "release_later",
        "releases_on_recv",
        "send_one",
        "set_parked",
    )

    send_one: SendOne
    recv_one: RecvOne
    release: Release
    release_later: ReleaseLater
    set_parked: SetParked

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
        self._calls = calls = native.bind_calls(native_domain)
        self.send_one = calls["send_one"]
        self.recv_one = calls["recv_one"]
        self.release = calls["release"]
        self.release_later = calls["release_later"]
        self.set_parked = calls["set_parked"]

    # ---- events in ---------------------------------------------------------------------------------------------------

    def send(self, events: NDArray[np.void], timeout: float | None = 0) -> int:
        """Send a batch of events, in order, each to the queue that it names.

        Args:
            events: A contiguous array of ``pydlb.EVENT_DTYPE``, shape (n,).
            timeout: Seconds to wait for credits; 0 takes what there are, None waits for ever.

        Returns:
            How many were taken: all, or fewer if the domain's credits did not suffice.

        Raises:
            ConfigError: The array is no array of events; or an event was not taken because its queue does not exist or
                does not do its type of scheduling, the domain is not started, or the port is disabled. The message says
                which event; those before it were taken.
            BusyError: Another thread uses the port.
            ClosedError: The port is closed.
        """
        _check_dtype("events", events)
        taken = self._calls["send"](events)
        if taken == len(events) or timeout == 0:
            return taken
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while taken < len(events) and (deadline is None or time.monotonic() < deadline):
            time.sleep(pause)
            more = self._calls["send"](events[taken:])
            pause = _FIRST_PAUSE if more else min(2 * pause, _LONGEST_PAUSE)
            taken += more
        return taken

    def forward(self, events: NDArray[np.void]) -> int:
        """Send a batch of events on; each also completes the oldest event that the port holds.

        An event that is forwarded for one of an ordered queue takes its place in line: all that are forwarded arrive
        in the order in which the first ones did.

        Args:
            events: A contiguous array of ``pydlb.EVENT_DTYPE``, shape (n,), with the queues to go to.

        Returns:
            How many were taken: all, or fewer if the domain's credits did not suffice.

        Raises:
            ConfigError: As :meth:`send`, and where the port holds fewer events than are forwarded.
            BusyError: Another thread uses the port.
            ClosedError: The port is closed.
        """
        _check_dtype("events", events)
        return self._calls["forward"](events)

    # ---- events out --------------------------------------------------------------------------------------------------

    def recv(
        self, max: int = 32, timeout: float | None = None, out: NDArray[np.void] | None = None
    ) -> NDArray[np.void]:
        """Receive a batch of events.

        Args:
            max: The most to receive, from 1; at most `cq_depth` come at once.
            timeout: Seconds to wait for the first event; None waits for ever, 0 polls.
            out: An array of ``pydlb.EVENT_DTYPE`` to receive into, instead of a new one.

        Returns:
            What was received, shape (n,): a part of `out` where that was given. Empty if nothing came in time.

        Raises:
            ConfigError: `out` is no writable array of events, or `max` is less than 1.
            BusyError: Another thread uses the port.
            ClosedError: The port is closed, or was closed by another thread while this one waited.

        **Error handling**: signal handlers run while it waits, and what they raise ends the wait.
        """
        if max < 1:
            raise ConfigError(f"max is {max}: receive at least 1 event")
        if out is None:
            import numpy as np

            out = np.empty(min(max, self.cq_depth), dtype=event_dtype())
        else:
            _check_dtype("out", out)
        count = self._calls["recv_into"](out, max, timeout)
        return out[:count]

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

    def __del__(self) -> None:
        """Warn about an open port that nobody holds any more, then close it."""
        native = getattr(self, "_native", None)
        if native is not None and not native.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
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
