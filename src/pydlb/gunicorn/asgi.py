"""gunicorn's worker for ASGI applications."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker as GunicornASGIWorker

from pydlb.adapters.protocols import Link, ProtocolAdapter, counted
from pydlb.eventloop import WorkerLoop
from pydlb.selector import WorkerSelector

from .permits import BalancedWorker, Permits

if TYPE_CHECKING:
    import socket
    import ssl as ssl_module

    from pydlb.workers import Connection

__all__ = ["ASGIWorker", "GunicornAdapter"]

# In so many turns of an event loop a new connection's first request has been read and its handler has run.
_FIRST_TURNS: Final = 5

# How long to wait for descriptors or memory, in seconds.
_PAUSE: Final = 0.1


class GunicornAdapter(ProtocolAdapter):
    """Serves connections with gunicorn's ASGI protocol, for one of its workers."""

    def __init__(self, worker: GunicornASGIWorker, ssl: ssl_module.SSLContext | None) -> None:
        super().__init__(ssl=ssl)
        self._worker = worker
        self._protocol_class = counted(ASGIProtocol, self.by_transport)
        self._loop = worker.loop

    def make_protocol(self, link: Link) -> asyncio.BaseProtocol:
        """Make gunicorn's protocol for one connection."""
        protocol = self._protocol_class(self._worker)
        protocol.pydlb_link = link
        return cast("asyncio.BaseProtocol", protocol)


class _Ticket:
    """Stands for an open connection."""

    def __init__(self, door: _Door) -> None:
        self._door = door

    def release(self, *, aborted: bool = False) -> None:
        self._door.closed()


class _Accepted:
    """What an adapter is given: a connection as a worker of the balancer's has it."""

    proxied = None  # gunicorn's protocol reads such headers itself

    def __init__(self, sock: socket.socket, ticket: _Ticket) -> None:
        self._parts = sock, ticket

    def detach(self) -> tuple[socket.socket, _Ticket]:
        return self._parts


class _Door:
    """Accepts what its worker is permitted to, in place of the event loop's servers.

    Args:
        worker: Whose connections it takes.
    """

    def __init__(self, worker: ASGIWorker) -> None:
        self._worker = worker
        self._permits: Permits = worker.permits
        self._adapters: dict[socket.socket, GunicornAdapter] = {}
        self._open = 0
        self._watching = False
        self.listeners: Final = list(worker.sockets)
        self.selector: WorkerSelector | None = None

    def make_selector(self) -> WorkerSelector:
        """For asyncio's own loop, which tells by it when it sleeps."""
        self.selector = WorkerSelector(self._permits.port, lambda: self._open > 0)
        return self.selector

    def serve(self, sock: socket.socket, ssl: ssl_module.SSLContext | None) -> _Server:
        """Serve the connections of one listening socket."""
        self._adapters[sock] = GunicornAdapter(self._worker, ssl)
        self._watch()
        return _Server(self, sock)

    def leave(self, sock: socket.socket) -> None:
        """Accept no more from it."""
        self._adapters.pop(sock, None)
        self._watch()

    def closed(self) -> None:
        """A connection has ended."""
        self._open -= 1
        self._permits.closed()
        self._watch()

    def _watch(self) -> None:
        """Look at the port while there may be more connections, and only then."""
        loop, port = self._worker.loop, self._permits.port
        wanted = self._worker.alive and bool(self._adapters) and self._open < self._worker.worker_connections
        if wanted == self._watching:
            return
        self._watching = wanted
        if wanted:
            loop.add_reader(port.fileno(), self._accept)
            loop.call_soon(self._accept)
        else:
            loop.remove_reader(port.fileno())
        if self.selector is None:
            port.set_parked(wanted)

    def _accept(self) -> None:
        """Accept one, and the next one when this one has had its first turns: the application may be slow."""
        self._watch()
        if not self._watching:
            return
        try:
            accepted = self._permits.accept()
        except OSError as error:
            self._worker.log.warning("Cannot accept for the moment: %s", error)
            self._worker.loop.call_later(_PAUSE, self._accept)
            return
        if accepted is None:
            return
        sock, _, listener = accepted
        sock.setblocking(False)
        self._open += 1
        adapter = self._adapters.get(listener.sock)
        if adapter is None:
            sock.close()
            self.closed()
            return
        adapter.submit(cast("Connection", _Accepted(sock, _Ticket(self))))
        self._watch()
        if self.selector is not None:
            self.selector.more = True
        else:
            self._accept_later(_FIRST_TURNS)

    def _accept_later(self, turns: int) -> None:
        if turns:
            self._worker.loop.call_soon(self._accept_later, turns - 1)
        else:
            self._accept()


class _Server:
    """What the loop returns as its server."""

    def __init__(self, door: _Door, sock: socket.socket) -> None:
        self._door = door
        self._sock = sock

    def close(self) -> None:
        """Accept no more."""
        self._door.leave(self._sock)

    async def wait_closed(self) -> None:
        """The worker itself waits for its connections."""


def _balanced(loop_class: Any, door: _Door) -> Any:
    """A class of event loops whose servers are the door's, where they are for its worker's sockets."""

    class Loop(loop_class):  # type: ignore[misc]
        async def create_server(self, protocol_factory: Any, *arguments: Any, **options: Any) -> Any:
            sock = options.get("sock")
            if sock is not None and any(sock is listener.sock for listener in door.listeners):
                return door.serve(sock, options.get("ssl"))
            return await super().create_server(protocol_factory, *arguments, **options)

    Loop.__name__ = Loop.__qualname__ = loop_class.__name__
    return Loop


class ASGIWorker(BalancedWorker, GunicornASGIWorker):  # type: ignore[misc]
    """A process with one event loop, and as many connections as it is permitted to accept."""

    loop: Any

    def _setup_event_loop(self) -> None:
        """Make the loop that `asgi_loop` says, with a door."""
        super()._setup_event_loop()
        chosen = type(self.loop)
        self.loop.close()
        door = _Door(self)
        if issubclass(chosen, asyncio.SelectorEventLoop):
            self.loop = _balanced(WorkerLoop, door)(door.make_selector())
        else:
            self.loop = _balanced(chosen, door)()
        asyncio.set_event_loop(self.loop)
