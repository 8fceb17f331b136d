"""Waits of threads: ended by work, time, signals and closing; by one thread a port."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Team


class Line:
    """One producer, one consumer, one queue between them."""

    def __init__(self, domain: pydlb.Domain) -> None:
        self.queue = domain.create_ldb_queue()
        self.producer = domain.create_dir_port()
        self.consumer = domain.create_ldb_port()
        self.consumer.link(self.queue)
        domain.start()

    def send(self, data: int) -> None:
        assert self.producer.send_one(data, self.queue)


@pytest.fixture
def line(domain: pydlb.Domain) -> Line:
    return Line(domain)


# ---- closing ---------------------------------------------------------------------------------------------------------


def receive_batch(port: pydlb.Port) -> None:
    port.recv()


def receive_one(port: pydlb.Port) -> None:
    port.recv_one()


def receive_with_deadline(port: pydlb.Port) -> None:
    port.recv(timeout=1000)


@pytest.mark.parametrize("wait", [receive_batch, receive_one, receive_with_deadline])
def test_close_ends_the_wait_of_another_thread(
    line: Line, team: Team, until_armed: Callable[[pydlb.Port], None], wait: Callable[[pydlb.Port], None]
) -> None:
    def waiter() -> None:
        with pytest.raises(pydlb.ClosedError):
            wait(line.consumer)

    thread = team.start(waiter)
    until_armed(line.consumer)
    line.consumer.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("closing", ["port", "domain", "device"])
def test_closing_the_owner_ends_the_wait_too(
    team: Team, until_armed: Callable[[pydlb.Port], None], closing: str
) -> None:
    device = pydlb.open("software")
    domain = device.create_domain()
    line = Line(domain)

    def waiter() -> None:
        with pytest.raises(pydlb.ClosedError):
            line.consumer.recv()

    thread = team.start(waiter)
    until_armed(line.consumer)
    {"port": line.consumer, "domain": domain, "device": device}[closing].close()
    thread.join(10)
    assert not thread.is_alive()
    device.close()


def test_close_races_with_the_wait(domain: pydlb.Domain, team: Team) -> None:
    """At whatever moment of the wait's beginning."""
    queue = domain.create_ldb_queue()
    for round_ in range(200):
        port = domain.create_ldb_port()
        port.link(queue)
        ready = threading.Event()

        def waiter(port: pydlb.Port = port, ready: threading.Event = ready) -> None:
            ready.set()
            with pytest.raises(pydlb.ClosedError):
                port.recv()

        thread = team.start(waiter)
        ready.wait()
        for _ in range(round_ % 50):
            pass
        port.close()
        thread.join(10)
        assert not thread.is_alive()


def test_what_was_not_received_goes_to_others(line: Line, domain: pydlb.Domain) -> None:
    other = domain.create_ldb_port()
    other.link(line.queue)
    line.send(1)
    line.consumer.close()
    assert other.recv_one(timeout=10) == 1
    other.close()


# ---- one thread a port -----------------------------------------------------------------------------------------------


def test_second_thread_is_told(line: Line, team: Team, until_armed: Callable[[pydlb.Port], None]) -> None:
    thread = team.start(receive_one, line.consumer)
    until_armed(line.consumer)
    for use in (
        lambda: line.consumer.recv(timeout=0),
        lambda: line.consumer.recv_one(timeout=0),
        lambda: line.consumer.send_one(1, line.queue),
        lambda: line.consumer.release(),
    ):
        with pytest.raises(pydlb.BusyError):
            use()
    assert line.consumer.in_flight == 0  # what any thread may do, it may do now
    line.consumer.disable()
    line.consumer.enable()
    line.consumer.unlink(line.queue)
    line.consumer.link(line.queue)
    line.send(7)
    thread.join(10)
    assert not thread.is_alive()
    assert line.consumer.release() == 1


# ---- signals ---------------------------------------------------------------------------------------------------------


class InterruptedWaitError(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[Callable[[float, Callable[[], None]], None]]:
    """Set off repeatedly in the main thread, which runs the tests."""

    def start(interval: float, handler: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda _number, _frame: handler())
        signal.setitimer(signal.ITIMER_REAL, interval, interval)

    before = signal.getsignal(signal.SIGALRM)
    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_what_a_handler_raises_ends_the_wait(line: Line, alarm: Callable[..., None]) -> None:
    def handler() -> None:
        raise InterruptedWaitError

    for wait in (receive_batch, receive_one, receive_with_deadline):
        alarm(0.01, handler)
        with pytest.raises(InterruptedWaitError):
            wait(line.consumer)
        signal.setitimer(signal.ITIMER_REAL, 0)
    line.send(1)
    assert line.consumer.recv_one(timeout=0) == 1


def test_the_wait_goes_on_and_keeps_its_deadline(line: Line, alarm: Callable[..., None]) -> None:
    handled: list[float] = []
    alarm(0.005, lambda: handled.append(time.monotonic()))
    begin = time.monotonic()
    assert len(line.consumer.recv(timeout=0.2)) == 0
    assert time.monotonic() - begin >= 0.2
    assert line.consumer.recv_one(timeout=0.1) is None
    assert handled, "no handler ran while it waited"


def test_signals_lose_nothing(line: Line, team: Team, alarm: Callable[..., None]) -> None:
    alarm(0.001, lambda: None)

    def produce() -> None:
        for data in range(2000):
            line.send(data)

    team.start(produce)
    for data in range(2000):
        assert line.consumer.recv_one() == data
        assert line.consumer.release() == 1


def test_ctrl_c_ends_the_wait(line: Line, team: Team, until_armed: Callable[[pydlb.Port], None]) -> None:
    def interrupt() -> None:
        until_armed(line.consumer)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        team.start(interrupt)
        with pytest.raises(KeyboardInterrupt):
            line.consumer.recv()
    finally:
        signal.signal(signal.SIGINT, before)


def test_waiting_thread_does_not_hold_the_interpreter(
    line: Line, team: Team, until_armed: Callable[[pydlb.Port], None]
) -> None:
    thread = team.start(receive_one, line.consumer)
    until_armed(line.consumer)
    assert sum(range(1000)) == 499500
    line.send(1)
    thread.join(10)
    assert not thread.is_alive()
