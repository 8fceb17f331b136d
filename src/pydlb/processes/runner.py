"""What runs a worker in a process of its own."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pydlb.errors import ClosedError, DLBError, WorkerDied
from pydlb.sharing import SharedPort

from . import child
from .assignment import Assignment, Descriptor
from .channel import Channel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from pydlb import _native
    from pydlb.balancer import Runner
    from pydlb.workers import Worker

    from .channel import Message
    from .pool import ProcessPool
    from .worker import ProcessWorker

__all__ = ["ProcessRunner", "State"]

logger = logging.getLogger("pydlb")

# How long an application may take to stop once its connections have ended, as of those in threads; in seconds.
_APPLICATION_END: Final = 10.0

# How long a worker has to say what it does, in seconds.
_ANSWER: Final = 0.5


class State(enum.Enum):
    """What a worker process is at."""

    NEW = enum.auto()
    STARTING = enum.auto()
    READY = enum.auto()
    STOPPING = enum.auto()
    GONE = enum.auto()


class ProcessRunner:
    """Runs a worker in a process; in another one, if that dies.

    Args:
        worker: The worker.
        make_runner: Makes what runs it there.
        pool: Watches over the process.

    Attributes:
        worker: The worker.
        make_runner: Makes what runs it there.
        state: What its process is at. For the pool, as are:
        replaces: Whether its process stands in for one that died, and is not ready yet.
        ready_at: When it became ready.
        pause: How long to wait before the next one is started, should it die soon.
    """

    def __init__(self, worker: ProcessWorker, make_runner: Callable[[Worker], Runner], pool: ProcessPool) -> None:
        self.worker: Final = worker
        self.state = State.NEW
        self.ready_at = 0.0
        self.pause = 0.0
        self.replaces = False
        self.make_runner: Final = make_runner
        self._pool = pool
        self._channel: Channel | None = None
        self._process: BaseProcess | None = None
        self._shared: SharedPort | None = None
        self._sending = threading.Lock()
        self._decided = threading.Event()  # it is ready, or will not be
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._answer = ""
        self._failure: BaseException | None = None

    # ---- beginning -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process, if that was not done; returns once it is ready. Raises what kept it from that."""
        if self.state is State.NEW:
            self.launch()
        self.wait_started()

    def launch(self) -> None:
        """Start the process; it will be ready later.

        Raises:
            ConfigError: What it is to run cannot be passed to another process.
        """
        self._pool.launch(self)

    def wait_started(self) -> None:
        """Wait until it is ready. Raises what kept it from that."""
        self._decided.wait()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Not here."""
        raise ClosedError("a worker process is run by its own process")

    def spawn(
        self,
        context: BaseContext,
        board: _native.Board,
        listeners: Mapping[int, tuple[socket.socket, int]],
        inherited: tuple[frozenset[int], frozenset[int]],
    ) -> tuple[Channel, int]:
        """Start a process, for the pool. Returns the channel to it, and a descriptor that is readable when it ends."""
        ours, theirs = Channel.pair()
        shared: SharedPort | None = None
        try:
            shared = SharedPort(self.worker.port)
            assignment = Assignment(
                name=self.worker.name,
                port=shared,
                history=self.worker.station.history,
                board=Descriptor(board.fileno()),
                bell=Descriptor(board.bell_fileno()),
                seat=self.worker.seat,
                shelf=Descriptor(self.worker.shelf),
                blocking=self._pool.blocking,
                make_runner=self.make_runner,
                channel=theirs.end,
                parent=os.getpid(),
                inherited=inherited,
            )
            # Its atexit function ends those of multiprocessing's daemons that nobody has ended.
            process: Any = context.Process(  # type: ignore[attr-defined]
                target=child.main, args=(assignment,), name=self.worker.name, daemon=True
            )
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            if shared is not None:
                shared.close()
        self._process, self._channel, self._shared, self.state = process, ours, shared, State.STARTING
        self.worker.pid = process.pid
        numbers = [(number, proxy) for number, (_, proxy) in listeners.items()]
        self.send("begin", [sock for sock, _ in listeners.values()], listeners=numbers)
        try:
            return ours, os.pidfd_open(process.pid)
        except OSError:  # it has ended already, or the system is too old
            return ours, os.dup(process.sentinel)

    # ---- the pool tells --------------------------------------------------------------------------------------------

    def heard(self, message: Message) -> None:
        """The process has said something."""
        match message["is"]:
            case "ready":
                if self.state is State.STARTING:
                    self.state = State.READY
                self.ready_at = time.monotonic()
                self._decided.set()
            case "failed":
                self._failure = child.unpickled(message["error"])
            case "at":
                self._answer = message["text"]
                self._answered.set()

    def died(self) -> str:
        """The process has ended. Returns how, in words."""
        process, channel = self._process, self._channel
        assert process is not None
        assert channel is not None
        process.join()
        how = _ending(process.exitcode)
        process.close()
        channel.close()
        if self._shared is not None:
            try:
                self._shared.bury()
            except ClosedError:  # the domain is closed: nobody is left to wait
                pass
            except DLBError as error:
                self.worker.port_is_lost = True
                logger.warning("%s: %s", self.worker.name, error)
        self._process = self._channel = self._shared = None
        if not self._decided.is_set() and self._failure is None:
            self._failure = WorkerDied(f"{self.worker.name} {how} before it was ready")
        return how

    def give_up(self) -> None:
        """There will be no other process."""
        self.state = State.GONE
        self._decided.set()
        self._ended.set()

    # ---- what it is told -------------------------------------------------------------------------------------------

    def send(self, do: str, sockets: list[socket.socket] | None = None, **values: Any) -> None:  # noqa: ANN401
        """Tell the process something, if there is one."""
        with self._sending:
            channel = self._channel
            if channel is not None:
                channel.send({"do": do, **values}, sockets)

    def begin_drain(self, timeout: float | None) -> None:
        """Ask all connections, also new ones, to end in their protocol's own way within `timeout` seconds."""
        self.send("drain", timeout=timeout)

    def close_connections(self) -> None:
        """Close all connections once what was written to them is sent."""
        self.send("close")

    def abort(self) -> None:
        """End all connections now."""
        self.send("abort")

    def stop(self) -> None:
        """Tell the process to end; there will be no other one."""
        self._pool.end(self)

    def kill(self) -> None:
        """End the process at once."""
        pid = self.worker.pid
        if pid is not None and not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def join(self, timeout: float) -> bool:
        """Wait for the end of the process; False if it had to be killed.

        One whose connections have ended has some seconds more, for its application to stop.
        """
        if not self._ended.wait(timeout) and not self.worker.stats().open:
            self._ended.wait(_APPLICATION_END)
        if self._ended.is_set():
            return True
        self.kill()
        self._ended.wait()
        return False

    # ---- signs of life ---------------------------------------------------------------------------------------------

    def silence(self) -> float:
        """Seconds for which the worker's event loop has not turned, although it was to."""
        return self.worker.silence(child.BEAT) if self.state is State.READY else 0.0

    def whereabouts(self) -> str:
        """What the worker does just now, as a traceback; empty if it cannot say."""
        self._answered.clear()
        self.send("where")
        return self._answer if self._answered.wait(_ANSWER) else ""


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"ended with status {status}"
