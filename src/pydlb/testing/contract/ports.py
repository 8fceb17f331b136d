"""Queues and ports: links, descriptors, wake-ups, and what becomes of what a port had."""

from __future__ import annotations

import dataclasses
import select
import threading

import pydlb

from . import rig
from .rig import Line, data, eventually, nothing, promise, raises, same


@promise
def wrong_arguments_are_named(device: pydlb.Device) -> None:
    """Of queues and of ports."""
    with device.create_domain() as domain:
        with raises(pydlb.ConfigError, "sequence_numbers"):
            domain.create_ldb_queue(sequence_numbers=65)
        with raises(pydlb.ConfigError, "inflights"):
            domain.create_ldb_queue(inflights=-1)
        for depth in (0, 3, 2048):
            with raises(pydlb.ConfigError, f"cq_depth is {depth}"):
                domain.create_ldb_port(cq_depth=depth)
        with raises(pydlb.ConfigError, "history_entries is 0"):
            domain.create_ldb_port(history_entries=0)


@promise
def a_domain_has_what_it_was_given(device: pydlb.Device) -> None:
    """And no more."""
    with device.create_domain(ldb_queues=1, ldb_ports=2, dir_ports=1, history_entries=64) as domain:
        domain.create_ldb_queue()
        with raises(pydlb.ResourceExhausted, "queue"):
            domain.create_ldb_queue()
        ports = [domain.create_ldb_port(history_entries=40), domain.create_dir_port()]
        with raises(pydlb.ResourceExhausted, "history_entries"):
            domain.create_ldb_port(history_entries=40)
        ports.append(domain.create_ldb_port(history_entries=24))
        with raises(pydlb.ResourceExhausted, "port"):
            domain.create_ldb_port()
        with raises(pydlb.ResourceExhausted, "port"):
            domain.create_dir_port()
        ports[0].close()
        ports.append(domain.create_ldb_port(history_entries=40))


@promise
def a_port_has_eight_links(device: pydlb.Device) -> None:
    """Each of which can be taken back."""
    with device.create_domain(ldb_queues=9, ldb_ports=1, dir_ports=1, atomic_inflights=0) as domain:
        queues = [domain.create_ldb_queue(atomic_inflights=0) for _ in range(9)]
        port, sender = domain.create_ldb_port(), domain.create_dir_port()
        with raises(pydlb.ConfigError, "not linked"):
            port.unlink(queues[0])
        for queue in queues[:8]:
            port.link(queue)
        with raises(pydlb.ResourceExhausted, "eight queues"):
            port.link(queues[8])
        port.unlink(queues[3])
        port.link(queues[8])
        domain.start()
        for number, queue in enumerate(queues):
            sender.send_one(number, queue)
        same(sorted(data(port, 8)), [0, 1, 2, 4, 5, 6, 7, 8], "events of the linked queues")
        nothing(port)
        same(queues[3].depth, 1, "the other one's event waits")


@promise
def directed_pairs(device: pydlb.Device) -> None:
    """Whichever half was made first; in order; and nothing is held."""
    with device.create_domain(ldb_queues=0, ldb_ports=0, dir_ports=3, credits=64) as domain:
        queue = domain.create_dir_queue()
        port = domain.create_dir_port(queue)
        with raises(pydlb.ConfigError, "port"):
            domain.create_dir_port(queue)
        late = domain.create_dir_port()
        late_queue = domain.create_dir_queue(late)
        with raises(pydlb.ConfigError, "queue"):
            domain.create_dir_queue(late)
        domain.start()
        same(port.send(pydlb.make_events(range(20), late_queue)), 20, "events taken")
        same(late.send(pydlb.make_events(range(30, 45), queue)), 15, "events taken")
        same(data(late, 20), list(range(20)), "one way")
        same(data(port, 15), list(range(30, 45)), "the other way")
        same(port.in_flight, 0, "what a directed port holds")
        with raises(pydlb.ConfigError, "holds no event"):
            port.forward(pydlb.make_events([1], queue))


@promise
def descriptor_tells_of_events(device: pydlb.Device) -> None:
    """It is readable once there is one, and quiet when all was received."""
    with Line(device) as line:
        poll = select.poll()
        poll.register(line.port, select.POLLIN)
        for turn in range(50):
            drain_quietly(line.port)
            same(poll.poll(1 if turn < 3 else 0), [], "nothing to tell")
            line.send(turn)
            same(poll.poll(rig.SOON * 1000), [(line.port.fileno(), select.POLLIN)], "an event to tell of")
            same(data(line.port, 1, release=True), [turn], "the event")


