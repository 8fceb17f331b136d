"""The workers of a balancer, and what runs them."""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from pydlb.errors import ClosedError, ConfigError, DeviceGone, DLBError
from pydlb.workers import GONE, NOBODY, Station, Worker

from .waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydlb import _native
    from pydlb.processes.pool import ProcessPool
    from pydlb.processes.runner import ProcessRunner
    from pydlb.processes.worker import ProcessWorker
    from pydlb.steering import Steering
    from pydlb.workers import Accepting

    from .engines import Engines

__all__ = ["Crew", "Runner"]

logger = logging.getLogger("pydlb")

# How long workers have to end, once their connections were told to, in seconds.
_ENDING: Final = 1.0


class Runner(Protocol):
    """What runs a worker: :class:`ThreadWorker` and :class:`LoopWorker` do, in a thread or as a process."""

    @property
    def worker(self) -> Worker:
        """The worker that it runs."""

    def start(self) -> None:
        """Start a thread, and wait until it runs."""

    def run(self) -> None:
        """Run in the calling thread, instead, until `stop`."""

    def wait_started(self) -> None:
        """Wait, on another thread, until it runs. Raises what kept it from running."""

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


class Crew:
    """Who is there, who has left, and which thread runs whom.

    Args:
        acceptor: Who gives them connections.
        engines: Where they have their stations.
        steering: Who is to be told of them.
        blocking: Whether accepted sockets are blocking.
        prefix: The start of their names.
        pool: Runs them in processes; None for threads.
        patience: Seconds that the connections of a worker have that asked to be replaced.
        accepting: How workers accept by themselves; None if they do not.
        batch: How many connections their event loops take at a time; None for what suits.

    **Synchronization**: any thread.
    """

    def __init__(
        self,
        acceptor: _native.Acceptor,
        engines: Engines,
        steering: Steering,
        *,
        blocking: bool,
        prefix: str,
        pool: ProcessPool | None = None,
        patience: float = 30.0,
        accepting: Accepting | None = None,
        batch: int | None = None,
    ) -> None:
        self._pool = pool
        self._patience = patience
        self._accepting = accepting
        self._batch = batch
        self._acceptor = acceptor
        self._engines = engines
        self._steering = steering
        self._blocking = blocking
        self._prefix = prefix
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._runners: list[Runner] = []
        self._makers: dict[Worker, Callable[[Worker], Runner]] = {}
        self._leaving: set[Worker] = set()  # those that want to be replaced, and are being so
        self._replaced: set[Worker] = set()  # for whom another one is being started
        self._left: list[Worker] = []
        self._ended = False

    # ---- who there is ----------------------------------------------------------------------------------------------

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those that there are now."""
        with self._lock:
            return tuple(self._workers)

    @property
    def everybody(self) -> tuple[Worker, ...]:
        """Those that have left, then those that there are."""
        with self._lock:
            return (*self._left, *self._workers)

    def runners(self, worker: Worker | None = None) -> list[Runner]:
        """What runs a worker, or all of them."""
        with self._lock:
            return [runner for runner in self._runners if worker is None or runner.worker is worker]

    # ---- coming ----------------------------------------------------------------------------------------------------

    def add(self, name: str | None) -> Worker:
        """One that somebody else runs."""
        if self._pool is not None:
            raise ConfigError("the workers of this balancer are processes; they are added with what runs them")
        worker = self._new(name)
        self._register(worker)
        return worker

    def add_run(self, make_runner: Callable[[Worker], Runner], name: str | None) -> Runner:
        """One, and what runs it; it is given connections once that has started."""
        worker = self._new(name)
        try:
            runner = self._runner(worker, make_runner)
            runner.start()
        except BaseException:
            self._discard(worker)
            raise
        self._join_in(worker, runner, make_runner)
        return runner

    def add_some(self, make_runner: Callable[[Worker], Runner], count: int) -> None:
        """Several; processes start at the same time."""
        if self._pool is None:
            for _ in range(count):
                self.add_run(make_runner, None)
            return
        runners: list[ProcessRunner] = []
        try:
            for _ in range(count):
                runners.append(self._pool.make_runner(self._new(None), make_runner))
                runners[-1].launch()
            for runner in runners:
                runner.wait_started()
        except BaseException:
            for runner in runners:
                runner.stop()
                runner.kill()
            for runner in runners:
                runner.join(_ENDING)
                self._discard(runner.worker)
            raise
        for runner in runners:
            self._join_in(runner.worker, runner, make_runner)

    def _runner(self, worker: Worker, make_runner: Callable[[Worker], Runner]) -> Runner:
        return make_runner(worker) if self._pool is None else self._pool.make_runner(worker, make_runner)

    def _join_in(self, worker: Worker, runner: Runner, make_runner: Callable[[Worker], Runner]) -> None:
        """It runs: give it connections."""
        try:
            self._register(worker)
        except BaseException:
            runner.stop()
            runner.join(_ENDING)
            raise
        with self._lock:
            self._runners.append(runner)
            self._makers[worker] = make_runner

    def _new(self, name: str | None) -> Worker:
        """One that is given nothing yet."""
        with self._engines.gate:
            if self._ended:
                raise ClosedError("this balancer is closed")
            with self._lock:
                number = len(self._workers) + len(self._left)
            name = name or f"{self._prefix}_{number}"
            station = self._take_station()
            try:
                worker = self._put(name, station)
            except DLBError as error:
                if not self._engines.fall_back(str(error)):
                    raise
                worker = self._put(name, self._take_station())
            with self._lock:
                self._workers.append(worker)
            return worker

    def _take_station(self) -> Station:
        try:
            return self._engines.take_station()
        except DeviceGone as error:
            if not self._engines.fall_back(str(error)):
                raise
            return self._engines.take_station()

    def _put(self, name: str, station: Station) -> Worker:
        try:
            return self._make(name, station)
        except BaseException:
            station.port.close()
            self._engines.give_back(station)
            raise

    def _make(self, name: str, station: Station) -> Worker:
        number = self._acceptor.add_worker(NOBODY)
        try:
            if self._pool is not None:
                return self._pool.make_worker(name, station, self._acceptor, number)
            report = functools.partial(self._acceptor.report, GONE) if self._engines.movable else None
            return Worker(
                name,
                station,
                self._acceptor,
                number,
                blocking=self._blocking,
                report=report,
                accepting=self._accepting,
                batch=self._batch,
            )
        except BaseException:
            self._acceptor.remove_worker(number)
            raise

    def _register(self, worker: Worker) -> None:
        try:
            try:
                self._steering.register(worker)
            except DLBError as error:
                if not self._engines.fall_back(str(error)):
                    raise
                self._steering.register(worker)
        except BaseException:
            self._discard(worker)
            raise

    def _discard(self, worker: Worker) -> None:
        with self._lock:
            self._workers.remove(worker)
        worker.close()
        self._engines.give_back(worker.station)

    # ---- processes that come and go by themselves ------------------------------------------------------------------

    def lost(self, worker: ProcessWorker) -> int:
        """Its process has died: give it nothing, and a new port. Returns how many connections it had."""
        if self._steering.knows(worker):  # else another process died before it was ready
            worker.was_paused = self._steering.is_paused(worker)
            worker.had_weight = self._steering.weight(worker)
        self._steering.unregister(worker)
        lost = worker.bury()
        self._steering.forget(worker)
        if worker.port.closed:
            worker.station = self._engines.take_station()
            worker.port_is_lost = False
        return lost

    def back(self, worker: ProcessWorker) -> None:
        """It has a new process: give it connections again."""
        with self._lock:
            is_here = worker in self._workers
        if not is_here:
            return
        self._steering.register(worker)
        if worker.had_weight != 1:
            self._steering.set_weight(worker, worker.had_weight)
        if worker.was_paused:
            self._steering.pause(worker)

    def leaving(self, worker: ProcessWorker) -> None:
        """It wants to be replaced, and may say so more than once. Returns at once."""
        with self._lock:
            if worker in self._leaving or worker in self._left:
                return
            self._leaving.add(worker)
        threading.Thread(target=self._let_go, args=(worker,), name="pydlb-replace", daemon=True).start()

    def _let_go(self, worker: Worker) -> None:
        try:
            self.replace(worker, self._patience)
        except DLBError as error:
            logger.warning("cannot replace %s: %s", worker.name, error)
        finally:
            with self._lock:
                self._leaving.remove(worker)

    # ---- leaving ---------------------------------------------------------------------------------------------------

    def remove(self, worker: Worker, timeout: float | None) -> int:
        """Give it no more, wait for what it has, and end it; returns how many connections were still open."""
        with self._lock:
            if worker not in self._workers:
                raise ConfigError(f"{worker!r} is not a worker of this balancer")
            self._workers.remove(worker)
            self._left.append(worker)
            self._makers.pop(worker, None)
            runners = [runner for runner in self._runners if runner.worker is worker]
            self._runners = [runner for runner in self._runners if runner.worker is not worker]
        self._steering.unregister(worker)
        for runner in runners:
            runner.begin_drain(timeout)
        wait_for(worker.is_empty, timeout)
        left = worker.stats().open
        _stop([worker], runners)
        self._steering.forget(worker)
        self._engines.give_back(worker.station)
        return left

    def replace(self, worker: Worker, timeout: float | None) -> int:
        """Remove it when another one has started; returns how many connections were still open."""
        with self._lock:
            make_runner = self._makers.get(worker)
            if make_runner is None:
                raise ConfigError(f"{worker!r} is not a worker that this balancer runs")
            if worker in self._replaced:
                raise ConfigError(f"{worker!r} is being replaced already")
            self._replaced.add(worker)
        logger.info("Replacing %s", worker.name)
        try:
            self.add_run(make_runner, None)
            return self.remove(worker, timeout)
        finally:
            with self._lock:
                self._replaced.remove(worker)

    def drain(self, worker: Worker, timeout: float | None) -> int:
        """Give it nothing until it is resumed, and wait for what it has; returns how many are still open."""
        self._steering.pause(worker)
        for runner in self.runners(worker):
            runner.begin_drain(timeout)
        wait_for(worker.is_empty, timeout)
        return worker.stats().open

    def close_to_new(self) -> None:
        """Let no more come."""
        with self._lock:
            self._ended = True

    def stop(self) -> None:
        """End all."""
        with self._lock:
            workers, runners = list(self._workers), list(self._runners)
        _stop(workers, runners)


def _stop(workers: list[Worker], runners: list[Runner]) -> None:
    """End connections, then threads, then the ports; what is still open is counted as aborted."""
    deadline = time.monotonic() + _ENDING
    for runner in runners:
        runner.abort()
    half = (deadline - time.monotonic()) / 2
    wait_for(lambda: not any(runner.worker.stats().open for runner in runners), half)
    for runner in runners:
        runner.stop()
    for runner in runners:
        if not runner.join(max(0.0, deadline - time.monotonic())):
            logger.warning("%s does not return from its handler; its thread is left behind", runner.worker.name)
    for worker in workers:
        worker.close()
