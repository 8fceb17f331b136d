"""A serving process, as its supervisor sees it."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pydlb.processes.channel import Channel, Message

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .options import ServeOptions

__all__ = ["Child", "State"]


class State(enum.StrEnum):
    """What a serving process is at."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class Child:
    """A process that serves, or is about to.

    Args:
        pid: Its process number.
        channel: To it.
        tell: Called on a thread of this object's with the child and each of its messages; with None when the process
            has ended and `status` says how.

    Attributes:
        state: What it is at.
        started: When, as :func:`time.monotonic` has it.
        heard: When its last message came.
        last: Its last heartbeat.
        status: How it ended, as :func:`os.waitstatus_to_exitcode` has it.
    """

    def __init__(self, pid: int, channel: Channel, tell: Callable[[Child, Message | None], None]) -> None:
        self.pid: Final = pid
        self.channel: Final = channel
        self.state = State.STARTING
        self.started = self.heard = time.monotonic()
        self.last: Message = {}
        self.status: int | None = None
        self._tell = tell
        threading.Thread(target=self._listen, name=f"child {pid}", daemon=True).start()

    @classmethod
    def spawn(
        cls, options: ServeOptions, sockets: list[socket.socket], tell: Callable[[Child, Message | None], None]
    ) -> Child:
        """Start a serving process with copies of the listening sockets."""
        ours, theirs = Channel.pair()
        os.set_inheritable(theirs.fileno(), True)
        command = [sys.executable, *_interpreter_flags(), "-m", "pydlb.serving.process", str(theirs.fileno())]
        try:
            pid = os.posix_spawn(sys.executable, command, os.environ)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.send({"options": options.to_json()}, sockets)
        return cls(pid, ours, tell)

    def _listen(self) -> None:
        while (received := self.channel.receive()) is not None:
            self.heard = time.monotonic()
            self._tell(self, received[0])
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        self._tell(self, None)

    def drain(self, timeout: float, *, final: bool) -> None:
        """Tell it to serve what is open to its end.

        Args:
            timeout: Seconds that this may take.
            final: Nobody serves after it, so it is to empty the backlogs.
        """
        self.state = State.DRAINING
        self.channel.send({"do": "drain", "timeout": timeout, "final": final})

    def send(self, do: str, **values: Any) -> None:  # noqa: ANN401 - what JSON can express
        """Tell it something else."""
        self.channel.send({"do": do, **values})

    def kill(self) -> None:
        """End it now."""
        if self.state is not State.GONE:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def ending(self) -> str:
        """How it ended, in words."""
        status = self.status
        if status is None:
            return "ended"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"


def _interpreter_flags() -> list[str]:
    """What this interpreter was started with, for others of its kind."""
    flags = [f"-X{name}" if value is True else f"-X{name}={value}" for name, value in sys._xoptions.items()]
    flags += [f"-W{option}" for option in sys.warnoptions]
    flags += ["-O"] * sys.flags.optimize
    return flags
