"""Workers that are event loops: each in a thread of its own, with the handlers of asyncio's streams."""

from __future__ import annotations

import asyncio
import logging
import selectors
import threading
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


class _ParkingSelector(selectors.DefaultSelector):
    """Tells the port when its loop goes to sleep, and when it is back.

    So the balancer knows which workers are idle, and need not find out by waiting for one that is not.
    """

    def __init__(self, port: Port) -> None:
        super().__init__()
        self._port = port

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        try:
            self._port.set_parked(True)
            try:
                return super().select(timeout)
            finally:
                self._port.set_parked(False)
        except ClosedError:
            return super().select(0)


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
                {"message": "Unhandled exception in client_connected_cb", "exception": error, "transport": writer.transport}
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
        self._loop_factory = loop_factory or (lambda: asyncio.SelectorEventLoop(_ParkingSelector(worker.port)))
        self.loop: asyncio.AbstractEventLoop
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

    # ---- in the worker's thread ---------------------------------------------------------------------------------------

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
        try:
            events = self.worker.port.recv(_BATCH, 0, self._events)
        except ClosedError:
            return
        for token in events["data"].tolist():
            connection = self.worker.take(token, blocking=False)
            if connection is not None:
                task = self.loop.create_task(self._connect(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if len(events) == _BATCH:
            # A full batch leaves the port unarmed: there may be more.
            self.loop.call_soon(self._receive)

    async def _connect(self, connection: Connection) -> None:
        sock, ticket = connection.detach()
        protocol = _Protocol(self, ticket, self._options)
        try:
            await self.loop.connect_accepted_socket(lambda: protocol, sock, **self._options.transport)
        except OSError as error:  # also what goes wrong in a TLS handshake
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

    # ---- from any thread ----------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End all connections now; they are counted as aborted."""

        def abort_all() -> None:
            self.aborting = True
            for transport in list(self.transports):
                if transport is not None:
                    transport.abort()

        self.loop.call_soon_threadsafe(abort_all)

    def stop(self, timeout: float) -> bool:
        """End the loop; False if it is still busy after `timeout` seconds."""

        def stop() -> None:
            try:
                self.loop.remove_reader(self.worker.fileno())
            except ClosedError:
                pass
            self.loop.stop()

        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(stop)
        self._thread.join(timeout)
        return not self._thread.is_alive()
