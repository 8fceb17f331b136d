"""Trio: a listener for :func:`trio.serve_listeners`, and a worker that is a trio program in a thread."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import trio

from pydlb.errors import ClosedError
from pydlb.proxied import ProxiedSocket

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Awaitable, Callable, Collection

    from pydlb.workers import Connection, Worker

    from .base import Adapter

__all__ = ["Listener", "Stream", "TrioAdapter", "TrioWorker"]

logger = logging.getLogger("pydlb")

# To close a socket by a reset, and throw away what is not sent.
_AT_ONCE: Final = struct.pack("ii", 1, 0)

_HANDSHAKE: Final = 60.0
_APPLICATION_END: Final = 10.0


class Stream(trio.abc.HalfCloseableStream):
    """A :class:`trio.SocketStream` that counts as open until it is closed.

    Attributes:
        socket: The client's, as trio has it. If a proxy told of its client, `getpeername` does too.
        failed: It counts as aborted when it is closed.
    """

    def __init__(self, connection: Connection) -> None:
        sock, self._ticket = connection.detach()
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        own, proxied = self._stream.socket, connection.proxied
        self.socket: Final[Any] = own if proxied is None else ProxiedSocket(own, proxied)
        self.failed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As :meth:`trio.SocketStream.send_all`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As :meth:`trio.SocketStream.wait_send_all_might_not_block`."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As :meth:`trio.SocketStream.send_eof`."""
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As :meth:`trio.SocketStream.receive_some`."""
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close it, and count it as closed."""
        try:
            await self._stream.aclose()
        finally:
            self._ticket.release(aborted=self.failed)


