"""Creating queues and ports, linking them, and what is refused."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import pytest

import pydlb

from .line import received

if TYPE_CHECKING:
    from collections.abc import Callable

    from .line import Line


def test_queues_know_what_they_do(domain: pydlb.Domain) -> None:
    plain, ordered = domain.create_ldb_queue(), domain.create_ldb_queue(sequence_numbers=64)
    directed = domain.create_dir_queue()
    assert [plain.id, ordered.id, directed.id] == [0, 1, 0], "the kinds are numbered apart"
    assert plain.default_sched == pydlb.Sched.UNORDERED
    assert ordered.default_sched == pydlb.Sched.ORDERED
    assert directed.default_sched == pydlb.Sched.DIRECTED
    assert directed.directed
    assert not plain.directed
    assert repr(ordered) == "<pydlb.LDBQueue 1>"
    assert ordered.domain is domain


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sequence_numbers": 65}, "sequence_numbers"),
        ({"sequence_numbers": -64}, "sequence_numbers"),
        ({"inflights": -1}, "inflights"),
        ({"inflights": 1.5}, "inflights"),
        ({"sharing": "fair"}, "sharing is 'fair'"),
        ({"grace": 0}, "grace is 0"),
        ({"grace": 1e9}, "grace is"),
    ],
)
def test_wrong_queue_arguments_are_named(domain: pydlb.Domain, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(pydlb.ConfigError, match=words):
        domain.create_ldb_queue(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cq_depth": 0}, "cq_depth"),
        ({"cq_depth": 3}, "cq_depth is 3"),
        ({"cq_depth": 2048}, "cq_depth"),
        ({"history_entries": 0}, "history_entries is 0"),
        ({"history_entries": -1}, "history_entries is -1"),
        ({"release": "never"}, "release is 'never'"),
    ],
)
def test_wrong_port_arguments_are_named(domain: pydlb.Domain, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(pydlb.ConfigError, match=words):
        domain.create_ldb_port(**arguments)


def test_a_domain_has_what_it_was_given(device: pydlb.Device) -> None:
    with device.create_domain(ldb_queues=1, ldb_ports=1, dir_ports=1, history_entries=64) as domain:
        domain.create_ldb_queue()
        with pytest.raises(pydlb.ResourceExhausted, match="queue"):
            domain.create_ldb_queue()
        ports = [domain.create_ldb_port(), domain.create_dir_port()]
        with pytest.raises(pydlb.ResourceExhausted, match="port"):
            domain.create_ldb_port()
        with pytest.raises(pydlb.ResourceExhausted, match="port"):
            domain.create_dir_port()
        ports[0].close()
        domain.create_ldb_port().close()


def test_history_entries_are_shared_out(device: pydlb.Device) -> None:
    with device.create_domain(history_entries=100) as domain:
        port = domain.create_ldb_port(history_entries=60)
        with pytest.raises(pydlb.ResourceExhausted, match="history_entries"):
            domain.create_ldb_port(history_entries=60)
        port.close()
        domain.create_ldb_port(history_entries=100).close()


def test_links_must_make_sense(device: pydlb.Device, domain: pydlb.Domain) -> None:
    queue, port = domain.create_ldb_queue(), domain.create_ldb_port()
    with pytest.raises(pydlb.ConfigError, match="not linked"):
        port.unlink(queue)
    for priority in (-1, 8):
        with pytest.raises(pydlb.ConfigError, match=f"priority is {priority}"):
            port.link(queue, priority)
    for other in (domain.create_dir_queue(), None, 0):
        with pytest.raises(pydlb.ConfigError, match="load-balanced"):
            port.link(other)
    with (
        device.create_domain() as elsewhere,
        pytest.raises(pydlb.ConfigError, match="another scheduling domain"),
    ):
        port.link(elsewhere.create_ldb_queue())
    port.link(queue, 7)
    port.link(queue, 0)
    port.unlink(queue)


def test_a_port_has_eight_links(device: pydlb.Device) -> None:
    with device.create_domain(ldb_queues=9, atomic_inflights=0) as domain:
        queues = [domain.create_ldb_queue(atomic_inflights=0) for _ in range(9)]
        port = domain.create_ldb_port()
        for queue in queues[:8]:
            port.link(queue)
        with pytest.raises(pydlb.ResourceExhausted, match="eight queues"):
            port.link(queues[8])
        port.unlink(queues[3])
        port.link(queues[8])
        domain.start()
        for number, queue in enumerate(queues):
            assert port.send_one(number, queue)
        assert sorted(received(port)) == [0, 1, 2, 4, 5, 6, 7, 8]


def test_directed_pairs(domain: pydlb.Domain, device: pydlb.Device) -> None:
    queue = domain.create_dir_queue()
    port = domain.create_dir_port(queue)
    with pytest.raises(pydlb.ConfigError, match="port"):
        domain.create_dir_port(queue)
    late = domain.create_dir_port()
    late_queue = domain.create_dir_queue(late)
    with pytest.raises(pydlb.ConfigError, match="queue"):
        domain.create_dir_queue(late)
    domain.start()
    assert port.send_one(1, late_queue)
    assert late.send_one(2, queue)
    assert late.send_one(3, queue)
    assert (port.recv_one(0), port.recv_one(0), late.recv_one(0)) == (2, 3, 1)
    assert port.in_flight == 0, "a directed port holds nothing"
    with device.create_domain() as elsewhere, pytest.raises(pydlb.ConfigError, match="of this domain"):
        elsewhere.create_dir_port(queue)
    with pytest.raises(pydlb.ConfigError, match="of this domain"):
        domain.create_dir_queue(domain.create_ldb_port())  # type: ignore[arg-type]


def test_descriptor_is_readable_once_there_is_an_event(line: Line) -> None:
    poll = select.poll()
    poll.register(line.port, select.POLLIN)
    assert line.port.recv_one(timeout=0) is None
    assert poll.poll(0) == []
    line.send(1)
    assert poll.poll(10_000) == [(line.port.fileno(), select.POLLIN)]
    assert received(line.port) == [1]
    assert line.port.recv_one(timeout=0) is None
    assert poll.poll(0) == []


def test_disabled_port_is_given_nothing_and_may_not_send(make_line: Callable[..., Line]) -> None:
    line = make_line(ports=2)
    line.port.disable()
    line.send(1, 2)
    assert received(line.port) == []
    with pytest.raises(pydlb.ConfigError, match=r"disabled.*Port\.enable"):
        line.port.send_one(1, line.queue)
    assert line.ports[1].recv_one(timeout=0) == 1
    line.port.enable()
    assert received(line.port) == [2]


def test_unlinked_port_keeps_what_it_holds(line: Line) -> None:
    line.send(1, 2)
    assert line.port.recv_one(timeout=0) == 1
    line.port.unlink(line.queue)
    assert line.port.recv_one(timeout=0) is None
    assert line.port.in_flight == 1
    assert line.port.release() == 1
    line.port.link(line.queue)
    assert line.port.recv_one(timeout=0) == 2


def test_stats_of_a_port(line: Line) -> None:
    line.send(1, 2, 3)
    assert line.sender.stats().sent == 3
    assert received(line.port) == [1, 2, 3]
    line.port.release(2)
    stats = line.port.stats()
    assert (stats.received, stats.released, stats.in_flight) == (3, 2, 1)


def test_depth_counts_what_waits(line: Line) -> None:
    assert line.queue.depth == 0
    line.send(1, 2, 3)
    assert line.queue.depth == 3
    line.port.recv_one(timeout=0)
    assert line.queue.depth == 2
