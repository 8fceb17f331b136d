"""The connection balancer: listening sockets on one side, workers on the other."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Final, Protocol, Self, runtime_checkable

from . import _native
from .device import open as open_device
from .errors import ClosedError, ConfigError
from .policies import PolicyName, check_policy
from .stats import BalancerStats
from .workers import Connection, ThreadWorker, Worker

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["Balancer"]

logger = logging.getLogger("pydlb")

# Open connections over all workers; each worker's port gets a part of them.
_HISTORY: Final = 1 << 20
_MAX_WORKERS: Final = 512

# How often close() looks whether what it waits for is done, in seconds.
_LOOK: Final = 0.002


def _default_grace() -> float:
    """Seconds that a connection waits for the worker whose turn it is.

    With the interpreter lock a worker that is not busy may still have to wait for the lock, 5 ms or more.
    """
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    return 0.020 if is_enabled is None or is_enabled() else 0.001


class Runner(Protocol):
    """What runs a worker in a thread of the balancer's: :class:`ThreadWorker`, :class:`LoopWorker`."""

    @property
    def worker(self) -> Worker:
        """The worker that it runs."""

    def start(self) -> None:
        """Start the thread."""

    def stop(self, timeout: float) -> bool:
        """Wait for the thread to end; False if it is still busy."""


@runtime_checkable
class Abortable(Protocol):
    """A runner that can end its connections from outside."""

    def abort(self) -> None:
        """End all connections now."""


