"""A port by libdlb."""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import math
import operator
import os
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pydlb.errors import ConfigError, DeviceGone, ResourceExhausted, busy, closed, refused
from pydlb.types import check_events, event_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pydlb._backend import BackendDomain
    from pydlb.calls import PortCalls, QueueKey

    from .device import VendorDomain

__all__ = ["VendorPort"]

_NOT_STARTED, _DISABLED, _BAD_QUEUE, _BAD_SCHED, _NOT_HELD = 2, 3, 5, 6, 7  # enum pdlb_refusal
_DIRECTED: Final = 3
_LINKS: Final = 8
_LONGEST_POLL: Final = 1e6  # seconds
_ERROR_BIT: Final = 5  # of a received event's last byte
_PUT_BACK: Final = 64  # events at a time
_FIRST_PAUSE: Final = 20e-6  # in seconds: how long a send that waits for credits sleeps between tries, from
_LONGEST_PAUSE: Final = 1e-3  # to


class VendorPort:
    """See :class:`pydlb._backend.BackendPort`.

    libdlb's calls on a port must not overlap: `_calling` is held over each of them, briefly. `_using` is held by the
    one user thread over a whole call of ours, waits included.

    A wait is for a descriptor that the driver's interrupt adds to. Once there is one, libdlb is asked for events only
    when it is readable: asked in vain, it complains on standard output, and does not arm the interrupt.
    """

    def __init__(self, domain: VendorDomain, number: int, shape: tuple[Any, ...], *, release_on_recv: bool) -> None:
        self._domain = domain
        self._library = library = domain.library
        self._number = number
        self._shape = shape
        self._directed, self._cq_depth, self._most_held, _ = shape
        self._release_on_recv = release_on_recv
        self._calling = threading.RLock()
        self._using = threading.Lock()
        self._links: dict[int, int] = {}
        self._disabled = self._closed = False
        self._held = self._later = 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._event_fd = self._kick_fd = -1
        self._waiting = 0
        attach = "attach_dir_port" if self._directed else "attach_ldb_port"
        self._handle = library.call(attach, domain.handle, number, op="create port")
        try:
            library.call("enable_port", self._handle, op="create port")
        except BaseException:
            library.attempt("detach_port", self._handle)
            raise

    # ---- life ------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed or self._domain._process != os.getpid()

    def _check_open(self) -> None:
        if self.closed:
            raise closed("port")

    @property
    def id(self) -> int:
        self._check_open()
        return self._number

    @property
    def in_flight(self) -> int:
        self._check_open()
        return max(0, self._held - self._later)

    def close(self) -> None:
        """End a wait, complete what is held, and give back to their queues what was scheduled here and not received."""
        with self._calling:
            if self.closed:
                return
            self._closed = True
            if self._kick_fd >= 0:
                os.eventfd_write(self._kick_fd, 1)
            self._release(self._held)
            for queue in list(self._links):
                self._library.attempt("unlink_queue", self._handle, queue)
            if not self._directed:
                self._put_back()
            self._library.attempt("disable_port", self._handle)
            self._library.attempt("detach_port", self._handle)
            self._close_descriptors()
        self._domain.port_closed(self, self._number, self._shape)

    def _put_back(self) -> None:
        events = np.empty(_PUT_BACK, dtype=event_dtype())
        buffer = self._library.ffi.from_buffer("dlb_event_t[]", events)
        while (
            self._domain.running
            and (count := self._library.attempt("recv", self._handle, _PUT_BACK, False, buffer)) > 0
        ):
            events["flags"] = 0
            self._library.attempt("forward", self._handle, count, buffer)

    def _close_descriptors(self) -> None:
        """The last to leave closes them: this, or a wait that it ended."""
        if self._waiting == 0 and self._kick_fd >= 0:
            os.close(self._event_fd)
            os.close(self._kick_fd)
            self._event_fd = self._kick_fd = -1

    def look_again(self) -> None:
        """From libdlb's alert thread: the device may have been reset."""
        with self._calling:
            if self._kick_fd >= 0:
                os.eventfd_write(self._kick_fd, 1)

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        """One user thread at a time."""
        if not self._using.acquire(blocking=False):
            raise busy()
        try:
            self._check_open()
            yield
        finally:
            self._using.release()

    # ---- links -----------------------------------------------------------------------------------------------------

    def link(self, queue: int, priority: int) -> None:
        with self._calling:
            self._check_open()
            if queue in self._links:  # a second link would mix the two priorities
                self._library.call("unlink_queue", self._handle, queue, op="link")
                del self._links[queue]
            if len(self._links) == _LINKS:
                text = "the port is linked to eight queues already; unlink one first"
                raise ResourceExhausted(errno.ENOSPC, text, op="link")
            self._library.call("link_queue", self._handle, queue, priority, op="link")
            self._links[queue] = priority

    def unlink(self, queue: int) -> None:
        with self._calling:
            self._check_open()
            if queue not in self._links:
                raise ConfigError("unlink: the port is not linked to this queue")
            self._library.call("unlink_queue", self._handle, queue, op="unlink")
            del self._links[queue]

    def set_enabled(self, enabled: bool) -> None:
        with self._calling:
            self._check_open()
            self._library.call("enable_port" if enabled else "disable_port", self._handle, op="enable")
            self._disabled = not enabled

    # ---- waiting ---------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        with self._calling:
            self._check_open()
            if self._event_fd < 0:
                self._make_descriptors()
            return self._event_fd

    def _make_descriptors(self) -> None:
        descriptors: list[int] = []
        try:
            descriptors.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            descriptors.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            if descriptors[0] == 0:  # which libdlb takes for none
                descriptors[0] = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 1)
                os.close(0)
            self._library.call("enable_cq_epoll", self._handle, not self._directed, descriptors[0], op="fileno")
        except OSError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise ResourceExhausted(
                    error.errno, f"no descriptor to wait for the port: {error}", op="fileno"
                ) from error
            raise
        self._event_fd, self._kick_fd = descriptors

    def _wait(self, deadline: float) -> None:
        """Until there may be something, or `deadline`. Signal handlers run meanwhile."""
        poll = select.poll()
        with self._calling:
            self._check_open()
            poll.register(self.fileno(), select.POLLIN)
            poll.register(self._kick_fd, select.POLLIN)
            self._waiting += 1
        try:
            left = min(max(0.0, deadline - time.monotonic()), _LONGEST_POLL)
            poll.poll(math.ceil(left * 1000))
        finally:
            with self._calling:
                self._waiting -= 1
                if self.closed:
                    self._close_descriptors()
        with self._calling:
            self._check_open()
            if _readable(self._kick_fd):
                os.eventfd_read(self._kick_fd)
                self._look_for_reset()

    def _look_for_reset(self) -> None:
        """A port that is disabled, and not by us, was disabled by libdlb because the device was reset."""
        os.eventfd_write(self._event_fd, 1)  # for libdlb to find: see above
        self._ask(np.empty(0, dtype=event_dtype()), 0)

    # ---- events out ------------------------------------------------------------------------------------------------

    def recv(
        self, max: int = 32, timeout: float | None = None, out: NDArray[np.void] | None = None
    ) -> NDArray[np.void]:
        most = min(_in_range("max must be a number of events, at least 1", max, sys.maxsize), self._cq_depth)
        if most == 0:
            raise ConfigError("max is 0: receive at least 1 event")
        events = np.empty(most, dtype=event_dtype()) if out is None else _writable(out)
        return events[: self._recv(events, min(most, len(events)), _deadline(timeout))]

    def _recv(self, events: NDArray[np.void], most: int, deadline: float) -> int:
        with self._used():
            while True:
                count = self._take(events, most)
                if count or most == 0 or time.monotonic() >= deadline:
                    return count
                self._wait(deadline)

    def recv_one(self, timeout: float | None = None) -> int | None:
        event = np.empty(1, dtype=event_dtype())
        return int(event["data"][0]) if self._recv(event, 1, _deadline(timeout)) else None

    def _take(self, events: NDArray[np.void], most: int) -> int:
        """What there is."""
        with self._calling:
            self._check_open()
            self._settle()
            if self._release_on_recv:
                self._release(self._held)
            most = most if self._directed else min(most, self._most_held - self._held)
            if most == 0 or not self._domain.running or (self._event_fd >= 0 and not _readable(self._event_fd)):
                return 0
            count = self._ask(events, most)
            if count:
                self._received(events[:count])
            return count

    def _ask(self, events: NDArray[np.void], most: int) -> int:
        """Ask libdlb for events.

        Raises:
            DeviceGone: The port is disabled, and not by us.
        """
        buffer = self._library.ffi.from_buffer("dlb_event_t[]", events)
        count = int(self._library.attempt("recv", self._handle, most, False, buffer))
        if count >= 0:
            return count
        if self._library.ffi.errno != errno.EACCES:
            raise self._library.failure("recv", "recv")
        if not self._disabled:
            self._domain.gone = True
            raise _gone("recv")
        return 0

    def _received(self, events: NDArray[np.void]) -> None:
        events["flags"] = events["command"] >> np.uint8(_ERROR_BIT) & np.uint8(1)
        events["command"] = 0
        if self._directed:
            events["queue"] = self._domain.queue_of_port(self._number) or 0  # what the device says may be another's
        else:
            self._held += len(events)
        self._counts["received"] += len(events)
        depths = _by_queue(events)
        depths.subtract({queue: 2 * count for queue, count in depths.items()})
        self._domain.count(scheduled=len(events), depths=depths)

    # ---- events in -------------------------------------------------------------------------------------------------

    def send(self, events: NDArray[np.void], timeout: float | None = 0) -> int:
        deadline = _deadline(timeout)
        taken = self._enqueue("send", events)
        pause = _FIRST_PAUSE
        while taken < len(events) and time.monotonic() < deadline:
            time.sleep(pause)
            more = self._enqueue("send", events[taken:])
            pause = _FIRST_PAUSE if more else min(2 * pause, _LONGEST_PAUSE)
            taken += more
        return taken

    def forward(self, events: NDArray[np.void]) -> int:
        return self._enqueue("forward", events)

    def send_one(
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
        event = np.zeros(1, dtype=event_dtype())
        event["data"] = _in_range("data must be from 0 to 2**64 - 1", data, 2**64 - 1)
        if not hasattr(queue, "_key"):
            raise TypeError("queue is not a pydlb queue")
        if queue._native_domain is not self._domain:
            raise ConfigError("the queue belongs to another scheduling domain than the port")
        event["queue"] = queue._key & 0xFF
        event["flow"] = _in_range("flow must be from 0 to 65535", flow, 0xFFFF)
        event["opaque"] = _in_range("opaque must be from 0 to 65535", opaque, 0xFFFF)
        type_ = queue._key >> 8 if sched is None else _in_range("sched must be a pydlb.Sched", sched, _DIRECTED)
        event["sched"] = type_ | _in_range("priority must be from 0 (served first) to 7", priority, 7) << 2
        return self._enqueue("send", event) == 1

    def _enqueue(self, verb: str, given: NDArray[np.void]) -> int:
        """Send what can be; the events after the first that cannot are left."""
        events = _readable_copy(given)
        with self._used(), self._calling:
            self._check_open()
            self._settle()
            if len(events) == 0:
                return 0
            sound, why = self._sound(events, forward=verb == "forward")
            taken = self._hand_over(verb, events[:sound]) if sound else 0
            if taken == sound < len(events):
                bad = events[sound]
                raise refused(why, sound, int(bad["queue"]), int(bad["sched"]) & 3)
            if taken < sound:
                self._domain.count(refused_no_credit=1)
            return taken

    def _sound(self, events: NDArray[np.void], *, forward: bool) -> tuple[int, int]:
        """How many events at the beginning may be sent, and why the next one may not."""
        if not self._domain.started:
            return 0, _NOT_STARTED
        if self._disabled:
            return 0, _DISABLED
        count, why = len(events), 0
        keys = events["queue"] | (events["sched"] & np.uint8(3)).astype(np.uint16) << np.uint16(8)
        wrong = np.flatnonzero(~np.isin(keys, list(self._domain.keys)))
        if len(wrong):
            count = int(wrong[0])
            known = keys[count] >> 8 != _DIRECTED and self._domain.has_ldb_queue(int(events["queue"][count]))
            why = _BAD_SCHED if known else _BAD_QUEUE
        if forward and self._held <= count and self._held < len(events):
            count, why = self._held, _NOT_HELD
        return count, why

    def _hand_over(self, verb: str, events: NDArray[np.void]) -> int:
        events["flags"] = events["command"] = 0
        buffer = self._library.ffi.from_buffer("dlb_event_t[]", events)
        taken = int(self._library.attempt(verb, self._handle, len(events), buffer))
        if taken < 0:
            if self._library.ffi.errno != errno.EACCES:
                raise self._library.failure(verb, verb)
            self._domain.gone = True
            raise _gone(verb)
        if verb == "forward":
            self._held -= taken
            self._counts["released"] += taken
        self._counts["sent"] += taken
        self._domain.count(enqueued=taken, depths=_by_queue(events[:taken]))
        return taken

    # ---- what is held ----------------------------------------------------------------------------------------------

    def release(self, n: int = 1) -> int:
        count = _in_range("n must be a number of events, from 0", n, 0xFFFFFFFF)
        with self._used(), self._calling:
            self._check_open()
            self._settle()
            return self._release(min(count, self._held))

    def release_later(self, n: int = 1) -> None:
        """As the interface; done at once where the user thread is not in libdlb just now, so that flows are freed."""
        count = _in_range("n must be a number of events, from 0", n, 0xFFFFFFFF)
        with self._calling:
            self._check_open()
            self._later += count
            self._settle()

    def set_parked(self, parked: bool, /) -> None:
        """The device chooses by itself."""
        self._check_open()

    def _settle(self) -> None:
        later, self._later = self._later, 0
        self._release(min(later, self._held))

    def _release(self, count: int) -> int:
        """Complete the oldest events held, all at once."""
        if count == 0:
            return 0
        if self._library.attempt("release", self._handle, count) < 0:
            raise self._library.failure("release", "release")
        self._held -= count
        self._counts["released"] += count
        return count

    # ---- the rest --------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        with self._calling:
            self._check_open()
            return {
                "sent": self._counts["sent"],
                "received": self._counts["received"],
                "released": self._counts["released"],
                "wakes": self._counts["wakes"],
                "in_flight": self.in_flight,
                "armed": self._event_fd >= 0 and not _readable(self._event_fd),
                "stalled": False,
            }

    def bind_calls(self, domain: BackendDomain, cq_depth: int) -> PortCalls:
        return {
            "send": self.send,
            "forward": self.forward,
            "recv": self.recv,
            "send_one": self.send_one,
            "recv_one": self.recv_one,
            "release": self.release,
            "release_later": self.release_later,
            "set_parked": self.set_parked,
        }


def _gone(op: str) -> DeviceGone:
    return DeviceGone(
        errno.ENODEV, "the device was reset; what was queued on it is lost: close it, open it again", op=op
    )


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _by_queue(events: NDArray[np.void]) -> collections.Counter[int]:
    """How many events of each queue; of directed ones with bits 8 and 9 set."""
    directed = np.where(events["sched"] & np.uint8(3) == _DIRECTED, np.uint16(_DIRECTED << 8), np.uint16(0))
    return collections.Counter((events["queue"] | directed).tolist())


def _deadline(timeout: float | None) -> float:
    if timeout is None:
        return math.inf
    seconds = float(timeout) if isinstance(timeout, int | float | np.number) else _no_number(timeout)
    if math.isnan(seconds):
        raise ConfigError("timeout is not a number of seconds")
    return time.monotonic() + seconds if seconds > 0 else -math.inf


def _no_number(timeout: object) -> float:
    raise TypeError(f"timeout is {timeout!r}: it is a number of seconds, or None")


def _in_range(text: str, value: int, most: int) -> int:
    number = operator.index(value)
    if not 0 <= number <= most:
        raise ConfigError(text)
    return number


def _one_dimension(name: str, events: NDArray[np.void]) -> None:
    check_events(name, events)
    if events.ndim != 1:
        raise ConfigError("a batch is an array of one dimension, of pydlb.EVENT_DTYPE; pydlb.make_events makes one")


def _writable(out: NDArray[np.void]) -> NDArray[np.void]:
    _one_dimension("out", out)
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ConfigError("out must be a writable, contiguous array of pydlb.EVENT_DTYPE")
    return out


def _readable_copy(events: NDArray[np.void]) -> NDArray[np.void]:
    """A copy: libdlb writes commands into what it sends."""
    _one_dimension("events", events)
    if not events.flags.c_contiguous:
        raise ConfigError("events must be a contiguous array of pydlb.EVENT_DTYPE: numpy.ascontiguousarray makes one")
    return events.copy()
