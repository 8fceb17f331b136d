"""Producers and consumers in threads: every event exactly once, atomic flows on one port at a time and in order.

The oracle for atomic flows has no lock. Consumers keep the next number of each flow in a plain array; if two of them
had a flow at once, the check itself would go wrong.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pydlb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from conftest import Team

PRODUCERS = CONSUMERS = 4
FLOWS = 512
BATCH = 64
SEED = int(os.environ.get("PDLB_TEST_SEED") or random.SystemRandom().getrandbits(32))

WAITING = ("polling", "blocking", "descriptor")


@pytest.fixture(autouse=True)
def _show_seed() -> None:
    print(f"PDLB_TEST_SEED={SEED}")


def number_within_flow(flow: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many elements of the same flow come before each element."""
    order = np.argsort(flow, kind="stable")
    in_order = flow[order]
    firsts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
    lengths = np.diff(np.r_[firsts, len(flow)])
    numbers = np.empty(len(flow), dtype=np.int64)
    numbers[order] = np.arange(len(flow)) - np.repeat(firsts, lengths)
    return numbers


class FlowOracle:
    """What each flow's next event must be; guarded by nothing but atomic scheduling."""

    def __init__(self) -> None:
        self.next = np.zeros(FLOWS, dtype=np.int64)

    def check(self, events: NDArray[np.void]) -> None:
        flow = events["flow"]
        expected = (self.next[flow] + number_within_flow(flow)) & 0xFFFF
        wrong = np.flatnonzero(expected != events["opaque"])
        assert not len(wrong), f"{events[wrong[0]]}: {expected[wrong[0]]} was due in its flow"
        np.add.at(self.next, flow, 1)


