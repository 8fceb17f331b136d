"""AnyIO: a listener for programs on asyncio or trio."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel

from pydlb.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydlb.workers import Connection, Ticket, Worker

__all__ = ["Listener"]

# How often a listener that waits looks whether its worker was closed, in seconds.
_LOOK = 0.1


class Listener(anyio.abc.Listener[anyio.abc.SocketStream]):
    """Brings a worker's connections to an AnyIO program: ``await Listener(worker).serve(handler)``.

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
            sock, ticket = connection.detach()
            task_group.start_soon(_handle, handler, sock, ticket)

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


async def _handle(handler: Callable[[anyio.abc.SocketStream], Any], sock: socket.socket, ticket: Ticket) -> None:
    aborted = True
    try:
        async with await _stream(sock) as stream:
            await handler(stream)
        aborted = False
    finally:
        sock.close()
        ticket.release(aborted=aborted)


async def _stream(sock: socket.socket) -> anyio.abc.SocketStream:
    kind = anyio.abc.UNIXSocketStream if sock.family == socket.AF_UNIX else anyio.abc.SocketStream
    return await kind.from_socket(sock)
