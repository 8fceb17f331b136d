"""A worker process, from its first to its last moment."""

from __future__ import annotations

import base64
import contextlib
import gc
import logging
import multiprocessing
import os
import pickle
import select
import signal
import stat
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydlb import _native
from pydlb.workers import Station, Worker

from .channel import Channel

if TYPE_CHECKING:
    import socket
    from asyncio import AbstractEventLoop

    from .assignment import Assignment
    from .channel import Message

__all__ = ["BEAT", "main"]

logger = logging.getLogger("pydlb")

# How often an event loop says that it turns, in seconds.
BEAT: Final = 0.25

# How long the connections of a worker whose balancer died have to end, and how often it looks; in seconds.
_ORPHAN: Final = 30.0
_LOOK: Final = 0.02


def main(assignment: Assignment) -> None:
    """Be a worker process.

    The event loop, or whatever runs the worker, has the main thread; another one hears the process with the balancer.
    """
    process = multiprocessing.current_process()
    process.daemon = False  # the application may start processes of its own
    _leave_behind(*assignment.inherited)
    sys.exit(_Child(assignment).run())


def _leave_behind(descriptors: frozenset[int], sockets: frozenset[int]) -> None:
    """Close what a fork brought along: else nobody would see it closed by those whose it is.

    The numbers stay taken, as objects that were forked too believe to own them.
    """
    if not descriptors and not sockets:
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for entry in Path("/proc/self/fd").iterdir():
        number = int(entry.name)
        with contextlib.suppress(OSError):
            status = os.fstat(number)
            if number in descriptors or (stat.S_ISSOCK(status.st_mode) and status.st_ino in sockets):
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


class _Child:
    def __init__(self, assignment: Assignment) -> None:
        self._assignment: Final = assignment
        self._channel: Final = Channel(assignment.channel)
        self._parent: Final = _pidfd(assignment.parent)
        self._board: Final = _native.Board.join(assignment.board.number, assignment.bell.number)
        self._receiver: Final = _native.Receiver(self._board, assignment.seat, assignment.blocking)
        self._receiver.set_shelf(assignment.shelf.number)
        self._started = self._over = False
        self._beat_due = 0.0
        # What Python runs on a signal waits until the main thread is back from the call that it is in, which may be a
        # handler's that waits for its client. What the interpreter writes here at once wakes the thread that hears.
        self._signals, self._signalled = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> int:
        """Start, serve, end. Returns the exit status."""
        threading.current_thread().name = self._assignment.name
        # The terminal's Ctrl-C is for the process with the balancer, which says what is to be done. It is not ignored,
        # but handled by nothing: what the application starts would ignore it, too.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, self._asked_to_leave)
        signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)
        try:
            self._make()
            threading.Thread(target=self._hear, name="channel", daemon=True).start()
            self._runner.run()
            self._runner.wait_started()
        except BaseException as error:
            return self._fail(error)
        self._worker.close()
        self._over = True
        self._channel.close()
        return 0

    def _make(self) -> None:
        assignment = self._assignment
        begin = self._channel.receive()
        if begin is None:
            raise SystemExit(1)  # nobody waits for this worker any more
        self._listen(*begin)
        port = assignment.port.open()
        self._worker = Worker(
            assignment.name,
            Station(port, history=assignment.history),
            self._receiver,
            assignment.seat,
            blocking=assignment.blocking,
            door=self._receiver.headers_fileno(),
        )
        self._runner = assignment.make_runner(self._worker)

    def _listen(self, message: Message, sockets: list[socket.socket]) -> None:
        for (number, proxy), sock in zip(message["listeners"], sockets, strict=True):
            self._receiver.add(number, sock.fileno(), proxy)
            sock.close()

    def _fail(self, error: BaseException) -> int:
        """Tell what kept the worker from starting. Returns the exit status."""
        if not self._started:
            self._channel.send({"is": "failed", "error": _pickled(error)})
        elif not isinstance(error, SystemExit):
            logger.critical("%s failed", self._assignment.name, exc_info=error)
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1

    def _asked_to_leave(self, *_: object) -> None:
        """Whoever sends SIGTERM wants this worker replaced: the process with the balancer does so."""
        if not self._started:
            raise SystemExit(0)
        self._channel.send({"is": "leaving"})

    # ---- hearing ---------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Do what the process with the balancer says, until it says to stop or is gone."""
        try:
            self._runner.wait_started()
        except BaseException:
            return
        self._started = True
        gc.collect()
        gc.freeze()  # what is there now stays: to look through it again and again costs each connection its share
        loop: AbstractEventLoop | None = getattr(self._runner, "loop", None)
        if loop is not None:
            loop.call_soon_threadsafe(self._beat, loop)
        self._channel.send({"is": "ready"})
        while (received := self._next()) is not None:
            self._do(*received)
        if not self._over:
            self._be_orphan()

    def _next(self) -> tuple[Message, list[socket.socket]] | None:
        """The next message; None if no other will come."""
        if self._over:
            return None
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        if self._parent is not None:
            poll.register(self._parent, select.POLLIN)
        while (ready := [descriptor for descriptor, _ in poll.poll()]) == [self._signals]:
            if signal.SIGTERM in os.read(self._signals, 4096):
                self._asked_to_leave()
        return self._channel.receive() if self._channel.fileno() in ready else None

    def _do(self, message: Message, sockets: list[socket.socket]) -> None:
        match message["do"]:
            case "listen":
                self._listen(message, sockets)
            case "unlisten":
                self._receiver.remove(message["listener"])
            case "drain":
                self._runner.begin_drain(message["timeout"])
            case "close":
                self._runner.close_connections()
            case "abort":
                self._runner.abort()
            case "stop":
                self._runner.stop()
            case "where":
                self._channel.send({"is": "at", "text": _whereabouts()})

    def _be_orphan(self) -> None:
        """The process with the balancer is gone: nobody gives connections any more. Serve what is open, and end."""
        logger.warning("%s: the process with the balancer is gone; serving what is open", self._assignment.name)
        deadline = time.monotonic() + _ORPHAN
        self._runner.begin_drain(_ORPHAN)
        while self._receiver.worker_stats(0)[0] and time.monotonic() < deadline:
            time.sleep(_LOOK)
        self._runner.abort()
        self._runner.stop()

    def _beat(self, loop: AbstractEventLoop) -> None:
        """The event loop turns."""
        now = loop.time()
        self._board.beat(self._assignment.seat, max(0.0, now - self._beat_due) if self._beat_due else 0.0)
        self._beat_due = now + BEAT
        loop.call_at(self._beat_due, self._beat, loop)


def _pidfd(process: int) -> int | None:
    """A descriptor that is readable when the process ends; None where there are none."""
    try:
        return os.pidfd_open(process)
    except OSError:
        return None


def _pickled(error: BaseException) -> str:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        data = pickle.dumps(RuntimeError("".join(traceback.format_exception_only(error)).strip()))
    return base64.b64encode(data).decode()


def unpickled(text: str) -> Any:  # noqa: ANN401 - it may be a class that only the worker has
    """The exception that a worker process told of."""
    try:
        return pickle.loads(base64.b64decode(text))
    except Exception as error:
        return RuntimeError(f"a worker process failed by an exception that is not known here: {error}")


def _whereabouts() -> str:
    """What the main thread does just now, as a traceback."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
