"""The connection balancer: listening sockets on one side, workers on the other."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import socket
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, TypeAlias, TypedDict

from . import _native
from .device import open_with as open_device_with
from .errors import BackendUnavailable, ClosedError, ConfigError
from .policies import make_policy
from .stats import BalancerStats
from .steering import Queues, Steering
from .workers import Connection, ThreadWorker, Worker

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from .device import Device
    from .metrics import MetricsServer
    from .policies import Policy, PolicyLike
    from .port import LDBPort

__all__ = ["Balancer"]

logger = logging.getLogger("pydlb")

# As getsockname returns it: (host, port), (host, port, flow, scope), or the path of a UNIX socket.
Address: TypeAlias = Any

# Open connections over all workers; each worker's port gets an equal part of them.
_HISTORY: Final = 1 << 20
_MOST_WORKERS: Final = 1024
_FEW_WORKERS: Final = 16
# An event names its queue by 8 bits; two queues are shared by all workers.
_OWN_QUEUES: Final = 253

# The workers' ports, on a device and in software.
_DEVICE_PORT: Final[PortShape] = {"cq_depth": 8, "history_entries": 1, "release": "on_recv"}
_SOFTWARE_PORT: Final[PortShape] = {"cq_depth": 64, "history_entries": _HISTORY, "release": "explicit"}

# How long a connection waits for the worker whose turn it is, in seconds. One that is not busy may still have to wait
# for a processor, or for the interpreter lock, whose holder is asked for it after 5 ms: with less, bursts on a machine
# with fewer processors than workers are spread unevenly.
_GRACE: Final = 0.020

# Who waits for something to be done looks after the first of these times, later after the second, in seconds.
_FIRST_LOOK: Final = 0.001
_LAST_LOOK: Final = 0.02

# How long workers have to end, once their connections were told to, in seconds.
_ENDING: Final = 1.0


class PortShape(TypedDict):
    """How a worker's port is made."""

    cq_depth: int
    history_entries: int
    release: Literal["explicit", "on_recv"]


