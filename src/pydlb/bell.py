"""A descriptor to wait on that stays while the port behind it is replaced."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Final

from .errors import closed

if TYPE_CHECKING:
    from .port import Port

__all__ = ["Bell"]


class Bell:
    """An epoll set of two: the port's descriptor, and one of its own that is rung when the port is replaced.

    Args:
        port: The port that is received from.

    **Synchronization**: under its worker's lock.
    """

    def __init__(self, port: Port) -> None:
        self._set: Final = select.epoll()
        self._event = -1
        try:
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._set.register(self._event, select.EPOLLIN)
            self._port = port.fileno()
            self._set.register(self._port, select.EPOLLIN)
        except BaseException:
            self.close()
            raise
        self._rung = False

    def fileno(self) -> int:
        """Readable when there may be something to receive."""
        if self._set.closed:
            raise closed("worker")
        return self._set.fileno()

    def mute(self) -> None:
        """The port is dead: its descriptor is readable for ever."""
        if self._port >= 0:
            with contextlib.suppress(OSError):
                self._set.unregister(self._port)
            self._port = -1

    def move(self, port: Port) -> None:
        """Wait on another port. Whoever waits looks there now."""
        self.mute()
        self._port = port.fileno()
        self._set.register(self._port, select.EPOLLIN)
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._event, 1)

    def answer(self) -> None:
        """Somebody looks."""
        if self._rung:
            self._rung = False
            os.eventfd_read(self._event)

    def close(self) -> None:
        """Give the descriptors back. May be called twice."""
        self._set.close()
        if self._event >= 0:
            os.close(self._event)
            self._event = -1
