"""What adapters have in common whose framework offers an asyncio protocol: the transports, and who counts them."""

from __future__ import annotations

import asyncio
import functools
import logging
import operator
from typing import TYPE_CHECKING, Any, Final

from pydlb import _native
from pydlb.eventloop import WorkerLoop

from .descriptors import connect_descriptor, takes_descriptors
from .proxied import ProxiedTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Sequence

    from pydlb.workers import Connection

    from .prompt import Beginnings

__all__ = ["Link", "ProtocolAdapter", "counted"]

logger = logging.getLogger("pydlb")

# Bytes read from a socket at a time: larger blocks are mapped and unmapped each time, on all processors.
_READ_SIZE: Final = 2**16

# How long a client that keeps its connection may go without a request, once asked to close it, and how long others
# have to answer the farewell; both in seconds, and no more than half of the time that there is.
LINGER: Final = 1.0
FAREWELL: Final = 1.0


class Link(_native.Link):
    """One connection on an event loop, from its socket to its last byte.

    Attributes:
        failed: It counts as aborted when it ends.
        proxied: What a proxy said of it, if one did.
        task: What connects it, until it is connected.
        connecting: What is kept as long as it is open and then taken to its end, if anything.
        transport: Its transport, once there is one.
    """

    __slots__ = ()

    def opened(self, transport: asyncio.BaseTransport) -> Any:
        """The transport is there, after the TLS handshake if there is one. Returns what the protocol is to see."""
        self.transport = transport
        self.read_little(transport)
        if self._end is not None:  # it was to end before it had begun
            self._end(transport)
        return self._adapter.shown(transport if self.proxied is None else ProxiedTransport(transport, self.proxied))

    def read_little(self, transport: Any) -> None:
        """Have asyncio's transport read no more at a time than is good."""
        if self.connecting is None and hasattr(transport, "max_size"):
            transport.max_size = _READ_SIZE

    def close(self) -> None:
        """Close it once what was written to it is sent."""
        self._end_by(operator.methodcaller("close"))

    def abort(self) -> None:
        """End it now; it is counted as aborted."""
        self.failed = True
        self._adapter.cut = True
        self._end_by(operator.methodcaller("abort"))

    def _end_by(self, end: Callable[[Any], object]) -> None:
        if self.transport is not None:
            end(self.transport)
        elif self.task is not None:
            self.task.cancel()
        else:
            self._end = end


def counted(protocol_class: type[Any], links: dict[Any, Link]) -> type[Any]:
    """A subclass of a framework's protocol class that tells when its connection begins and ends.

    Args:
        protocol_class: The framework's.
        links: By transport. What replaces the protocol on its transport, as a WebSocket does, finds the link there.
    """

    class Counted(protocol_class):  # type: ignore[misc]
        # Slots, for an object that has too many attributes for those that its kind share costs twice as much to make.
        __slots__ = ("pydlb_link", "pydlb_transport")

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            link = getattr(self, "pydlb_link", None)
            if link is not None:
                transport = link.opened(transport)
                links[transport] = link
            self.pydlb_transport = transport
            protocol_class.connection_made(self, transport)

        def connection_lost(self, error: Exception | None) -> None:
            try:
                protocol_class.connection_lost(self, error)
            finally:
                link = links.pop(self.pydlb_transport, None)
                if link is not None:
                    link.ended()

    Counted.__name__ = Counted.__qualname__ = protocol_class.__name__
    return Counted


