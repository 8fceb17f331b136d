"""How events arrive: whole, in order, in batches of every size, and how waits for them end."""

from __future__ import annotations

import threading
import time

import numpy as np

import pydlb
from pydlb.types import priority_of, sched_of

from . import rig
from .rig import MOMENT, Line, collect, eventually, promise, same


@promise
def events_arrive_as_they_were_sent(device: pydlb.Device) -> None:
    """Data, opaque, flow, priority, type and the sender's own bits."""
    with Line(device) as line:
        for options in ({}, {"sched": pydlb.Sched.ATOMIC}):
            events = pydlb.make_events(
                [0, 1 << 40, 2**64 - 1],
                line.queue,
                priority=[1, 3, 7],
                flow=[1, 2, 0xFFFF],
                opaque=[7, 0, 0xFFFF],
                **options,
            )
            events["sched"] |= 0xE0
            for event in events:
                same(line.sender.send(np.array([event], events.dtype)), 1, "events taken")
                same(collect(line.port, 1, release=True).tolist(), [event.item()], "the event")
        line.send(5, flow=6, priority=2, opaque=9, sched=int(pydlb.Sched.ATOMIC))
        (event,) = collect(line.port, 1)
        same((event["data"], event["flow"], event["opaque"]), (5, 6, 9), "one event's fields")
        same((sched_of(event), priority_of(event)), (pydlb.Sched.ATOMIC, 2), "its type and priority")


@promise
def batches_of_every_size(device: pydlb.Device) -> None:
    """However they fall into lines of four, and round the ring."""
    with Line(device, cq_depth=16) as line:
        for count in [*range(1, 14), 16]:
            events = line.events(count, opaque=count)
            same(line.sender.send(events), count, "events taken")
            got = collect(line.port, count, release=True)
            same(got["data"].tolist(), list(range(count)), f"a batch of {count}")
            same(set(got["opaque"].tolist()), {count}, "its mark")


@promise
def order_within_a_queue(device: pydlb.Device) -> None:
    """One port receives in the order of arrival, over many laps of its ring, and no more than it asks for."""
    with Line(device, cq_depth=8) as line:
        same(line.sender.send(line.events(200)), 200, "events taken")
        got: list[int] = []
        deadline = time.monotonic() + rig.SOON
        while len(got) < 200 and time.monotonic() < deadline:
            batch = line.port.recv(3, timeout=0.1)["data"].tolist()
            same(len(batch) <= 3, True, "no more than asked for")
            got += batch
            line.port.release(len(batch))
        same(got, list(range(200)), "the order")


@promise
def receive_into_an_array(device: pydlb.Device) -> None:
    """What is not filled stays as it was."""
    with Line(device) as line:
        line.send(1, 2)
        out = np.zeros(8, pydlb.EVENT_DTYPE)
        out["data"] = 99
        found = 0
        while found < 2:
            found += len(line.port.recv(2 - found, timeout=rig.SOON, out=out[found:]))
        same(out["data"].tolist(), [1, 2] + [99] * 6, "the array")
        same(len(line.port.recv(timeout=0, out=out[:0])), 0, "into nothing")


@promise
def waits_end_at_their_time(device: pydlb.Device) -> None:
    """Neither before nor never."""
    with Line(device) as line:
        begin = time.monotonic()
        same(len(line.port.recv(timeout=0.02)), 0, "events")
        same(line.port.recv_one(timeout=0.02), None, "an event")
        same(time.monotonic() - begin >= 0.04, True, "the whole time")
        same(len(line.port.recv(timeout=-1)), 0, "a time that is over")
        for timeout in (None, 60.0, float("inf")):
            timer = threading.Timer(0.01, line.send, [5])
            timer.start()
            same(line.port.recv(timeout=timeout)["data"].tolist(), [5], "a wait that ends with an event")
            timer.join()


@promise
def a_wait_is_ended_by_close(device: pydlb.Device) -> None:
    """In another thread, with ClosedError."""
    with Line(device) as line:
        outcomes: list[BaseException | None] = []

        def wait() -> None:
            try:
                line.port.recv(timeout=None)
            except pydlb.DLBError as error:
                outcomes.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(MOMENT)
        line.port.close()
        thread.join(rig.SOON)
        same([type(outcome) for outcome in outcomes], [pydlb.ClosedError], "how the wait ended")


@promise
def a_port_has_one_user(device: pydlb.Device) -> None:
    """A second thread is told so."""
    with Line(device) as line:
        thread = threading.Thread(target=line.port.recv, kwargs={"timeout": rig.SOON})
        thread.start()

        def is_busy() -> bool:
            try:
                line.port.release(0)
            except pydlb.BusyError:
                return True
            return False

        eventually(is_busy, "the port is busy while another thread waits on it")
        line.send(1)
        thread.join()
