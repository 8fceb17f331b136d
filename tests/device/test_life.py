"""A device's end: resets, alerts, interrupts that come late or for nothing, forks, and closing in any order."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

import pytest

import pydlb
from pydlb.testing import EmulatedDevice

if TYPE_CHECKING:
    from collections.abc import Iterator

ALERT_ILLEGAL_ENQUEUE, ALERT_RESET, ALERT_USER, ALERT_WATCHDOG = 0, 5, 6, 7


class Line:
    """A queue from a directed port to two load-balanced ones."""

    def __init__(self, device: pydlb.Device) -> None:
        self.domain = device.create_domain(ldb_queues=1, ldb_ports=2, dir_ports=2, credits=64, history_entries=128)
        self.queue = self.domain.create_ldb_queue()
        self.ports = [self.domain.create_ldb_port() for _ in range(2)]
        self.sender = self.domain.create_dir_port()
        for port in self.ports:
            port.link(self.queue)
        self.domain.start()

    def events(self, count: int) -> object:
        return pydlb.make_events(range(count), self.queue)


@pytest.fixture(params=["2.0", "2.5"])
def emulated(request: pytest.FixtureRequest) -> Iterator[EmulatedDevice]:
    with EmulatedDevice(request.param) as emulated:
        yield emulated


@pytest.fixture
def device(emulated: EmulatedDevice) -> Iterator[pydlb.Device]:
    with emulated.open() as device:
        yield device


@pytest.fixture
def line(device: pydlb.Device) -> Line:
    return Line(device)


def wait_until_gone(line: Line) -> None:
    """A wait ends with the reset; on a port that is given nothing, so that counts stay as they are."""
    with pytest.raises(pydlb.DeviceGone):
        line.sender.recv(timeout=10)


# ---- reset ---------------------------------------------------------------------------------------------------------


def test_reset_ends_every_wait(emulated: EmulatedDevice, line: Line) -> None:
    outcomes: list[str] = []
    poll = select.poll()
    poll.register(line.sender, select.POLLIN)

    def wait(port: pydlb.Port) -> None:
        try:
            port.recv(timeout=None)
        except pydlb.DLBError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=wait, args=(port,)) for port in line.ports]
    for thread in threads:
        thread.start()
    assert poll.poll(20) == []
    emulated.reset()
    for thread in threads:
        thread.join(10)
    assert outcomes == ["DeviceGone"] * 2
    assert poll.poll(10_000), "who waits on the descriptor is told"


def test_all_is_gone_after_a_reset(emulated: EmulatedDevice, device: pydlb.Device, line: Line) -> None:
    assert line.sender.send(line.events(10)) == 10
    assert len(line.ports[0].recv(2, timeout=1)) == 2
    emulated.reset()
    wait_until_gone(line)
    events = line.events(1)
    for use in (
        lambda: line.sender.send(events),
        lambda: line.sender.send_one(1, line.queue),
        lambda: line.ports[0].forward(events),
        lambda: line.ports[0].recv(timeout=0),
        lambda: line.ports[0].recv_one(timeout=0),
        lambda: line.ports[0].link(line.queue),
        lambda: line.ports[0].unlink(line.queue),
        line.ports[0].disable,
        line.domain.create_dir_port,
        lambda: line.queue.depth,
    ):
        with pytest.raises(pydlb.DeviceGone, match="reset or went away") as caught:
            use()
        assert isinstance(caught.value, OSError)
    assert line.ports[0].release(5) == 2, "what is held can be let go of"
    stats = line.domain.stats()
    assert (stats.enqueued, stats.scheduled, stats.lost, stats.queued) == (10, 2, 8, 0)
    line.domain.close()
    again = Line(device)
    assert again.sender.send(again.events(3)) == 3
    assert len(again.ports[0].recv(timeout=1)) + len(again.ports[1].recv(timeout=0)) == 3


def test_reset_in_the_middle_of_a_send(emulated: EmulatedDevice, line: Line) -> None:
    """What is stored after it goes nowhere; all of it is counted as lost."""
    emulated.reset_at_element(7)
    sent = line.sender.send(line.events(20))
    wait_until_gone(line)
    stats = line.domain.stats()
    assert stats.enqueued == sent == stats.lost + stats.scheduled


def test_close_in_any_order_after_a_reset(emulated: EmulatedDevice, device: pydlb.Device, line: Line) -> None:
    emulated.reset()
    line.ports[0].close()
    device.close()
    line.domain.close()
    line.ports[1].close()
    assert line.domain.closed


# ---- alerts --------------------------------------------------------------------------------------------------------


def test_a_dropped_element_is_counted_as_lost(emulated: EmulatedDevice, line: Line) -> None:
    emulated.drop_element(2)
    assert line.sender.send(line.events(3)) == 3
    got = len(line.ports[0].recv(timeout=1)) + len(line.ports[1].recv(timeout=0))
    while line.domain.stats().lost == 0:
        pass
    stats = line.domain.stats()
    assert (got, stats.enqueued, stats.scheduled, stats.lost, stats.queued) == (2, 3, 2, 1, 0)


def test_watchdog_marks_its_port(emulated: EmulatedDevice, line: Line) -> None:
    port = line.ports[1]
    emulated.alert(line.domain.id, ALERT_WATCHDOG, port.id | 0x100)
    while not port.stats().stalled:
        pass
    assert not line.ports[0].stats().stalled
    line.ports[0].disable()
    line.sender.send_one(1, line.queue)
    assert port.recv_one(timeout=10) == 1
    assert not port.stats().stalled, "it was served"


def test_alerts_of_all_kinds_do_no_harm(emulated: EmulatedDevice, line: Line) -> None:
    for alert in (1, 2, 3, 4, ALERT_USER, ALERT_WATCHDOG, 8, 77):
        for data in (0, 2**64 - 1, 0xFF):
            emulated.alert(line.domain.id, alert, data)
    assert line.sender.send(line.events(3)) == 3
    line.domain.close()


def test_very_many_alerts(emulated: EmulatedDevice, line: Line) -> None:
    """Of which the driver drops some: the domain closes all the same."""
    for _ in range(2000):
        emulated.alert(line.domain.id, ALERT_USER, 1)
    line.domain.close()


# ---- interrupts ----------------------------------------------------------------------------------------------------


def test_interrupts_for_nothing(emulated: EmulatedDevice, line: Line) -> None:
    port = line.ports[0]
    poll = select.poll()
    poll.register(port, select.POLLIN)
    line.ports[1].disable()
    for turn in range(20):
        emulated.interrupt_all()
        assert poll.poll(1000)
        assert port.recv_one(timeout=0) is None
        line.sender.send_one(turn, line.queue)
        emulated.interrupt_all()
        assert port.recv_one(timeout=10) == turn
        port.release()


def test_an_interrupt_that_comes_twice(emulated: EmulatedDevice, line: Line) -> None:
    emulated.repeat_interrupt(1)
    line.ports[1].disable()
    timer = threading.Timer(0.02, line.sender.send_one, (1, line.queue))
    timer.start()
    assert line.ports[0].recv_one(timeout=10) == 1
    timer.join()
    assert line.ports[0].recv_one(timeout=0.02) is None


# ---- fork and close ------------------------------------------------------------------------------------------------


def test_a_forked_child_has_nothing(device: pydlb.Device, line: Line) -> None:
    line.ports[0].fileno()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for use in (line.ports[0].recv, line.domain.stats, device.resources):
                with pytest.raises(pydlb.ClosedError, match="before a fork"):
                    use()
            line.domain.close()
            device.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert line.sender.send(line.events(2)) == 2


def test_a_port_watches_before_it_sleeps() -> None:
    """UMWAIT, or here what stands for it: events that come meanwhile need no interrupt; the wait ends as any other."""
    with EmulatedDevice() as emulated, emulated.open() as device, device.create_domain(credits=32) as domain:
        queue, sender = domain.create_ldb_queue(), domain.create_dir_port()
        port = domain.create_ldb_port(cq_depth=8, watch=60)
        port.link(queue)
        domain.start()
        assert port.recv_one(timeout=0.01) is None
        watched = emulated.watches
        assert watched > 0
        received: list[int | None] = []
        thread = threading.Thread(target=lambda: received.append(port.recv_one(timeout=60)))
        thread.start()
        while emulated.watches == watched:
            thread.join(0.001)
        assert sender.send_one(7, queue)
        thread.join(60)
        assert received == [7]
        with pytest.raises(pydlb.ConfigError, match="watch is -1"):
            domain.create_ldb_port(watch=-1)


def test_a_short_watch_ends_in_sleep() -> None:
    with EmulatedDevice() as emulated, emulated.open() as device, device.create_domain(credits=32) as domain:
        queue, sender = domain.create_ldb_queue(), domain.create_dir_port()
        port = domain.create_ldb_port(cq_depth=8, watch=1e-6)
        port.link(queue)
        domain.start()
        timer = threading.Timer(0.05, sender.send_one, (8, queue))
        timer.start()
        assert port.recv_one(timeout=60) == 8
        timer.join()
        port.close()
        waiting = domain.create_ldb_port(cq_depth=8, watch=60)
        watched = emulated.watches
        thread = threading.Thread(target=pytest.raises, args=(pydlb.ClosedError, waiting.recv_one))
        thread.start()
        while emulated.watches == watched:
            thread.join(0.001)
        waiting.close()
        thread.join(60)
        assert not thread.is_alive()