class ProtocolAdapter:
    """Connects each socket to a protocol, which a subclass makes.

    Args:
        ssl: For TLS; None for none. Handshakes run here, on the worker.
        ssl_handshake_timeout: Seconds that a TLS handshake may take; None for asyncio's 60.
        ssl_shutdown_timeout: Seconds that the end of a TLS connection may take; None for asyncio's 30.
    """

    def __init__(
        self,
        *,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self._options: dict[str, Any] = {"ssl": ssl}
        if ssl is not None:
            self._options["ssl_handshake_timeout"] = ssl_handshake_timeout
            self._options["ssl_shutdown_timeout"] = ssl_shutdown_timeout
        self.cut = False  # connections were ended that would have gone on
        self._links: set[Link] = set()
        self.by_transport: dict[Any, Link] = {}
        self._empty = asyncio.Event()
        self._is_awaited = False  # somebody wants to know when no connection is open
        self._loop: asyncio.AbstractEventLoop
        self._by_descriptor = False
        self.beginnings: Beginnings | None = None  # where connections can be answered before their loop knows of them

    def make_protocol(self, link: Link) -> asyncio.BaseProtocol:
        """The protocol for one connection: it calls the link's `opened` and `ended`."""
        raise NotImplementedError

    def shown(self, transport: Any) -> Any:
        """What a protocol is to see of a transport."""
        return transport

    async def start(self) -> None:
        """Start the application, if there is one."""
        self._loop = asyncio.get_running_loop()
        self._by_descriptor = takes_descriptors(self._loop) and self._options["ssl"] is None

    def submit(self, connection: Connection) -> None:
        """Serve one more connection."""
        self._submit_together((connection,))

    def submit_all(self, connections: Sequence[Connection]) -> bool:
        """Serve several more, whose first turn ends together; one after the other where a subclass extends `submit`.

        Returns:
            Whether all is done for them in the loop's next turn that can be done now.
        """
        if type(self).submit is ProtocolAdapter.submit:
            return self._submit_together(connections)
        for connection in connections:
            self.submit(connection)
        return False

    def _submit_together(self, connections: Sequence[Connection]) -> bool:
        if self.beginnings is not None:
            return self.beginnings.serve(connections)
        for connection in connections:
            self._submit(connection)
        return False

    def _submit(self, connection: Connection) -> None:
        if not self._by_descriptor:
            self._submit_socket(connection)
            return
        descriptor, family, ticket = connection.detach_descriptor()
        link = Link(self, ticket, connection.proxied)
        self._links.add(link)
        try:
            self.connect(link, descriptor, family)
        except Exception as error:
            self._give_up(link, error)

    def connect(self, link: Link, descriptor: int, family: int) -> None:
        """Begin to serve a connection on a loop that takes descriptors; the descriptor is not the caller's any more.

        Raises:
            Exception: It cannot be served.
        """
        make = functools.partial(self.make_protocol, link)
        link.connecting = connect_descriptor(self._loop, make, descriptor, family)

    def _submit_socket(self, connection: Connection) -> None:
        sock, ticket = connection.detach()
        link = Link(self, ticket, connection.proxied)
        self._links.add(link)
        if not isinstance(self._loop, WorkerLoop) or self._options["ssl"] is not None:
            link.task = self._loop.create_task(self._connect(sock, link))
            return
        try:
            self._loop.serve_accepted(sock, self.make_protocol(link))
        except Exception as error:
            sock.close()
            self._give_up(link, error)

    async def _connect(self, sock: socket.socket, link: Link) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self.make_protocol(link), sock, **self._options)
        except (Exception, asyncio.CancelledError) as error:
            sock.close()
            self._give_up(link, error)
        else:
            link.task = None

    def _give_up(self, link: Link, error: BaseException) -> None:
        if isinstance(error, OSError):  # most of all what goes wrong in a TLS handshake
            logger.debug("a connection failed before it was served: %s", error)
        elif not isinstance(error, asyncio.CancelledError):
            logger.error("a connection failed before it was served", exc_info=error)
        link.failed = True
        link.ended()

    def all_ended(self) -> None:
        """No connection is open, and that was awaited."""
        self._empty.set()

    @property
    def active(self) -> Collection[Link]:
        """The connections that are open, and those in their TLS handshake."""
        return self._links

    # ---- the end, in three steps: what a protocol can do in each is up to its adapter -------------------------------

    def ask_to_close(self) -> None:
        """Tell clients, in what is said to them anyway, to close their connections."""

    def close_silent(self, timeout: float | None) -> None:
        """Close connections on which nothing is going on, and others when they have answered, within `timeout`."""

    async def say_farewell(self) -> None:
        """End also what would go on: WebSockets."""

    async def drain(self, timeout: float | None = None) -> int:
        """Ask clients to close their connections, then close those that say nothing, and at last WebSockets.

        So no client finds its connection closed under a request, unless it was silent for a second before.
        """
        self.ask_to_close()
        linger = LINGER if timeout is None else min(LINGER, timeout / 2)
        if not await self.wait_empty(linger):
            return 0
        rest = None if timeout is None else timeout - linger
        self.close_silent(rest)
        if rest is None:
            return await self.wait_empty(None)
        farewell = min(FAREWELL, rest / 2)
        if not await self.wait_empty(rest - farewell):
            return 0
        await self.say_farewell()
        return await self.wait_empty(farewell)

    async def wait_empty(self, timeout: float | None) -> int:
        """Wait until no connection is open, for at most `timeout` seconds. Returns how many still are."""
        if not self._links or timeout == 0:
            return len(self._links)
        self._empty.clear()
        self._is_awaited = True
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            return len(self._links)
        return 0

    async def stop(self) -> None:
        """End all connections that are still open."""
        for link in list(self._links):
            link.abort()
        # Transports that were aborted close their sockets in a callback of the loop's next turn.
        for _ in range(2):
            await asyncio.sleep(0)
