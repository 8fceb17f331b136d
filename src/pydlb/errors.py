"""What pydlb raises: one small tree under :class:`DLBError`.

Every message says what was tried, what was found and what to do.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Final

from .status import DriverStatus

__all__ = [
    "BackendUnavailable",
    "BusyError",
    "ClosedError",
    "ConfigError",
    "DLBError",
    "DeviceError",
    "DeviceGone",
    "DeviceNotFound",
    "DevicePermission",
    "ResourceExhausted",
    "WorkerDied",
]


class DLBError(Exception):
    """The root of all that pydlb raises."""


class DeviceError(DLBError, OSError):
    """The device, its driver or the software in its place refused an operation.

    Attributes:
        errno: The error number.
        op: The operation that failed.
        status: The driver's status, `DriverStatus.SUCCESS` where it gave none.
    """

    def __init__(self, errno: int, text: str, *, op: str = "", status: int = 0) -> None:
        super().__init__(errno, text)
        self.op: Final = op
        self.status: Final = DriverStatus(status)

    def __str__(self) -> str:
        """The message, without the number: it is in `errno`."""
        return f"{self.op}: {self.strerror}" if self.op else str(self.strerror)


class DeviceNotFound(DeviceError, FileNotFoundError):
    """There is no such device."""


class DevicePermission(DeviceError, PermissionError):
    """The device is there, but this user may not open it."""


class ResourceExhausted(DeviceError):
    """The device or the domain has not enough of something left."""


class DeviceGone(DeviceError):
    """The device was reset or went away; what was queued on it is lost."""


class ClosedError(DLBError, ValueError):
    """The object was closed, or belongs to the process that forked this one."""


class BusyError(DLBError, RuntimeError):
    """Two threads used one port at a time."""


class ConfigError(DLBError, ValueError):
    """An argument that cannot be right, found before anything was changed."""


class WorkerDied(DLBError, RuntimeError):
    """A worker process ended before it was ready."""


class BackendUnavailable(DLBError):
    """No backend of the kind asked for can be had.

    Attributes:
        reasons: Why not, one sentence for each backend that was tried.
    """

    def __init__(self, text: str, reasons: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.reasons: Final = reasons or {}


_GONE: Final = "the device was reset or went away: close it and open it again"

_CLASSES: Final = {
    _errno.ENOENT: DeviceNotFound,
    _errno.EACCES: DevicePermission,
    _errno.EPERM: DevicePermission,
    _errno.ENOSPC: ResourceExhausted,
    _errno.ENOMEM: ResourceExhausted,
    _errno.EMFILE: ResourceExhausted,
    _errno.ENFILE: ResourceExhausted,
}


def from_core(errno: int, status: int, op: str, text: str) -> DLBError:
    """The exception for a failure that the core reports."""
    if errno == _errno.EINVAL and status == 0:
        return ConfigError(f"{op}: {text}")
    if errno == _errno.ENODEV:
        return DeviceGone(errno, text or _GONE, op=op, status=status)
    if DriverStatus(status).means_exhausted:
        return ResourceExhausted(errno, text, op=op, status=status)
    return _CLASSES.get(errno, DeviceError)(errno, text or os.strerror(errno), op=op, status=status)


def closed(what: str) -> ClosedError:
    """The exception for a use after close, or in a forked child."""
    return ClosedError(f"this {what} is closed, or was opened before a fork: open another one in this process")


def busy() -> BusyError:
    """The exception for two threads on one port."""
    return BusyError("another thread is using this port: a port has one user thread at a time, so give each its own")


def config(text: str) -> ConfigError:
    """The exception for an argument out of range."""
    return ConfigError(text)


def refused(why: int, index: int, queue: int, sched: int) -> DLBError:
    """The exception for an event that send or forward did not take.

    Args:
        why: What pdlb.h calls enum pdlb_refusal, from 2 on.
        index: Which of the events; those before it were taken.
        queue: The queue that it names.
        sched: Its scheduling type.
    """
    kind = "directed" if sched == _DIRECTED else "load-balanced"
    match why:
        case 2:
            text = "the domain is not started: call Domain.start() first"
        case 3:
            text = "the port is disabled: call Port.enable() first"
        case 5:
            text = f"its queue is {queue}, and the domain has no {kind} queue of that number: send to one it created"
        case 6:
            text = (
                f"its sched is {sched} ({_SCHEDS[sched]}), which queue {queue} does not do: ordered needs a queue "
                "created with sequence_numbers, unordered one without, atomic one with atomic_inflights"
            )
        case 7:
            text = "the port holds no event for it to take the place of: forward what was received and not released"
        case _:
            return DeviceGone(_errno.ENODEV, _GONE, op="send")
    before = " (those before it were)" if index else ""
    return ConfigError(f"event {index} was not taken{before}: {text}")


_SCHEDS: Final = ("atomic", "unordered", "ordered", "directed")
_DIRECTED: Final = 3
