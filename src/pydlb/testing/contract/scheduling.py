"""Priorities, flows, order, and the limits of what a port holds."""

from __future__ import annotations

import collections
import itertools
import threading
import time

import pydlb
from pydlb.types import priority_of

from . import rig
from .rig import MOMENT, Line, collect, data, eventually, nothing, promise, raises, same


@promise
def high_priorities_come_first(device: pydlb.Device) -> None:
    """On the whole: a device has four levels, and lets low ones through now and then."""
    with Line(device, cq_depth=32) as line:
        line.port.disable()
        priorities = [6, 2, 4, 0] * 8
        same(line.sender.send(line.events(32, priority=priorities)), 32, "events taken")
        line.port.enable()
        order = priority_of(collect(line.port, 32)).tolist()
        places = {level: sum(i for i, p in enumerate(order) if p == level) for level in (0, 2, 4, 6)}
        same(sorted(places, key=lambda level: places[level]), [0, 2, 4, 6], f"the levels by their places in {order}")


@promise
def a_flow_is_with_one_port_at_a_time(device: pydlb.Device) -> None:
    """And in order, though it may move to another port."""
    with Line(device, 3, credits=64) as line:
        holders: dict[int, tuple[pydlb.LDBPort, int]] = {}
        last: dict[int, int] = {}
        sent = got = 0
        deadline = time.monotonic() + rig.SOON
        held: dict[pydlb.LDBPort, collections.deque[int]] = {port: collections.deque() for port in line.ports}
        while got < 600 and time.monotonic() < deadline:
            if sent < 600:
                numbers = range(sent, min(sent + 16, 600))
                events = pydlb.make_events(
                    list(numbers), line.queue, sched=pydlb.Sched.ATOMIC, flow=[n % 7 for n in numbers]
                )
                sent += line.sender.send(events)
            for number, port in enumerate(line.ports):
                for event in port.recv(4, timeout=0):
                    flow, data = int(event["flow"]), int(event["data"])
                    holder, count = holders.get(flow, (port, 0))
                    assert holder is port or count == 0, f"flow {flow} is on two ports"
                    assert data > last.get(flow, -1), f"flow {flow} is out of order"
                    holders[flow], last[flow] = (port, count + 1), data
                    held[port].append(flow)
                    got += 1
                for _ in range(min(len(held[port]), 1 + (got + number) % 4)):
                    flow = held[port].popleft()
                    holders[flow] = (port, holders[flow][1] - 1)
                    port.release()
        same(got, 600, "events received")


@promise
def order_of_arrival_is_restored(device: pydlb.Device) -> None:
    """What workers forward in any order comes out of the next queue in the order in which it went in."""
    with Line(device, 3, start=False, sequence_numbers=64) as line:
        behind = line.domain.create_ldb_queue()
        end = line.domain.create_ldb_port()
        end.link(behind)
        line.domain.start()
        same(line.sender.send(line.events(48)), 48, "events taken")
        work: dict[pydlb.LDBPort, list[int]] = {port: [] for port in line.ports}
        deadline = time.monotonic() + rig.SOON
        while sum(map(len, work.values())) < 48 and time.monotonic() < deadline:
            for port in line.ports:
                work[port] += port.recv(2, timeout=0)["data"].tolist()
        # The one with the oldest event goes last; every fifth is dropped.
        for port in sorted(line.ports, key=lambda port: min(work[port], default=48), reverse=True):
            for number in work[port]:
                if number % 5 == 4:
                    same(port.release(), 1, "a release")
                else:
                    same(port.forward(pydlb.make_events([number], behind)), 1, "a forward")
        same(data(end, 39, release=True), [n for n in range(48) if n % 5 != 4], "the order")


@promise
def forward_needs_something_held(device: pydlb.Device) -> None:
    """It takes the place of the oldest event held."""
    with Line(device) as line:
        events = line.events(2)
        with raises(pydlb.ConfigError, r"event 0 .*holds no event"):
            line.port.forward(events)
        line.send(5)
        same(data(line.port, 1), [5], "the event")
        with raises(pydlb.ConfigError, r"event 1 .*holds no event"):
            line.port.forward(events)
        same(line.port.in_flight, 0, "what is held after it")
        same(data(line.port, 1), [0], "the forwarded one")


