"""The serving process: a balancer, its workers with the application, and an ear for the supervisor."""

from __future__ import annotations

import asyncio
import functools
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from pydlb.balancer import Balancer, are_processes
from pydlb.errors import DLBError
from pydlb.loops import LoopWorker
from pydlb.metrics import snapshot
from pydlb.processes.channel import Channel
from pydlb.processes.runner import ProcessRunner

from .application import AdapterFactory, configure_logging
from .keys import hold_keys
from .options import ServeOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydlb.balancer import Runner
    from pydlb.processes.channel import Message

__all__ = ["ServingProcess", "main"]

logger = logging.getLogger("uvicorn.error")

STARTUP_FAILURE: Final = 3

# How often the supervisor hears from a serving process, in seconds.
HEARTBEAT: Final = 0.5

# How long a serving process whose device has failed waits for another one before it says so again, in seconds.
_AGAIN: Final = 5.0

# How often a draining process looks whether it is done, in seconds.
_LOOK: Final = 0.02

# How long a backlog that nobody else accepts from may take to be emptied, in seconds.
_BACKLOG: Final = 5.0

_MANY: Final = 32


class ServingProcess:
    """Serves until the supervisor says to drain, or is gone.

    Args:
        options: What to serve, and how.
        sockets: The listening sockets, which are shared with the supervisor and with other serving processes.
        channel: To the supervisor.
    """

    def __init__(self, options: ServeOptions, sockets: list[socket.socket], channel: Channel) -> None:
        self._options = options
        self._sockets = sockets
        self._channel = channel
        self._balancer: Balancer
        self._told: set[str] = set()
        self._tell_again = 0.0
        # Workers come and go one after the other, while this process hears and answers.
        self._changes = ThreadPoolExecutor(1, "changes")

    def run(self) -> int:
        """Start, serve, drain. Returns the exit status."""
        options = self._options
        try:
            self._start()
        except (DLBError, OSError) as error:
            logger.error("%s", error)  # noqa: TRY400 - it says all that there is to say
            return STARTUP_FAILURE
        backend = self._balancer.backend + (
            f" ({self._balancer.fallback_reason})" if self._balancer.fallback_reason else ""
        )
        kind = "processes" if are_processes(options.worker_class) else "threads"
        # Who reads that it serves may kill it at once: the supervisor has to know by then that it had started.
        self._channel.send({"is": "ready"})
        logger.info("Serving with %d worker %s, policy %s, backend %s", options.workers, kind, options.policy, backend)
        self._drain(*self._serve())
        return 0

    def _start(self) -> None:
        options = self._options
        config = uvicorn.Config(options.app, loop=options.uvicorn.get("loop", "auto"), log_config=None)
        make_loop = config.get_loop_factory()
        self._make_runner = functools.partial(
            LoopWorker,
            make_adapter=AdapterFactory(options, self._replace_later),
            # asyncio's own is not made by its name: workers have it in a form that knows them.
            loop_factory=None if make_loop is asyncio.SelectorEventLoop else make_loop,
        )
        if are_processes(options.worker_class):
            # Workers are forked from a process that has imported all but the application.
            multiprocessing.set_forkserver_preload(["pydlb.processes.child", "pydlb.serving.application"])
        self._balancer = Balancer(
            0,
            policy=options.policy,  # type: ignore[arg-type]  # the balancer says which there are
            backend=options.backend,
            max_workers=max(_MANY, 4 * options.workers),
            worker_class=options.worker_class,
            patience=options.graceful_timeout,
        )
        try:
            self._balancer.add_some(self._make_runner, options.workers)
            if not are_processes(options.worker_class):
                hold_keys()
            for sock in self._sockets:
                self._balancer.listen(
                    sock=sock,
                    shared=True,
                    backlog=options.uvicorn.get("backlog", 2048),
                    proxy_protocol=options.proxy_protocol,
                )
        except BaseException:
            self._balancer.close(timeout=0)
            raise

    # ---- workers ---------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> Runner | None:
        return next((runner for runner in self._balancer.runners if runner.worker.name == name), None)

    def _remove(self, runner: Runner) -> None:
        timeout = self._options.graceful_timeout
        left = self._balancer.remove_worker(runner.worker, timeout=timeout)
        if left:
            logger.warning("%s had %d connections open after %s s", runner.worker.name, left, timeout)

    def _change(self, function: Callable[..., object], *arguments: Any) -> None:  # noqa: ANN401
        """Do it after all that was asked for before."""

        def change() -> None:
            try:
                function(*arguments)
            except (Exception, SystemExit):
                logger.exception("Could not change the workers")

        self._changes.submit(change)

    def _replace_later(self, name: str) -> None:
        """A worker has answered all the requests that it may."""
        self._change(self._replace, name)

    def _replace(self, name: str) -> None:
        runner = self._find(name)
        if runner is not None:
            self._balancer.replace_worker(runner.worker, timeout=self._options.graceful_timeout)

    def _scale(self, count: int) -> None:
        self._balancer.add_some(self._make_runner, max(0, count - len(self._balancer.runners)))
        for runner in self._balancer.runners[count:]:
            self._remove(runner)
        logger.info("Serving with %d workers", count)

    # ---- serving ---------------------------------------------------------------------------------------------------

    def _serve(self) -> tuple[float, bool]:
        """Answer the supervisor until it says to drain. Returns how long that may take, and whether it is the end."""
        while True:
            try:
                received = self._channel.receive(HEARTBEAT)
            except TimeoutError:
                self._channel.send(self._heartbeat())
                self._tell_failure()
                continue
            if received is None:
                logger.warning("The supervisor is gone; serving what is open to its end")
                return self._options.graceful_timeout, False
            message, _ = received
            match message["do"]:
                case "drain":
                    return message["timeout"], message["final"]
                case "scale":
                    self._change(self._scale, message["workers"])

    def _tell_failure(self) -> None:
        """Worker processes keep their ports: where the device has failed, another serving process has to take over."""
        if self._balancer.state == "failed" and time.monotonic() >= self._tell_again:
            self._tell_again = time.monotonic() + _AGAIN
            self._channel.send({"is": "failed", "why": self._balancer.fallback_reason})

    def _heartbeat(self) -> Message:
        stats = self._balancer.stats()
        beat = {
            "is": "alive",
            "stalled": self._stalled(),
            "accepted": stats.accepted,
            "open": stats.open,
            "waiting": stats.waiting,
        }
        return beat if self._options.metrics_port is None else {**beat, "snapshot": snapshot.take(self._balancer)}

    def _stalled(self) -> list[str]:
        """The workers whose loops have not turned for too long; each is told of once."""
        stalled = []
        for runner in self._balancer.runners:
            assert isinstance(runner, LoopWorker | ProcessRunner)
            name = runner.worker.name
            silence = runner.silence()
            if silence < self._options.stall_timeout:
                self._told.discard(name)
                continue
            stalled.append(name)
            if name not in self._told:
                self._told.add(name)
                where = runner.whereabouts() or "It holds the interpreter lock, and cannot say where it is."
                logger.error("%s has done one thing for %.1f s:\n%s", name, silence, where)
        return stalled

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _drain(self, timeout: float, final: bool) -> None:
        """Serve what is open to its end, for at most `timeout` seconds.

        At the final end nobody else accepts what is in the backlog, so it is accepted; else it is left to others.
        """
        deadline = time.monotonic() + timeout
        self._balancer.begin_stop(min(_BACKLOG, timeout) if final else 0.0)
        self._balancer.begin_drain(timeout)
        while not self._balancer.idle and time.monotonic() < deadline:
            if self._told_to_end():
                break
        self._changes.shutdown(wait=False, cancel_futures=True)
        stats = self._balancer.close(timeout=0)
        if stats.aborted:
            logger.warning("%d connections did not end in order", stats.aborted)
        self._channel.send({"is": "done", "accepted": stats.accepted, "served": stats.served, "aborted": stats.aborted})

    def _told_to_end(self) -> bool:
        """Whether the supervisor cannot wait; it is given a moment to say so."""
        try:
            received = self._channel.receive(_LOOK)
        except TimeoutError:
            return False
        if received is None:
            time.sleep(_LOOK)  # nobody can say anything any more
            return False
        return bool(received[0]["do"] == "end")


def main() -> int:
    """Be a serving process: the channel's descriptor is the argument, all else comes over it."""
    # The terminal's Ctrl-C and the service manager's SIGTERM are the supervisor's, who will say what to do. They are
    # not ignored, but handled by nothing: what the application starts would ignore them, too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    os.set_inheritable(channel.fileno(), False)
    received = channel.receive()
    if received is None:
        return STARTUP_FAILURE
    message, sockets = received
    options = ServeOptions.from_json(message["options"])
    sys.path.insert(0, options.app_dir)
    configure_logging(options)
    logger.info("Started server process [%d]", os.getpid())
    status = ServingProcess(options, sockets, channel).run()
    logger.info("Finished server process [%d]", os.getpid())
    for sock in sockets:
        sock.close()
    channel.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
