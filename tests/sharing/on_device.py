"""Processes that are killed while they use a port of a device's domain: run under `pydlb emulate` by test_device.py.

Argument: how processes are started, the seed, how often one is killed. Ends with status 0 if all is as it should be.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pydlb

BURST = 16
PATIENCE = 60.0


def work_for_ever(shared: pydlb.SharedPort, forward_to: int | None) -> None:
    """In the other process: take, and release or pass on, as fast as it can."""
    port = shared.open()
    while True:
        events = port.recv(5)
        if forward_to is None:
            port.release(len(events))
        else:
            events["queue"] = forward_to
            port.forward(events)


class Line:
    """A queue that victim and survivor share, and one for what the victim passes on."""

    def __init__(self, domain: pydlb.Domain) -> None:
        self.domain = domain
        self.queue, self.second = domain.create_ldb_queue(), domain.create_ldb_queue()
        self.sender = domain.create_dir_port()
        self.victim, self.survivor = (domain.create_ldb_port(cq_depth=8) for _ in range(2))
        self.last = domain.create_ldb_port(cq_depth=8)
        for port in (self.victim, self.survivor):
            port.link(self.queue)
        self.last.link(self.second)
        domain.start()
        self.sent = 0
        self.seen: set[int] = set()
        self.passed: set[int] = set()

    def turn(self) -> int:
        """Send some, take some of what is for the survivors. Returns how many those were."""
        events = pydlb.make_events(range(self.sent, self.sent + BURST), self.queue)
        self.sent += self.sender.send(events)
        return self.take()

    def take(self) -> int:
        taken = 0
        for port, seen in ((self.survivor, self.seen), (self.last, self.passed)):
            got = port.recv(8, timeout=0)["data"].tolist()
            assert len(got) == len(set(got)), "one came twice"
            assert seen.isdisjoint(got), "one came again"
            seen.update(got)
            port.release(8)
            taken += len(got)
        return taken


def kill_one(line: Line, context: Any, draw: random.Random, *, forwards: bool) -> None:
    line.victim.enable()
    before = line.victim.stats().received
    shared = pydlb.SharedPort(line.victim)
    process = context.Process(target=work_for_ever, args=(shared, line.second.id if forwards else None), daemon=True)
    process.start()
    shared.close()
    until = before + draw.randrange(1, 300)
    patience = time.monotonic() + PATIENCE
    while line.victim.stats().received < until:
        assert time.monotonic() < patience, "the other process takes nothing"
        line.turn()
    time.sleep(draw.random() * 1e-3)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    shared.bury()
    assert line.victim.in_flight == 0
    process.close()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def main() -> None:
    method, seed, kills = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    context = multiprocessing.get_context(method)
    with pydlb.open("/dev/dlb0") as device:
        total, before = device.resources(), None
        with device.create_domain(shared=True, credits=64) as domain:
            line = Line(domain)
            for nth in range(kills):
                kill_one(line, context, draw, forwards=nth % 2 == 1)
                if before is None:
                    before = descriptors()  # what the first start of a process opens stays open
            while line.take():
                pass
            stats = domain.stats()
            # A line that was being stored when its process died counts as sent: four elements at most.
            missing = stats.enqueued - stats.scheduled
            assert 0 <= missing <= 4 * kills, stats
            assert stats.credits_free == 64 - missing, stats
            assert stats.lost == 0, stats
            received = len(line.seen) + line.victim.stats().received
            assert received == line.sent, (received, line.sent)
            assert descriptors() == before
        assert device.resources() == total, "something of the device is still taken"


if __name__ == "__main__":
    main()