@promise
def a_port_holds_no_more_than_its_history(device: pydlb.Device) -> None:
    """Releases make room."""
    with Line(device, history_entries=3, cq_depth=8) as line:
        line.send(*range(10))
        same(data(line.port, 3), [0, 1, 2], "what it can hold")
        nothing(line.port)
        same(line.port.in_flight, 3, "what it holds")
        same(line.port.release(2), 2, "released")
        same(data(line.port, 2), [3, 4], "what comes then")
        nothing(line.port)
        same((line.port.release(100), line.port.release()), (3, 0), "all that was held")


@promise
def a_queue_has_no_more_out_than_its_limit(device: pydlb.Device) -> None:
    """Over all its ports; an ordered one no more than its sequence numbers."""
    with Line(device, 2, inflights=3) as line:
        line.send(*range(10))
        held = {port: some(port) for port in line.ports}
        same(sum(held.values()), 3, "events out")
        holder = max(line.ports, key=lambda port: held[port])
        holder.release(1)
        eventually(lambda: sum(map(some, line.ports)) == 1, "another one comes")
    with Line(device, cq_depth=128, history_entries=256, sequence_numbers=64) as line:
        same(line.sender.send(line.events(100)), 100, "events taken")
        same(data(line.port, 64), list(range(64)), "events out")
        nothing(line.port)
        same(line.port.release(10), 10, "released")
        same(data(line.port, 10), list(range(64, 74)), "events that come then")


def some(port: pydlb.Port) -> int:
    """How many events come within a moment."""
    count = 0
    while more := len(port.recv(timeout=MOMENT)):
        count += more
    return count


@promise
def release_on_recv(device: pydlb.Device) -> None:
    """Each receive releases what the one before returned."""
    with Line(device, history_entries=4, cq_depth=8, release="on_recv") as line:
        line.send(*range(10))
        got: list[int] = []
        while len(got) < 10:
            batch = line.port.recv(4, timeout=rig.SOON)["data"].tolist()
            assert batch, f"nothing came after {got}"
            same(line.port.in_flight, len(batch), "what is held")
            got += batch
        same(got, list(range(10)), "the order")
        nothing(line.port)
        same(line.port.in_flight, 0, "what is held in the end")


@promise
def release_later_is_done_without_the_owner(device: pydlb.Device) -> None:
    """The owner may be waiting for the room that it makes."""
    with Line(device, history_entries=2, cq_depth=8) as line:
        line.send(1, 2, 3)
        same(data(line.port, 2), [1, 2], "what it can hold")
        timer = threading.Timer(MOMENT, line.port.release_later, [1])
        timer.start()
        same(line.port.recv(timeout=rig.SOON)["data"].tolist(), [3], "what there is room for then")
        timer.join()
        same(line.port.in_flight, 2, "what is held")


@promise
def each_event_comes_once(device: pydlb.Device) -> None:
    """Through many threads, with credits that are scarce."""
    count, consumers = 3000, 3
    with Line(device, consumers, credits=64) as line:
        got: list[list[int]] = [[] for _ in range(consumers)]
        ended = threading.Event()

        def consume(number: int) -> None:
            port = line.ports[number]
            while not ended.is_set():
                batch = port.recv(timeout=0.05)["data"].tolist()
                port.release(len(batch))
                got[number] += batch

        threads = [threading.Thread(target=consume, args=(number,)) for number in range(consumers)]
        for thread in threads:
            thread.start()
        try:
            for first in range(0, count, 50):
                numbers = list(range(first, first + 50))
                same(line.sender.send(pydlb.make_events(numbers, line.queue), timeout=rig.SOON), 50, "events taken")
            eventually(lambda: sum(map(len, got)) >= count, "all events were received")
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        same(sorted(itertools.chain(*got)), list(range(count)), "each event once")
        stats = line.domain.stats()
        same((stats.enqueued, stats.scheduled, stats.credits_free), (count, count, 64), "the account")
