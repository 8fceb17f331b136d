"""What carries connections from the accepting thread to the workers: one scheduling domain, made for a balancer."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from pydlb.device import open_with as open_device_with
from pydlb.errors import BackendUnavailable, ClosedError
from pydlb.steering import Queues

if TYPE_CHECKING:
    import os

    from pydlb.device import Device
    from pydlb.port import LDBPort

__all__ = ["Engine", "Needs", "open_engine"]

# Open connections over all workers; each worker's port gets an equal part of them.
_HISTORY: Final = 1 << 20
# An event names its queue by 8 bits; two queues are shared by all workers.
_OWN_QUEUES: Final = 253


class PortShape(TypedDict):
    """How a worker's port is made."""

    cq_depth: int
    history_entries: int
    release: Literal["explicit", "on_recv"]


# The workers' ports, on a device and in software.
_DEVICE_PORT: Final[PortShape] = {"cq_depth": 8, "history_entries": 1, "release": "on_recv"}
_SOFTWARE_PORT: Final[PortShape] = {"cq_depth": 64, "history_entries": _HISTORY, "release": "explicit"}


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """What a balancer asks of its engine.

    Attributes:
        max_workers: Ports.
        max_waiting: Accepted connections that may wait for a worker.
        grace: Seconds that a connection waits for the worker whose turn it is.
        picks: Whether workers are picked, and so need queues of their own.
        shared: Whether other processes are to use its ports.
    """

    max_workers: int
    max_waiting: int
    grace: float
    picks: bool
    shared: bool = False


class Engine:
    """A domain on a device or in software, with the acceptor's port, queues, and ports for workers.

    Args:
        device: Where to make it. It is the engine's from now on, unless this raises.
        needs: What for.

    Attributes:
        device: The device.
        domain: The domain, started.
        queues: Its load-balanced queues.
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
        if needs.shared and not device.is_software:
            reason = "worker processes share a domain's memory, and a device's ports are mapped by one process"
            raise BackendUnavailable(f"{reason}: use 'software', or threads", {device.backend: reason})
        self.device: Final = device
        self._lock = threading.Lock()
        self._rewakes = 0
        software = device.is_software
        ports = needs.max_workers if software else min(needs.max_workers, device.resources().ldb_ports)
        # Software holds each connection until it is closed, and levels what is held. A device has no room for that:
        # a port is given one connection, and the next one when its worker comes for it.
        self._shape = _SOFTWARE_PORT | {"history_entries": _HISTORY // needs.max_workers} if software else _DEVICE_PORT
        own = min(ports, _OWN_QUEUES) if software else ports if needs.picks else 0
        self.domain: Final = device.create_domain(
            ldb_queues=(2 if software else 1) + own,
            ldb_ports=ports,
            dir_ports=1,
            # What was sent to a worker that did not come holds its credit until it does.
            credits=2 * needs.max_waiting if software else needs.max_waiting,
            history_entries=_HISTORY if software else ports,
            atomic_inflights=0,
            sequence_slots=(0, 0),
            shared=needs.shared,
        )
        self.queues: Final = (
            Queues.in_software(self.domain, needs.grace) if software else Queues.on_device(self.domain, own)
        )
        self.sender: Final = self.domain.create_dir_port()
        # A device makes no ports once it is started. Those that it made before one fails are closed with it.
        self._spare: list[LDBPort] = []
        self._spare.extend(self.domain.create_ldb_port(**self._shape) for _ in range(0 if software else ports))
        self.domain.start()

    def take_port(self) -> LDBPort:
        """A port for one worker.

        Raises:
            ResourceExhausted: There is none left.
        """
        with self._lock:
            return self._spare.pop() if self._spare else self.domain.create_ldb_port(**self._shape)

    def rewakes(self) -> int:
        """Times that a second worker was woken for what a first one did not come for."""
        with contextlib.suppress(ClosedError):
            self._rewakes = max(self._rewakes, self.domain.stats().rewakes)
        return self._rewakes

    def close(self) -> None:
        """Close the device, and all on it."""
        self.rewakes()
        self.device.close()


def open_engine(backend: str | int | os.PathLike[str], needs: Needs) -> tuple[Engine, str | None]:
    """An engine on the first device of a name that has what is needed.

    Returns:
        The engine, and why it is no better one (None if it was asked for).

    Raises:
        DLBError: As :func:`pydlb.open`, or what went wrong on the only device that there is.
    """
    engines: list[Engine] = []
    _, reason = open_device_with(backend, lambda device: engines.append(Engine(device, needs)))
    return engines[-1], reason
