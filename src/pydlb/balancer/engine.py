"""What carries connections from the accepting thread to the workers: one scheduling domain, made for a balancer."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from pydlb.errors import BackendUnavailable, ClosedError, ResourceExhausted
from pydlb.steering import Queues
from pydlb.workers import Station

if TYPE_CHECKING:
    from pydlb.device import Device
    from pydlb.port import DirPort, DirQueue

__all__ = ["Engine", "Needs"]

# Open connections over all workers; each worker's port gets an equal part of them.
_HISTORY: Final = 1 << 20
# An event names its queue by 8 bits; two queues are shared by all workers.
_OWN_QUEUES: Final = 253
# A balancer takes no more than this part of a device's credits: others want some too. What has no credit waits in the
# backlog.
_CREDITS_PART: Final = 8

# Workers that send through ports of their own. An event names a directed queue by 8 bits, and ports come in pairs with
# queues.
_SOFTWARE_LANES: Final = 255

_SOFTWARE_DEPTH: Final = 64
_DIRECTED_DEPTH: Final = 8


class PortShape(TypedDict):
    """How a worker's load-balanced port is made."""

    cq_depth: int
    history_entries: int
    release: Literal["explicit", "on_recv"]


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """What a balancer asks of its engine.

    Attributes:
        workers: Ports that there must be.
        max_workers: Ports that there may be use for.
        max_waiting: Accepted connections that may wait for a worker.
        grace: Seconds that a connection waits for the worker whose turn it is.
        picks: Whether workers are picked, and so need queues of their own.
        shared: Whether other processes are to use its ports.
        queue_depth: Of load-balanced ports' consumer queues; None for what suits.
        release: When a connection leaves a port's history.
        lanes: Whether workers accept by themselves, and so need ports to send by.
    """

    workers: int
    max_workers: int
    max_waiting: int
    grace: float
    picks: bool
    queue_depth: int | None = None
    release: Literal["close", "receive"] = "close"
    shared: bool = False
    lanes: bool = False


