"""Dictionaries that worker threads read where there is no interpreter lock."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any, Final

__all__ = ["hold_keys"]

_held: Final[list[Any]] = []


def hold_keys() -> None:
    """Keep a reference to the keys of all dictionaries that there are now, on a thread that has made none of them.

    To compare with a key that is equal but not the same object, a look-up without an interpreter lock first takes a
    reference to it. It cannot where no thread but the key's own has one: then it takes the dictionary's lock, in which
    `dict.get` of CPython 3.13 waits for itself. That is 20 microseconds each time where another thread has imported
    the dictionary's module, and more where two threads do it; h11 looks up a tuple for each change of its state.

    Does nothing where there is a lock.
    """
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return
    thread = threading.Thread(target=_hold, name="pydlb-keys")
    thread.start()
    thread.join()


def _hold() -> None:
    tables = [one for one in gc.get_objects() if type(one) is dict]
    keys = [key for table in tables for key in list(table)]
    _held.extend(key for key in keys if type(key) is not str or not sys._is_interned(key))  # type: ignore[attr-defined]