def make_batches(producer: int, count: int, queues: list[pydlb.Queue], sched: pydlb.Sched) -> NDArray[np.void]:
    """All events of one producer: flows of its own, numbered within each."""
    chance = np.random.default_rng(SEED + producer)
    flow = (producer + PRODUCERS * chance.integers(0, FLOWS // PRODUCERS, count)).astype(np.uint16)
    events = pydlb.make_events(
        np.arange(count, dtype=np.uint64) + np.uint64(producer << 32),
        queues[0],
        sched=sched,
        priority=flow % 8 if sched != pydlb.Sched.DIRECTED else 0,
        flow=flow,
        opaque=number_within_flow(flow) & 0xFFFF,
    )
    if sched == pydlb.Sched.DIRECTED:
        events["queue"] = np.array([queue.id for queue in queues], dtype=np.uint8)[flow % len(queues)]
    return events


class Over(Exception):  # noqa: N818
    """All was received."""


def receive_some(port: pydlb.Port, chance: random.Random, over: int) -> NDArray[np.void]:
    """A batch, waited for in one way or another. A wait on the descriptor is ended by `over`, a descriptor as well."""
    waiting, most = chance.choice(WAITING), chance.randint(1, BATCH)
    if waiting == "blocking":
        return port.recv(most)
    while not len(received := port.recv(most, timeout=0)):
        if waiting == "descriptor" and over in select.select([port, over], [], [])[0]:
            raise Over
    return received


class Run:
    def __init__(self, domain: pydlb.Domain, sched: pydlb.Sched, events: int, sharing: str = "pull") -> None:
        self.sched = sched
        self.each = events // PRODUCERS
        self.oracle = FlowOracle()
        self.over = os.eventfd(0)
        self.received: list[list[NDArray[np.uint64]]] = [[] for _ in range(CONSUMERS)]
        self.producers = [domain.create_dir_port() for _ in range(PRODUCERS)]
        if sched == pydlb.Sched.DIRECTED:
            directed = [domain.create_dir_queue() for _ in range(CONSUMERS)]
            self.queues: list[pydlb.Queue] = [*directed]
            self.consumers: list[pydlb.Port] = [domain.create_dir_port(queue, cq_depth=BATCH) for queue in directed]
        else:
            queue = domain.create_ldb_queue(
                sequence_numbers=128 if sched == pydlb.Sched.ORDERED else 0,
                sharing="even" if sharing == "even" else "pull",
            )
            self.queues = [queue]
            self.consumers = []
            for number in range(CONSUMERS):
                port = domain.create_ldb_port(cq_depth=BATCH, release="on_recv" if number == 0 else "explicit")
                port.link(queue)
                self.consumers.append(port)
        domain.start()

    def produce(self, number: int) -> None:
        chance = random.Random(SEED + 100 + number)
        events = make_batches(number, self.each, self.queues, self.sched)
        sent = 0
        while sent < len(events):
            batch = events[sent : sent + chance.randint(1, BATCH)]
            assert self.producers[number].send(batch, timeout=None) == len(batch)
            sent += len(batch)

    def consume(self, number: int, team: Team) -> None:
        chance = random.Random(SEED + 200 + number)
        port, received = self.consumers[number], self.received[number]
        try:
            while True:
                events = receive_some(port, chance, self.over)
                if self.sched == pydlb.Sched.ATOMIC:
                    self.oracle.check(events)
                received.append(events["data"].copy())
                if not isinstance(port, pydlb.DirPort) and number:
                    assert port.release(len(events)) == len(events)
                team.advance(len(events))
        except (Over, pydlb.ClosedError):
            return
        except OSError:  # the descriptor went with the port, just before it was waited for
            assert port.closed

    def end(self) -> None:
        os.eventfd_write(self.over, 1)
        for port in self.consumers:
            port.close()

    def check(self) -> None:
        everything = np.sort(np.concatenate(list(itertools.chain(*self.received))))
        sent = [np.arange(self.each, dtype=np.uint64) + np.uint64(p << 32) for p in range(PRODUCERS)]
        np.testing.assert_array_equal(everything, np.concatenate(sent))
        if self.sched == pydlb.Sched.DIRECTED:
            for batches in self.received:
                data = np.concatenate(batches)
                for producer in range(PRODUCERS):
                    own = data[data >> np.uint64(32) == producer]
                    assert np.all(own[1:] > own[:-1]), "a directed queue changed the order of a producer's events"


@pytest.mark.parametrize(
    ("sched", "sharing"),
    [
        (pydlb.Sched.UNORDERED, "pull"),
        (pydlb.Sched.ATOMIC, "pull"),
        (pydlb.Sched.ORDERED, "pull"),
        (pydlb.Sched.DIRECTED, "pull"),
        (pydlb.Sched.ATOMIC, "even"),
    ],
)
def test_every_event_exactly_once(
    domain: pydlb.Domain, team: Team, events: int, sched: pydlb.Sched, sharing: str
) -> None:
    run = Run(domain, sched, events, sharing)
    for number in range(CONSUMERS):
        team.start(run.consume, number, team)
    for number in range(PRODUCERS):
        team.start(run.produce, number)
    try:
        team.wait_for(run.each * PRODUCERS)
    finally:
        run.end()
    team.join()
    os.close(run.over)
    run.check()
    stats = domain.stats()
    assert (stats.enqueued, stats.scheduled, stats.queued) == (run.each * PRODUCERS, run.each * PRODUCERS, 0)


def test_one_item_at_a_time(domain: pydlb.Domain, team: Team, events: int) -> None:
    """The calls for single events, between as many threads."""
    queue = domain.create_ldb_queue()
    producers = [domain.create_dir_port() for _ in range(PRODUCERS)]
    consumers = [domain.create_ldb_port() for _ in range(CONSUMERS)]
    received: list[list[int]] = [[] for _ in range(CONSUMERS)]
    each = min(events, 100_000) // PRODUCERS
    for port in consumers:
        port.link(queue)
    domain.start()

    def produce(number: int) -> None:
        for item in range(each):
            while not producers[number].send_one(number << 32 | item, queue):
                time.sleep(0)  # let those run who receive: each would wait for the interpreter lock that this one keeps

    def consume(number: int) -> None:
        port = consumers[number]
        try:
            while (data := port.recv_one()) is not None:
                received[number].append(data)
                assert port.release() == 1
                team.advance(1)
        except pydlb.ClosedError:
            return

    for number in range(CONSUMERS):
        team.start(consume, number)
    for number in range(PRODUCERS):
        team.start(produce, number)
    try:
        team.wait_for(each * PRODUCERS)
    finally:
        for port in consumers:
            port.close()
    team.join()
    assert sorted(itertools.chain(*received)) == [p << 32 | i for p in range(PRODUCERS) for i in range(each)]
