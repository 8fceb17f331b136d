"""What a service manager gives and wants to hear: listening sockets, readiness, signs of life."""

from __future__ import annotations

import os
import socket
import time
from typing import Final

__all__ = ["listening_sockets", "notify", "watchdog_interval"]

_FIRST: Final = 3


def listening_sockets() -> list[socket.socket]:
    """The sockets that this process was started with, by the protocol of sd_listen_fds(3). They are taken once."""
    count, owner = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or owner != str(os.getpid()):
        return []
    sockets = [socket.socket(fileno=descriptor) for descriptor in range(_FIRST, _FIRST + int(count))]
    for sock in sockets:
        os.set_inheritable(sock.fileno(), False)
    return sockets


def notify(*lines: str) -> bool:
    """Tell the service manager, by the protocol of sd_notify(3): ``READY=1``, ``STOPPING=1``, ``WATCHDOG=1``.

    Returns:
        Whether there is one and it was told.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True


def reloading() -> None:
    """Tell the service manager that a reload begins; ``READY=1`` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_interval() -> float | None:
    """Seconds after which the service manager wants a sign of life from this process; None if it wants none."""
    microseconds, owner = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or (owner and owner != str(os.getpid())):
        return None
    return int(microseconds) / 1e6
