"""Workers that are event loops: each in a thread of its own, with the handlers of asyncio's streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .errors import ClosedError
from .types import event_dtype

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from .port import Port
    from .workers import Connection, Ticket, Worker

    ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]

__all__ = ["LoopWorker", "StreamOptions"]

logger = logging.getLogger("pydlb")

# Connections taken from the queue before the loop goes on with those that are open.
_BATCH: Final = 16

# How many turns a busy loop may go on with what it has before it takes new connections.
_PUT_OFF_AT_MOST: Final = 4

# A loop that did not come back for so long is slow for a while: while it has connections, it offers itself for new ones
# only after a quiet moment. All in seconds.
_SLOW_TURN: Final = 0.040
_SLOW_FOR: Final = 0.3
_QUIET: Final = 0.002


class _ParkingSelector(selectors.DefaultSelector):
    """Tells the port when its loop goes to sleep, and when it is back.

    So the balancer knows which workers are idle, and need not find out by waiting for one that is not. A connection
    that still waits can go to anybody, one that was taken cannot: therefore a loop that has other things to do does
    those first, and one whose handlers have been slow, and that may have to call them again in a moment, waits for
    that moment before it offers itself.
    """

    def __init__(self, port: Port, has_connections: Callable[[], bool]) -> None:
        super().__init__()
        self.more = False
        """The port may have more, and is not armed: look there before going to sleep."""
        self._port = port
        self._descriptor = port.fileno()
        self._has_connections = has_connections
        self._put_off = 0
        self._returned = time.monotonic()
        self._slow_until = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        now = time.monotonic()
        if now - self._returned > _SLOW_TURN:
            self._slow_until = now + _SLOW_FOR
        if timeout is not None and timeout <= 0:
            ready = super().select(timeout)
        else:
            ready = []
            if now < self._slow_until and self._has_connections():
                quiet = _QUIET if timeout is None else min(timeout, _QUIET)
                ready = super().select(quiet)
                timeout = None if timeout is None else timeout - quiet
            ready = ready or self._sleep(timeout)
        self._returned = time.monotonic()
        return self._others_first(ready)

    @property
    def slow(self) -> bool:
        """Whether the loop has been slow of late."""
        return self._returned < self._slow_until

    def _sleep(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.more:
            self.more = False
            return super().select(0) or [(self.get_key(self._descriptor), selectors.EVENT_READ)]
        try:
            self._port.set_parked(True)
            try:
                return super().select(timeout)
            finally:
                self._port.set_parked(False)
        except ClosedError:
            return super().select(0)

    def _others_first(self, ready: list[tuple[selectors.SelectorKey, int]]) -> list[tuple[selectors.SelectorKey, int]]:
        others = [entry for entry in ready if entry[0].fd != self._descriptor] if len(ready) > 1 else ready
        if len(others) == len(ready) or self._put_off >= _PUT_OFF_AT_MOST:
            self._put_off = 0
            return ready
        self._put_off += 1
        return others


class StreamOptions:
    """What every connection's transport and streams are made with."""

    def __init__(
        self,
        client_connected: ClientConnected,
        *,
        limit: int,
        ssl_context: ssl.SSLContext | None,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
    ) -> None:
        self.client_connected: Final = client_connected
        self.limit: Final = limit
        self.transport: Final[dict[str, Any]] = {"ssl": ssl_context}
        if ssl_context is not None:
            self.transport["ssl_handshake_timeout"] = ssl_handshake_timeout
            self.transport["ssl_shutdown_timeout"] = ssl_shutdown_timeout


