"""Devices and scheduling domains."""

from __future__ import annotations

import operator
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Final, Literal, Self

from ._backend import open_backend, open_in_turn
from .errors import ConfigError, DLBError, closed
from .port import DirPort, DirQueue, LDBPort, LDBQueue, Port
from .types import DomainStats, Resources, Sched

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType

    from ._backend import BackendDevice, BackendDomain, BackendPort

__all__ = ["Device", "Domain", "open"]

_UINT32: Final = 0xFFFFFFFF
_VERSIONS: Final = {2: "2.0", 3: "2.5"}


def _check_amounts(**amounts: int) -> None:
    for name, amount in amounts.items():
        try:
            number = operator.index(amount)
        except TypeError:
            raise ConfigError(f"{name} is {amount!r}: it must be a whole number") from None
        if not 0 <= number <= _UINT32:
            raise ConfigError(f"{name} is {amount}: it cannot be negative or exceed 32 bits")


class _Owner:
    """What devices and domains have in common: a native handle, and children that are closed first."""

    def __init__(self, handle: BackendDevice | BackendDomain) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._children: weakref.WeakSet[Domain | Port] = weakref.WeakSet()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._handle.closed

    def _adopt(self, child: Domain | Port) -> None:
        """Take over a new child; not if another thread has closed this in the meantime."""
        with self._lock:
            if not self.closed:
                self._children.add(child)
                return
        child.close()
        raise closed(type(self).__name__.lower())

    def close(self) -> None:
        """Close it, and before it all that was made from it. May be called twice, and from any thread.

        The backend keeps it until its last child is closed.
        """
        with self._lock:
            self._handle.close()
            children = list(self._children)
        for child in children:
            child.close()

    def __bool__(self) -> bool:
        """Whether it is open."""
        return not self.closed

    def __enter__(self) -> Self:
        """The object itself, which must be open."""
        if self.closed:
            raise closed(type(self).__name__.lower())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    # What it calls is bound here: at the end of the program it may be called when this module is empty already.
    def __del__(
        self, _warn: Callable[..., None] = warnings.warn, _is_finalizing: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        """Warn about an open object that nobody holds any more, then close it."""
        handle = getattr(self, "_handle", None)
        if handle is not None and not handle.closed:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            if not _is_finalizing():  # the backend's is let go with this object, and so are the children's
                self.close()


class Device(_Owner):
    """A DLB, or the software in its place: something to create scheduling domains on. Made by :func:`open`.

    Attributes:
        backend: What does the work: ``"software"``, or the device's path.
        fallback_reason: Why it is not the hardware, where that was left open; None where the backend was asked for.

    **Synchronization**: any thread.

    **Resource handling**: a context manager; closing it closes its domains first.
    """

    def __init__(self, native: BackendDevice, backend: str, fallback_reason: str | None) -> None:
        super().__init__(native)
        self._native = native
        self.backend: Final = backend
        self.fallback_reason: Final = fallback_reason

    @property
    def is_software(self) -> bool:
        """Whether there is no device behind it."""
        return self.backend == "software"

    @property
    def version(self) -> str:
        """The version of the device whose interface this is: "2.0" or "2.5". The software backend is a 2.5."""
        return _VERSIONS[self._native.version]

    def resources(self, *, available: bool = True) -> Resources:
        """What the device has left, or what it has in all (``available=False``)."""
        total, left = self._native.resources()
        return Resources.of(left if available else total)

    def create_domain(
        self,
        *,
        ldb_queues: int = 4,
        ldb_ports: int = 16,
        dir_ports: int = 16,
        credits: int = 2048,
        history_entries: int = 1024,
        atomic_inflights: int = 1024,
        sequence_slots: tuple[int, int] = (4, 0),
        shared: bool = False,
        class_ports: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> Domain:
        """Create a scheduling domain. It takes what it is given from the device until it is closed.

        Args:
            ldb_queues: Load-balanced queues.
            ldb_ports: Load-balanced ports.
            dir_ports: Pairs of a directed port and a directed queue.
            credits: How many events may wait in the domain's queues at a time.
            history_entries: How many received events its load-balanced ports may hold, all together.
            atomic_inflights: For atomic queues, events; shared out when they are created.
            sequence_slots: For ordered queues, slots of 64 sequence numbers, in two groups.
            shared: Its ports can be used by other processes, see :class:`pydlb.SharedPort`.
            class_ports: Devices only: further load-balanced ports, of the classes of service 0 to 3.

        Raises:
            ConfigError: An amount is not a number of things; or `shared` or `class_ports` where the backend has no such
                thing.
            ResourceExhausted: The device has less left.
        """
        if len(sequence_slots) != 2:
            raise ConfigError(f"sequence_slots is {sequence_slots!r}: it is a pair, one amount for each group")
        if len(class_ports) != 4:
            raise ConfigError(f"class_ports is {class_ports!r}: it is four amounts, one for each class of service")
        _check_amounts(
            ldb_queues=ldb_queues,
            ldb_ports=ldb_ports,
            dir_ports=dir_ports,
            credits=credits,
            history_entries=history_entries,
            atomic_inflights=atomic_inflights,
            **{f"sequence_slots[{i}]": slots for i, slots in enumerate(sequence_slots)},
            **{f"class_ports[{i}]": ports for i, ports in enumerate(class_ports)},
        )
        native = self._native.create_domain(
            ldb_queues=ldb_queues,
            ldb_ports=ldb_ports,
            dir_ports=dir_ports,
            credits=credits,
            history_entries=history_entries,
            atomic_inflights=atomic_inflights,
            sequence_slots=(sequence_slots[0], sequence_slots[1]),
            shared=shared,
            class_ports=class_ports,
        )
        domain = Domain(self, native)
        self._adopt(domain)
        return domain

    def __repr__(self) -> str:
        """Backend, or that it is closed."""
        return f"<pydlb.Device {'closed' if self.closed else self.backend}>"


class Domain(_Owner):
    """A scheduling domain: queues, ports and the credits that they share. Made by :meth:`Device.create_domain`.

    Attributes:
        device: The device that it was created on.

    **Synchronization**: any thread.

    **Resource handling**: a context manager; closing it closes its ports first, and discards what is queued.
    """

    def __init__(self, device: Device, native: BackendDomain) -> None:
        super().__init__(native)
        self._native = native
        self.device: Final = device

    @property
    def id(self) -> int:
        """The domain's number on its device."""
        return self._native.id

    def create_ldb_queue(
        self,
        *,
        sequence_numbers: int = 0,
        inflights: int = 0,
        atomic_inflights: int = 256,
        sharing: Literal["pull", "even"] = "pull",
        grace: float = 200e-6,
    ) -> LDBQueue:
        """Create a load-balanced queue.

        Args:
            sequence_numbers: 0 for a queue that schedules unordered and atomic; 64, 128, 256, 512 or 1024 (a higher
                power of two with ``limits="large"``) for one that schedules ordered and atomic, with at most so many
                events in flight.
            inflights: How many of its events may be held by ports at a time; 0 for no limit but the ports' own.
            atomic_inflights: Of the domain's; 0 for a queue that does not schedule atomic.
            sharing: ``"pull"`` gives each port what it asks for, for throughput. ``"even"`` gives it only its share:
                what levels the events in flight over the ports, for work that is held long, such as connections.
            grace: Seconds that work may wait for a busy port while an idle one could take it. Where the queue is shared
                evenly, time in which the idle one has no processor either does not count.

        Raises:
            ConfigError: An argument is out of range.
            ResourceExhausted: The domain has not enough left.
        """
        _check_amounts(sequence_numbers=sequence_numbers, inflights=inflights, atomic_inflights=atomic_inflights)
        if not isinstance(sharing, str) or sharing not in ("pull", "even"):
            raise ConfigError(f"sharing is {sharing!r}: it is 'pull' or 'even'")
        if not 0 < grace <= 3600:
            raise ConfigError(f"grace is {grace}: it is a time in seconds, more than 0 and at most 3600")
        number = self._native.create_ldb_queue(
            sequence_numbers=sequence_numbers,
            inflights=inflights,
            atomic_inflights=atomic_inflights,
            even=sharing == "even",
            grace_ns=max(1, round(grace * 1e9)),
        )
        return LDBQueue(self, self._native, number, Sched.ORDERED if sequence_numbers else Sched.UNORDERED)

    def create_dir_queue(self, port: DirPort | None = None) -> DirQueue:
        """Create a directed queue.

        Args:
            port: A directed port without a queue, to be fed by this one; None for a queue whose port is created later.

        Raises:
            ConfigError: The port has a queue already, or is no directed port of this domain.
            ResourceExhausted: The domain has no pair left.
        """
        if port is not None and (not isinstance(port, DirPort) or port.domain is not self):
            raise ConfigError(f"port is {port!r}: it must be a directed port of this domain")
        number = self._native.create_dir_queue(None if port is None else port.id)
        return DirQueue(self, self._native, number, Sched.DIRECTED)

    def create_ldb_port(
        self,
        *,
        cq_depth: int = 32,
        history_entries: int | None = None,
        release: Literal["explicit", "on_recv"] = "explicit",
        prefetch: int = 1,
        class_of_service: int | None = None,
        watch: float = 0,
    ) -> LDBPort:
        """Create a load-balanced port. Link it to queues next.

        Args:
            cq_depth: The most events that one receive returns: a power of two, 1 to 1024.
            history_entries: How many events it may hold at a time; None for twice `cq_depth`.
            release: ``"explicit"``, or ``"on_recv"``: each receive first releases what the one before returned.
            prefetch: Software, with ``release="on_recv"``: `recv_one` takes ahead the port's share of what waits, up to
                so many events, and the next calls return these. They count as received and are released together; a
                more urgent event that comes then waits for them, and closing the port drops those not yet received.
                Devices always fill consumer queues ahead, by `cq_depth`.
            class_of_service: Devices only: 0 to 3 for one of that class's ports; None for any that is left.
            watch: Seconds that a wait watches the consumer queue's memory (UMWAIT) before it sleeps until the device's
                interrupt: sooner awake, at the price of a processor. Ignored where there is no device, or the processor
                cannot.

        Raises:
            ConfigError: An argument is out of range.
            ResourceExhausted: The domain has not enough left.
        """
        if history_entries is not None:
            _check_amounts(history_entries=history_entries)
            if history_entries == 0:
                raise ConfigError("history_entries is 0: the port must be able to hold at least 1 event")
        if class_of_service not in (None, 0, 1, 2, 3):
            raise ConfigError(f"class_of_service is {class_of_service!r}: it is 0 to 3, or None for any")
        native = self._create_port(
            directed=False,
            cq_depth=cq_depth,
            entries=history_entries,
            release=release,
            prefetch=prefetch,
            service_class=0 if class_of_service is None else class_of_service + 1,
            watch=watch,
        )
        port = LDBPort(self, native, self._native, cq_depth, releases_on_recv=release == "on_recv")
        self._adopt(port)
        return port

    def create_dir_port(self, queue: DirQueue | None = None, *, cq_depth: int = 32, watch: float = 0) -> DirPort:
        """Create a directed port.

        Args:
            queue: A directed queue without a port, to be fed by; None for a port that only sends, until a queue is
                created for it.
            cq_depth: The most events that one receive returns: a power of two, 1 to 1024.
            watch: As for load-balanced ports.

        Raises:
            ConfigError: The queue has a port already, or is no directed queue of this domain.
            ResourceExhausted: The domain has no pair left.
        """
        if queue is not None and (not isinstance(queue, DirQueue) or queue.domain is not self):
            raise ConfigError(f"queue is {queue!r}: it must be a directed queue of this domain")
        number = None if queue is None else queue.id
        native = self._create_port(directed=True, cq_depth=cq_depth, queue=number, watch=watch)
        port = DirPort(self, native, self._native, cq_depth)
        self._adopt(port)
        return port

    def _create_port(
        self,
        *,
        directed: bool,
        cq_depth: int,
        entries: int | None = None,
        release: str = "explicit",
        prefetch: int = 1,
        queue: int | None = None,
        service_class: int = 0,
        watch: float = 0,
    ) -> BackendPort:
        _check_amounts(cq_depth=cq_depth)
        if not 0 <= watch <= 3600:
            raise ConfigError(f"watch is {watch}: it is a time in seconds, 0 or more and at most 3600")
        if not isinstance(release, str) or release not in ("explicit", "on_recv"):
            raise ConfigError(f"release is {release!r}: it is 'explicit' or 'on_recv'")
        _check_amounts(prefetch=prefetch)
        if prefetch > 1 and (release != "on_recv" or prefetch > cq_depth):
            raise ConfigError(
                f"prefetch is {prefetch}: it is for ports with release='on_recv', at most their cq_depth, {cq_depth}"
            )
        return self._native.create_port(
            directed=directed,
            cq_depth=cq_depth,
            history_entries=entries or 0,
            release_on_recv=release == "on_recv",
            queue=queue,
            service_class=service_class,
            watch_ns=round(watch * 1e9),
            prefetch=prefetch,
        )

    def start(self) -> None:
        """Let events be sent.

        Raises:
            ConfigError: The domain is started already.
        """
        self._native.start()

    def stop(self) -> None:
        """Refuse events until the next start. What is queued can be received.

        Raises:
            ConfigError: The domain is not started.
        """
        self._native.stop()

    def stats(self) -> DomainStats:
        """What the domain has done until now."""
        return DomainStats(**self._native.stats())

    def __repr__(self) -> str:
        """Number, or that it is closed."""
        return f"<pydlb.Domain {'closed' if self.closed else self.id}>"


def open(device: str | int | os.PathLike[str] = "auto", *, limits: Literal["hardware", "large"] = "hardware") -> Device:
    """Open a DLB device, or the software in its place.

    Args:
        device: ``"auto"`` for hardware where it can be used, else software; ``"software"``; ``"device"`` for the first
            device that can be used; a path such as ``"/dev/dlb0"``, or its number. The environment variable
            ``PYDLB_BACKEND`` takes the place of ``"auto"``. ``"libdlb"`` or ``"libdlb:/path/of/libdlb.so"`` stands for
            the vendor's library. Several with commas between them, ``"auto"`` apart, are tried in turn:
            ``"3,device,software"``.
        limits: For software: ``"hardware"`` has the numbers of a DLB 2.5, ``"large"`` more of everything.

    Returns:
        The device. Its `backend` and `fallback_reason` say what was chosen and why.

    Raises:
        ConfigError: An argument means nothing.
        DeviceNotFound: There is no such device.
        DeviceError: The path leads to something else.
        BackendUnavailable: What was asked for cannot be had here; its `reasons` say why.
    """
    if not isinstance(limits, str) or limits not in ("hardware", "large"):
        raise ConfigError(f"limits is {limits!r}: it is 'hardware' or 'large'")
    return Device(*open_backend(device, large=limits == "large"))


def open_with(device: str | int | os.PathLike[str], build: Callable[[Device], None]) -> tuple[Device, str | None]:
    """Open the first device of a name on which `build` succeeds, software with its larger limits.

    Args:
        device: As in :func:`open`.
        build: Makes what is wanted on the device; it is closed if that raises.

    Returns:
        The device, and why it is no better one (None if it was asked for).

    Raises:
        DLBError: As :func:`open`, or what `build` raised on the only device that there is.
    """
    reasons: list[str] = []
    failure: DLBError | None = None
    for opened in open_in_turn(device, large=True):
        candidate = Device(*opened)
        try:
            build(candidate)
        except DLBError as error:
            candidate.close()
            reasons.append(f"{candidate.backend}: {error}")
            failure = error
        except BaseException:
            candidate.close()
            raise
        else:
            return candidate, "; ".join(reasons) or candidate.fallback_reason
    assert failure is not None
    raise failure
