"""The calls of a port's user thread. A port has them as attributes, so that a call costs no look-up in Python.

A loop that makes one for each event does well to take it out of the port first: ``recv_one = port.recv_one``.

All of them raise :class:`~pydlb.BusyError` while another thread uses the port, and :class:`~pydlb.ClosedError` once
the port is closed, also where it is closed while they wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ._backend import BackendDomain

__all__ = [
    "Forward",
    "PortCalls",
    "QueueKey",
    "Recv",
    "RecvOne",
    "Release",
    "ReleaseLater",
    "Send",
    "SendOne",
    "SetParked",
]


class Send(Protocol):
    """The type of :attr:`pydlb.Port.send`."""

    def __call__(self, events: NDArray[np.void], timeout: float | None = 0) -> int:
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


class Forward(Protocol):
    """The type of :attr:`pydlb.Port.forward`."""

    def __call__(self, events: NDArray[np.void]) -> int:
        """Send a batch of events on; each also completes the oldest event that the port holds.

        An event that is forwarded for one of an ordered queue takes its place in line: all that are forwarded arrive
        in the order in which the first ones did.

        Args:
            events: A contiguous array of ``pydlb.EVENT_DTYPE``, shape (n,), with the queues to go to.

        Returns:
            How many were taken: all, or fewer if the domain's credits did not suffice.

        Raises:
            ConfigError: As :attr:`send`, and where the port holds fewer events than are forwarded.
            BusyError: Another thread uses the port.
            ClosedError: The port is closed.
        """


class Recv(Protocol):
    """The type of :attr:`pydlb.Port.recv`."""

    def __call__(
        self, max: int = 32, timeout: float | None = None, out: NDArray[np.void] | None = None
    ) -> NDArray[np.void]:
        """Receive a batch of events.

        Args:
            max: The most to receive, from 1; at most `cq_depth` come at once.
            timeout: Seconds to wait for the first event; None waits for ever, 0 polls.
            out: An array of ``pydlb.EVENT_DTYPE`` to receive into, instead of a new one: quickest where one array of
                `max` events is used again and again.

        Returns:
            What was received, shape (n,): where `out` was given, `out` itself if that is filled, else a view of its
            beginning. Empty if nothing came in time.

        Raises:
            ConfigError: `out` is no writable array of events, or `max` is less than 1.
            BusyError: Another thread uses the port.
            ClosedError: The port is closed, or was closed by another thread while this one waited.

        **Error handling**: signal handlers run while it waits, and what they raise ends the wait.
        """


class QueueKey(Protocol):
    """What sending one event needs to know of its queue."""

    @property
    def _native_domain(self) -> BackendDomain: ...
    @property
    def _key(self) -> int:
        """The queue's id; in bits 8 and 9 the scheduling type of what is sent to it without one named."""


class SendOne(Protocol):
    """The type of :attr:`pydlb.Port.send_one`."""

    def __call__(
        self,
        data: int,
        queue: QueueKey,
        /,
        *,
        flow: int = 0,
        priority: int = 0,
        sched: int | None = None,
        opaque: int = 0,
    ) -> bool:
        """Send one event. The quickest way for single events.

        Args:
            data: From 0 to 2**64 - 1; carried through.
            queue: A queue of the port's domain.
            flow: The atomic flow, from 0 to 65535.
            priority: 0 (served first) to 7.
            sched: The scheduling type; None for the queue's `default_sched`.
            opaque: From 0 to 65535; carried through.

        Returns:
            False if the domain has no credit left.

        Raises:
            ConfigError: As :attr:`send`, and where an argument is out of range.
            BusyError: Another thread uses the port.
            ClosedError: The port is closed.
        """


class RecvOne(Protocol):
    """The type of :attr:`pydlb.Port.recv_one`."""

    def __call__(self, timeout: float | None = None) -> int | None:
        """Receive one event.

        Args:
            timeout: Seconds to wait for it; None waits for ever, 0 polls.

        Returns:
            The event's ``data``; None if none came in time.

        Raises:
            BusyError: Another thread uses the port.
            ClosedError: The port is closed, or was closed by another thread while this one waited.
        """


class Release(Protocol):
    """The type of :attr:`pydlb.Port.release`."""

    def __call__(self, n: int = 1) -> int:
        """Complete the `n` oldest events that the port holds.

        Returns:
            How many there were.

        Raises:
            BusyError: Another thread uses the port.
            ClosedError: The port is closed.
        """


class ReleaseLater(Protocol):
    """The type of :attr:`pydlb.Port.release_later`."""

    def __call__(self, n: int = 1) -> None:
        """As :attr:`release`, from any thread: carried out at the port's next call; for balancing it counts at once.

        The caller sees to it that `n` events are held.

        Raises:
            ClosedError: The port is closed.
        """


class SetParked(Protocol):
    """The type of :attr:`pydlb.Port.set_parked`."""

    def __call__(self, parked: bool, /) -> None:
        """Tell that an event loop is about to wait on :meth:`fileno` (True), or has come back (False); any thread may.

        A port that tells is woken only while it waits, and before those that do not tell.

        Raises:
            ClosedError: The port is closed.
        """


class PortCalls(TypedDict):
    """What a backend's port binds: all of them by name."""

    send: Send
    forward: Forward
    recv: Recv
    send_one: SendOne
    recv_one: RecvOne
    release: Release
    release_later: ReleaseLater
    set_parked: SetParked
