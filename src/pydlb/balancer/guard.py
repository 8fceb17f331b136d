"""Looks after the device of a balancer, in a thread: away from it when it fails, and back when it can be used again."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from pydlb.errors import DLBError

if TYPE_CHECKING:
    from pydlb import _native

    from .engines import Engines

__all__ = ["Guard"]

logger = logging.getLogger("pydlb")

# How often a device that works is asked whether it has dropped anything, in seconds.
_LOOK: Final = 0.25

# A device that failed is tried after the first of these times, then after twice as long each time, up to the last.
_FIRST_PROBE: Final = 0.5
_LAST_PROBE: Final = 30.0

# By the numbers of enum pdlb_refusal.
_TROUBLE: Final = {
    2: "its domain is not started",
    3: "the port that sends is disabled",
    4: "it was reset or went away",
    5: "a queue of its is gone",
    6: "a queue of its does not schedule",
}


class Guard:
    """The thread.

    Args:
        engines: Whose device to look after.
        acceptor: Who notices trouble.

    **Resource handling**: it keeps the engines, not the balancer.
    """

    def __init__(self, engines: Engines, acceptor: _native.Acceptor) -> None:
        self._engines = engines
        self._acceptor = acceptor
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pydlb-guard", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = _FIRST_PROBE
        while not self._over.is_set():
            try:
                if self._engines.on_device:
                    pause = _FIRST_PROBE
                    self._watch()
                elif not self._over.wait(pause) and not self._engines.recover():
                    pause = min(2 * pause, _LAST_PROBE)
            except DLBError:
                logger.exception("the balancer cannot change its engine; it tries again")
                self._over.wait(pause)
                pause = min(2 * pause, _LAST_PROBE)

    def _watch(self) -> None:
        trouble = self._acceptor.trouble(_LOOK)
        if self._over.is_set():
            return
        if trouble:
            self._engines.fall_back(_TROUBLE.get(trouble, f"it refused what was sent ({trouble})"))
        elif lost := self._engines.lost():
            self._engines.fall_back(f"it dropped {lost} of what was sent, and as many credits are gone")

    def stop(self) -> None:
        """End the thread. May be called twice."""
        self._over.set()
        if self._thread.is_alive():
            self._acceptor.unwatch()
        if self._thread is not threading.current_thread():
            self._thread.join()
