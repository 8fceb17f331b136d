"""Workers that are event loops: each in a thread of its own, with an adapter that serves what it receives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Final

from .errors import ClosedError, DeviceGone
from .eventloop import WorkerLoop
from .pace import Pace
from .selector import WorkerSelector

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from .adapters import Adapter
    from .port import Port
    from .workers import Connection, Worker

__all__ = ["LoopWorker"]

logger = logging.getLogger("pydlb")

# How many connections are taken from the queue at a time at most; and how long those that were taken last may have kept
# the loop, in seconds each, for more than one to be taken. Where only the clock can be asked: fewer, for those that are
# taken wait for each other; and for how long altogether.
_MOST: Final = 16
_QUICK: Final = 0.001
_MOST_BY_CLOCK: Final = 4
_QUICK_BY_CLOCK: Final = 0.005

# In so many turns of an event loop a new connection's first request has been read and its handler has run.
_FIRST_TURNS: Final = 5

# A loop that took so long for them is slow: it is there again only after a quiet moment. In seconds, as the selector's.
_SLOW: Final = 0.040
_QUIET: Final = 0.002

# How long an application may take to stop once its connections have ended, in seconds.
_APPLICATION_END: Final = 10.0


class Lag:
    """How long an event loop takes to come to what it is asked to do: asked whenever somebody wants to know.

    Args:
        call: Has a function called by the loop.

    **Synchronization**: any thread.
    """

    def __init__(self, call: Callable[[Callable[[], object]], object]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._last = 0.0

    def measure(self) -> float:
        """Seconds that the last answer took, or that the next one has been taking if that is longer. Asks again."""
        now = time.monotonic()
        with self._lock:
            waiting = 0.0 if self._asked is None else now - self._asked
            if self._asked is None:
                self._asked = now
                self._call(self._answer)
            return max(self._last, waiting)

    def _answer(self) -> None:
        with self._lock:
            if self._asked is not None:
                self._last = time.monotonic() - self._asked
                self._asked = None


class LoopWorker:
    """An event loop in a thread of its own that serves the connections of one worker.

    Args:
        worker: The worker that receives them.
        make_adapter: Makes what serves them; called in the worker's thread.
        loop_factory: Makes the loop; None for asyncio's own, with a selector that knows the worker.

    Attributes:
        worker: The worker.
        adapter: What serves its connections, once started.
        loop: The loop, once started.
    """

    def __init__(
        self,
        worker: Worker,
        make_adapter: Callable[[], Adapter],
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    ) -> None:
        self.worker: Final = worker
        self.adapter: Adapter
        self.loop: asyncio.AbstractEventLoop
        self._make_adapter = make_adapter
        self._loop_factory = loop_factory or self._new_loop
        self._selector: WorkerSelector | None = None
        self._taken = 0
        self._more_since = float("-inf")
        self._more = False
        self._busy_since = 0.0
        self._turns = 0
        self._left = 0
        self._told: bool | None = None
        self._told_to: Port | None = None
        self._pace: Pace | None = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._alive = threading.Event()
        self._alive.set()
        self._asked = 0.0
        self._lag = Lag(self._call)
        worker.measure_lag = self._lag.measure
        self._tasks: set[asyncio.Task[object]] = set()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self.run, name=worker.name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns once its loop and its application run. Raises what kept them from running."""
        self._thread.start()
        try:
            self.wait_started()
        except BaseException:
            self._thread.join()
            raise

    def wait_started(self) -> None:
        """Wait until the loop and its application run, in whatever thread. Raises what kept them from running."""
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        def has_connections() -> bool:
            return hasattr(self, "adapter") and bool(self.adapter.active)

        self.worker.keep_lock()
        self._selector = WorkerSelector(self.worker.port, has_connections, self.worker.fileno())
        self.worker.when_moved(self._selector.move)
        return WorkerLoop(self._selector)

    # ---- in the worker's thread ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the loop in the calling thread until `stop`."""
        if threading.current_thread() is threading.main_thread():  # of a process that is a worker
            self._pace = Pace()
        try:
            self.loop = self._loop_factory()
            asyncio.set_event_loop(self.loop)
            self.adapter = self._make_adapter()
            self._submit_all = getattr(self.adapter, "submit_all", self._submit_each)
            self.loop.run_until_complete(self.adapter.start())
            self.loop.add_reader(self.worker.fileno(), self._receive)
            if self.worker.door is not None:
                self.loop.add_reader(self.worker.door, self._receive)
            if self._selector is None:
                self._be_there()
            self.worker.sleeps_in(_set_of(self.loop))
            self.loop.call_soon(self._ready.set)
        except BaseException as error:  # handed to start(), which raises it
            self._failure = error
            try:
                if hasattr(self, "loop"):
                    self._finish()
            finally:
                self._ready.set()
            return
        try:
            self.loop.run_forever()
        finally:
            self._finish()

    def _receive(self) -> None:
        """Take connections from the queue; where there may be more, look again when these had their first turns.

        One at a time if handlers are slow, because who was taken waits for them.
        """
        if self._pace is not None:
            self._pace.rest()
        try:
            connections, more = self.worker.receive(self._most())
        except ClosedError:
            return
        except DeviceGone as error:  # of a process, whose port stays what it is
            logger.error("%s: it is given no more connections: %s", self.worker.name, error)  # noqa: TRY400
            self._listen_no_more()
            return
        self._taken = len(connections)
        left = len(self.adapter.active)
        quick = self._submit_all(connections)
        now = self.loop.time()
        if more:
            self._more_since = now
        if self._selector is not None:
            self._selector.more |= more
        elif connections or more:
            self._left = left
            self._be_busy(now, more=more, turns=1 if quick else _FIRST_TURNS)
        else:
            self._be_there()

    def _submit_each(self, connections: Sequence[Connection]) -> bool:
        for connection in connections:
            self.adapter.submit(connection)
        return False

    def _listen_no_more(self) -> None:
        self.worker.sleeps_in(None)
        with contextlib.suppress(ClosedError):
            self.loop.remove_reader(self.worker.fileno())
            if self.worker.door is not None:
                self.loop.remove_reader(self.worker.door)

    def _most(self) -> int:
        if self.worker.batch is not None:
            return self.worker.batch
        if self._selector is None:
            quick = self.loop.time() - self._more_since < _QUICK_BY_CLOCK
            return min(2 * max(1, self._taken), _MOST_BY_CLOCK) if quick else 1
        busy, self._selector.busy = self._selector.busy, 0.0
        return _MOST if busy <= _QUICK * max(1, self._taken) and not self._selector.slow else 1

    # A loop that others made does not tell when it sleeps. But after it took a connection it is busy until that one's
    # first request was read and answered: some turns later, or as soon as it has no more connections than before; or in
    # its next turn, where the adapter says so.

    def _be_busy(self, now: float, *, more: bool, turns: int) -> None:
        """Be given nothing more until some turns have passed, then look for more, if there is, or be there again."""
        self._tell(there=False)
        self._more = more
        self._busy_since = now
        if self._turns == 0:
            self._turns = turns
            self.loop.call_soon(self._turn)
        else:  # the next one may come before what was given now
            self._turns = max(self._turns, turns + 1)

    def _turn(self) -> None:
        self._turns -= 1
        if self._turns > 0 and len(self.adapter.active) > self._left:
            self.loop.call_soon(self._turn)
            return
        self._turns = 0
        if self._more:
            self._receive()
        elif self.loop.time() - self._busy_since < _QUICK_BY_CLOCK:
            self._rest()
        else:
            self._rest_later()

    def _rest(self) -> None:
        port = self.worker.port
        if self.worker.rest():
            self._receive()
        else:
            self._told, self._told_to = True, port

    def _rest_later(self) -> None:
        self.worker.hand_on()
        if self.loop.time() - self._busy_since > _SLOW and self.adapter.active:
            self.loop.call_later(_QUIET, self._be_there)  # it may have to do the same once more in a moment
        else:
            self._be_there()

    def _be_there(self) -> None:
        if self._turns == 0:
            self._tell(there=True)

    def _tell(self, *, there: bool) -> None:
        """Tell the port whether it is there: one that it has moved to meanwhile knows nothing yet."""
        port = self.worker.station.port
        if self._told is there and self._told_to is port:
            return
        with contextlib.suppress(ClosedError):
            port.set_parked(there)
        self._told, self._told_to = there, port

    async def _stop(self) -> None:
        """Stop the adapter, and then the loop, also if that fails."""
        try:
            await self.adapter.stop()
        except Exception:
            logger.exception("%s: the application did not stop in order", self.worker.name)
        finally:
            self.loop.stop()

    def _finish(self) -> None:
        """Let what was cancelled end, then close the loop."""
        self.worker.sleeps_in(None)
        try:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            # Transports that were aborted close their sockets in a callback of the next turn.
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def _spawn(self, coroutine: Coroutine[object, object, object]) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- from any thread -------------------------------------------------------------------------------------------

    def _call(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError, AttributeError):  # the loop has ended, or there is none yet
            self.loop.call_soon_threadsafe(function)

    def begin_drain(self, timeout: float | None) -> None:
        """Ask all connections, also new ones, to end in their protocol's own way within `timeout` seconds."""
        self._call(lambda: self._spawn(self.adapter.drain(timeout)))

    def close_connections(self) -> None:
        """Close all connections once what was written to them is sent."""

        def close_all() -> None:
            for connection in list(self.adapter.active):
                connection.close()

        self._call(close_all)

    def abort(self) -> None:
        """End all connections now; they are counted as aborted."""

        def abort_all() -> None:
            for connection in list(self.adapter.active):
                connection.abort()

        self._call(abort_all)

    def stop(self) -> None:
        """Tell the adapter and the loop to end."""

        def stop() -> None:
            self._listen_no_more()
            self._stopping.set()
            self._spawn(self._stop())

        self._call(stop)

    def silence(self) -> float:
        """Seconds since the loop was asked for a sign of life that it has not given yet; 0 if it gave the last one.

        Asks for the next one. For one caller, who asks now and then.
        """
        if not self._alive.is_set():
            return time.monotonic() - self._asked
        self._alive.clear()
        self._asked = time.monotonic()
        self._call(self._alive.set)
        return 0.0

    def whereabouts(self) -> str:
        """What the worker's thread does just now, as a traceback."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if it is still busy after `timeout` seconds. Clients then see the end.

        An application that is about to stop has some seconds more.
        """
        self._thread.join(timeout)
        if self._thread.is_alive() and self._stopping.is_set():
            self._thread.join(_APPLICATION_END)
        if not self._thread.is_alive():
            return True
        for connection in list(self.adapter.active):
            _shut(connection)
        return False


def _set_of(loop: asyncio.AbstractEventLoop) -> int | None:
    """The epoll set in which a loop of uvloop's sleeps."""
    backend = getattr(loop, "_get_backend_id", None)
    return backend() if backend is not None else None


def _shut(connection: object) -> None:
    """End a connection whose loop does not turn any more."""
    transport = getattr(connection, "transport", None)
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
