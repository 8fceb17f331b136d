"""Credits: what a send takes, waits for and leaves to others."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from . import rig
from .rig import Line, data, promise, same

if TYPE_CHECKING:
    import pydlb


@promise
def a_send_takes_what_there_are_credits_for(device: pydlb.Device) -> None:
    """And they come back when events are received."""
    with Line(device, credits=4) as line:
        events = line.events(6)
        same(line.sender.send(events), 4, "events taken")
        same(line.sender.send(events), 0, "without credits")
        same(line.sender.send_one(9, line.queue), False, "one event without credits")
        stats = line.domain.stats()
        same((stats.credits_free, stats.queued, stats.enqueued), (0, 4, 4), "the account")
        same(stats.refused_no_credit >= 2, True, "refusals are counted")
        same(data(line.port, 4), [0, 1, 2, 3], "events received")
        same(line.domain.stats().credits_free, 4, "credits after that")
        same(line.sender.send(events[4:]), 2, "events taken then")
        same(data(line.port, 2), [4, 5], "and received")


@promise
def no_port_keeps_credits_from_others(device: pydlb.Device) -> None:
    """Whoever sent or received before."""
    with Line(device, ports=3, credits=6) as line:
        senders: list[pydlb.Port] = [line.sender, *line.ports]
        for turn in range(24):
            same(senders[turn % 4].send(line.events(6)), 6, "all credits for one sender")
            drain(line, 6)


def drain(line: Line, count: int) -> list[int]:
    """So many events from whichever ports they are given to; all are released."""
    got: list[int] = []
    deadline = time.monotonic() + rig.SOON
    while len(got) < count and time.monotonic() < deadline:
        for port in line.ports:
            batch = port.recv(timeout=0)["data"].tolist()
            port.release(len(batch))
            got += batch
    same(len(got), count, "events received")
    return got


@promise
def a_send_waits_for_credits(device: pydlb.Device) -> None:
    """For as long as it is told."""
    with Line(device, credits=4) as line:
        begin = time.monotonic()
        same(line.sender.send(line.events(6), timeout=0.02), 4, "events taken in a short time")
        same(time.monotonic() - begin >= 0.02, True, "the whole time")
        data(line.port, 4, release=True)
        arrived: list[int] = []

        def receive() -> None:
            while len(arrived) < 100:
                arrived.extend(line.port.recv(timeout=rig.SOON)["data"].tolist())
                line.port.release(32)

        thread = threading.Thread(target=receive)
        thread.start()
        same(line.sender.send(line.events(100), timeout=None), 100, "events taken")
        thread.join()
        same(arrived, list(range(100)), "events received")
