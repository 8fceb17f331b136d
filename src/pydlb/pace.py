"""When a process that serves gives way to others on its processor."""

from __future__ import annotations

import os
import time
from typing import Final

from . import _native

__all__ = ["Pace"]

# In seconds: long beside a batch of connections, short beside a tick of the kernel's clock.
_RUN: Final = 0.0005


class Pace:
    """Gives way between batches of connections, rather than be interrupted within one.

    A thread that does not sleep beside others loses its processor at a tick of the kernel's clock, for milliseconds,
    and whoever it had taken by then waits as long, while another worker could have served them. One that offers its
    processor now and then, when it has nobody in hand, is seldom interrupted. By short slices that costs it next to
    nothing: it goes on at once where nobody waits.

    **Synchronization**: the thread that made it.
    """

    def __init__(self) -> None:
        _native.shorten_slice()
        self._since = time.monotonic()

    def rest(self) -> None:
        """Nobody is in hand."""
        if time.monotonic() - self._since > _RUN:
            os.sched_yield()
            self._since = time.monotonic()