class Runner(Protocol):
    """What runs a worker in a thread of the balancer's: :class:`ThreadWorker`, :class:`LoopWorker`."""

    @property
    def worker(self) -> Worker:
        """The worker that it runs."""

    def start(self) -> None:
        """Start the thread."""

    def begin_drain(self, timeout: float | None) -> None:
        """Ask all connections, also new ones, to end in their protocol's own way within `timeout` seconds."""

    def close_connections(self) -> None:
        """Close all connections once what was written to them is sent."""

    def abort(self) -> None:
        """End all connections now."""

    def stop(self) -> None:
        """Tell the thread to end."""

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if it is still busy after `timeout` seconds."""


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
            Others are in :mod:`pydlb.policies`: ``"exact"``, ``"nop"``, ``"random"``, ``"round_robin"``, ``"least"``,
            ``"hash"``, one with options, or a function of the workers and the :class:`pydlb.policies.Arrival`.
        backend: As `device` of :func:`pydlb.open`.
        grace: Seconds that a connection waits for the worker whose turn it is, while another is idle; None for 20 ms.
        batch: Connections accepted from one listener before the next one has its turn, 1 to 64.
        max_waiting: Accepted connections that may wait for a worker; beyond that they stay in the kernel's backlog.
        max_workers: How many workers there may be at a time; each may have 2**20 / `max_workers` connections open. None
            for twice `workers`, at least 16.
        name: The start of the workers' names.
        metrics_port: A port on which ``/metrics``, ``/ready``, ``/alive`` and ``/stats`` are answered by HTTP until it
            is closed, see :class:`pydlb.metrics.MetricsServer`; 0 for any that is free, None for none.
        metrics_host: The address for that.

    Raises:
        ConfigError: An argument is out of range; or `metrics_port` is given and prometheus-client not installed.
        BackendUnavailable: The backend cannot be had.
        OSError: `metrics_port` cannot be listened on.

    **Synchronization**: any thread.

    **Resource handling**: a context manager; leaving it closes it.

    **Error handling**: an exception of the handler is logged (logger ``pydlb``), its connection closed and counted as
    aborted. Without descriptors or memory accepting stops for a moment; `stats` counts it, and logs it the first time.
    """

    def __init__(
        self,
        workers: int = 4,
        *,
        handler: Callable[[Connection], object] | None = None,
        policy: PolicyLike = "dlb",
        backend: str | int | os.PathLike[str] = "auto",
        grace: float | None = None,
        batch: int = 16,
        max_waiting: int = 4096,
        max_workers: int | None = None,
        name: str = "worker",
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
    ) -> None:
        steered = make_policy(policy)
        check_range(workers=(workers, 0, _MOST_WORKERS), batch=(batch, 1, 64), max_waiting=(max_waiting, 1, 1 << 16))
        if max_workers is None:
            max_workers = min(_MOST_WORKERS, max(_FEW_WORKERS, 2 * workers))
        check_range(max_workers=(max_workers, max(1, workers), _MOST_WORKERS))
        if workers and handler is None:
            raise ConfigError(f"{workers} workers need a handler to call; workers=0 starts none")
        if handler is not None and not callable(handler):
            raise ConfigError(f"handler is {handler!r}: it is a function of one connection")
        self._name = name
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._runners: list[Runner] = []
        self._left: list[Worker] = []
        self._loops: weakref.WeakKeyDictionary[AbstractEventLoop, Worker] = weakref.WeakKeyDictionary()
        self._listeners: dict[int, socket.socket] = {}
        self._shared: set[int] = set()
        self._spare: list[LDBPort] = []
        self._refused = 0
        self._accept_error: str | None = None
        self._closing = False
        self._paused = False
        self._metrics: MetricsServer | None = None
        self._closed = True  # there is nothing to close yet
        self._end_lock = threading.Lock()
        self._blocking = workers > 0  # plain threads want blocking sockets
        self._capacity = _HISTORY // max_workers
        self._open_engine(backend, steered, _GRACE if grace is None else grace, batch, max_waiting, max_workers)
        self._closed = False
        _open_balancers.add(self)
        try:
            if metrics_port is not None:
                self._metrics = _start_metrics(self, metrics_host, metrics_port)
            for _ in range(workers):
                assert handler is not None
                self.add(functools.partial(ThreadWorker, handler=handler))
        except BaseException:
            self.close(timeout=0)
            raise

    def _open_engine(
        self,
        backend: str | int | os.PathLike[str],
        policy: Policy,
        grace: float,
        batch: int,
        max_waiting: int,
        max_workers: int,
    ) -> None:
        def build(device: Device) -> None:
            if device.backend == "libdlb":
                reason = "the balancer's accepting thread is native, and drives devices itself"
                raise BackendUnavailable(f"{reason}: use 'device' in place of 'libdlb'", {"libdlb": reason})
            ports = max_workers if device.is_software else min(max_workers, device.resources().ldb_ports)
            # Software holds each connection until it is closed, and levels what is held. A device has no room for that:
            # a port is given one connection, and the next one when its worker comes for it.
            self._shape = _SOFTWARE_PORT | {"history_entries": self._capacity} if device.is_software else _DEVICE_PORT
            own = min(ports, _OWN_QUEUES) if device.is_software else ports if policy.picks else 0
            self._domain = device.create_domain(
                ldb_queues=(2 if device.is_software else 1) + own,
                ldb_ports=ports,
                dir_ports=1,
                # What was sent to a worker that did not come holds its credit until it does.
                credits=2 * max_waiting if device.is_software else max_waiting,
                history_entries=_HISTORY if device.is_software else ports,
                atomic_inflights=0,
                sequence_slots=(0, 0),
            )
            self._queues = (
                Queues.in_software(self._domain, grace) if device.is_software else Queues.on_device(self._domain, own)
            )
            self._sender = self._domain.create_dir_port()
            # A device makes no ports once it is started.
            self._spare = (
                [] if device.is_software else [self._domain.create_ldb_port(**_DEVICE_PORT) for _ in range(ports)]
            )
            self._domain.start()

        self._device, self._fallback_reason = open_device_with(backend, build)
        try:
            self._acceptor = _native.Acceptor(
                self._domain._native,
                self._sender._native,
                queue=self._queues.shared.id,
                slots=max_waiting,
                batch=batch,
                blocking=self._blocking,
            )
            self._steering = Steering(self._acceptor, self._queues, grace, policy)
        except BaseException:
            self._device.close()
            raise

    @property
    def backend(self) -> str:
        """What does the work: ``"software"``, or the device's path."""
        return self._device.backend

    @property
    def fallback_reason(self) -> str | None:
        """Why it is not the hardware, where that was left open."""
        return self._fallback_reason

    @property
    def policy(self) -> Policy:
        """Which worker gets a connection. May be set at any time, as `policy` of the constructor.

        Raises:
            ConfigError: There is no such policy.
            ResourceExhausted: It needs queues that the device does not have; the old one goes on.
        """
        return self._steering.policy

    @policy.setter
    def policy(self, policy: PolicyLike) -> None:
        self._steering.set_policy(make_policy(policy))

    # ---- workers ---------------------------------------------------------------------------------------------------

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers that there are now."""
        with self._lock:
            return tuple(self._workers)

    def worker(self, name: str | None = None) -> Worker:
        """Add a worker for a thread or event loop of the caller's.

        Args:
            name: Its name in statistics; None for the next number.

        Returns:
            The worker. It gets its share of connections from now on, so it should come for them.

        Raises:
            ClosedError: The balancer is closed.
            ResourceExhausted: There are `max_workers` already.
        """
        worker = self._new_worker(name)
        self._register(worker)
        return worker

    def _register(self, worker: Worker) -> None:
        try:
            self._steering.register(worker)
        except BaseException:
            with self._lock:
                self._workers.remove(worker)
            worker.close()
            raise

    def _new_worker(self, name: str | None) -> Worker:
        """A worker that is given nothing yet."""
        with self._lock:
            if self._closing:
                raise ClosedError("this balancer is closed")
            number = len(self._workers) + len(self._left)
            port = self._spare.pop() if self._spare else self._domain.create_ldb_port(**self._shape)
            worker = Worker(name or f"{self._name}_{number}", port, self._acceptor, blocking=self._blocking)
            self._workers.append(worker)
            return worker

    def add(self, make_runner: Callable[[Worker], Runner], name: str | None = None) -> Runner:
        """Add a worker and what runs it. It is given connections once it has started, and stopped by `close`.

        Args:
            make_runner: Makes the runner of the new worker.
            name: Its name in statistics; None for the next number.

        Returns:
            The runner, started.

        Raises:
            ClosedError: The balancer is closed.
            ResourceExhausted: There are `max_workers` already.
            Exception: What kept the runner from starting; the worker is gone again then.
        """
        worker = self._new_worker(name)
        try:
            runner = make_runner(worker)
            runner.start()
        except BaseException:
            with self._lock:
                self._workers.remove(worker)
            worker.close()
            raise
        try:
            self._register(worker)
        except BaseException:
            runner.stop()
            runner.join(_ENDING)
            raise
        with self._lock:
            self._runners.append(runner)
        return runner

    def remove_worker(self, worker: Worker, timeout: float | None = None) -> int:
        """Give a worker no more connections, wait for those that it has, and remove it.

        Args:
            worker: One of the balancer's.
            timeout: Seconds to wait for its open connections; None waits for ever.

        Returns:
            How many connections were still open: they are counted as aborted.

        Raises:
            ConfigError: It is not one of the balancer's workers, or no more.
        """
        with self._lock:
            if worker not in self._workers:
                raise ConfigError(f"{worker!r} is not a worker of this balancer")
            self._workers.remove(worker)
            self._left.append(worker)
            runners = [runner for runner in self._runners if runner.worker is worker]
            self._runners = [runner for runner in self._runners if runner.worker is not worker]
        self._steering.unregister(worker)
        for runner in runners:
            runner.begin_drain(timeout)
        _wait(lambda: worker.stats().open == 0, timeout)
        left = worker.stats().open
        _stop([worker], runners, time.monotonic() + _ENDING)
        self._steering.forget(worker)
        return left

    def pause_worker(self, worker: Worker) -> None:
        """Give a worker no more connections until :meth:`resume_worker`. What waits for it goes to others.

        Raises:
            ConfigError: It is not one of the balancer's workers, or no more.
        """
        self._steering.pause(worker)

    def resume_worker(self, worker: Worker) -> None:
        """Give a worker connections again.

        Raises:
            ConfigError: It is not one of the balancer's workers, or no more.
        """
        self._steering.resume(worker)

    def drain_worker(self, worker: Worker, timeout: float | None = None) -> int:
        """Pause a worker, ask its connections to end, and wait for them; :meth:`resume_worker` takes it back.

        Args:
            worker: One of the balancer's.
            timeout: Seconds to wait; None waits for ever.

        Returns:
            How many connections are still open.

        Raises:
            ConfigError: It is not one of the balancer's workers, or no more.
        """
        self._steering.pause(worker)
        with self._lock:
            runners = [runner for runner in self._runners if runner.worker is worker]
        for runner in runners:
            runner.begin_drain(timeout)
        _wait(lambda: worker.stats().open == 0, timeout)
        return worker.stats().open

    def set_weight(self, worker: Worker, weight: float) -> None:
        """Change a worker's share of the connections: with twice the weight it gets twice as many. All begin with 1.

        Args:
            worker: One of the balancer's.
            weight: 0 to 1000; 0 for none.

        Raises:
            ConfigError: It is not one of the balancer's workers, or `weight` is out of range.
            ResourceExhausted: Weights need queues that the device does not have.
        """
        self._steering.set_weight(worker, weight)

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

    # ---- listeners -------------------------------------------------------------------------------------------------

    def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        path: str | os.PathLike[str] | None = None,
        sock: socket.socket | None = None,
        shared: bool = False,
        backlog: int = 1024,
        reuse_port: bool = False,
    ) -> int:
        """Accept connections from one more listening socket.

        Args:
            host: The address to listen on; one with colons is an IPv6 address.
            port: The port to listen on; 0 for any that is free.
            path: A path to listen on as a UNIX socket, instead. It is removed at the end.
            sock: A bound socket to listen on, instead. It is made non-blocking, and closed by the balancer.
            shared: Others use `sock` too: it is not closed, and at the end clients are not kept from connecting to it.
            backlog: Connections that the kernel keeps until they are accepted.
            reuse_port: Let other sockets listen on the same port.

        Returns:
            The listener's number.

        Raises:
            OSError: The address cannot be listened on.
            ConfigError: `sock` is no stream socket that can listen.
            ClosedError: The balancer is closed.
        """
        check_range(backlog=(backlog, 0, 1 << 16))
        if sock is None:
            sock, shared = _listening_socket(host, port, path, backlog, reuse_port=reuse_port), False
        else:
            _listen_on(sock, backlog)
        with self._lock:
            try:
                number = self._add(sock.fileno())
            except BaseException:
                if not shared:
                    sock.close()
                raise
            self._listeners[number] = sock
            if shared:
                self._shared.add(number)
            return number

    def _add(self, descriptor: int) -> int:
        if self._closing:
            raise ClosedError("this balancer is closed")
        return self._acceptor.add(descriptor)

    def unlisten(self, listener: int, timeout: float = 5.0) -> None:
        """Accept what is in a listener's backlog, for at most `timeout` seconds, then no more from it.

        Raises:
            ConfigError: There is no such listener.
        """
        with self._lock:
            if listener not in self._listeners:
                raise ConfigError(f"there is no listener {listener}")
            self._shut(listener)
            self._acceptor.remove(listener, drain=True)
        _wait(lambda: not self._acceptor.listens(listener), timeout)
        with contextlib.suppress(ConfigError):  # it has been drained
            self._acceptor.remove(listener, drain=False)

    def _shut(self, number: int) -> None:
        """Let go of a listening socket. The acceptor has it still, to empty its backlog."""
        sock = self._listeners.pop(number)
        if number in self._shared:
            self._shared.remove(number)
            return
        _native.shut_listener(sock.fileno())
        address = sock.getsockname()
        sock.close()
        if sock.family == socket.AF_UNIX and isinstance(address, str) and address:
            with contextlib.suppress(OSError):
                Path(address).unlink()

    def address(self, listener: int = 0) -> Address:
        """A listener's address, as :meth:`socket.socket.getsockname` returns it.

        Raises:
            ConfigError: There is no such listener.
        """
        with self._lock:
            if listener not in self._listeners:
                raise ConfigError(f"there is no listener {listener}")
            return self._listeners[listener].getsockname()

    def pause(self) -> None:
        """Leave new connections in the kernel's backlogs until :meth:`resume`."""
        self._paused = True
        self._acceptor.pause(True)

    def resume(self) -> None:
        """Accept again."""
        self._acceptor.pause(False)
        self._paused = False

    @property
    def state(self) -> Literal["idle", "accepting", "paused", "draining", "closed"]:
        """What it does with new connections; ``"idle"``: it has no listener, or no worker, yet."""
        if self._closing:
            return "closed" if self._closed else "draining"
        if not self._listeners or not self._workers:
            return "idle"
        return "paused" if self._paused else "accepting"

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port at which it answers for metrics and probes; None if it does not."""
        return None if self._metrics is None else self._metrics.address

    # ---- the account -----------------------------------------------------------------------------------------------

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
        error = os.strerror(acceptor["last_errno"]) if acceptor["last_errno"] else None
        if error is not None and error != self._accept_error:
            self._accept_error = error
            logger.warning("cannot accept connections for the moment: %s; clients wait in the backlog", error)
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
            drained=acceptor["drained"],
            gone=acceptor["aborted"],
            taken_back=rewakes + acceptor["taken_back"],
            held_up=acceptor["held_up"],
            backoffs=acceptor["backoffs"],
            accept_error=error,
            handoff_seconds=tuple(((1 << n) * 1e-6, count) for n, count in enumerate(acceptor["handoff"]) if count),
        )

    # ---- the end ---------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the balancer was closed."""
        return self._closed

    def begin_stop(self, timeout: float = 5.0) -> None:
        """Keep clients from connecting, and accept what is in the kernel's backlogs, for at most `timeout` seconds.

        Returns at once. A second call may shorten the time.
        """
        with self._lock:
            self._closing = True
            for number in list(self._listeners):
                self._shut(number)
        self._acceptor.stop(max(0.0, timeout))

    def stop_accepting(self, timeout: float = 5.0) -> None:
        """As :meth:`begin_stop`, and wait until it is done."""
        self.begin_stop(timeout)
        while not self._acceptor.wait(_LAST_LOOK):  # briefly, so that signal handlers run
            pass

    @property
    def idle(self) -> bool:
        """Whether nothing is accepted any more, waits or is open."""
        return self._closing and self._acceptor.wait(0) and self._unfinished() == 0

    def drain(self, timeout: float | None = None) -> int:
        """Accept no more, and wait until every connection has been served.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Returns:
            How many connections were still waiting or open.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.stop_accepting(5.0 if timeout is None else timeout)
        left = None if deadline is None else deadline - time.monotonic()
        _wait(lambda: self._unfinished() == 0, left)
        return self._unfinished()

    def _unfinished(self) -> int:
        stats = self.stats()
        return stats.waiting + stats.open

    def begin_drain(self, timeout: float | None = None) -> None:
        """Ask all connections to end in their protocol's own way, and those that come to end soon.

        With HTTP that is ``Connection: close`` in the next response. Returns at once.

        Args:
            timeout: Seconds after which they are no longer asked, but closed; None for never.
        """
        with self._lock:
            runners = list(self._runners)
        for runner in runners:
            runner.begin_drain(timeout)

    def close_connections(self) -> None:
        """Close all connections that are open on threads and event loops of the balancer now.

        What was written to them is sent first, and counts as served.
        """
        with self._lock:
            runners = list(self._runners)
        for runner in runners:
            runner.close_connections()

    def abort_connections(self) -> None:
        """End all connections that are open on threads and event loops of the balancer now."""
        with self._lock:
            runners = list(self._runners)
        for runner in runners:
            runner.abort()

    def close(self, timeout: float = 5.0) -> BalancerStats:
        """Drain for at most `timeout` seconds, then end what is left and close everything. May be called twice.

        A worker that does not return from its handler within a second more is left behind in its thread.

        Returns:
            The final account: ``accepted == served + refused + aborted``.
        """
        if not self._closed:
            self.drain(timeout)
            with self._end_lock:
                if not self._closed:
                    self._end()
        return self.stats()

    def _end(self) -> None:
        with self._lock:
            workers, runners = list(self._workers), list(self._runners)
        _stop(workers, runners, time.monotonic() + _ENDING)
        self._acceptor.end()
        self._refuse_left()
        with self._lock:
            self._closed = True
        _open_balancers.discard(self)
        self._device.close()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

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
        """Warn about an open balancer that nobody holds any more, then close it."""
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close(timeout=0)

    def __repr__(self) -> str:
        """How many workers, or that it is closed."""
        return f"<pydlb.Balancer {'closed' if self._closed else f'{len(self._workers)} workers'}>"


_open_balancers: weakref.WeakSet[Balancer] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter takes itself apart under the workers' threads."""
    for balancer in list(_open_balancers):
        balancer.close(timeout=0)


