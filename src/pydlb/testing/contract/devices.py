"""What a device and its domains promise: amounts, start and stop, closing."""

from __future__ import annotations

import pydlb

from . import rig
from .rig import Line, data, promise, raises, same


@promise
def device_says_what_it_is(device: pydlb.Device) -> None:
    """Version and backend can be read."""
    same(device.version in ("2.0", "2.5"), True, "a known version")
    same(device.backend in repr(device), True, "the backend in repr()")


@promise
def domain_takes_its_amounts_and_gives_them_back(device: pydlb.Device) -> None:
    """Nothing more than what was asked for is taken; all of it is had again after close."""
    whole = device.resources()
    amounts = {"ldb_queues": 3, "ldb_ports": 5, "dir_ports": 7, "history_entries": 128, "atomic_inflights": 32}
    with device.create_domain(**amounts, credits=64, sequence_slots=(1, 2), shared=False, class_ports=(0, 0, 0, 0)):
        left = device.resources()
        same(left.domains, whole.domains - 1, "domains left")
        for name, amount in amounts.items():
            same(getattr(left, name), getattr(whole, name) - amount, f"{name} left")
        same(left.ldb_credits, whole.ldb_credits - 64, "credits left")
        same(left.sequence_slots, (whole.sequence_slots[0] - 1, whole.sequence_slots[1] - 2), "slots left")
    same(device.resources(), whole, "what is left in the end")


@promise
def what_is_short_is_named(device: pydlb.Device) -> None:
    """A domain can have all there is of something, but no more; a failed creation takes nothing."""
    whole = device.resources()
    names = ("ldb_queues", "ldb_ports", "dir_ports", "history_entries", "atomic_inflights")
    nothing = dict.fromkeys((*names, "credits"), 0)
    for name in names:
        ports = {"ldb_ports": 1} if name == "ldb_queues" else {}
        amount = getattr(whole, name)
        with raises(pydlb.ResourceExhausted, name):
            device.create_domain(**nothing | ports | {name: amount + 1}, sequence_slots=(0, 0))
        device.create_domain(**nothing | ports | {name: amount}, sequence_slots=(0, 0)).close()
    with raises(pydlb.ResourceExhausted, "sequence_slots"):
        device.create_domain(sequence_slots=(0, 10**6))
    same(device.resources(), whole, "what is left")


@promise
def wrong_amounts_are_refused(device: pydlb.Device) -> None:
    """By name, and before anything is done."""
    for name, amount in (("ldb_queues", -1), ("ldb_ports", 1.5), ("credits", "many"), ("dir_ports", 2**32)):
        with raises(pydlb.ConfigError, f"{name} is"):
            device.create_domain(**{name: amount})  # type: ignore[arg-type]
    with raises(pydlb.ConfigError, "ldb_ports is 0"):
        device.create_domain(ldb_queues=1, ldb_ports=0)


@promise
def start_and_stop(device: pydlb.Device) -> None:
    """Only a started domain takes events; what is queued when it stops can be received."""
    with Line(device, start=False) as line:
        with raises(pydlb.ConfigError, r"not started"):
            line.sender.send_one(1, line.queue)
        with raises(pydlb.ConfigError, "not started"):
            line.domain.stop()
        line.domain.start()
        with raises(pydlb.ConfigError, "started already"):
            line.domain.start()
        line.send(1)
        line.domain.stop()
        with raises(pydlb.ConfigError, r"not started"):
            line.sender.send_one(2, line.queue)
        same(data(line.port, 1), [1], "after stop")
        line.domain.start()
        line.send(3)
        same(data(line.port, 1), [3], "after another start")


@promise
def all_is_closed_with_its_domain(device: pydlb.Device) -> None:
    """Children go with their owner; to use them then is an error, to close them again is none."""
    line = Line(device)
    line.send(1)
    line.domain.close()
    for thing in (line.domain, line.port, line.sender):
        same((thing.closed, bool(thing), "closed" in repr(thing)), (True, False, True), "a closed one")
        thing.close()
    events = line.events(1)
    for use in (
        line.domain.start,
        line.domain.stats,
        line.domain.create_ldb_port,
        line.port.recv,
        line.port.release,
        line.port.fileno,
        line.port.enable,
        lambda: line.port.link(line.queue),
        lambda: line.sender.send(events),
        lambda: line.queue.depth,
    ):
        with raises(pydlb.ClosedError, "closed"):
            use()


@promise
def what_a_closed_domain_held_can_be_had_again(device: pydlb.Device) -> None:
    """Events of a former life do not come back."""
    for _ in range(3):
        with Line(device, credits=8) as line:
            same(line.sender.send(line.events(10)), 8, "events taken")
            same(len(line.port.recv(3, timeout=rig.SOON)), 3, "events received")
