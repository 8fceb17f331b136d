"""Which port gets which event: priorities, flows, order, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pydlb

from .line import received

if TYPE_CHECKING:
    from collections.abc import Callable

    from .line import Line

ATOMIC = pydlb.Sched.ATOMIC


def test_priorities_within_a_queue(line: Line) -> None:
    for priority in (7, 3, 5, 0, 6, 2, 4, 1):
        line.send(10 * priority, 10 * priority + 1, priority=priority)
    assert received(line.port) == [10 * priority + which for priority in range(8) for which in (0, 1)]


def test_low_priorities_do_not_starve(line: Line) -> None:
    """Though high ones never cease."""
    line.send(99, priority=7)
    for turn in range(64):
        line.send(turn, turn + 100, priority=0)
        if 99 in received(line.port, 2):
            return
        line.port.release(2)
    pytest.fail("128 events were received, and none of them of low priority")


def test_priorities_of_links(domain: pydlb.Domain) -> None:
    queues = [domain.create_ldb_queue() for _ in range(3)]
    port = domain.create_ldb_port()
    for queue, priority in zip(queues, (5, 0, 2), strict=True):
        port.link(queue, priority)
    domain.start()
    for queue in queues:
        port.send(pydlb.make_events([queue.id] * 2, queue))
    assert received(port) == [1, 1, 2, 2, 0, 0]
    port.link(queues[0], 0)
    port.link(queues[1], 7)
    for queue in queues:
        port.send_one(queue.id, queue)
    assert received(port) == [0, 2, 1], "linking again changed the priorities"


def test_links_of_one_priority_take_turns(domain: pydlb.Domain) -> None:
    queues = [domain.create_ldb_queue() for _ in range(2)]
    port = domain.create_ldb_port()
    for queue in queues:
        port.link(queue)
        domain.stats()
    domain.start()
    for queue in queues:
        port.send(pydlb.make_events([queue.id] * 8, queue))
    got = [port.recv_one(timeout=0) for _ in range(8)]
    assert got.count(0) == got.count(1) == 4, got


# ---- atomic flows --------------------------------------------------------------------------------------------------


def test_a_flow_is_with_one_port_at_a_time(make_line: Callable[..., Line]) -> None:
    line = make_line(ports=2)
    one, other = line.ports
    line.send(1, 2, sched=ATOMIC, flow=7)
    line.send(3, sched=ATOMIC, flow=8)
    assert one.recv_one(timeout=0) == 1
    assert received(other) == [3], "the other flow"
    line.send(4, sched=ATOMIC, flow=7)
    assert received(other) == []
    assert one.recv_one(timeout=0) == 2, "the holder may have more of it"
    assert one.release(1) == 1
    assert received(other) == [], "one of the two is still held"
    assert one.release(1) == 1
    assert received(other) == [4]


def test_a_flow_waits_for_no_unordered_event(make_line: Callable[..., Line]) -> None:
    line = make_line(ports=2)
    line.send(1, sched=ATOMIC, flow=7)
    assert line.port.recv_one(timeout=0) == 1
    line.send(2, sched=ATOMIC, flow=7)
    line.send(3, sched=pydlb.Sched.UNORDERED, flow=7)
    assert received(line.ports[1]) == [3]


def test_closing_a_port_frees_its_flows(make_line: Callable[..., Line]) -> None:
    line = make_line(ports=2)
    line.send(1, 2, sched=ATOMIC, flow=7)
    assert line.port.recv_one(timeout=0) == 1
    assert received(line.ports[1]) == []
    line.port.close()
    assert received(line.ports[1]) == [2], "and what it held is completed"


def test_forwarding_frees_the_flow(make_line: Callable[..., Line]) -> None:
    line = make_line(ports=2)
    line.send(1, 2, sched=ATOMIC, flow=7)
    assert line.port.recv_one(timeout=0) == 1
    assert line.port.forward(pydlb.make_events([9], line.queue, flow=1)) == 1
    assert line.port.in_flight == 0
    assert received(line.ports[1]) == [2, 9]


# ---- order ---------------------------------------------------------------------------------------------------------


class Pipeline:
    """Ordered events from one queue, worked on by some ports, and a second queue behind."""

    def __init__(self, domain: pydlb.Domain, workers: int) -> None:
        self.first = domain.create_ldb_queue(sequence_numbers=64)
        self.second = domain.create_ldb_queue()
        self.workers = [domain.create_ldb_port() for _ in range(workers)]
        self.end = domain.create_ldb_port()
        for port in self.workers:
            port.link(self.first)
        self.end.link(self.second)
        domain.start()
        self.sender = self.end

    def deal(self, count: int) -> None:
        """One event to each worker in turn."""
        for number in range(count):
            assert self.sender.send_one(number, self.first)
            assert self.workers[number % len(self.workers)].recv_one(timeout=0) == number

    def pass_on(self, worker: int, data: int) -> None:
        assert self.workers[worker].forward(pydlb.make_events([data], self.second)) == 1


def test_order_of_arrival_is_restored(domain: pydlb.Domain) -> None:
    pipeline = Pipeline(domain, 4)
    pipeline.deal(4)
    for worker in (2, 3, 1):
        pipeline.pass_on(worker, worker)
        assert received(pipeline.end) == [], "the first is still out"
    assert domain.stats().queued == 3, "they wait in line"
    assert pipeline.second.depth == 0
    pipeline.pass_on(0, 0)
    assert received(pipeline.end) == [0, 1, 2, 3]


def test_a_released_event_gives_up_its_place(domain: pydlb.Domain) -> None:
    pipeline = Pipeline(domain, 3)
    pipeline.deal(6)
    pipeline.pass_on(2, 2)
    pipeline.pass_on(2, 5)
    assert pipeline.workers[0].release(1) == 1
    assert received(pipeline.end) == []
    pipeline.pass_on(1, 1)
    assert received(pipeline.end) == [1, 2]
    pipeline.pass_on(0, 3)
    assert pipeline.workers[1].release(1) == 1
    assert received(pipeline.end) == [3, 5]


def test_a_closed_port_gives_up_its_places(domain: pydlb.Domain) -> None:
    pipeline = Pipeline(domain, 2)
    pipeline.deal(4)
    pipeline.pass_on(1, 1)
    pipeline.pass_on(1, 3)
    assert received(pipeline.end) == []
    pipeline.workers[0].close()
    assert received(pipeline.end) == [1, 3]


def test_a_sent_event_waits_for_no_line(domain: pydlb.Domain) -> None:
    pipeline = Pipeline(domain, 2)
    pipeline.deal(2)
    pipeline.pass_on(1, 1)
    assert pipeline.sender.send_one(9, pipeline.second)
    assert received(pipeline.end) == [9]
    pipeline.pass_on(0, 0)
    assert received(pipeline.end) == [0, 1]


def test_no_more_are_out_than_there_are_sequence_numbers(domain: pydlb.Domain) -> None:
    queue = domain.create_ldb_queue(sequence_numbers=64)
    port = domain.create_ldb_port(cq_depth=128, history_entries=256)
    port.link(queue)
    domain.start()
    assert port.send(pydlb.make_events(range(100), queue)) == 100
    assert received(port, 128) == list(range(64))
    assert port.release(10) == 10
    assert received(port, 128) == list(range(64, 74))


def test_forward_needs_something_held(line: Line) -> None:
    events = pydlb.make_events([1, 2], line.queue)
    with pytest.raises(pydlb.ConfigError, match=r"event 0 .*holds no event"):
        line.port.forward(events)
    line.send(5)
    assert received(line.port) == [5]
    with pytest.raises(pydlb.ConfigError, match=r"event 1 .*holds no event"):
        line.port.forward(events)
    assert received(line.port) == [1]


# ---- limits --------------------------------------------------------------------------------------------------------


def test_a_port_holds_no_more_than_its_history(domain: pydlb.Domain) -> None:
    queue = domain.create_ldb_queue()
    port = domain.create_ldb_port(history_entries=3)
    port.link(queue)
    domain.start()
    port.send(pydlb.make_events(range(10), queue))
    assert received(port) == [0, 1, 2]
    assert received(port) == []
    assert port.in_flight == 3
    assert port.release(2) == 2
    assert received(port) == [3, 4]
    assert port.release(100) == 3
    assert port.release() == 0


def test_a_queue_has_no_more_out_than_its_limit(make_line: Callable[..., Line]) -> None:
    line = make_line(ports=2, inflights=3)
    line.send(*range(10))
    assert received(line.port, 2) == [0, 1]
    assert received(line.ports[1]) == [2]
    assert received(line.ports[1]) == []
    line.port.release(1)
    assert received(line.ports[1]) == [3]


def test_release_on_recv(domain: pydlb.Domain) -> None:
    queue = domain.create_ldb_queue()
    port = domain.create_ldb_port(history_entries=4, release="on_recv")
    port.link(queue)
    domain.start()
    port.send(pydlb.make_events(range(10), queue))
    assert [received(port, 4) for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert port.in_flight == 2
    assert received(port) == []
    assert port.in_flight == 0


def test_release_later(make_line: Callable[..., Line]) -> None:
    line = make_line(ports=2)
    line.send(1, 2, 3, sched=ATOMIC, flow=7)
    assert received(line.port, 2) == [1, 2]
    line.port.release_later(2)
    assert line.port.release(0) == 0
    assert line.port.in_flight == 0
    assert received(line.ports[1]) == [3]


def test_even_sharing_levels_what_is_held(make_line: Callable[..., Line]) -> None:
    line = make_line(ports=4, sharing="even", grace=60)
    for number in range(40):
        line.send(number)
        took = [port.recv_one(timeout=0) for port in line.ports]
        assert took.count(number) == 1, took
        held = [port.in_flight for port in line.ports]
        assert max(held) - min(held) <= 1, held


def test_recv_one_takes_its_share_ahead(domain: pydlb.Domain) -> None:
    queue = domain.create_ldb_queue()
    ports = [domain.create_ldb_port(release="on_recv", prefetch=8) for _ in range(2)]
    for port in ports:
        port.link(queue)
    domain.start()
    ports[0].send(pydlb.make_events(range(12), queue))
    assert ports[0].recv_one(timeout=0) == 0
    assert (ports[0].in_flight, queue.depth) == (6, 6)
    assert [ports[1].recv_one(timeout=0) for _ in range(3)] == [6, 7, 8]
    assert received(ports[0]) == [1, 2, 3, 4, 5]
    assert received(ports[0]) == [9, 10, 11]


@pytest.mark.parametrize("wrong", [{"prefetch": 8}, {"prefetch": 64, "release": "on_recv"}, {"prefetch": -1}])
def test_taking_ahead_is_refused_where_it_makes_no_sense(domain: pydlb.Domain, wrong: dict[str, Any]) -> None:
    with pytest.raises(pydlb.ConfigError, match="prefetch"):
        domain.create_ldb_port(**wrong)
