"""The listening sockets of a balancer."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydlb import _native
from pydlb.errors import ClosedError, ConfigError

from .checks import check_range
from .waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydlb.processes.pool import ProcessPool

__all__ = ["Address", "Listeners", "listening_socket", "make_listening"]

# As getsockname returns it: (host, port), (host, port, flow, scope), or the path of a UNIX socket.
Address: TypeAlias = Any


class Listeners:
    """Sockets by the numbers that the acceptor knows them by.

    Args:
        acceptor: Who accepts from them.
        pool: Worker processes, which accept by themselves; None where there are none.

    **Synchronization**: any thread.

    **Resource handling**: the sockets are its own from the moment at which they are added; the acceptor has duplicates,
    to empty a backlog after the socket is closed.
    """

    def __init__(self, acceptor: _native.Acceptor, pool: ProcessPool | None = None) -> None:
        self._acceptor = acceptor
        self._pool = pool
        self._lock = threading.Lock()
        self._sockets: dict[int, socket.socket] = {}
        self._shared: set[int] = set()
        self._ended = False

    def __len__(self) -> int:
        """How many there are."""
        return len(self._sockets)

    def __iter__(self) -> Iterator[int]:
        """Their numbers."""
        with self._lock:
            return iter(list(self._sockets))

    def add(self, sock: socket.socket, *, shared: bool, proxy: int = 0) -> int:
        """Accept from a socket that listens; returns its number. It is closed if that fails, unless it is shared."""
        with self._lock:
            try:
                number = self._accept_from(sock.fileno(), proxy)
            except BaseException:
                if not shared:
                    sock.close()
                raise
            self._sockets[number] = sock
            if self._pool is not None:
                self._pool.listen(number, sock, proxy)
            if shared:
                self._shared.add(number)
            return number

    def _accept_from(self, descriptor: int, proxy: int) -> int:
        if self._ended:
            raise ClosedError("this balancer is closed")
        return self._acceptor.add(descriptor, proxy)

    def remove(self, number: int, timeout: float) -> None:
        """Accept what is in its backlog, for at most `timeout` seconds, then no more."""
        with self._lock:
            self._check(number)
            self._shut(number)
            self._acceptor.remove(number, drain=True)
        wait_for(lambda: not self._acceptor.listens(number), timeout)
        with contextlib.suppress(ConfigError):  # it has been drained
            self._acceptor.remove(number, drain=False)
        if self._pool is not None:
            self._pool.unlisten(number)

    def shut_all(self) -> None:
        """Let go of all sockets, and add none any more. The acceptor has them still."""
        with self._lock:
            self._ended = True
            for number in list(self._sockets):
                self._shut(number)

    def address(self, number: int) -> Address:
        """As getsockname returns it."""
        with self._lock:
            self._check(number)
            return self._sockets[number].getsockname()

    def addresses(self) -> dict[int, str]:
        """What each listens on, in words."""
        with self._lock:
            return {number: _in_words(sock.getsockname()) for number, sock in self._sockets.items()}

    def _check(self, number: int) -> None:
        if number not in self._sockets:
            raise ConfigError(f"there is no listener {number}")

    def _shut(self, number: int) -> None:
        """Let go of a listening socket. The acceptor has it still, to empty its backlog."""
        sock = self._sockets.pop(number)
        if number in self._shared:
            self._shared.remove(number)
            return
        _native.shut_listener(sock.fileno())
        address = sock.getsockname()
        sock.close()
        if sock.family == socket.AF_UNIX and isinstance(address, str) and address:
            with contextlib.suppress(OSError):
                Path(address).unlink()


def _in_words(address: Address) -> str:
    if not isinstance(address, tuple):
        return os.fsdecode(address) if address else "unnamed"
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def listening_socket(
    host: str, port: int, path: str | os.PathLike[str] | None, backlog: int, *, reuse_port: bool
) -> socket.socket:
    """A socket that listens on an address, or on a path."""
    if path is None:
        check_range(port=(port, 0, 0xFFFF))
        _check_host(host)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=backlog, reuse_port=reuse_port)
        sock.setblocking(False)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(os.fspath(path))
        make_listening(sock, backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_host(host: str) -> None:
    """Before there is a socket: `create_server` leaves it open where the name, not the address, is at fault."""
    try:
        fair = b"\0" not in host.encode("idna")
    except (AttributeError, TypeError, ValueError):
        fair = False
    if not fair:
        raise ConfigError(f"host is {host!r}: it is a name or an address")


def make_listening(sock: socket.socket, backlog: int) -> None:
    """Let a bound socket listen.

    Raises:
        ConfigError: It is no stream socket.
    """
    if not isinstance(sock, socket.socket) or sock.type != socket.SOCK_STREAM:
        raise ConfigError(f"sock is {sock!r}: it is a stream socket, bound to an address")
    sock.setblocking(False)
    sock.listen(backlog)