class _Protocol(asyncio.StreamReaderProtocol):
    """Streams whose end gives the ticket back."""

    def __init__(self, worker: LoopWorker, ticket: Ticket, options: StreamOptions) -> None:
        loop = worker.loop
        reader = asyncio.StreamReader(limit=options.limit, loop=loop)
        super().__init__(reader, self._connected, loop=loop)
        self._worker = worker
        self._ticket = ticket
        self._client_connected = options.client_connected
        self._failed = False
        self._handled: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._handled = transport  # type: ignore[assignment]
        self._worker.transports.add(self._handled)
        super().connection_made(transport)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            result = self._client_connected(reader, writer)
            if result is not None:
                await result
        except asyncio.CancelledError:
            self._failed = True
            writer.transport.abort()
            raise
        except Exception as error:
            self._failed = True
            self._worker.loop.call_exception_handler(
                {
                    "message": "Unhandled exception in client_connected_cb",
                    "exception": error,
                    "transport": writer.transport,
                }
            )
            writer.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._worker.transports.discard(self._handled)
        self._ticket.release(aborted=self._failed or self._worker.aborting)


class LoopWorker:
    """An event loop in a thread of its own that serves the connections of one worker.

    Attributes:
        worker: The worker that receives them.
        loop: The loop, once started.
        transports: Of the connections that are open.
        aborting: Whether connections are being ended by the balancer.
    """

    def __init__(
        self,
        worker: Worker,
        options: StreamOptions,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    ) -> None:
        self.worker: Final = worker
        self.transports: Final[set[asyncio.Transport | None]] = set()
        self.aborting = False
        self._options = options
        self._loop_factory = loop_factory or self._new_loop
        self.loop: asyncio.AbstractEventLoop
        self._selector: _ParkingSelector | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = np.empty(_BATCH, dtype=event_dtype())
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=worker.name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns once its loop runs. Raises what kept it from running."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        self._selector = _ParkingSelector(self.worker.port, lambda: bool(self.transports or self._tasks))
        return asyncio.SelectorEventLoop(self._selector)

    # ---- in the worker's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.loop = self._loop_factory()
            asyncio.set_event_loop(self.loop)
            self.loop.add_reader(self.worker.fileno(), self._receive)
            self.loop.call_soon(self._ready.set)
        except BaseException as error:  # handed to start(), which raises it
            self._failure = error
            if hasattr(self, "loop"):
                self.loop.close()
            self._ready.set()
            return
        try:
            self.loop.run_forever()
        finally:
            self._finish()

    def _receive(self) -> None:
        # A slow worker takes one connection at a time: the next one may find another worker.
        most = 1 if self._selector is not None and self._selector.slow else _BATCH
        try:
            events = self.worker.port.recv(most, 0, self._events)
        except ClosedError:
            return
        for token in events["data"].tolist():
            connection = self.worker.take(token, blocking=False)
            if connection is not None:
                task = self.loop.create_task(self._connect(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if len(events) == most:
            # A full batch leaves the port unarmed: there may be more.
            if self._selector is not None and most == 1:
                self._selector.more = True
            else:
                self.loop.call_soon(self._receive)

    async def _connect(self, connection: Connection) -> None:
        sock, ticket = connection.detach()
        protocol = _Protocol(self, ticket, self._options)
        try:
            await self.loop.connect_accepted_socket(lambda: protocol, sock, **self._options.transport)
        except Exception as error:  # most of all what goes wrong in a TLS handshake
            logger.debug("%s: a connection failed before it was served: %s", self.worker.name, error)
        except asyncio.CancelledError:
            pass
        else:
            return
        sock.close()
        ticket.release(aborted=True)

    def _finish(self) -> None:
        """Let what was cancelled end, then close the loop."""
        try:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            # Transports that were aborted close their sockets in a callback of the next turn.
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    # ---- from any thread -------------------------------------------------------------------------------------------

    def close_connections(self) -> None:
        """Close all connections once what was written to them is sent."""

        def close_all() -> None:
            for transport in list(self.transports):
                if transport is not None:
                    transport.close()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(close_all)

    def abort(self) -> None:
        """End all connections now; they are counted as aborted."""

        def abort_all() -> None:
            self.aborting = True
            for transport in list(self.transports):
                if transport is not None:
                    transport.abort()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(abort_all)

    def stop(self) -> None:
        """Tell the loop to end."""

        def stop() -> None:
            with contextlib.suppress(ClosedError):
                self.loop.remove_reader(self.worker.fileno())
            self.loop.stop()

        with contextlib.suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(stop)

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if it is still busy after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
