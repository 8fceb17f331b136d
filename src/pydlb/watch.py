"""Waiting for any of several descriptors, until somebody ends that."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Final

from .errors import closed

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Watch"]


class Watch:
    """A set of descriptors that is readable when one of them is.

    Args:
        descriptors: What to watch. They belong to others.

    **Synchronization**: one thread waits at a time; `close` may be called from any.
    """

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._set: Final = select.epoll()
        self._end = -1
        self._lock = threading.Lock()
        self._waits = False
        self._over = False
        try:
            self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            for descriptor in (self._end, *descriptors):
                self._set.register(descriptor, select.EPOLLIN)
        except BaseException:
            self._give_back()
            raise

    def fileno(self) -> int:
        """Readable when one of them is, or when it is closed and somebody waits."""
        if self._over:
            raise closed("worker")
        return self._set.fileno()

    def wait(self, timeout: float | None) -> None:
        """Wait until one is readable, it is closed, or `timeout` seconds have passed; None waits for ever.

        Raises:
            ClosedError: It was closed, also while it waited.
        """
        self._begin()
        try:
            self._set.poll(-1 if timeout is None else timeout, 1)
        finally:
            self._finish()

    def _begin(self) -> None:
        with self._lock:
            if self._over:
                raise closed("worker")
            self._waits = True

    def _finish(self) -> None:
        with self._lock:
            self._waits = False
            if self._over:
                self._give_back()
                raise closed("worker")

    def close(self) -> None:
        """End a wait, and give the descriptors back. May be called twice."""
        with self._lock:
            if self._over:
                return
            self._over = True
            if self._waits:  # who waits gives them back: what is closed wakes nobody
                os.eventfd_write(self._end, 1)
            else:
                self._give_back()

    def _give_back(self) -> None:
        self._set.close()
        if self._end >= 0:
            os.close(self._end)
            self._end = -1
