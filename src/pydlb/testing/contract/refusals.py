"""What is refused, and that the refusal names it."""

from __future__ import annotations

import pydlb

from .rig import Line, QueueShape, data, nothing, promise, raises, same


@promise
def the_events_before_a_wrong_one_are_taken(device: pydlb.Device) -> None:
    """The message says which one it is."""
    with Line(device) as line:
        for wrong in range(6):
            events = line.events(7)
            events["queue"][wrong] = 200
            with raises(pydlb.ConfigError, rf"event {wrong} .*queue is 200.*no load-balanced queue"):
                line.sender.send(events)
            same(data(line.port, wrong, release=True), list(range(wrong)), "those before it")
            nothing(line.port)
        with raises(pydlb.ConfigError, "no directed queue"):
            line.sender.send_one(1, line.queue, sched=pydlb.Sched.DIRECTED)
        stats = line.domain.stats()
        same(stats.credits_free, 256, "no credit is lost")


@promise
def a_queue_takes_only_what_it_does(device: pydlb.Device) -> None:
    """Each scheduling type needs a queue that was made for it."""
    kinds: tuple[tuple[QueueShape, pydlb.Sched], ...] = (
        ({}, pydlb.Sched.ORDERED),
        ({"atomic_inflights": 0}, pydlb.Sched.ATOMIC),
        ({"sequence_numbers": 64}, pydlb.Sched.UNORDERED),
        ({"sequence_numbers": 64, "atomic_inflights": 0}, pydlb.Sched.ATOMIC),
    )
    for queue, sched in kinds:
        with Line(device, **queue) as line, raises(pydlb.ConfigError, rf"event 0 .*its sched is {int(sched)}"):
            line.sender.send(line.events(5, sched=sched))


@promise
def things_of_another_domain_are_refused(device: pydlb.Device) -> None:
    """Queues, most of all."""
    with Line(device) as line, device.create_domain(ldb_queues=1, ldb_ports=1, dir_ports=1, credits=8) as elsewhere:
        queue = elsewhere.create_ldb_queue()
        with raises(pydlb.ConfigError, "another scheduling domain"):
            line.sender.send_one(1, queue)
        with raises(pydlb.ConfigError, "another scheduling domain"):
            line.port.link(queue)
        with raises(pydlb.ConfigError, "of this domain"):
            elsewhere.create_dir_queue(line.sender)
