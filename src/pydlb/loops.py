"""Workers that are event loops: each in a thread of its own, with the handlers of asyncio's streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from .errors import ClosedError
from .selector import WorkerSelector

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from .workers import Connection, Ticket, Worker

    ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]

__all__ = ["LoopWorker", "StreamOptions"]

logger = logging.getLogger("pydlb")

# How many connections are taken from the queue at a time at most, and how long a loop may take, in seconds, until it
# asks for more, to be given more at a time.
_MOST: Final = 16
_QUICK: Final = 0.005

# Bytes read from a socket at a time.
_READ_SIZE: Final = 2**16

# In so many turns of an event loop a new connection's first request has been read and its handler has run.
_FIRST_TURNS: Final = 5


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
        if hasattr(transport, "max_size"):
            # What one read allocates: larger blocks are mapped and unmapped each time, on all processors.
            transport.max_size = _READ_SIZE
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
        self._selector: WorkerSelector | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._most = 1
        self._more_since = float("-inf")
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
        self._selector = WorkerSelector(self.worker.port, lambda: bool(self.transports or self._tasks))
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
        """Take connections from the queue; where there may be more, look again when these had their first turns.

        One at a time, because a handler may be slow, and who was taken waits for it. More at a time, the longer it goes
        well.
        """
        now = self.loop.time()
        quick = now - self._more_since < _QUICK and not (self._selector is not None and self._selector.slow)
        self._most = min(2 * self._most, _MOST) if quick else 1
        try:
            connections, more = self.worker.receive(self._most)
        except ClosedError:
            return
        for connection in connections:
            task = self.loop.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if more:
            self._more_since = now
            if self._selector is not None:
                self._selector.more = True
            else:
                self._receive_later(_FIRST_TURNS)

    def _receive_later(self, turns: int) -> None:
        """In so many turns of the loop."""
        if turns:
            self.loop.call_soon(self._receive_later, turns - 1)
        else:
            self._receive()

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
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
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
            for task in self._tasks:
                task.cancel()

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
        """Wait for the thread's end; False if it is still busy after `timeout` seconds. Clients then see the end."""
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        for transport in list(self.transports):
            sock = transport.get_extra_info("socket") if transport is not None else None
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        return False
