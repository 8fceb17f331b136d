"""The supervisor: owns the listening sockets, serves nobody, and sees to it that somebody does."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydlb import _native
from pydlb.processes.channel import Channel

from . import systemd
from .child import Child, State
from .process import HEARTBEAT, STARTUP_FAILURE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydlb.processes.channel import Message

    from .options import ServeOptions

__all__ = ["Supervisor", "bind"]

logger = logging.getLogger("uvicorn.error")

# How long the supervisor waits before it starts what has died without having lived long: doubled each time; in seconds.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
_LONG_LIFE: Final = 10.0

# What a serving process that does not end may take beyond the graceful timeout, in seconds.
_PATIENCE: Final = 15.0

# A serving process that was not heard of for so long is not alive; in seconds.
_SILENCE: Final = 5.0

_TICK: Final = HEARTBEAT

# Where a supervisor that replaces itself leaves what the next one has to know.
_SUCCESSION: Final = "PYDLB_SUCCESSION"

_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR2,
)


class Supervisor:
    """Starts a serving process, replaces it when it dies or when asked to, and ends it in order.

    Signals: TERM and INT end (a second one at once); HUP replaces the serving process by one that imports the
    application anew, TTIN and TTOU add and take away a worker, and USR2 replaces the supervisor by what is installed
    now. The sockets stay open through all but the end.

    Args:
        options: What to serve, and how.
        sockets: The listening sockets; the supervisor closes them.
        reloader: Yields what changed in the application's files; None to not look.
    """

    def __init__(self, options: ServeOptions, sockets: list[socket.socket], reloader: Any = None) -> None:  # noqa: ANN401
        self._options = options
        self._sockets = sockets
        self._reloader = reloader
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._current: Child | None = None
        self._successor: Child | None = None
        self._leaving: set[Child] = set()
        self._was_ready = False
        self._ending = False
        self._deadline = float("inf")
        self._restart_at = float("inf")
        self._pause = _FIRST_PAUSE
        self._status = 0
        # What was asked for while a serving process was starting, to be done once it has started or failed to.
        self._asked: list[Callable[[], None]] = []

    # ---- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to end. Returns the exit status."""
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        logger.info("Started supervisor process [%d]", os.getpid())
        try:
            if self._reloader is not None:
                self._reloader.start(lambda changes: self._events.put(("changed", changes)))
                logger.info("Watching for changes using %s", self._reloader.name)
            self._inherit()
            self._start()
            while not self._over():
                try:
                    kind, value = self._events.get(timeout=_TICK)
                except queue.Empty:
                    self._tick()
                    continue
                getattr(self, f"_on_{kind}")(value)
                self._tick()
        finally:
            self._close()
            for number, handler in before.items():
                signal.signal(number, handler)
        logger.info("Stopped supervisor process [%d]", os.getpid())
        return self._status

    def _over(self) -> bool:
        return self._ending and self._current is None and self._successor is None and not self._leaving

    def _signalled(self, number: int, _frame: object) -> None:
        self._events.put(("signal", signal.Signals(number)))

    def _tell(self, child: Child, message: Message | None) -> None:
        self._events.put(("gone", child) if message is None else ("message", (child, message)))

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._restart_at:
            self._restart_at = float("inf")
            self._start()
        if now >= self._deadline:
            self._deadline = float("inf")
            for child in self._children():
                logger.error("Process [%d] does not end; killing it", child.pid)
                child.kill()
        if systemd.watchdog_interval() is not None and self.alive:
            systemd.notify("WATCHDOG=1")

    def _children(self) -> list[Child]:
        return [child for child in (self._current, self._successor, *self._leaving) if child is not None]

    # ---- what it knows ---------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is somebody who accepts connections, and will go on to."""
        return self._current is not None and not self._ending

    @property
    def alive(self) -> bool:
        """Whether the serving process gives signs of life, and all its workers do."""
        current = self._current
        if current is None:
            return self._successor is not None
        return time.monotonic() - current.heard < _SILENCE and not current.last.get("stalled")

    @property
    def snapshot(self) -> dict[str, Any] | None:
        """What the serving process last told of its balancer, where there is a port for metrics."""
        current = self._current
        return None if current is None else current.last.get("snapshot")

    # ---- serving processes come and go -----------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a serving process; when it is ready it takes the place of the one that serves."""
        if not self._ending and self._successor is None:
            self._successor = Child.spawn(self._options, self._sockets, self._tell)

    def _on_message(self, told: tuple[Child, Message]) -> None:
        child, message = told
        if message["is"] == "alive":
            child.last = message
        elif message["is"] == "ready" and child is self._successor:
            self._promote(child)
        elif message["is"] == "failed" and child is self._current:
            logger.error("Process [%d] cannot be given connections: %s", child.pid, message["why"])
            self._when_started(self._reload)

    def _promote(self, child: Child) -> None:
        child.state = State.READY
        self._successor = None
        before, self._current = self._current, child
        if before is not None:
            self._retire(before)
        self._was_ready = True
        systemd.notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS=Serving by process {child.pid}")
        self._do_what_was_asked()

    def _retire(self, child: Child, *, final: bool = False) -> None:
        child.drain(self._options.graceful_timeout, final=final)
        self._leaving.add(child)
        self._deadline = time.monotonic() + self._options.graceful_timeout + _PATIENCE

    def _on_gone(self, child: Child) -> None:
        state, child.state = child.state, State.GONE
        child.channel.close()
        self._leaving.discard(child)
        if child is self._successor:
            self._successor = None
            self._did_not_start(child)
        elif child is self._current:
            self._current = None
            logger.error("Process [%d] %s; starting another", child.pid, child.ending())
            self._start_later(child)
        elif state is State.DRAINING and child.status:
            logger.warning("Process [%d] %s while it drained", child.pid, child.ending())

    def _did_not_start(self, child: Child) -> None:
        if self._ending:
            return
        if self._current is not None:
            logger.error("Process [%d] %s before it was ready; the one before goes on", child.pid, child.ending())
            systemd.notify("READY=1")
            self._do_what_was_asked()
        elif self._reloader is not None:
            logger.error("Process [%d] %s; waiting for changes", child.pid, child.ending())
        elif self._was_ready:
            logger.error("Process [%d] %s before it was ready; trying again", child.pid, child.ending())
            self._start_later(child)
        else:
            status = child.status
            if status is None or status <= 0:  # it said nothing itself
                logger.error("Process [%d] %s before it was ready", child.pid, child.ending())
                status = STARTUP_FAILURE
            self._status = status
            self._ending = True

    def _start_later(self, child: Child) -> None:
        """At once where it had lived for a while, else the later the oftener."""
        if self._ending:
            return
        if time.monotonic() - child.started > _LONG_LIFE:
            self._pause = _FIRST_PAUSE
            self._start()
            return
        self._restart_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    # ---- what it is told -------------------------------------------------------------------------------------------

    def _on_signal(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGINT | signal.SIGTERM:
                self._end()
            case signal.SIGHUP:
                self._when_started(self._reload)
            case signal.SIGTTIN:
                self._scale(self._options.workers + 1)
            case signal.SIGTTOU:
                self._scale(max(1, self._options.workers - 1))
            case signal.SIGUSR2:
                self._when_started(self._replace_self)

    def _when_started(self, do: Callable[[], None]) -> None:
        """Do it, though not while a serving process starts: that one may have the application of before."""
        if self._current is not None and self._successor is None:
            do()
        elif do not in self._asked:
            self._asked.append(do)

    def _do_what_was_asked(self) -> None:
        asked, self._asked = self._asked, []
        for do in asked:
            self._when_started(do)

    def _reload(self) -> None:
        logger.info("Reloading: starting a new process before the old one ends")
        systemd.reloading()
        self._start()

    def _on_changed(self, changes: list[Path]) -> None:
        logger.warning("Detected changes in %s. Reloading...", ", ".join(f"'{_short(path)}'" for path in changes))
        if self._successor is not None:  # it has what was there before the change
            self._successor.kill()
            self._leaving.add(self._successor)
            self._successor = None
        self._start()

    def _scale(self, workers: int) -> None:
        self._options.workers = workers
        for child in (self._current, self._successor):
            if child is not None:
                child.send("scale", workers=workers)

    def _end(self) -> None:
        """Let what is open end; the second time, do not."""
        if self._ending:
            logger.info("Ending what is still open")
            for child in self._children():
                child.send("end")
            self._deadline = time.monotonic() + _PATIENCE
            return
        self._ending = True
        logger.info("Shutting down: serving what is open to its end (CTRL+C to force quit)")
        systemd.notify("STOPPING=1")
        for sock in self._sockets:
            _native.shut_listener(sock.fileno())
        if self._current is not None and self._successor is not None:
            self._leaving.add(self._successor)
            self._successor.kill()
        elif self._successor is not None:  # it may serve already, though its word has not come yet
            self._current = self._successor
        self._successor = None
        if self._current is not None:
            self._retire(self._current, final=True)
            self._current = None

    def _close(self) -> None:
        for child in self._children():
            child.kill()
        if self._reloader is not None:
            self._reloader.close()
        for sock in self._sockets:
            address = sock.getsockname() if sock.family == socket.AF_UNIX else None
            sock.close()
            if isinstance(address, str) and address:
                with contextlib.suppress(OSError):
                    Path(address).unlink()

    # ---- replacing itself ------------------------------------------------------------------------------------------

    def _replace_self(self) -> None:
        """Become what is installed now: the same process, the same sockets, and the same serving process for now."""
        if self._current is None:
            return
        logger.info("Replacing the supervisor by what is installed now")
        kept = {"sockets": [sock.fileno() for sock in self._sockets]}
        kept["serving"] = [self._current.pid, self._current.channel.fileno()]
        for descriptor in (*kept["sockets"], kept["serving"][1]):
            os.set_inheritable(descriptor, True)
        for child in self._leaving:
            child.kill()
        os.environ[_SUCCESSION] = json.dumps(kept)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    def _inherit(self) -> None:
        """Take over the serving process of the supervisor that this process was before."""
        kept = _succession()
        if kept is not None and kept.get("serving"):
            pid, descriptor = kept["serving"]
            os.set_inheritable(descriptor, False)
            self._current = Child(pid, Channel(socket.socket(fileno=descriptor)), self._tell)
            self._current.state = State.READY
            self._was_ready = True
        os.environ.pop(_SUCCESSION, None)


def _succession() -> dict[str, Any] | None:
    text = os.environ.get(_SUCCESSION)
    return json.loads(text) if text else None


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


# ---- listening sockets ---------------------------------------------------------------------------------------------


def bind(*, host: str, port: int, uds: str | None, fd: int | None, backlog: int) -> list[socket.socket]:
    """The listening sockets: those that this process was given, or new ones.

    Args:
        host: The address to listen on, if no other is given.
        port: The port, 0 for any.
        uds: A path to listen on instead.
        fd: A descriptor to listen on instead.
        backlog: Connections that the kernel keeps until they are accepted.

    Raises:
        OSError: It cannot be listened on.
    """
    kept = _succession()
    if kept is not None:
        sockets = [socket.socket(fileno=descriptor) for descriptor in kept["sockets"]]
    elif fd is not None:
        sockets = [_given(fd)]
    elif given := systemd.listening_sockets():
        sockets = given
    elif uds is not None:
        sockets = [_bind_path(uds)]
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sockets = [socket.create_server((host, port), family=family, backlog=backlog)]
    for sock in sockets:
        os.set_inheritable(sock.fileno(), False)
        sock.setblocking(False)
        sock.listen(backlog)
    return sockets


def _given(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on descriptor {descriptor}: {error.strerror}") from None


def _remove_dead(path: str) -> None:
    """Remove a socket that a server left behind which was killed."""
    if Path(path).is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()


def _bind_path(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(path)
        sock.bind(path)
        Path(path).chmod(0o666)  # as uvicorn does: whoever may look into its folder may connect
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {path!r}: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise
    return sock
