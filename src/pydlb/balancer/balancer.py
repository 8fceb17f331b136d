"""The face of the balancer: it does nothing by itself."""

from __future__ import annotations

import atexit
import functools
import logging
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Final, Literal, Self

from pydlb.errors import ClosedError
from pydlb.policies import make_policy
from pydlb.proxied import proxy_mode
from pydlb.workers import Connection, ThreadWorker, Worker

from .backends import check_fallback
from .checks import accept_by_workers, are_processes, check_handler, check_limits, check_queue, check_range
from .engine import Needs
from .listeners import listening_socket, make_listening
from .parts import Wishes, put_together
from .waiting import LAST_LOOK, wait_for

if TYPE_CHECKING:
    import os
    import socket
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from pydlb.limits import Limits
    from pydlb.metrics import MetricsServer
    from pydlb.policies import Policy, PolicyLike
    from pydlb.proxied import ProxyProtocol
    from pydlb.stats import BalancerStats

    from .backends import Backend, Fallback
    from .crew import Runner
    from .listeners import Address

__all__ = ["Balancer"]

logger = logging.getLogger("pydlb")

_MOST_WORKERS: Final = 1024
_FEW_WORKERS: Final = 16

# How long a connection waits for the worker whose turn it is, in seconds. One that is not busy may still have to wait
# for a processor, or for the interpreter lock, whose holder is asked for it after 5 ms: with less, bursts on a machine
# with fewer processors than workers are spread unevenly.
_GRACE: Final = 0.020


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
        backend: As `device` of :func:`pydlb.open`; or what has an `open` that returns a :class:`pydlb.Device`, such as
            :class:`pydlb.testing.EmulatedDevice`.
        fallback: What to go on with when a device fails: ``"software"``, the software engine with the same policy;
            ``"exact"`` or ``"nop"``, the software engine with that one; None for nothing: connections wait until the
            device can be used again, and at the start it must be there. ``"auto"``, the default, is ``"software"``, but
            a device that `backend` names must be there at the start. It is gone back to once it can be used again, and
            so is one that could not be had at the start: it is tried after half a second, then less and less often,
            down to twice a minute.
        grace: Seconds that a connection waits for the worker whose turn it is, while another is idle; None for 20 ms.
        batch: Connections accepted from one listener before the next one has its turn, 1 to 64.
        accept: Who accepts: ``"native"``, a thread of the balancer's without the interpreter lock; ``"workers"``, as in
            Envoy: each worker's thread or event loop, which sends what it accepted through a port of its own. Then
            ``"nop"`` and ``Exact(tie="local")`` have their full meaning; what the engine does not take stays with the
            worker that accepted it. Where the application has more to do, a new connection waits for that.
        max_retries: With ``accept="workers"``: how often what the engine has no credit for is sent again at once,
            within a millisecond, before it stays with the worker that accepted it; Envoy lost it then.
        release: When the engine forgets a connection: ``"close"``, when it is closed, so that open ones are levelled;
            ``"receive"``, as in Envoy, when the worker takes it.
        queue_depth: How many connections may wait in front of one worker's port: a power of two up to 1024, in Envoy 8.
            None for what suits: on a device 1 with ``release="close"``, else 8; in software a limit to each receive.
        receive_batch: How many connections an event loop takes at a time, 1 to 64; in Envoy 32. None for as many as its
            handlers are quick for. A plain thread takes one.
        max_waiting: Accepted connections that may wait for a worker; beyond that they stay in the kernel's backlog.
        max_workers: How many workers there may be at a time; each may have 2**20 / `max_workers` connections open. None
            for twice `workers`, at least 16.
        worker_class: What a worker is, also those of :meth:`add`: ``"thread"``; ``"process"``, started by
            :mod:`multiprocessing` and replaced when it dies (on a device: which is not left when it fails later, and
            a policy that picks workers stays one that does); ``"auto"``: a thread where there is no interpreter lock,
            else a process.
        start_method: How processes are started, as by :func:`multiprocessing.get_context`; None for ``"forkserver"``.
            All but ``"fork"`` get the handler by pickle, and import the program's main module.
        patience: Seconds that the connections of a worker process have that asks to be replaced, as one does that gets
            SIGTERM.
        limits: How many connections there may be, and what becomes of the others: a :class:`pydlb.Limits`.
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
        backend: Backend = "auto",
        fallback: Fallback | None = "auto",
        grace: float | None = None,
        batch: int = 16,
        accept: Literal["native", "workers"] = "native",
        max_retries: int = 0,
        release: Literal["close", "receive"] = "close",
        queue_depth: int | None = None,
        receive_batch: int | None = None,
        max_waiting: int = 4096,
        max_workers: int | None = None,
        worker_class: Literal["thread", "process", "auto"] = "thread",
        start_method: Literal["fork", "forkserver", "spawn"] | None = None,
        patience: float = 30.0,
        limits: Limits | None = None,
        name: str = "worker",
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
    ) -> None:
        check_range(workers=(workers, 0, _MOST_WORKERS), batch=(batch, 1, 64), max_waiting=(max_waiting, 1, 1 << 16))
        if max_workers is None:
            max_workers = min(_MOST_WORKERS, max(_FEW_WORKERS, 2 * workers))
        check_range(max_workers=(max_workers, max(1, workers), _MOST_WORKERS))
        check_handler(handler, workers)
        check_fallback(fallback)
        check_limits(limits)
        check_queue(release, queue_depth, receive_batch)
        self._loops: weakref.WeakKeyDictionary[AbstractEventLoop, Worker] = weakref.WeakKeyDictionary()
        self._closing = False
        self._paused = False
        self._metrics: MetricsServer | None = None
        self._closed = True  # there is nothing to close yet
        self._end_lock = threading.Lock()
        wishes = Wishes(
            policy=make_policy(policy),
            backend=backend,
            fallback=fallback,
            limits=limits,
            batch=batch,
            max_retries=max_retries,
            receive_batch=receive_batch,
            start_method=start_method,
            patience=patience,
            name=name,
            blocking=workers > 0,  # plain functions want blocking sockets
        )
        processes = are_processes(worker_class)
        needs = Needs(
            workers=workers,
            max_workers=max_workers,
            max_waiting=max_waiting,
            grace=_GRACE if grace is None else grace,
            picks=wishes.picks,
            shared=processes,
            queue_depth=queue_depth,
            release=release,
            lanes=accept_by_workers(accept, max_retries, processes=processes),
        )
        parts = put_together(wishes, needs)
        self._acceptor, self._steering, self._engines = parts.acceptor, parts.steering, parts.engines
        self._crew, self._listeners, self._account = parts.crew, parts.listeners, parts.account
        self._pool, self._guard = parts.pool, parts.guard
        if self._pool is not None:
            _close_all_before_multiprocessing()
        self._limits = limits
        self._closed = False
        _open_balancers.add(self)
        try:
            if metrics_port is not None:
                self._metrics = _start_metrics(self, metrics_host, metrics_port)
            if workers:
                assert handler is not None
                self.add_some(functools.partial(ThreadWorker, handler=handler), workers)
        except BaseException:
            self.close(timeout=0)
            raise

    @property
    def backend(self) -> str:
        """What does the work: ``"software"``, or the device's path."""
        return self._engines.backend

    @property
    def fallback_reason(self) -> str | None:
        """Why it is not the hardware, where that was left open."""
        return self._engines.reason

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
        self._engines.set_policy(make_policy(policy))

    @property
    def limits(self) -> Limits | None:
        """How many connections there may be, and what becomes of the others. May be set at any time.

        Raises:
            ResourceExhausted: A limit for each worker needs ports that the device does not have.
        """
        return self._limits

    @limits.setter
    def limits(self, limits: Limits | None) -> None:
        check_limits(limits)
        self._engines.set_limits(limits)
        self._limits = limits

    # ---- workers ---------------------------------------------------------------------------------------------------

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers that there are now."""
        return self._crew.workers

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
        return self._crew.add(name)

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
        return self._crew.add_run(make_runner, name)

    def add_some(self, make_runner: Callable[[Worker], Runner], count: int) -> None:
        """Add several workers, as :meth:`add` does; processes start at the same time.

        Args:
            make_runner: Makes the runner of each.
            count: How many.

        Raises:
            ClosedError: The balancer is closed.
            ResourceExhausted: There are `max_workers` already.
            Exception: What kept one from starting.
        """
        self._crew.add_some(make_runner, count)

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
        return self._crew.remove(worker, timeout)

    def replace_worker(self, worker: Worker, timeout: float | None = None) -> int:
        """Add a worker like one that there is, and when it has started remove that one, as :meth:`remove_worker` does.

        Args:
            worker: One that the balancer runs in a thread or process.
            timeout: Seconds to wait for its open connections; None waits for ever.

        Returns:
            How many connections were still open: they are counted as aborted.

        Raises:
            ConfigError: The balancer does not run it.
            Exception: What kept the new one from starting; nothing is changed then.
        """
        return self._crew.replace(worker, timeout)

    @property
    def runners(self) -> tuple[Runner, ...]:
        """What runs the workers, those that the balancer runs, in the order in which they came."""
        return tuple(self._crew.runners())

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
        return self._crew.drain(worker, timeout)

    def set_weight(self, worker: Worker, weight: float) -> None:
        """Change a worker's share of the connections: with twice the weight it gets twice as many. All begin with 1.

        Args:
            worker: One of the balancer's.
            weight: 0 to 1000; 0 for none.

        Raises:
            ConfigError: It is not one of the balancer's workers, or `weight` is out of range.
            ResourceExhausted: Weights need queues that the device does not have.
        """
        self._engines.set_weight(worker, weight)

    def connections(self) -> Iterator[Connection]:
        """Make the calling thread a worker, and iterate over its connections until the balancer is closed.

        Raises:
            ClosedError: The balancer is closed already.
            ResourceExhausted: There are `max_workers` already.
        """
        was_open = not self._closing
        try:
            return iter(self.worker())
        except ClosedError:
            if not was_open:
                raise
            return iter(())  # it was closed while the worker was made

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
        proxy_protocol: ProxyProtocol = False,
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
            proxy_protocol: True: connections come from a proxy, which says first for whom, by the PROXY protocol,
                version 1 or 2. What begins otherwise, or says nothing for three seconds, is closed and counted as
                refused. ``"optional"``: that, or without a header. Only for listeners that nobody else can reach:
                clients could say anything.

        Returns:
            The listener's number.

        Raises:
            OSError: The address cannot be listened on.
            ConfigError: `sock` is no stream socket that can listen.
            ClosedError: The balancer is closed.
        """
        check_range(backlog=(backlog, 0, 1 << 16))
        proxy = proxy_mode(proxy_protocol)
        if sock is None:
            sock, shared = listening_socket(host, port, path, backlog, reuse_port=reuse_port), False
        else:
            make_listening(sock, backlog)
        return self._listeners.add(sock, shared=shared, proxy=proxy)

    def unlisten(self, listener: int, timeout: float = 5.0) -> None:
        """Accept what is in a listener's backlog, for at most `timeout` seconds, then no more from it.

        Raises:
            ConfigError: There is no such listener.
        """
        self._listeners.remove(listener, timeout)

    def address(self, listener: int = 0) -> Address:
        """A listener's address, as :meth:`socket.socket.getsockname` returns it.

        Raises:
            ConfigError: There is no such listener.
        """
        return self._listeners.address(listener)

    def pause(self) -> None:
        """Leave new connections in the kernel's backlogs until :meth:`resume`."""
        self._paused = True
        self._engines.set_paused(True)

    def resume(self) -> None:
        """Accept again."""
        self._engines.set_paused(False)
        self._paused = False

    @property
    def state(self) -> Literal["idle", "accepting", "paused", "failed", "draining", "closed"]:
        """What it does with new connections.

        ``"idle"``: it has no listener, or no worker, yet. ``"failed"``: the device has failed, and with
        ``fallback=None`` connections wait in the backlog until it can be used again.
        """
        if self._closing:
            return "closed" if self._closed else "draining"
        if self._engines.stands_still:
            return "failed"
        if not self._listeners or not self._crew.workers:
            return "idle"
        return "paused" if self._paused else "accepting"

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port at which it answers for metrics and probes; None if it does not."""
        return None if self._metrics is None else self._metrics.address

    # ---- the account -----------------------------------------------------------------------------------------------

    def stats(self) -> BalancerStats:
        """What the balancer has done until now: the sums add up, while everything goes on."""
        return self._account.stats()

    # ---- the end ---------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the balancer was closed."""
        return self._closed

    def begin_stop(self, timeout: float = 5.0) -> None:
        """Keep clients from connecting, and accept what is in the kernel's backlogs, for at most `timeout` seconds.

        Returns at once. A second call may shorten the time.
        """
        self._closing = True
        self._crew.close_to_new()
        self._listeners.shut_all()
        self._acceptor.stop(max(0.0, timeout))

    def stop_accepting(self, timeout: float = 5.0) -> None:
        """As :meth:`begin_stop`, and wait until it is done."""
        self.begin_stop(timeout)
        while not self._acceptor.wait(LAST_LOOK):  # briefly, so that signal handlers run
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
        wait_for(lambda: self._unfinished() == 0, left)
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
        for runner in self._crew.runners():
            runner.begin_drain(timeout)

    def close_connections(self) -> None:
        """Close all connections that are open on threads and event loops of the balancer now.

        What was written to them is sent first, and counts as served.
        """
        for runner in self._crew.runners():
            runner.close_connections()

    def abort_connections(self) -> None:
        """End all connections that are open on threads and event loops of the balancer now."""
        for runner in self._crew.runners():
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
        if self._guard is not None:
            self._guard.stop()
        self._crew.stop()
        if self._pool is not None:
            self._pool.close()
        self._acceptor.end()
        self._account.refuse_left()
        self._closed = True
        _open_balancers.discard(self)
        self._engines.close()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def __enter__(self) -> Self:
        """The balancer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    async def __aenter__(self) -> Self:
        """The balancer itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, while the event loop goes on."""
        import asyncio

        await asyncio.to_thread(self.close)

    def __del__(self) -> None:
        """Warn about an open balancer that nobody holds any more, then close it."""
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close(timeout=0)

    def __repr__(self) -> str:
        """How many workers, or that it is closed."""
        return f"<pydlb.Balancer {'closed' if self._closed else f'{len(self._crew.workers)} workers'}>"


_open_balancers: weakref.WeakSet[Balancer] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter takes itself apart under the workers' threads."""
    for balancer in list(_open_balancers):
        balancer.close(timeout=0)


def _close_all_before_multiprocessing() -> None:
    """What is registered last is called first, and multiprocessing's own waits for processes."""
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def _start_metrics(balancer: Balancer, host: str, port: int) -> MetricsServer:
    """Metrics are loaded where they are wanted."""
    from pydlb.metrics import MetricsServer

    return MetricsServer(balancer, host, port)
