"""How loops are given a connection as a descriptor: uvloop without a socket object, and all without a task."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from pydlb._native import Socket
from pydlb.eventloop import WorkerLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

__all__ = ["WITH_PORTS", "connect_descriptor", "takes_descriptors"]

# Families whose addresses have ports.
WITH_PORTS: Final = (socket.AF_INET, socket.AF_INET6)


class _Descriptor:
    """What uvloop asks of a socket: the descriptor is the transport's from then on, which closes it."""

    __slots__ = ("_ended", "_number", "family")
    type: Final = socket.SOCK_STREAM.value

    def __init__(self, number: int, family: int, ended: Callable[[], object] | None) -> None:
        self._number = number
        self._ended = ended
        self.family = family

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        """The transport has closed it."""
        if self._ended is not None:
            self._ended()


class _Watched(Socket):
    """A socket that tells when it is closed."""

    __slots__ = ("ended",)
    ended: Callable[[], object]

    def _real_close(self) -> None:
        super()._real_close()  # type: ignore[misc]
        if hasattr(self, "ended"):
            self.ended()


def takes_descriptors(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop is ours, or uvloop's, whose transports need no socket object."""
    return isinstance(loop, WorkerLoop) or any(kind.__module__ == "uvloop.loop" for kind in type(loop).__mro__)


def connect_descriptor(
    loop: asyncio.AbstractEventLoop,
    make_protocol: Callable[[], asyncio.BaseProtocol],
    descriptor: int,
    family: int,
    *,
    read: bool = False,
    ended: Callable[[], object] | None = None,
) -> Iterator[object] | None:
    """Connect an accepted connection to its protocol.

    Nobody waits for `connection_made` to have been called, so what would is never taken further: a task, or a callback
    of the future that it waits for, costs as much as all else that is done here.

    Args:
        loop: For which `takes_descriptors` is true.
        make_protocol: Makes the protocol, whose `connection_made` is called in the next turn.
        descriptor: The transport's from now on, also if this fails.
        family: Of its addresses.
        read: What the client had sent was read just now.
        ended: Called once the transport has closed the socket, whatever its protocol is by then; not if this fails.

    Returns:
        What is to be kept while the connection is open, else it would end; and then to be taken one step further, to
        its end: what is thrown away instead is told so by an exception, which costs uvloop 20 microseconds. None for a
        `WorkerLoop`.

    Raises:
        Exception: What `make_protocol` raised.
    """
    if isinstance(loop, WorkerLoop):
        _connect_socket(loop, make_protocol, descriptor, family, read=read, ended=ended)
        return None
    accepted = _Descriptor(descriptor, family, ended)
    connecting = loop.connect_accepted_socket(make_protocol, accepted).__await__()  # type: ignore[arg-type]
    try:
        next(connecting)
    except BaseException:
        os.close(descriptor)
        raise
    return connecting


def _connect_socket(
    loop: WorkerLoop,
    make_protocol: Callable[[], asyncio.BaseProtocol],
    descriptor: int,
    family: int,
    *,
    read: bool,
    ended: Callable[[], object] | None,
) -> None:
    number = socket.IPPROTO_TCP if family in WITH_PORTS else 0
    try:
        kind = Socket if ended is None else _Watched
        sock = kind(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, number, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    try:
        loop.serve_accepted(sock, make_protocol(), read=read)
    except BaseException:
        sock.close()
        raise
    if isinstance(sock, _Watched) and ended is not None:
        sock.ended = ended
