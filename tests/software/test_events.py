"""Sending and receiving: what is carried, how much, how long, and what is refused."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pydlb

from .line import Line, received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGEST = 2**64 - 1
# With 30 bits to a digit, of one to three digits.
SIZES = [0, 1, 256, 257, 2**30 - 1, 2**30, 2**30 + 1, 2**59, 2**60 - 1, 2**60, LARGEST]


def test_events_arrive_as_they_were_sent(line: Line) -> None:
    events = pydlb.make_events(
        [0, 1 << 30, LARGEST], line.queue, priority=3, flow=[1, 2, 0xFFFF], opaque=[7, 0, 0xFFFF]
    )
    events["sched"] |= 0xE0  # bits 5-7 are the sender's own
    assert line.sender.send(events) == 3
    arrived = line.port.recv(timeout=0)
    assert arrived.dtype == pydlb.EVENT_DTYPE
    assert arrived.tolist() == events.tolist()


def test_integers_of_every_size_arrive(line: Line) -> None:
    for number in SIZES * 2:
        assert line.sender.send_one(number, line.queue)
    assert [line.port.recv_one(timeout=0) for _ in range(2 * len(SIZES))] == SIZES * 2


def test_an_integer_that_was_received_never_changes(line: Line) -> None:
    """Though one that nobody has any more may become the next."""
    numbers = [2**40 + number for number in range(100)]
    for number in numbers:
        assert line.sender.send_one(number, line.queue)
    kept, keys = [], {}
    for turn in range(len(numbers)):
        number = line.port.recv_one(timeout=0)
        if turn % 3 == 0:
            kept.append(number)
        if turn % 7 == 0:
            keys[number] = turn
        line.port.release()
    assert kept == numbers[::3]
    assert keys == {number: turn for turn, number in enumerate(numbers) if turn % 7 == 0}


def test_nor_does_one_that_another_thread_keeps(line: Line) -> None:
    """Each thread receives some, and keeps what the other one received."""
    numbers = [2**40 + number for number in range(300)]
    given: dict[int, int | None] = {}
    turns = threading.Barrier(2)

    def receive(own: int) -> None:
        kept = []
        for turn in range(len(numbers)):
            if turn % 2 == own:
                number = line.port.recv_one(timeout=0)
                given[0] = number if turn % 3 == 0 else None
                line.port.release()
            turns.wait(timeout=60)
            if turn % 2 != own and given[0] is not None:
                kept.append((turn, given.pop(0)))
            turns.wait(timeout=60)
        outcome.append(kept)

    outcome: list[list[tuple[int, int | None]]] = []
    for number in numbers:
        assert line.sender.send_one(number, line.queue)
    threads = [threading.Thread(target=receive, args=(own,)) for own in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome[0] + outcome[1]) == [(turn, numbers[turn]) for turn in range(0, len(numbers), 3)]


@pytest.mark.parametrize("wrong", [-1, -(2**40), 2**64, 1.5, "1", None])
def test_what_is_no_number_of_64_bits_is_refused(line: Line, wrong: Any) -> None:
    line.sender.send_one(2**40, line.queue)
    with pytest.raises((pydlb.ConfigError, TypeError)):
        line.sender.send_one(wrong, line.queue)
    assert line.sender.send_one(True, line.queue)
    assert received(line.port) == [2**40, 1]


def test_one_event_arrives_as_it_was_sent(line: Line) -> None:
    assert line.sender.send_one(LARGEST, line.queue, flow=5, priority=6, opaque=9, sched=pydlb.Sched.ATOMIC)
    (event,) = line.port.recv(timeout=0)
    assert (event["data"], event["flow"], event["opaque"]) == (LARGEST, 5, 9)
    assert (pydlb.sched_of(event), pydlb.priority_of(event)) == (pydlb.Sched.ATOMIC, 6)
    assert line.sender.send_one(np.uint64(LARGEST), line.queue)
    assert line.port.recv_one(timeout=0) == LARGEST


def test_order_within_a_queue(line: Line) -> None:
    line.sender.send(pydlb.make_events(range(100), line.queue))
    assert [number for _ in range(4) for number in received(line.port)] == list(range(64))  # what a port may hold
    assert line.port.release(64) == 64
    assert received(line.port) + received(line.port) == list(range(64, 100))


def test_a_receive_brings_no_more_than_asked_for_and_fits(line: Line) -> None:
    line.sender.send(pydlb.make_events(range(64), line.queue))
    assert line.port.cq_depth == 32
    assert len(line.port.recv(5, timeout=0)) == 5
    assert len(line.port.recv(1000, timeout=0)) == 32
    assert len(line.port.recv(10**12, timeout=0)) == 27


def test_receive_into_an_array(line: Line) -> None:
    line.send(1, 2, 3)
    out = np.zeros(8, pydlb.EVENT_DTYPE)
    events = line.port.recv(2, timeout=0, out=out)
    assert events.base is out
    assert out["data"].tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert len(line.port.recv(32, timeout=0, out=out[4:])) == 1
    assert out["data"].tolist() == [1, 2, 0, 0, 3, 0, 0, 0]
    assert len(line.port.recv(timeout=0, out=out[:0])) == 0


def read_only() -> np.ndarray:
    array = np.zeros(4, pydlb.EVENT_DTYPE)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (np.zeros(8, pydlb.EVENT_DTYPE)[::2], "contiguous"),
        (np.zeros((2, 2), pydlb.EVENT_DTYPE), "one dimension"),
        (read_only(), "writable"),
        (np.zeros(4, np.uint64), "array of uint64"),
        (np.zeros(4, np.complex128), "array of complex128"),
        (bytearray(64), "bytearray"),
    ],
    ids=["strided", "two dimensions", "read-only", "numbers", "other items of the size", "no array"],
)
def test_what_cannot_be_received_into(line: Line, out: object, words: str) -> None:
    """A copy would swallow the events."""
    line.send(1)
    with pytest.raises(pydlb.ConfigError, match=words):
        line.port.recv(timeout=0, out=out)
    assert received(line.port) == [1], "nothing was lost"


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (np.zeros(8, pydlb.EVENT_DTYPE)[::2], "contiguous"),
        (np.zeros(1, pydlb.EVENT_DTYPE)[0], "one dimension"),
        (np.zeros(4, np.complex128), "array of complex128"),
        ([1, 2, 3], "list"),
        (None, "NoneType"),
    ],
    ids=["strided", "single", "other items", "list", "nothing"],
)
def test_what_cannot_be_sent(line: Line, events: object, words: str) -> None:
    for verb in (line.sender.send, line.port.forward):
        with pytest.raises(pydlb.ConfigError, match=words):
            verb(events)
    assert line.domain.stats().enqueued == 0


def test_nothing_can_be_sent(line: Line) -> None:
    assert line.sender.send(pydlb.make_events([], line.queue)) == 0
    assert line.port.forward(pydlb.make_events([], line.queue)) == 0


# ---- time ----------------------------------------------------------------------------------------------------------


def test_waits_end_at_their_time(line: Line) -> None:
    begin = time.monotonic()
    assert len(line.port.recv(timeout=0.02)) == 0
    assert line.port.recv_one(timeout=0.02) is None
    assert time.monotonic() - begin >= 0.04
    assert len(line.port.recv(timeout=0)) == 0
    assert len(line.port.recv(timeout=-1)) == 0
    assert line.port.recv(timeout=0).dtype == pydlb.EVENT_DTYPE


@pytest.mark.parametrize("timeout", [None, 60, float("inf"), 1e300])
def test_a_wait_ends_with_an_event(line: Line, timeout: float | None) -> None:
    sender = threading.Timer(0.01, line.send, [5])
    sender.start()
    assert line.port.recv(timeout=timeout)["data"].tolist() == [5]
    sender.join()


def test_wrong_times(line: Line) -> None:
    with pytest.raises(pydlb.ConfigError, match="timeout"):
        line.port.recv(timeout=float("nan"))
    for use in (line.port.recv, line.port.recv_one):
        with pytest.raises(TypeError):
            use(timeout="soon")
    with pytest.raises(pydlb.ConfigError, match="max is 0"):
        line.port.recv(0)


# ---- credits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def scarce(device: pydlb.Device) -> Iterator[Line]:
    with device.create_domain(credits=4) as domain:
        yield Line(domain)


def test_a_send_takes_what_there_are_credits_for(scarce: Line) -> None:
    events = pydlb.make_events(range(6), scarce.queue)
    assert scarce.sender.send(events) == 4
    assert scarce.sender.send(events) == 0
    assert scarce.sender.send_one(9, scarce.queue) is False
    stats = scarce.domain.stats()
    assert (stats.credits_free, stats.queued, stats.enqueued) == (0, 4, 4)
    assert stats.refused_no_credit >= 2
    assert received(scarce.port, 3) == [0, 1, 2]
    assert scarce.domain.stats().credits_free == 3, "credits come back when events are received"
    assert scarce.sender.send(events[4:]) == 2
    assert received(scarce.port) == [3, 4, 5]


def test_a_send_waits_for_credits(scarce: Line) -> None:
    events = pydlb.make_events(range(100), scarce.queue)
    arrived: list[int] = []

    def receive() -> None:
        while len(arrived) < len(events):
            arrived.extend(scarce.port.recv(timeout=None)["data"].tolist())
            scarce.port.release(32)

    thread = threading.Thread(target=receive)
    thread.start()
    assert scarce.sender.send(events, timeout=None) == 100
    thread.join()
    assert arrived == list(range(100))


def test_a_send_waits_no_longer_than_told(scarce: Line) -> None:
    begin = time.monotonic()
    assert scarce.sender.send(pydlb.make_events(range(6), scarce.queue), timeout=0.02) == 4
    assert time.monotonic() - begin >= 0.02
    scarce.port.recv(2, timeout=0)
    assert scarce.sender.send(pydlb.make_events([7, 8], scarce.queue), timeout=60) == 2


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_the_events_before_a_wrong_one_are_taken(line: Line) -> None:
    events = pydlb.make_events(range(5), line.queue)
    events["queue"][3] = 200
    with pytest.raises(pydlb.ConfigError, match=r"event 3 .*queue is 200.*no load-balanced queue"):
        line.sender.send(events)
    assert received(line.port) == [0, 1, 2]


@pytest.mark.parametrize(
    ("queue", "sched"),
    [
        ({}, pydlb.Sched.ORDERED),
        ({"atomic_inflights": 0}, pydlb.Sched.ATOMIC),
        ({"sequence_numbers": 64}, pydlb.Sched.UNORDERED),
        ({"sequence_numbers": 64, "atomic_inflights": 0}, pydlb.Sched.ATOMIC),
    ],
)
def test_a_queue_takes_only_what_it_does(
    make_line: Callable[..., Line], queue: dict[str, int], sched: pydlb.Sched
) -> None:
    line = make_line(**queue)
    words = rf"event 0 was not taken: its sched is {int(sched)} \({sched.name.lower()}\)"
    with pytest.raises(pydlb.ConfigError, match=words):
        line.sender.send_one(1, line.queue, sched=sched)
    with pytest.raises(pydlb.ConfigError, match=words):
        line.sender.send(pydlb.make_events([1], line.queue, sched=sched))


def test_directed_events_need_a_directed_queue(line: Line) -> None:
    with pytest.raises(pydlb.ConfigError, match="no directed queue of that number"):
        line.sender.send_one(1, line.queue, sched=pydlb.Sched.DIRECTED)


def test_a_queue_of_another_domain(device: pydlb.Device, line: Line) -> None:
    with device.create_domain() as elsewhere:
        with pytest.raises(pydlb.ConfigError, match="another scheduling domain"):
            line.sender.send_one(1, elsewhere.create_ldb_queue())
        line.send(1)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((-1,), {}, "data must be"),
        ((2**64,), {}, "data must be"),
        ((1,), {"flow": -1}, "flow must be"),
        ((1,), {"flow": 2**16}, "flow must be"),
        ((1,), {"opaque": 2**16}, "opaque must be"),
        ((1,), {"priority": 8}, "priority must be"),
        ((1,), {"sched": 4}, "sched must be"),
    ],
)
def test_values_out_of_range(line: Line, arguments: tuple[int], options: dict[str, int], words: str) -> None:
    with pytest.raises(pydlb.ConfigError, match=words):
        line.sender.send_one(*arguments, line.queue, **options)
    assert line.domain.stats().enqueued == 0


def test_arguments_of_another_type(line: Line) -> None:
    for wrong in (
        lambda: line.sender.send_one(1),
        lambda: line.sender.send_one(1, line.queue, 0),
        lambda: line.sender.send_one(1.5, line.queue),
        lambda: line.sender.send_one(1, 0),
        lambda: line.sender.send_one(1, None),
        lambda: line.sender.send_one(1, line.queue, colour=3),
        lambda: line.sender.send_one(1, line.queue, flow=None),
        lambda: line.port.recv_one(0, 0),
        lambda: line.port.recv_one(time=0),
        lambda: line.port.release(1, 2),
        lambda: line.port.release(m=1),
        lambda: line.port.release("all"),
    ):
        with pytest.raises(TypeError):
            wrong()
    for wrong in (lambda: line.port.release(-1), lambda: line.port.release_later(-1)):
        with pytest.raises(pydlb.ConfigError, match="n must be"):
            wrong()


def test_by_name(line: Line) -> None:
    assert line.sender.send_one(1, line.queue, sched=None)
    assert line.port.recv_one(timeout=0) == 1
    assert line.port.release(n=1) == 1
    line.port.release_later(n=0)
