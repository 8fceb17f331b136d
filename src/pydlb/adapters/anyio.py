"""AnyIO: a listener for programs on asyncio or trio."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.abc import SocketAttribute

from pydlb.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydlb.proxied import Address, Proxied
    from pydlb.workers import Connection, Ticket, Worker

__all__ = ["Listener"]

# How often a listener that waits looks whether its worker was closed, in seconds.
_LOOK = 0.1


class Listener(anyio.abc.Listener[anyio.abc.SocketStream]):
    """Brings a worker's connections to an AnyIO program: ``await Listener(worker).serve(handler)``.

    If a proxy told of its client by the PROXY protocol, the stream's ``SocketAttribute.remote_address`` does too.

    Args:
        worker: Made by :meth:`pydlb.Balancer.worker`; the program's only.

    **Resource handling**: a connection counts as open until its handler returns; its stream is closed then. Closing the
    listener leaves the worker to its balancer, which gives it no more connections.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._descriptor = os.dup(worker.fileno_of_all())  # the worker may close its own while we wait
        self._closed = False

    async def serve(
        self, handler: Callable[[anyio.abc.SocketStream], Any], task_group: anyio.abc.TaskGroup | None = None
    ) -> None:
        """Call the handler with each connection, in a task of its own, until the listener or its worker is closed."""
        if task_group is None:
            async with anyio.create_task_group() as own:
                await self._serve(handler, own)
        else:
            await self._serve(handler, task_group)

    async def _serve(self, handler: Callable[[anyio.abc.SocketStream], Any], task_group: anyio.abc.TaskGroup) -> None:
        while (connection := await self._take()) is not None:
            proxied = connection.proxied
            sock, ticket = connection.detach()
            task_group.start_soon(_handle, handler, sock, ticket, proxied)

    async def _take(self) -> Connection | None:
        await anyio.lowlevel.checkpoint()
        while not self._closed:
            try:
                connections, more = self._worker.receive(1)
            except ClosedError:
                return None
            if connections:
                return connections[0]
            if more:  # what it was given has gone elsewhere meanwhile
                continue
            with anyio.move_on_after(_LOOK), contextlib.suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(self._descriptor)
        return None

    async def aclose(self) -> None:
        """Take no more connections."""
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._descriptor)
            os.close(self._descriptor)
            with contextlib.suppress(ClosedError):
                self._worker.port.disable()
        await anyio.lowlevel.checkpoint()


class _ProxiedStream(anyio.abc.SocketStream):
    """A stream whose addresses are those that the proxy tells of; all else is the stream's own."""

    def __init__(self, stream: anyio.abc.SocketStream, proxied: Proxied) -> None:
        self._stream = stream
        self._proxied = proxied

    @property
    def _raw_socket(self) -> socket.socket:
        return self._stream._raw_socket

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """AnyIO's typed attributes of a socket."""
        told = self._proxied
        attributes = {
            **self._stream.extra_attributes,
            SocketAttribute.family: lambda: told.family,
            SocketAttribute.remote_address: lambda: _short(told.client),
            SocketAttribute.local_address: lambda: _short(told.server),
        }
        if told.family != socket.AF_UNIX:
            attributes[SocketAttribute.remote_port] = lambda: told.client[1]
            attributes[SocketAttribute.local_port] = lambda: told.server[1]
        return attributes

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """As the stream does."""
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        """As the stream does."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """As the stream does."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """As the stream does."""
        await self._stream.aclose()


def _short(address: Address) -> Address:
    """As AnyIO has them: host and port, or a path."""
    return address[:2] if isinstance(address, tuple) else address


async def _handle(
    handler: Callable[[anyio.abc.SocketStream], Any], sock: socket.socket, ticket: Ticket, proxied: Proxied | None
) -> None:
    aborted = True
    try:
        own = await _stream(sock)
        async with own if proxied is None else _ProxiedStream(own, proxied) as stream:
            await handler(stream)
        aborted = False
    finally:
        sock.close()
        ticket.release(aborted=aborted)


async def _stream(sock: socket.socket) -> anyio.abc.SocketStream:
    kind = anyio.abc.UNIXSocketStream if sock.family == socket.AF_UNIX else anyio.abc.SocketStream
    return await kind.from_socket(sock)