class Listener(trio.abc.Listener[Stream]):
    """Brings a worker's connections to a trio program: ``await trio.serve_listeners(handler, [Listener(worker)])``.

    Args:
        worker: Made by :meth:`pydlb.Balancer.worker`; the program's only.

    **Resource handling**: closing it leaves the worker to its balancer, which gives it no more connections.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._descriptor = os.dup(worker.fileno_of_all())  # the worker may close its own while we wait
        self._token = trio.lowlevel.current_trio_token()
        self._closed = False
        worker.when_closed(self._end)

    def _end(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._close)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._worker.when_closed(None)
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)

    async def take(self) -> Connection:
        """Wait for the next connection, as it is.

        Raises:
            trio.ClosedResourceError: The listener or its worker is closed.
        """
        await trio.lowlevel.checkpoint()
        while not self._closed:
            try:
                connections, more = self._worker.receive(1)
            except ClosedError:
                break
            if connections:
                return connections[0]
            if not more:  # what it was given may have gone elsewhere meanwhile
                await trio.lowlevel.wait_readable(self._descriptor)
        raise trio.ClosedResourceError("the worker is closed")

    async def accept(self) -> Stream:
        """Wait for the next connection.

        Raises:
            trio.ClosedResourceError: The listener or its worker is closed.
        """
        return Stream(await self.take())

    async def aclose(self) -> None:
        """Take no more connections."""
        self._close()
        with contextlib.suppress(ClosedError):
            self._worker.port.disable()
        await trio.lowlevel.checkpoint()


class _Served:
    """A connection that an adapter serves."""

    def __init__(self, stream: Stream) -> None:
        self.stream: Final = stream
        self.scope: Final = trio.CancelScope()

    def close(self) -> None:
        """End its handler; what was written is sent."""
        self.scope.cancel()

    def abort(self) -> None:
        """End it now; it is counted as aborted."""
        self.stream.failed = True
        with contextlib.suppress(OSError):
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.scope.cancel()


class TrioAdapter:
    """Calls a coroutine function with a stream for each connection, in trio.

    Args:
        handler: The function. The stream is closed when it returns.
        ssl: For TLS; handshakes run here, on the worker, and the stream is a :class:`trio.SSLStream`.

    **Error handling**: an exception of the handler is logged (logger ``pydlb``); its connection is aborted and counted.
    """

    def __init__(
        self, handler: Callable[[Any], Awaitable[object]], *, ssl: ssl_module.SSLContext | None = None
    ) -> None:
        self._handler = handler
        self._ssl = ssl
        self._served: set[_Served] = set()
        self._empty: trio.Event

    async def start(self) -> None:
        """Nothing to start."""

    def submit(self, connection: Connection) -> None:
        """Serve one more connection."""
        served = _Served(Stream(connection))
        self._served.add(served)
        trio.lowlevel.spawn_system_task(self._serve, served)

    async def _serve(self, served: _Served) -> None:
        stream = served.stream
        try:
            with served.scope:
                await self._handle(stream)
        except Exception:
            stream.failed = True
            logger.exception("the handler failed; its connection is closed")
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            self._served.discard(served)
            if not self._served and hasattr(self, "_empty"):
                self._empty.set()

    async def _handle(self, stream: Stream) -> None:
        if self._ssl is None:
            await self._handler(stream)
            return
        secure = trio.SSLStream(stream, self._ssl, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(_HANDSHAKE):
                await secure.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            stream.failed = True
            logger.debug("a connection failed before it was served: %s", error)
            return
        await self._handler(secure)

    @property
    def active(self) -> Collection[_Served]:
        """The connections that are open."""
        return self._served

    async def drain(self, timeout: float | None = None) -> int:
        """Wait until all connections have ended."""
        self._empty = trio.Event()
        if self._served and timeout != 0:
            with trio.move_on_after(float("inf") if timeout is None else timeout):
                await self._empty.wait()
        return len(self._served)

    async def stop(self) -> None:
        """End all connections that are still open."""
        for served in list(self._served):
            served.abort()
        while self._served:
            await trio.lowlevel.checkpoint()


class TrioWorker:
    """A trio program in a thread that serves the connections of one worker; what runs it is the balancer.

    Args:
        worker: The worker that receives them.
        make_adapter: Makes what serves them; called in the worker's thread, in trio.

    Attributes:
        worker: The worker.
        adapter: What serves its connections, once started.
    """

    def __init__(self, worker: Worker, make_adapter: Callable[[], Adapter]) -> None:
        self.worker: Final = worker
        self.adapter: Adapter
        self._make_adapter = make_adapter
        self._token: trio.lowlevel.TrioToken
        self._end: trio.Event
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self.run, name=worker.name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns once its application runs. Raises what kept it from running."""
        self._thread.start()
        try:
            self.wait_started()
        except BaseException:
            self._thread.join()
            raise

    def wait_started(self) -> None:
        """Wait until the application runs, in whatever thread. Raises what kept it from running."""
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Run the program in the calling thread until `stop`."""
        try:
            trio.run(self._main)
        except BaseException as error:  # handed to start(), which raises it
            if self._ready.is_set():
                logger.exception("%s: its program failed", self.worker.name)
            self._failure = error
            self._ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        self.adapter = self._make_adapter()
        await self.adapter.start()
        self._ready.set()
        listener = Listener(self.worker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, listener)
            await self._end.wait()
            self._stopping.set()
            await listener.aclose()
            await self.adapter.stop()

    async def _receive(self, listener: Listener) -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            while True:
                self.adapter.submit(await listener.take())

    # ---- from any thread -------------------------------------------------------------------------------------------

    def _call(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def begin_drain(self, timeout: float | None) -> None:
        """Ask all connections to end in their protocol's own way within `timeout` seconds."""
        self._call(lambda: trio.lowlevel.spawn_system_task(self.adapter.drain, timeout))

    def close_connections(self) -> None:
        """Close all connections once what was written to them is sent."""

        def close_all() -> None:
            for connection in list(self.adapter.active):
                connection.close()

        self._call(close_all)

    def abort(self) -> None:
        """End all connections now; they are counted as aborted."""

        def abort_all() -> None:
            for connection in list(self.adapter.active):
                connection.abort()

        self._call(abort_all)

    def stop(self) -> None:
        """Tell the program to end."""
        self._call(lambda: self._end.set())

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if it is still busy after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self._thread.join(timeout)
        if self._thread.is_alive() and self._stopping.is_set():
            self._thread.join(max(0.0, deadline - time.monotonic()) + _APPLICATION_END)
        return not self._thread.is_alive()