class Balancer:
    """Accepts connections and spreads them over workers, by how many each has open.

    There are three ways to consume:

    * ``Balancer(workers=4, handler=function)``: four threads call ``function(connection)``, one connection at a time
      each; the connection is closed when the function returns.
    * :func:`pydlb.start_server`: event loops in threads, with the handlers of :func:`asyncio.start_server`.
    * ``Balancer(workers=0)`` and :meth:`worker`: iterate over a worker in a thread of your own, or await its
      ``accept()`` in a loop of your own; ``async with balancer: await balancer.accept()`` does so for the running loop.

    Args:
        workers: Threads to start, for `handler`. 0 starts none.
        handler: Called with a :class:`Connection` for each connection, on a worker's thread.
        policy: Which worker gets a connection; ``"dlb"``: the one with the fewest open among those that are not busy.
        backend: As `device` of :func:`pydlb.open`.
        grace: Seconds that a connection waits for the worker whose turn it is, while another is idle; None for 1 ms
            without the interpreter lock, 20 ms with it.
        batch: Connections accepted from one listener before the next one has its turn, 1 to 64.
        max_waiting: Accepted connections that may wait for a worker; beyond that they stay in the kernel's backlog.
        name: The start of the workers' names.

    Raises:
        ConfigError: An argument is out of range.
        BackendUnavailable: The backend cannot be had.

    **Synchronization**: any thread.

    **Resource handling**: a context manager; leaving it closes it. Listening sockets that were passed in stay the
    caller's.

    **Error handling**: an exception of the handler is logged (logger ``pydlb``), its connection closed and counted as
    aborted. Without descriptors or memory accepting stops for a moment, and `stats` counts it.
    """

    def __init__(
        self,
        workers: int = 4,
        *,
        handler: Callable[[Connection], object] | None = None,
        policy: PolicyName = "dlb",
        backend: str | int | os.PathLike[str] = "auto",
        grace: float | None = None,
        batch: int = 16,
        max_waiting: int = 4096,
        name: str = "worker",
    ) -> None:
        check_policy(policy)
        _check_range(workers=(workers, 0, _MAX_WORKERS), batch=(batch, 1, 64), max_waiting=(max_waiting, 1, 1 << 16))
        if workers and handler is None:
            raise ConfigError(f"{workers} workers need a handler to call; workers=0 starts none")
        self.policy: Final = policy
        self._name = name
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._runners: list[Runner] = []
        self._left: list[Worker] = []
        self._loops: weakref.WeakKeyDictionary[AbstractEventLoop, Worker] = weakref.WeakKeyDictionary()
        self._listeners: dict[int, socket.socket] = {}
        self._refused = 0
        self._closing = False
        self._closed = False
        self._capacity = _HISTORY // max(16, 2 * workers)
        self._open_engine(backend, _default_grace() if grace is None else grace, batch, max_waiting)
        try:
            for _ in range(workers):
                assert handler is not None
                self.run(ThreadWorker(self.worker(), handler))
        except BaseException:
            self.close(timeout=0)
            raise

    def _open_engine(self, backend: str | int | os.PathLike[str], grace: float, batch: int, max_waiting: int) -> None:
        self._device = open_device(backend, limits="large")
        try:
            self._domain = self._device.create_domain(
                ldb_queues=1,
                ldb_ports=_MAX_WORKERS,
                dir_ports=1,
                credits=max_waiting,
                history_entries=_HISTORY,
                atomic_inflights=0,
                sequence_slots=(0, 0),
            )
            self._queue = self._domain.create_ldb_queue(atomic_inflights=0, sharing="even", grace=grace)
            self._sender = self._domain.create_dir_port()
            self._domain.start()
            self._acceptor = _native.Acceptor(
                self._domain._native,  # noqa: SLF001 - the acceptor works below the face, on the same handles
                self._sender._native,  # noqa: SLF001
                queue=self._queue.id,
                slots=max_waiting,
                batch=batch,
            )
        except BaseException:
            self._device.close()
            raise

    @property
    def backend(self) -> str:
        """What does the work: ``"software"``."""
        return self._device.backend

    @property
    def fallback_reason(self) -> str | None:
        """Why it is not the hardware, where that was left open."""
        return self._device.fallback_reason

    # ---- workers ------------------------------------------------------------------------------------------------------

    def worker(self, name: str | None = None) -> Worker:
        """Add a worker for a thread or event loop of the caller's.

        Args:
            name: Its name in statistics; None for the next number.

        Returns:
            The worker. It gets its share of connections from now on, so it should come for them.

        Raises:
            ClosedError: The balancer is closed.
            ResourceExhausted: There are 512 workers already.
        """
        with self._lock:
            if self._closing:
                raise ClosedError("this balancer is closed")
            number = len(self._workers) + len(self._left)
            port = self._domain.create_ldb_port(cq_depth=64, history_entries=self._capacity)
            worker = Worker(name or f"{self._name}_{number}", port, self._acceptor)
            port.link(self._queue)
            self._workers.append(worker)
            return worker

    def run(self, runner: Runner) -> None:
        """Start a runner of one of the balancer's workers, and stop it when the balancer is closed."""
        runner.start()
        with self._lock:
            self._runners.append(runner)

    def remove_worker(self, worker: Worker, timeout: float | None = None) -> int:
        """Give a worker no more connections, wait for those that it has, and remove it.

        Args:
            worker: One of the balancer's.
            timeout: Seconds to wait for its open connections; None waits for ever.

        Returns:
            How many connections were still open: they are counted as aborted.
        """
        with self._lock:
            if worker not in self._workers:
                raise ConfigError(f"{worker!r} is not a worker of this balancer")
        worker.port.unlink(self._queue)
        _wait(lambda: worker.port.in_flight == 0, timeout)
        with self._lock:
            runners = [runner for runner in self._runners if runner.worker is worker]
            self._runners = [runner for runner in self._runners if runner.worker is not worker]
            self._workers.remove(worker)
            self._left.append(worker)
        left = worker.stats().open
        _stop([worker], runners, time.monotonic() + 1)
        return left

    def connections(self) -> Iterator[Connection]:
        """Make the calling thread a worker, and iterate over its connections until the balancer is closed."""
        return iter(self.worker())

    async def accept(self) -> Connection:
        """Make the running event loop a worker, and wait for its next connection; its socket is non-blocking."""
        import asyncio

        loop = asyncio.get_running_loop()
        worker = self._loops.get(loop)
        if worker is None:
            worker = self._loops[loop] = self.worker()
        return await worker.accept()

    # ---- listeners ----------------------------------------------------------------------------------------------------

    def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        path: str | os.PathLike[str] | None = None,
        backlog: int = 1024,
    ) -> int:
        """Accept connections from one more listening socket.

        Args:
            host: The address to listen on.
            port: The port to listen on; 0 for any that is free.
            sock: A listening socket to accept from, instead. It is made non-blocking, and stays the caller's.
            path: A path to listen on as a UNIX socket, instead.
            backlog: Connections that the kernel keeps until they are accepted.

        Returns:
            The listener's number.

        Raises:
            OSError: The address cannot be listened on.
            ConfigError: The socket does not listen.
            ClosedError: The balancer is closed.
        """
        own = sock is None
        if sock is None:
            sock = _listening_socket(host, port, path, backlog)
        sock.setblocking(False)
        try:
            with self._lock:
                if self._closing:
                    raise ClosedError("this balancer is closed")
                number = self._acceptor.add(sock.fileno())
                if own:
                    self._listeners[number] = sock
                return number
        except BaseException:
            if own:
                sock.close()
            raise

    def address(self, listener: int = 0) -> str | tuple[str, int] | tuple[str, int, int, int]:
        """The address of a listener that :meth:`listen` opened."""
        address: str | tuple[str, int] | tuple[str, int, int, int] = self._listeners[listener].getsockname()
        return address

    def pause(self) -> None:
        """Leave new connections in the kernel's backlogs until :meth:`resume`."""
        self._acceptor.pause(True)

    def resume(self) -> None:
        """Accept again."""
        self._acceptor.pause(False)

    # ---- the account --------------------------------------------------------------------------------------------------

    def stats(self) -> BalancerStats:
        """What the balancer has done until now.

        What left the workers is read before what came to them, and that before what was accepted: so the sums add up
        and nothing is negative, while everything goes on.
        """
        with self._lock:
            workers = [*self._left, *self._workers]
            refused = self._refused
            rewakes = 0 if self._closed else self._domain.stats().rewakes
        records = [worker.stats() for worker in workers]
        acceptor = self._acceptor.stats()
        given = sum(record.accepted for record in records) + refused
        accepted = max(acceptor["accepted"], given)
        return BalancerStats(
            workers=tuple(records),
            accepted=accepted,
            waiting=accepted - given,
            open=sum(record.open for record in records),
            served=sum(record.served for record in records),
            refused=refused,
            aborted=sum(record.aborted for record in records),
            gone=acceptor["aborted"],
            taken_back=rewakes,
            held_up=acceptor["held_up"],
            backoffs=acceptor["backoffs"],
            handoff_seconds=tuple(((1 << n) * 1e-6, count) for n, count in enumerate(acceptor["handoff"]) if count),
        )

    # ---- the end ------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the balancer was closed."""
        return self._closed

    def stop_accepting(self, timeout: float = 5.0) -> None:
        """Accept what is in the kernel's backlogs, for at most `timeout` seconds, then close the listeners."""
        with self._lock:
            if self._closed:
                return
            self._closing = True
        self._acceptor.stop(timeout)
        with self._lock:
            listeners, self._listeners = self._listeners, {}
        for sock in listeners.values():
            address = sock.getsockname()
            sock.close()
            if sock.family == socket.AF_UNIX and isinstance(address, str):
                _unlink(address)

    def drain(self, timeout: float | None = None) -> int:
        """Accept no more, and wait until every connection has been served.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Returns:
            How many connections were still waiting or open.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.stop_accepting(5.0 if timeout is None else timeout)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        _wait(lambda: self._unfinished() == 0, left)
        return self._unfinished()

    def _unfinished(self) -> int:
        stats = self.stats()
        return stats.waiting + stats.open

    def abort_connections(self) -> None:
        """End all connections that are open on event loops of :func:`pydlb.start_server` now."""
        with self._lock:
            runners = list(self._runners)
        for runner in runners:
            if isinstance(runner, Abortable):
                runner.abort()

    def close(self, timeout: float = 5.0) -> BalancerStats:
        """Drain for at most `timeout` seconds, then end what is left and close everything. May be called twice.

        A worker that does not return from its handler is left behind in its thread.

        Returns:
            The final account: ``accepted == served + refused + aborted``.
        """
        if self._closed:
            return self.stats()
        self.drain(timeout)
        with self._lock:
            workers, runners = list(self._workers), list(self._runners)
        _stop(workers, runners, time.monotonic() + 1.0)
        self._refuse_left()
        with self._lock:
            self._closed = True
        self._device.close()
        return self.stats()

    def _refuse_left(self) -> None:
        """Close what was accepted and never taken by a worker."""
        while (taken := self._acceptor.take_left()) is not None:
            socket.close(taken[0])
            with self._lock:
                self._refused += 1

    def __enter__(self) -> Self:
        """The balancer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Warn about an open balancer that nobody holds any more."""
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        """How many workers, or that it is closed."""
        return f"<pydlb.Balancer {'closed' if self._closed else f'{len(self._workers)} workers'}>"


def _check_range(**arguments: tuple[int, int, int]) -> None:
    for name, (value, least, most) in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{name} is {value!r}: it is a whole number from {least} to {most}")


def _listening_socket(host: str, port: int, path: str | os.PathLike[str] | None, backlog: int) -> socket.socket:
    if path is None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(os.fspath(path))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def _wait(done: Callable[[], bool], timeout: float | None) -> None:
    """Wait until `done()`, looking now and then."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not done() and (deadline is None or time.monotonic() < deadline):
        time.sleep(_LOOK)


def _stop(workers: list[Worker], runners: list[Runner], deadline: float) -> None:
    """End loops and threads, then close the ports; what is still open is counted as aborted."""
    loops: list[Runner] = []
    for runner in runners:
        if isinstance(runner, Abortable):
            runner.abort()
            loops.append(runner)
    _wait(lambda: all(runner.worker.port.in_flight == 0 for runner in loops), max(0.0, deadline - time.monotonic()))
    for runner in loops:
        _end(runner, deadline)
    for worker in workers:
        worker.close()
    for runner in runners:
        if runner not in loops:
            _end(runner, deadline)


def _end(runner: Runner, deadline: float) -> None:
    if not runner.stop(max(0.0, deadline - time.monotonic())):
        logger.warning("%s does not return from its handler; its thread is left behind", runner.worker.name)