class Engine:
    """A domain on a device or in software, with the acceptor's port, and stations for workers.

    On a device, workers that are picked have a directed port each, fed by a directed queue of their own; those that
    share have load-balanced ports. In software all have load-balanced ports, linked to shared queues and to one of
    their own: every policy finds what it needs.

    Args:
        device: Where to make it. It is the engine's from now on, unless this raises.
        needs: What for.

    Attributes:
        device: The device.
        domain: The domain, started.
        directed: Whether workers have directed ports.
        prelinks: Whether load-balanced ports are linked from the beginning, and enabled while workers may be given
            something. A device changes links only when nothing is out of the queue, which connections that are held
            until they are closed may be for ever.
        queues: Its load-balanced queues; None if there are none.
        sender: The port through which the acceptor sends.

    Raises:
        BackendUnavailable: The backend cannot be driven by the accepting thread.
        DLBError: The device has less than is needed.

    **Synchronization**: any thread.
    """

    def __init__(self, device: Device, needs: Needs) -> None:
        if device.backend == "libdlb":
            reason = "the balancer's accepting thread is native, and drives devices itself"
            raise BackendUnavailable(f"{reason}: use 'device' in place of 'libdlb'", {"libdlb": reason})
        self.device: Final = device
        self.directed: Final = not device.is_software and needs.picks
        self.prelinks: Final = not device.is_software and not needs.picks
        self.queues: Queues | None
        self._lock = threading.Lock()
        self._rewakes = 0
        self._history: int | None = None
        self._spare: list[Station] = []
        self._free: list[DirQueue] = []
        self._lanes = needs.lanes
        self._stays = needs.shared and not device.is_software
        self._directed_depth = needs.queue_depth or _DIRECTED_DEPTH
        self._senders: list[DirPort] = []
        self._shape: PortShape = {"cq_depth": _SOFTWARE_DEPTH, "history_entries": 1, "release": "explicit"}
        if device.is_software:
            self._shape |= _software_shape(needs)
            own = min(needs.max_workers, _OWN_QUEUES)
            self.domain = device.create_domain(
                ldb_queues=2 + own,
                ldb_ports=needs.max_workers,
                dir_ports=1 + min(needs.max_workers, _SOFTWARE_LANES) * needs.lanes,
                # What was sent to a worker that did not come holds its credit until it does.
                credits=2 * needs.max_waiting,
                history_entries=_HISTORY,
                atomic_inflights=0,
                sequence_slots=(0, 0),
                shared=needs.shared,
            )
            self.queues = Queues.in_software(self.domain, needs.grace)
            self.sender = self.domain.create_dir_port()
        else:
            ports = _ports(device, needs, directed=self.directed)
            self._shape |= self._device_shape(ports, needs)
            self.domain = device.create_domain(
                ldb_queues=0 if self.directed else 1,
                ldb_ports=0 if self.directed else ports,
                dir_ports=1 + ports * (self.directed + needs.lanes),
                credits=_credits(device, needs),
                history_entries=0 if self.directed else ports * self._shape["history_entries"],
                atomic_inflights=0,
                sequence_slots=(0, 0),
                shared=needs.shared,
            )
            self.queues = None if self.directed else Queues.on_device(self.domain, needs.grace)
            self.sender = self.domain.create_dir_port()
            # A device makes no ports once it is started. Those that it made before one fails are closed with it.
            self._spare.extend(self._make() for _ in range(ports))
        self.domain.start()

    def _device_shape(self, ports: int, needs: Needs) -> PortShape:
        """Hold connections until they are closed, as far as history entries go; else as many as a receive returns."""
        total, left = self.device.resources(available=False), self.device.resources()
        share = min(total.history_entries // max(1, total.ldb_ports), left.history_entries // ports)
        if needs.release == "close" and share > 1:
            self._history = share
            # One at a time: what is in a consumer queue waits for that worker.
            return {"cq_depth": needs.queue_depth or 1, "history_entries": share, "release": "explicit"}
        depth = needs.queue_depth or 8
        entries = 2 * depth if needs.queue_depth else 1
        return {"cq_depth": depth, "history_entries": max(1, min(entries, share)), "release": "on_recv"}

    @property
    def shared_queue(self) -> int | None:
        """The id of the queue that all share."""
        return None if self.queues is None else self.queues.shared.id

    def suits(self, *, picks: bool) -> bool:
        """Whether it has what a policy needs that picks workers, or does not."""
        return self.device.is_software or self.directed == picks

    # ---- stations --------------------------------------------------------------------------------------------------

    def take_station(self) -> Station:
        """What one worker needs.

        Raises:
            ResourceExhausted: There is none left.
        """
        with self._lock:
            if self._spare:
                return self._spare.pop()
            try:
                return self._make()
            except ResourceExhausted as error:
                raise self._no_port(error) from error

    def _no_port(self, error: ResourceExhausted) -> ResourceExhausted:
        """What there is to do without."""
        if self.device.is_software:
            return error
        text = (
            f"all ports that {self.device.backend} had for workers are in use ({error}): remove a worker, make another "
            "balancer on another device, which may listen on the same address with reuse_port=True, or use 'software'"
        )
        return ResourceExhausted(error.errno or 0, text, op="add worker")

    def _make(self) -> Station:
        sender = None
        if self._lanes:
            sender = self._senders.pop() if self._senders else self.domain.create_dir_port()
        try:
            return dataclasses.replace(self._make_receiver(), sender=sender)
        except BaseException:
            if sender is not None:
                self._senders.append(sender)
            raise

    def _make_receiver(self) -> Station:
        if not self.directed:
            shared = self.domain.create_ldb_port(**self._shape)
            if self.prelinks:
                assert self.queues is not None
                shared.link(self.queues.shared)
                shared.disable()
            return Station(shared, history=self._history, holds=self.prelinks, stays=self._stays)
        if self._free:
            # The port that was closed rests with its queue. What it did not take is known to be stale.
            queue = self._free.pop()
            return Station(self.domain.create_dir_port(queue, cq_depth=self._directed_depth), queue, stays=self._stays)
        port = self.domain.create_dir_port(cq_depth=self._directed_depth)
        return Station(port, self.domain.create_dir_queue(port), stays=self._stays)

    def give_back(self, station: Station) -> None:
        """The worker has left, and its port is closed, or stays. What it sent by goes to the next one."""
        with self._lock:
            if station.stays and not station.port.closed:
                if station.port.domain is self.domain:
                    self._spare.append(station)
                return
            if station.queue is not None and station.queue.domain is self.domain:
                self._free.append(station.queue)
            if station.sender is not None and station.sender.domain is self.domain:
                self._senders.append(station.sender)

    # ---- how it does -----------------------------------------------------------------------------------------------

    def lost(self) -> int:
        """Events that the device dropped; each took a credit along, for good."""
        try:
            return self.domain.stats().lost
        except ClosedError:
            return 0

    def rewakes(self) -> int:
        """Times that a second worker was woken for what a first one did not come for."""
        with contextlib.suppress(ClosedError):
            self._rewakes = max(self._rewakes, self.domain.stats().rewakes)
        return self._rewakes

    def close(self) -> None:
        """Close the device, and all on it."""
        self.rewakes()
        self.device.close()


def _software_shape(needs: Needs) -> PortShape:
    """Software holds each connection until it is closed, and levels what is held."""
    if needs.release == "receive":
        depth = needs.queue_depth or _SOFTWARE_DEPTH
        return {"cq_depth": depth, "history_entries": 2 * depth, "release": "on_recv"}
    entries = _HISTORY // needs.max_workers
    return {"cq_depth": needs.queue_depth or _SOFTWARE_DEPTH, "history_entries": entries, "release": "explicit"}


def _ports(device: Device, needs: Needs, *, directed: bool) -> int:
    """How many workers there can be on a device."""
    left = device.resources()
    pairs = max(0, left.dir_ports - 1)  # one is the accepting thread's
    if directed:
        ports, kind = (pairs // 2, "pairs of directed") if needs.lanes else (pairs, "directed")
    else:
        ports, kind = left.ldb_ports, "load-balanced"
        if needs.lanes and pairs < ports:
            ports, kind = pairs, "directed"
    if ports < max(1, needs.workers):
        text = f"{needs.workers} workers need as many {kind} ports, and {device.backend} has {ports} left for them"
        raise ResourceExhausted(0, text, op="create domain")
    return min(needs.max_workers, ports)


def _credits(device: Device, needs: Needs) -> int:
    total, left = device.resources(available=False), device.resources()
    share, available = total.ldb_credits, left.ldb_credits
    if total.dir_credits:  # as on DLB 2.0: they are apart, and a domain with directed ports gets as many of each
        share, available = min(share, total.dir_credits), min(available, left.dir_credits)
    if available == 0:
        raise ResourceExhausted(0, f"{device.backend} has no credits left", op="create domain")
    return min(needs.max_waiting, max(1, share // _CREDITS_PART), available)
