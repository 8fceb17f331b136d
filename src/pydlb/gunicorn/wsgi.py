"""gunicorn's threaded worker for WSGI applications."""

from __future__ import annotations

import selectors
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from .permits import BalancedWorker, Permits

__all__ = ["Worker"]


def _next_turn(_file: object) -> None:
    """What to do when the port is readable: the next turn accepts."""


class _Connection(TConn):  # type: ignore[misc]
    """A connection that tells when it is closed."""

    def __init__(self, permits: Permits, cfg: Any, sock: Any, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self._permits: Permits | None = permits

    def close(self, graceful: bool = False) -> None:
        """Close it, and count it as closed."""
        try:
            super().close(graceful)
        finally:
            permits, self._permits = self._permits, None
            if permits is not None:
                permits.closed()


class Worker(BalancedWorker, ThreadWorker):  # type: ignore[misc]
    """A process with `threads` threads for requests, and as many connections as it is permitted to accept.

    It accepts while it has a free thread, and no more: what waits meanwhile can go to any worker.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._requests = 0
        self._watching = False

    @property
    def _willing(self) -> bool:
        return self._accepting and self._requests < self.cfg.threads and self.nr_conns < self.worker_connections

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept from now on, or no more."""
        self._accepting = enabled

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One turn: new connections come first, then whatever there is to do."""
        self._accept_permitted()
        willing = self._willing
        self._watch(willing)
        self.permits.port.set_parked(willing)
        try:
            super().wait_for_and_dispatch_events(timeout)
        finally:
            self.permits.port.set_parked(False)

    def _accept_permitted(self) -> None:
        try:
            while self._willing and (accepted := self.permits.accept()) is not None:
                client, address, listener = accepted
                self.nr_conns += 1
                self.enqueue_req(_Connection(self.permits, self.cfg, client, address, listener.getsockname()))
        except OSError as error:
            self.log.warning("Cannot accept for the moment: %s", error)

    def _watch(self, wanted: bool) -> None:
        """The port's descriptor may stay readable while it is not asked for more."""
        if wanted == self._watching:
            return
        self._watching = wanted
        if wanted:
            self.poller.register(self.permits.port.fileno(), selectors.EVENT_READ, _next_turn)
        else:
            self.poller.unregister(self.permits.port.fileno())

    def enqueue_req(self, conn: TConn) -> None:
        """Hand a connection with a request to a thread."""
        self._requests += 1
        super().enqueue_req(conn)

    def finish_request(self, conn: TConn, fs: Any) -> None:
        """A thread is free again."""
        self._requests -= 1
        super().finish_request(conn, fs)
