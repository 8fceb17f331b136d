"""Threads whose failures count, and the size of a run.

PDLB_STRESS_EVENTS says how many events a stress test moves (default 40000).
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0  # seconds in which something must move


class Team:
    """Threads that work together: what one of them raises ends the test, and they are all joined."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._failures: list[BaseException] = []
        self._progress = 0

    def start(self, work: Callable[..., None], *args: object) -> threading.Thread:
        def guarded() -> None:
            try:
                work(*args)
            except BaseException as failure:
                with self._changed:
                    self._failures.append(failure)
                    self._changed.notify_all()

        thread = threading.Thread(target=guarded, name=f"{work.__name__}{args}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def advance(self, count: int) -> None:
        """So much more was done."""
        with self._changed:
            self._progress += count
            self._changed.notify_all()

    @property
    def progress(self) -> int:
        return self._progress

    def wait_for(self, total: int) -> None:
        """Until so much was done, as long as something moves."""
        with self._changed:
            while self._progress < total and not self._failures:
                before = self._progress
                if not self._changed.wait(PATIENCE) and self._progress == before:
                    raise AssertionError(f"stuck: {before} of {total} are done, and no more come")
            self.check()

    def check(self) -> None:
        if self._failures:
            raise self._failures[0]

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} does not end"
        self.check()


@pytest.fixture
def team() -> Iterator[Team]:
    team = Team()
    yield team
    team.join()


@pytest.fixture
def events() -> int:
    return int(float(os.environ.get("PDLB_STRESS_EVENTS", "40000")))


def keeping(ports: list[pydlb.Port], create: Callable[..., pydlb.Port]) -> Callable[..., pydlb.Port]:
    def create_and_keep(*args: object, **kwargs: object) -> pydlb.Port:
        ports.append(create(*args, **kwargs))
        return ports[-1]

    return create_and_keep


@pytest.fixture
def domain() -> Iterator[pydlb.Domain]:
    with (
        pydlb.open("software", limits="large") as device,
        device.create_domain(
            ldb_queues=8, ldb_ports=16, dir_ports=16, credits=4096, history_entries=4096, sequence_slots=(16, 0)
        ) as domain,
    ):
        ports: list[pydlb.Port] = []  # they live until the domain closes them, though the test has let go of them
        for name in ("create_ldb_port", "create_dir_port"):
            setattr(domain, name, keeping(ports, getattr(domain, name)))
        yield domain


def until_armed(port: pydlb.Port) -> None:
    """Until the port's thread is about to sleep in its wait."""
    deadline = time.monotonic() + PATIENCE
    while not port.stats().armed:
        assert time.monotonic() < deadline, "nobody waits on the port"
        time.sleep(0)


@pytest.fixture(name="until_armed")
def _until_armed() -> Callable[[pydlb.Port], None]:
    return until_armed