def _start_metrics(balancer: Balancer, host: str, port: int) -> MetricsServer:
    """Metrics are loaded where they are wanted."""
    from .metrics import MetricsServer

    return MetricsServer(balancer, host, port)


def check_range(**arguments: tuple[int, int, int]) -> None:
    """Raise ConfigError unless each value is a whole number from the least to the most."""
    for name, (value, least, most) in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{name} is {value!r}: it is a whole number from {least} to {most}")


def _listening_socket(
    host: str, port: int, path: str | os.PathLike[str] | None, backlog: int, *, reuse_port: bool
) -> socket.socket:
    if path is None:
        check_range(port=(port, 0, 0xFFFF))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=backlog, reuse_port=reuse_port)
        sock.setblocking(False)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(os.fspath(path))
        _listen_on(sock, backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_on(sock: socket.socket, backlog: int) -> None:
    if not isinstance(sock, socket.socket) or sock.type != socket.SOCK_STREAM:
        raise ConfigError(f"sock is {sock!r}: it is a stream socket, bound to an address")
    sock.setblocking(False)
    sock.listen(backlog)


def _wait(done: Callable[[], bool], timeout: float | None) -> None:
    """Wait until `done()`, looking now and then."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_LOOK
    while not done() and (deadline is None or time.monotonic() < deadline):
        time.sleep(pause)
        pause = min(2 * pause, _LAST_LOOK)


def _stop(workers: list[Worker], runners: list[Runner], deadline: float) -> None:
    """End connections, then threads, then the ports; what is still open is counted as aborted."""
    for runner in runners:
        runner.abort()
    half = (deadline - time.monotonic()) / 2
    _wait(lambda: not any(runner.worker.stats().open for runner in runners), half)
    for runner in runners:
        runner.stop()
    for runner in runners:
        if not runner.join(max(0.0, deadline - time.monotonic())):
            logger.warning("%s does not return from its handler; its thread is left behind", runner.worker.name)
    for worker in workers:
        worker.close()
