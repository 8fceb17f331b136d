"""The worker processes of a balancer: who starts them, watches over them, and replaces them."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.util  # noqa: F401 - registers what is to run after our own at exit
import os
import select
import selectors
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from pydlb.errors import ClosedError, DLBError, ResourceExhausted

from .board import Seats
from .methods import check_picklable, context_for
from .runner import ProcessRunner, State
from .worker import ProcessWorker

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pydlb import _native
    from pydlb.balancer import Runner
    from pydlb.workers import Station, Worker

    from .channel import Channel
    from .methods import StartMethod

__all__ = ["Members", "ProcessPool"]

logger = logging.getLogger("pydlb")

# A worker that dies is replaced at once; one that does not live for so long, a while later, and later each time; in
# seconds.
_SHORT_LIFE: Final = 1.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0


class Members(Protocol):
    """Who is to be told of workers that come and go by themselves."""

    def lost(self, worker: ProcessWorker) -> int:
        """Its process has died: give it nothing, and a new port. Returns how many connections it had."""

    def back(self, worker: ProcessWorker) -> None:
        """It has a new process: give it connections again."""

    def leaving(self, worker: ProcessWorker) -> None:
        """It wants to be replaced. Returns at once."""


class ProcessPool:
    """The worker processes of one balancer.

    Args:
        seats: How many there may be at a time.
        method: How they are started; None for the one that is safe with threads.
        blocking: Whether the sockets that they accept are blocking.

    Attributes:
        seats: Where they count.
        blocking: As given.

    **Synchronization**: any thread. A thread of the pool's watches over the processes.
    """

    def __init__(self, seats: int, method: StartMethod | None, *, blocking: bool) -> None:
        self._context = context_for(method)
        self.seats: Final = Seats(seats)
        self.blocking: Final = blocking
        self._members: Members
        self._lock = threading.RLock()  # guards what follows
        self._listeners: dict[int, tuple[socket.socket, int]] = {}  # with how they read the PROXY protocol
        self._running: dict[ProcessRunner, tuple[Channel, int]] = {}
        self._unwatched: list[ProcessRunner] = []
        self._again: dict[ProcessRunner, float] = {}  # which are to be started anew, and when
        self._closed = False
        self._bell = self._caller = -1
        self._selector: selectors.DefaultSelector  # the thread's own
        self._thread: threading.Thread

    def begin(self, members: Members) -> None:
        """Watch over processes on behalf of the balancer's crew.

        Raises:
            ResourceExhausted: There are no descriptors left to do so.
        """
        with contextlib.ExitStack() as undo:
            try:
                self._bell, self._caller = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                undo.callback(os.close, self._bell)
                undo.callback(os.close, self._caller)
                self._selector = undo.enter_context(selectors.DefaultSelector())
                self._selector.register(self._bell, selectors.EVENT_READ)
            except OSError as error:
                why = f"no descriptor to watch over worker processes with: {error.strerror}"
                raise ResourceExhausted(error.errno or 0, why, op="start workers") from error
            self._members = members
            self._thread = threading.Thread(target=self._watch, name="pydlb-processes", daemon=True)
            self._thread.start()
            undo.pop_all()

    # ---- workers ---------------------------------------------------------------------------------------------------

    def make_worker(self, name: str, station: Station, acceptor: _native.Acceptor, number: int) -> ProcessWorker:
        """A worker that has no process yet."""
        return ProcessWorker(name, station, acceptor, number, self.seats)

    def make_runner(self, worker: Worker, make_runner: Callable[[Worker], Runner]) -> ProcessRunner:
        """What runs it in a process, started later."""
        assert isinstance(worker, ProcessWorker)
        return ProcessRunner(worker, make_runner, self)

    def launch(self, runner: ProcessRunner) -> None:
        """Start a process for a runner.

        Raises:
            ConfigError: What it is to run cannot be passed to another process.
            ClosedError: The pool is closed.
        """
        method = self._context.get_start_method()
        check_picklable(method, runner.make_runner)
        with self._lock:
            if self._closed or runner.state is State.STOPPING:
                raise ClosedError("this balancer is closed")
            inherited = self._inherited() if method == "fork" else (frozenset[int](), frozenset[int]())
            self._running[runner] = runner.spawn(self._context, self.seats.board, self._listeners, inherited)
            self._unwatched.append(runner)
        self.wake()

    def end(self, runner: ProcessRunner) -> None:
        """Tell a runner's process to end; there will be no other one."""
        with self._lock:
            if runner.state is State.NEW:
                runner.give_up()
            elif runner.state is not State.GONE:
                runner.state = State.STOPPING
        runner.send("stop")
        self.wake()

    def _inherited(self) -> tuple[frozenset[int], frozenset[int]]:
        """What a forked worker must not keep: channels to others, and listening sockets, which it is given anew."""
        channels = {channel.fileno() for channel, _ in self._running.values()}
        inodes = {os.fstat(sock.fileno()).st_ino for sock, _ in self._listeners.values()}
        return frozenset(channels | {self._bell, self._caller}), frozenset(inodes)

    # ---- listeners -------------------------------------------------------------------------------------------------

    def listen(self, number: int, sock: socket.socket, proxy: int) -> None:
        """Let workers accept from a socket, of which a duplicate is kept."""
        with self._lock:
            self._listeners[number] = sock.dup(), proxy
            self.seats.listeners.append(number)
            for runner in self._running:
                runner.send("listen", [sock], listeners=[(number, proxy)])

    def unlisten(self, number: int) -> None:
        """Let workers close a socket."""
        with self._lock:
            sock, _ = self._listeners.pop(number, (None, 0))
            if sock is not None:
                sock.close()
                for runner in self._running:
                    runner.send("unlisten", listener=number)

    # ---- watching --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let the thread look around."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._caller, b".")

    def _watch(self) -> None:
        while not self._closed or self._running:
            self._take_over()
            for key, _ in self._selector.select(self._timeout()):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell, 4096)
                    continue
                runner, is_end = key.data
                if runner in self._running:
                    (self._on_end if is_end else self._on_message)(runner)
            self._start_again()

    def _take_over(self) -> None:
        """Watch over those that were started meanwhile."""
        with self._lock:
            new, self._unwatched = self._unwatched, []
            for runner in new:
                channel, end = self._running[runner]
                self._selector.register(channel, selectors.EVENT_READ, (runner, False))
                self._selector.register(end, selectors.EVENT_READ, (runner, True))

    def _timeout(self) -> float | None:
        with self._lock:
            first = min(self._again.values(), default=None)
        return None if first is None else max(0.0, first - time.monotonic())

    def _on_message(self, runner: ProcessRunner) -> None:
        channel, _ = self._running[runner]
        received = channel.receive()
        if received is None:  # it has closed its end, and is about to end
            self._selector.unregister(channel)
            return
        message, _ = received
        was = runner.state
        runner.heard(message)
        if message["is"] == "leaving" and was is State.READY:
            self._members.leaving(runner.worker)
        if was is State.STARTING and runner.state is State.READY and runner.replaces:
            runner.replaces = False
            self._members.back(runner.worker)

    def _on_end(self, runner: ProcessRunner) -> None:
        channel, end = self._running[runner]
        while channel in self._selector.get_map() and _readable(channel):
            self._on_message(runner)  # its last words
        with self._lock:
            del self._running[runner]
        if channel in self._selector.get_map():
            self._selector.unregister(channel)
        self._selector.unregister(end)
        os.close(end)
        was, pid = runner.state, runner.worker.pid
        how = runner.died()
        if self._closed or was is State.STOPPING or (was is State.STARTING and not runner.replaces):
            runner.give_up()
            return
        try:
            lost = self._members.lost(runner.worker)
        except DLBError:
            runner.give_up()  # the balancer is about to end
            return
        pause = _pause(runner, lived=was is State.READY)
        had = f"with {lost} connections" if lost else "without connections"
        when = f"in {pause:.1f} s" if pause else "at once"
        logger.error("%s (process %s) %s %s; starting another %s", runner.worker.name, pid, how, had, when)
        self._later(runner, pause)

    def _later(self, runner: ProcessRunner, pause: float) -> None:
        runner.replaces = True
        with self._lock:
            self._again[runner] = time.monotonic() + pause

    def _start_again(self) -> None:
        """Start those whose time has come, and forget those that are not to be started any more."""
        now = time.monotonic()
        with self._lock:
            due = [runner for runner, when in self._again.items() if when <= now or self._is_over(runner)]
            for runner in due:
                del self._again[runner]
        for runner in due:
            try:
                self.launch(runner)
            except ClosedError:
                runner.give_up()
            except (DLBError, OSError) as error:
                pause = _pause(runner, lived=False)
                logger.error("cannot start another process for %s: %s", runner.worker.name, error)  # noqa: TRY400
                self._later(runner, pause)

    def _is_over(self, runner: ProcessRunner) -> bool:
        return self._closed or runner.state is State.STOPPING

    # ---- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all processes that are left, at once, and the thread. May be called twice."""
        with self._lock:
            was_closed, self._closed = self._closed, True
            left = list(self._running)
        if was_closed:
            return
        for runner in left:
            runner.kill()
        self.wake()
        self._thread.join()
        del self._members  # who refer to the pool
        self._selector.close()
        os.close(self._bell)
        os.close(self._caller)
        for sock, _ in self._listeners.values():
            sock.close()


def _pause(runner: ProcessRunner, *, lived: bool) -> float:
    """How long to wait with the next process: not at all if this one lived for a while, else the longer the oftener."""
    if lived and time.monotonic() - runner.ready_at > _SHORT_LIFE:
        runner.pause = 0.0
    pause, runner.pause = runner.pause, min(max(_FIRST_PAUSE, 2 * runner.pause), _LONGEST_PAUSE)
    return pause


def _readable(channel: Channel) -> bool:
    return bool(select.select([channel], [], [], 0)[0])
