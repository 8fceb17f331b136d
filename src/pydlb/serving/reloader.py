"""Looks for changes in the application's files, with uvicorn's own eyes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from uvicorn.supervisors import ChangeReload
from uvicorn.supervisors.statreload import StatReload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import uvicorn

__all__ = ["Reloader"]


class Reloader:
    """Calls a function, on a thread of its own, with the files that have changed.

    Args:
        config: Says which folders to look into, and what to leave out.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        self._watch = ChangeReload(config, target=lambda _: None, sockets=[])
        self.name = self._watch.reloader_name
        self._thread: threading.Thread | None = None

    def start(self, changed: Callable[[list[Path]], object]) -> None:
        """Begin to look."""

        def watch() -> None:
            for changes in self._watch:
                if changes:
                    if isinstance(self._watch, StatReload):  # which tells of a change until it has restarted
                        self._watch.mtimes.clear()
                    changed(changes)

        self._thread = threading.Thread(target=watch, name="reloader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._watch.should_exit.set()
        if self._thread is not None:
            self._thread.join()
