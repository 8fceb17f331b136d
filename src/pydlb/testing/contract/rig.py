"""What the checks are written with: a queue between ports, and ways to wait for what must and must not come."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Final, Literal, Self, TypedDict, Unpack

import numpy as np

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

    Release = Literal["explicit", "on_recv"]

SOON: Final = 10.0
"""Seconds within which what must come has come."""

MOMENT: Final = 0.02
"""Seconds after which what has not come is believed not to come."""

CHECKS: Final[dict[str, Callable[[pydlb.Device], None]]] = {}
"""Each check by its name: a function of a device that nobody else uses, which raises AssertionError."""


def promise(check: Callable[[pydlb.Device], None]) -> Callable[[pydlb.Device], None]:
    """Make a function one of the checks."""
    CHECKS[check.__name__] = check
    return check


def same(found: object, wanted: object, what: str) -> None:
    """What was found is what was wanted."""
    if found != wanted:
        raise AssertionError(f"{what}: found {found!r}, not {wanted!r}")


@contextlib.contextmanager
def raises(kind: type[BaseException], words: str) -> Iterator[None]:
    """An error of this kind, whose message has these words (a regular expression)."""
    try:
        yield
    except kind as error:
        if not re.search(words, str(error)):
            raise AssertionError(f"{error!r} does not speak of {words!r}") from error
    else:
        raise AssertionError(f"no {kind.__name__} that speaks of {words!r}")


def collect(port: pydlb.Port, count: int, *, release: bool = False) -> NDArray[np.void]:
    """So many events, and not one more."""
    got = np.zeros(0, pydlb.EVENT_DTYPE)
    deadline = time.monotonic() + SOON
    while len(got) < count and time.monotonic() < deadline:
        batch = port.recv(timeout=0.1)
        got = np.concatenate([got, batch])
        if release and isinstance(port, pydlb.LDBPort):
            port.release(len(batch))
    same(len(got), count, "events received")
    return got


def data(port: pydlb.Port, count: int, *, release: bool = False) -> list[int]:
    """The data of so many events, and not one more."""
    numbers: list[int] = collect(port, count, release=release)["data"].tolist()
    return numbers


def nothing(port: pydlb.Port) -> None:
    """No event within a moment."""
    same(port.recv(timeout=MOMENT)["data"].tolist(), [], "events that may not come")


def eventually(condition: Callable[[], bool], what: str) -> None:
    """It becomes true, soon enough."""
    deadline = time.monotonic() + SOON
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what}")
        time.sleep(0.001)


class QueueShape(TypedDict, total=False):
    """What a load-balanced queue is made with."""

    sequence_numbers: int
    inflights: int
    atomic_inflights: int


class Line:
    """One load-balanced queue between a port that only sends and ports that are linked to it."""

    def __init__(
        self,
        device: pydlb.Device,
        ports: int = 1,
        *,
        credits: int = 256,
        history_entries: int | None = None,
        cq_depth: int = 32,
        release: Release = "explicit",
        start: bool = True,
        **queue: Unpack[QueueShape],
    ) -> None:
        held = history_entries or 2 * cq_depth
        self.domain = device.create_domain(
            ldb_queues=2,
            ldb_ports=ports + 1,
            dir_ports=1,
            credits=credits,
            history_entries=(ports + 1) * held,
            atomic_inflights=512,
            sequence_slots=(1, 0),
        )
        try:
            self.queue = self.domain.create_ldb_queue(**queue)
            self.sender = self.domain.create_dir_port()
            self.ports = [
                self.domain.create_ldb_port(cq_depth=cq_depth, history_entries=held, release=release)
                for _ in range(ports)
            ]
            for port in self.ports:
                port.link(self.queue)
            if start:
                self.domain.start()
        except BaseException:
            self.domain.close()
            raise

    @property
    def port(self) -> pydlb.LDBPort:
        """The first of the linked ports."""
        return self.ports[0]

    def events(self, count: int, **options: ArrayLike) -> NDArray[np.void]:
        """So many events to the queue, numbered from 0 in `data`."""
        return pydlb.make_events(range(count), self.queue, **options)  # type: ignore[arg-type]

    def send(self, *data: int, **options: int) -> None:
        """One event after the other, all of which are taken."""
        for number in data:
            same(self.sender.send_one(number, self.queue, **options), True, "send_one")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.domain.close()
