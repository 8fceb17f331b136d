"""Intel's Dynamic Load Balancer for Python: queues and arbiters between threads, in hardware or in software.

Open a device, create a scheduling domain on it, and in it queues and ports; or let a balancer spread the connections
of a server over its workers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._native import VERSION as __version__
from .device import Device, Domain, open
from .errors import (
    BackendUnavailable,
    BusyError,
    ClosedError,
    ConfigError,
    DeviceError,
    DeviceGone,
    DeviceNotFound,
    DevicePermission,
    DLBError,
    ResourceExhausted,
    WorkerDied,
)
from .port import DirPort, DirQueue, LDBPort, LDBQueue, Port, Queue
from .status import DriverStatus
from .types import DomainStats, PortStats, Resources, Sched, make_events, priority_of, sched_of

if TYPE_CHECKING:
    import numpy as np

    from .balancer import Balancer
    from .limits import Limits
    from .server import Server, serve, start_server
    from .settings import HardwareSettings, Register, SequenceGroup
    from .sharing import SharedPort, Sharing
    from .stats import BalancerStats, ListenerStats, WorkerStats
    from .workers import Connection, Ticket, Worker

    EVENT_DTYPE: np.dtype[np.void]

__all__ = [
    "EVENT_DTYPE",
    "BackendUnavailable",
    "Balancer",
    "BalancerStats",
    "BusyError",
    "ClosedError",
    "ConfigError",
    "Connection",
    "DLBError",
    "Device",
    "DeviceError",
    "DeviceGone",
    "DeviceNotFound",
    "DevicePermission",
    "DirPort",
    "DirQueue",
    "Domain",
    "DomainStats",
    "DriverStatus",
    "HardwareSettings",
    "LDBPort",
    "LDBQueue",
    "Limits",
    "ListenerStats",
    "Port",
    "PortStats",
    "Queue",
    "Register",
    "ResourceExhausted",
    "Resources",
    "Sched",
    "SequenceGroup",
    "Server",
    "SharedPort",
    "Sharing",
    "Ticket",
    "Worker",
    "WorkerDied",
    "WorkerStats",
    "__version__",
    "make_events",
    "open",
    "priority_of",
    "sched_of",
    "serve",
    "start_server",
]

# Names that bring a large library with them are loaded when they are first used.
_LAZY = {
    "Balancer": "balancer",
    "BalancerStats": "stats",
    "Connection": "workers",
    "HardwareSettings": "settings",
    "Limits": "limits",
    "ListenerStats": "stats",
    "Register": "settings",
    "SequenceGroup": "settings",
    "Server": "server",
    "SharedPort": "sharing",
    "Sharing": "sharing",
    "Ticket": "workers",
    "Worker": "workers",
    "WorkerStats": "stats",
    "serve": "server",
    "start_server": "server",
}
# Modules that are loaded when they are first named.
_MODULES = ("envoy", "policies")


def __getattr__(name: str) -> Any:
    if name == "EVENT_DTYPE":
        from .types import event_dtype

        value: Any = event_dtype()
    elif name in _LAZY:
        value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