def drain_quietly(port: pydlb.Port) -> None:
    """Receive until the port is armed again: a wake-up may have come too many."""
    for _ in range(3):
        port.recv(timeout=0)


@promise
def no_wake_up_is_lost(device: pydlb.Device) -> None:
    """Two threads hand an event to each other, one waiting in recv, one on its descriptor."""
    turns = 300
    with Line(device, 2, start=False) as line:
        there, back = line.ports
        answers = line.domain.create_ldb_queue()
        back.unlink(line.queue)
        back.link(answers)
        line.domain.start()
        poll = select.poll()
        poll.register(back, select.POLLIN)

        lost = threading.Event()

        def answer() -> None:
            for _ in range(turns):
                number = there.recv_one(timeout=rig.SOON)
                if number is None:
                    lost.set()
                    return
                there.release()
                there.send_one(number, answers)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            for turn in range(turns):
                line.send(turn)
                while (number := back.recv_one(timeout=0)) is None:
                    assert poll.poll(rig.SOON * 1000), "a wake-up on the descriptor was lost"
                same(number, turn, "the answer")
                back.release()
        finally:
            thread.join()
        same(lost.is_set(), False, "a wake-up in recv was lost")


@promise
def a_disabled_port_is_given_nothing(device: pydlb.Device) -> None:
    """And may not send, until it is enabled again."""
    with Line(device, 2) as line:
        one, other = line.ports
        one.disable()
        line.send(1, 2, 3)
        same(data(other, 3, release=True), [1, 2, 3], "all go to the other port")
        nothing(one)
        with raises(pydlb.ConfigError, r"disabled.*Port\.enable"):
            one.send_one(1, line.queue)
        other.disable()
        one.enable()
        line.send(4)
        same(data(one, 1), [4], "after enable")


@promise
def an_unlinked_port_is_given_no_more(device: pydlb.Device) -> None:
    """What it holds stays with it, until it is released."""
    with Line(device) as line:
        line.send(1)
        same(data(line.port, 1), [1], "before")
        line.port.unlink(line.queue)
        same(line.port.in_flight, 1, "what it holds")
        line.send(2)
        nothing(line.port)
        same(line.port.release(), 1, "what it held")
        same(line.queue.depth, 1, "what waits")
        line.port.link(line.queue)
        same(data(line.port, 1), [2], "linked again")


@promise
def what_a_closed_port_had_goes_to_others(device: pydlb.Device) -> None:
    """What it was given and did not receive; what it held is released."""
    with Line(device, 2, cq_depth=8) as line:
        one, other = line.ports
        same(line.sender.send(line.events(12)), 12, "events taken")
        got = one.recv(2, timeout=rig.SOON)["data"].tolist()
        one.close()
        got += data(other, 12 - len(got), release=True)
        same(sorted(got), list(range(12)), "each event once")
        again = line.domain.create_ldb_port(cq_depth=8, history_entries=16)
        again.link(line.queue)
        other.close()
        line.send(77)
        same(data(again, 1), [77], "a port in its place")
        same(again.stats().received, 1, "it counts from the beginning")


@promise
def counts_add_up(device: pydlb.Device) -> None:
    """Of a port and of its domain."""
    with Line(device) as line:
        fresh = dataclasses.asdict(line.domain.stats())
        same(fresh.pop("credits_free"), 256, "free credits")
        same(any(fresh.values()), False, "any other count")
        line.send(1, 2, 3)
        data(line.port, 3)
        line.port.release(2)
        stats = line.port.stats()
        same((stats.received, stats.released, stats.in_flight), (3, 2, 1), "the port's counts")
        same(line.port.in_flight, 1, "in flight")
        same(line.sender.stats().sent, 3, "the sender's count")
        total = line.domain.stats()
        same((total.enqueued, total.scheduled, total.queued), (3, 3, 0), "the domain's counts")


@promise
def depth_counts_what_no_port_has_room_for(device: pydlb.Device) -> None:
    """What was given to ports does not count."""
    with Line(device, history_entries=2, cq_depth=8) as line:
        same(line.queue.depth, 0, "depth of an empty queue")
        line.send(1, 2, 3, 4, 5)
        data(line.port, 2)
        eventually(lambda: line.queue.depth == 3, "three events wait")
        nothing(line.port)
