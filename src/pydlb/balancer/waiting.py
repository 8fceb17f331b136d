"""Waiting for something that nobody announces."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LAST_LOOK", "wait_for"]

# Who waits looks after the first of these times, later after the last, in seconds.
_FIRST_LOOK: Final = 0.001
LAST_LOOK: Final = 0.02


def wait_for(done: Callable[[], bool], timeout: float | None) -> None:
    """Wait until `done()`, looking now and then, for at most `timeout` seconds; None waits for ever."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_LOOK
    while not done() and (deadline is None or time.monotonic() < deadline):
        time.sleep(pause)
        pause = min(2 * pause, LAST_LOOK)
