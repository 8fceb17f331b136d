"""Permits to accept: given out in the arbiter, used in its workers."""

from __future__ import annotations

import atexit
import errno
import os
from typing import TYPE_CHECKING, Any, Final

from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker as GunicornWorker

from pydlb import _native
from pydlb.device import open as open_device
from pydlb.sharing import SharedPort

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from pydlb.port import LDBPort, Port

__all__ = ["BalancedWorker", "Permits"]

# Workers at a time, with those that are on their way out.
_MOST_WORKERS: Final = 512

# Open connections over all workers, and of one.
_HISTORY: Final = 1 << 20
_MOST_CONNECTIONS: Final = 1 << 14

# How long a permit waits for the worker whose turn it is while another is idle, in seconds.
_GRACE: Final = 0.020

_CREDITS: Final = 1 << 14

# The connection was given up before it could be accepted, or another worker was quicker.
_NOTHING: Final = frozenset({errno.EAGAIN, errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR, errno.EINVAL})


class Issuer:
    """Gives out permits for an arbiter's listening sockets, in a thread of this process.

    **Resource handling**: lives as long as the arbiter. Forked workers have a copy that they never use.
    """

    def __init__(self) -> None:
        self._device = open_device("software", limits="large")
        self._domain = self._device.create_domain(
            ldb_queues=1,
            ldb_ports=_MOST_WORKERS,
            dir_ports=1,
            credits=_CREDITS,
            history_entries=_HISTORY,
            atomic_inflights=0,
            sequence_slots=(0, 0),
            shared=True,
        )
        self._queue = self._domain.create_ldb_queue(atomic_inflights=0, sharing="even", grace=_GRACE)
        self._sender = self._domain.create_dir_port()
        self._domain.start()
        self._acceptor = _native.Acceptor(
            self._domain._native,
            self._sender._native,
            queue=self._queue.id,
            slots=1,
            batch=1,
            blocking=False,
            board=_native.Board(1),  # gunicorn's workers count for themselves
        )
        self._listeners: dict[int, Any] = {}
        self._pid = os.getpid()
        atexit.register(self._close)

    def listen(self, listeners: Sequence[Any]) -> dict[int, Any]:
        """Give out permits for these sockets and no others.

        Returns:
            The sockets, by the number that is in their permits.
        """
        for number, listener in list(self._listeners.items()):
            if listener not in listeners:
                del self._listeners[number]
                self._acceptor.remove(number, drain=False)
        for listener in listeners:
            if listener not in self._listeners.values():
                listener.setblocking(False)
                self._listeners[self._acceptor.add(listener.fileno())] = listener
        return dict(self._listeners)

    def admit(self, most: int) -> LDBPort:
        """A port for one more worker, which may have so many connections."""
        port = self._domain.create_ldb_port(cq_depth=1, history_entries=min(most, _MOST_CONNECTIONS))
        port.link(self._queue)
        return port

    def _close(self) -> None:
        if os.getpid() == self._pid:
            self._acceptor.end()
            self._device.close()


_issuers: dict[int, Issuer] = {}


def _issuer() -> Issuer:
    """This process's: an arbiter may be forked by a program that is one itself."""
    pid = os.getpid()
    if pid not in _issuers:
        _issuers[pid] = Issuer()
    return _issuers[pid]


class Permits:
    """One worker's permits, and the sockets that they are for.

    Args:
        port: The worker's.
        listeners: The sockets, by number.
    """

    def __init__(self, port: LDBPort, listeners: dict[int, Any]) -> None:
        self._listeners = listeners
        self._shared = SharedPort(port)
        self._maker = os.getpid()
        self._of_maker = port
        self.port: Port

    def join(self) -> None:
        """Use them: in the worker's process."""
        self.port = self._shared.open()

    def end(self) -> None:
        """The worker has ended, perhaps in the middle of taking one: in the arbiter. Does nothing in its forks."""
        if os.getpid() == self._maker and not self._of_maker.closed:
            try:
                self._shared.bury()
            finally:
                self._of_maker.close()

    def accept(self) -> tuple[socket.socket, Any, Any] | None:
        """Take a permit if there is one, and accept a connection by it.

        Returns:
            The client's socket and address, and the listener; None if there is nothing, and then the port is armed.

        Raises:
            OSError: The connection cannot be accepted for want of descriptors or memory.

        **Resource handling**: call :meth:`closed` once it is.
        """
        while (permit := self.port.recv_one(0)) is not None:
            listener = self._listeners.get(_native.permit_listener(permit))
            try:
                if listener is not None:
                    sock, address = listener.accept()
                    return sock, address, listener
            except OSError as error:
                self.port.release()
                if error.errno not in _NOTHING:
                    raise
            else:
                self.port.release()  # of a socket that there was not yet when this worker was forked
        return None

    def closed(self) -> None:
        """A connection is closed. Any thread."""
        self.port.release_later()


class _Tmp:
    """A worker's heartbeat file. When it is closed in the arbiter, the worker has ended."""

    def __init__(self, tmp: Any, ended: Callable[[], object]) -> None:
        self._tmp = tmp
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tmp, name)

    def close(self) -> None:
        """Close it."""
        self._tmp.close()
        self._ended()


class BalancedWorker(GunicornWorker):  # type: ignore[misc]
    """What workers of all kinds have in common: the arbiter makes them before it forks."""

    tmp: Any

    def __init__(self, age: int, ppid: int, sockets: Any, app: Any, timeout: float, cfg: Any, log: Any) -> None:
        if cfg.reuse_port and not sockets:
            raise HaltServer("with reuse_port the kernel chooses the worker: leave it out for pydlb to do so", 1)
        cfg.set("reuse_port", False)  # it came by a reload, and there are sockets
        super().__init__(age, ppid, sockets, app, timeout, cfg, log)
        issuer = _issuer()
        listeners = issuer.listen(sockets)
        port = issuer.admit(cfg.worker_connections)
        self.permits = Permits(port, listeners)
        self.tmp = _Tmp(self.tmp, self.permits.end)

    def init_process(self) -> None:
        """Join the others, and run."""
        self.permits.join()
        super().init_process()
