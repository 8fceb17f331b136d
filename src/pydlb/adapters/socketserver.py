"""socketserver and http.server: mix-ins that take connections from a worker in place of a listening socket."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from pydlb.errors import ClosedError

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Collection

    from pydlb.workers import Connection, Ticket, Worker

__all__ = ["BalancedMixIn", "PoolMixIn"]

_POLL: Final = 0.1

# How long a TLS handshake may take, in seconds.
_HANDSHAKE: Final = 60.0


class _Request:
    """A connection that is served."""

    def __init__(self, sock: socket.socket, ticket: Ticket) -> None:
        self.socket = sock
        self.ticket: Final = ticket
        self.failed = False

    def close(self) -> None:
        """Let its handler see the end of the client's data."""
        self._shut(socket.SHUT_RD)

    def abort(self) -> None:
        """End it now; it is counted as aborted."""
        self.failed = True
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(how)


class _Over(Exception):  # noqa: N818 - nothing is wrong
    """The server is to end."""


class BalancedMixIn(socketserver.TCPServer):
    """Makes a server of :mod:`socketserver` or :mod:`http.server` serve a worker's connections.

    ::

        class Server(BalancedMixIn, http.server.ThreadingHTTPServer):
            pass

        with Server(balancer.worker(), Handler, balancer.address()) as server:
            server.serve_forever()  # until the balancer is closed, or shutdown()

    Beside `serve_forever` it has the five calls of every adapter, here as plain functions; `start` runs `serve_forever`
    in a thread.

    Args:
        worker: Made by :meth:`pydlb.Balancer.worker`; the server's only.
        handler: The request handler's class.
        address: What handlers are told that the server listens on.
        ssl: For TLS. Handshakes run where the handler does: in a thread of its own, if the server has threads.

    **Resource handling**: closing the server closes its worker.

    **Error handling**: a handler that fails is reported as ever, by `handle_error`; its connection counts as aborted.
    So does a TLS handshake that fails.
    """

    def __init__(
        self, worker: Worker, handler: Any, address: Any = ("", 0), *, ssl: ssl_module.SSLContext | None = None
    ) -> None:
        super().__init__(address, handler, bind_and_activate=False)
        self.socket.close()  # it was never bound
        if isinstance(address, tuple):
            self.server_name, self.server_port = address[:2]  # what http.server tells its handlers
        self.worker: Final = worker
        self._ssl = ssl
        self._descriptor = os.dup(worker.fileno_of_all())  # the worker may close its own while we wait
        self._requests: dict[socket.socket, _Request] = {}
        self._quiet = threading.Condition()
        self._more = False
        self._running = False
        self._ending = False
        self._thread: threading.Thread | None = None
        worker.when_closed(self._end)

    def fileno(self) -> int:
        """What is readable when there may be a connection."""
        return self._descriptor

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection from the worker."""
        self._offer(False)
        try:
            connections, self._more = self.worker.receive(1)
        except ClosedError as error:
            self._more = False
            raise ConnectionAbortedError(str(error)) from None
        if not connections:
            raise BlockingIOError("another worker was given it")
        return self._admit(connections[0])

    def service_actions(self) -> None:
        """Look again where there was more, of which nothing tells. Without a free thread, wait: others can have it."""
        self._wait_for_room()
        while self._more:
            self._handle_request_noblock()  # type: ignore[attr-defined]
            self._wait_for_room()
        super().service_actions()
        self._offer(True)

    def _wait_for_room(self) -> None:
        most = getattr(self, "pool_size", None)
        with self._quiet:
            self._quiet.wait_for(lambda: self._ending or most is None or len(self._requests) < most)
            if self._ending:
                raise _Over

    def _offer(self, is_free: bool) -> None:
        """Tell the balancer whether one more would be welcome, for the time until the next call."""
        with contextlib.suppress(ClosedError):
            self.worker.port.set_parked(is_free)

    def _admit(self, connection: Connection) -> tuple[socket.socket, Any]:
        sock, ticket = connection.detach()
        sock.setblocking(True)
        with self._quiet:
            self._requests[sock] = _Request(sock, ticket)
        try:
            return sock, connection.client_address
        except OSError:  # the client is gone already
            self.close_request(sock)
            raise

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until `shutdown`, or until the worker is closed."""
        self._running = True
        try:
            with contextlib.suppress(_Over):
                super().serve_forever(poll_interval)
        finally:
            self._running = False

    def shutdown(self) -> None:
        """End `serve_forever`, and wait for that."""
        self._end()
        if self._running:
            super().shutdown()

    def _end(self) -> None:
        with self._quiet:
            self._ending = True
            self._quiet.notify_all()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Call the handler, after the TLS handshake if there is one."""
        if self._ssl is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_HANDSHAKE)
        with self._ssl.wrap_socket(request, server_side=True) as secure:  # which leaves nothing in `request`
            with self._quiet:
                self._requests[request].socket = secure
            secure.settimeout(None)
            super().finish_request(secure, client_address)
            secure.setblocking(False)
            with contextlib.suppress(OSError):  # it does not wait for the client's farewell
                secure.unwrap()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report it, and count the connection as aborted."""
        with self._quiet:
            if request in self._requests:
                self._requests[request].failed = True
        super().handle_error(request, client_address)

    def close_request(self, request: Any) -> None:
        """Close a connection, and count it as closed."""
        super().close_request(request)
        with self._quiet:
            served = self._requests.pop(request, None)
            self._quiet.notify_all()
        if served is not None:
            served.ticket.release(aborted=served.failed)

    def server_close(self) -> None:
        """Close the server and its worker; handlers that still run are waited for, as ever."""
        self.worker.when_closed(None)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().server_close()
        self.worker.close()

    # ---- the five calls --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Serve in a thread."""
        self._running = True
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL,), name=self.worker.name, daemon=True)
        self._thread.start()

    def submit(self, connection: Connection) -> None:
        """Serve one more connection, in the server's own way: a server without threads returns when it was served."""
        request, address = self._admit(connection)
        try:
            if self.verify_request(request, address):
                self.process_request(request, address)
            else:
                self.shutdown_request(request)
        except Exception:
            self.handle_error(request, address)
            self.shutdown_request(request)

    @property
    def active(self) -> Collection[_Request]:
        """The connections that are open."""
        with self._quiet:
            return list(self._requests.values())

    def drain(self, timeout: float | None = None) -> int:
        """Wait until all connections have ended, for at most `timeout` seconds. Returns how many have not."""
        with self._quiet:
            self._quiet.wait_for(lambda: not self._requests, timeout)
            return len(self._requests)

    def stop(self) -> None:
        """Take no more connections, end those that are open, and close the server."""
        self.shutdown()
        for request in self.active:
            request.abort()
        if self._thread is not None:
            self._thread.join()
        self.server_close()


class PoolMixIn(socketserver.ThreadingMixIn):
    """As :class:`socketserver.ThreadingMixIn`, with threads that are kept in place of a new one for each connection.

    Attributes:
        pool_size: How many connections are served at a time; others wait, on a balancer for whichever worker is free.
    """

    pool_size = 16
    _pool: ThreadPoolExecutor | None = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.pool_size, type(self).__name__)
        self._pool.submit(self.process_request_thread, request, client_address)

    def server_close(self) -> None:
        """Close the server, and wait for the threads."""
        super().server_close()
        if self._pool is not None:
            self._pool.shutdown()
