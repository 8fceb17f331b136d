"""A worker that is a thread, and serves one connection at a time."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Final

from pydlb import _native

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection
    from .worker import Worker

__all__ = ["ThreadWorker"]

logger = logging.getLogger("pydlb")


class ThreadWorker:
    """A thread that calls a function for each connection, one at a time."""

    def __init__(self, worker: Worker, handler: Callable[[Connection], object]) -> None:
        self.worker: Final = worker
        worker.keep_lock()
        self._handler = handler
        self._lock = threading.Lock()
        self._served: socket.socket | None = None
        self._cut = False
        self._thread = threading.Thread(target=self.run, name=worker.name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait_started(self) -> None:
        """There is nothing to wait for."""

    def run(self) -> None:
        """Serve in the calling thread until `stop`."""
        handler, close, give_way = self._handler, self._close, _native.give_way
        for connection in self.worker:
            self._served = connection.socket
            try:
                handler(connection)
            except (Exception, SystemExit):
                logger.exception("%s: the handler failed; its connection is closed", self.worker.name)
                close(connection, True)
            else:
                close(connection, False)
            give_way()

    def _close(self, connection: Connection, aborted: bool) -> None:
        with self._lock:
            self._served = None
            aborted |= self._cut
            self._cut = False
        connection.close(aborted=aborted)

    def begin_drain(self, timeout: float | None) -> None:
        """A function that serves one connection at a time is not asked to hurry."""

    def close_connections(self) -> None:
        """Let the handler see the end of its client's data."""
        self._shut(socket.SHUT_RD)

    def abort(self) -> None:
        """End the connection that is being served, so that a handler that waits for its client returns."""
        self._shut(socket.SHUT_RDWR, cut=True)

    def _shut(self, how: int, *, cut: bool = False) -> None:
        with self._lock:
            if self._served is not None:
                self._cut |= cut
                with contextlib.suppress(OSError):
                    self._served.shutdown(how)

    def stop(self) -> None:
        """Tell the thread to end: it gets no more connections."""
        self.worker.close()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if it is still in a handler."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
