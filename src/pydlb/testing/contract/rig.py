"""What every backend promises, as checks of one device each.

A device pushes events into the consumer queues of ports, and takes its time for it; software hands them out when a port
asks. The checks ask only for what holds of both: they wait for what must come, and for a moment where nothing may.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import re
import select
import threading
import time
from typing import TYPE_CHECKING, Final, Literal, Self, TypedDict, Unpack

import numpy as np

import pydlb
from pydlb.types import priority_of, sched_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

    _Release = Literal["explicit", "on_recv"]

__all__ = ["CHECKS", "check_backend"]

_SOON: Final = 10.0
"""Seconds within which what must come has come."""

_MOMENT: Final = 0.02
"""Seconds after which what has not come is believed not to come."""

ATOMIC: Final = pydlb.Sched.ATOMIC
ORDERED: Final = pydlb.Sched.ORDERED

CHECKS: Final[dict[str, Callable[[pydlb.Device], None]]] = {}
"""Each check by its name: a function of a device that nobody else uses, which raises AssertionError."""


def check_backend(open_device: Callable[[], pydlb.Device]) -> None:
    """Hold a backend against the contract.

    Args:
        open_device: Opens a device that nobody else uses; called once for each check.

    Raises:
        AssertionError: A promise is not kept; the message names the check.
    """
    for name, check in CHECKS.items():
        with open_device() as device:
            try:
                check(device)
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


def _promise(check: Callable[[pydlb.Device], None]) -> Callable[[pydlb.Device], None]:
    CHECKS[check.__name__] = check
    return check


# ---- tools -----------------------------------------------------------------------------------------------------------


def _same(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: found {found!r}, not {wanted!r}")


@contextlib.contextmanager
def _raises(kind: type[BaseException], words: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        if not re.search(words, str(error)):
            raise AssertionError(f"{error!r} does not speak of {words!r}") from error
    else:
        raise AssertionError(f"no {kind.__name__} that speaks of {words!r}")


def _collect(port: pydlb.Port, count: int, *, release: bool = False) -> NDArray[np.void]:
    """So many events, and not one more."""
    got = np.zeros(0, pydlb.EVENT_DTYPE)
    deadline = time.monotonic() + _SOON
    while len(got) < count and time.monotonic() < deadline:
        batch = port.recv(timeout=0.1)
        got = np.concatenate([got, batch])
        if release and isinstance(port, pydlb.LDBPort):
            port.release(len(batch))
    _same(len(got), count, "events received")
    return got


def _data(port: pydlb.Port, count: int, *, release: bool = False) -> list[int]:
    numbers: list[int] = _collect(port, count, release=release)["data"].tolist()
    return numbers


def _nothing(port: pydlb.Port) -> None:
    _same(port.recv(timeout=_MOMENT)["data"].tolist(), [], "events that may not come")


def _eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SOON
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what}")
        time.sleep(0.001)


class _QueueShape(TypedDict, total=False):
    sequence_numbers: int
    inflights: int
    atomic_inflights: int


class _Line:
    """One load-balanced queue between a port that only sends and ports that are linked to it."""

    def __init__(
        self,
        device: pydlb.Device,
        ports: int = 1,
        *,
        credits: int = 256,
        history_entries: int | None = None,
        cq_depth: int = 32,
        release: _Release = "explicit",
        start: bool = True,
        **queue: Unpack[_QueueShape],
    ) -> None:
        held = history_entries or 2 * cq_depth
        self.domain = device.create_domain(
            ldb_queues=2,
            ldb_ports=ports + 1,
            dir_ports=1,
            credits=credits,
            history_entries=(ports + 1) * held,
            atomic_inflights=512,
            sequence_slots=(1, 0),
        )
        try:
            self.queue = self.domain.create_ldb_queue(**queue)
            self.sender = self.domain.create_dir_port()
            self.ports = [
                self.domain.create_ldb_port(cq_depth=cq_depth, history_entries=held, release=release)
                for _ in range(ports)
            ]
            for port in self.ports:
                port.link(self.queue)
            if start:
                self.domain.start()
        except BaseException:
            self.domain.close()
            raise

    @property
    def port(self) -> pydlb.LDBPort:
        return self.ports[0]

    def events(self, count: int, **options: ArrayLike) -> NDArray[np.void]:
        return pydlb.make_events(range(count), self.queue, **options)  # type: ignore[arg-type]

    def send(self, *data: int, **options: int) -> None:
        for number in data:
            _same(self.sender.send_one(number, self.queue, **options), True, "send_one")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.domain.close()


# ---- devices and domains ---------------------------------------------------------------------------------------------


@_promise
def device_says_what_it_is(device: pydlb.Device) -> None:
    """Version and backend can be read."""
    _same(device.version in ("2.0", "2.5"), True, "a known version")
    _same(device.backend in repr(device), True, "the backend in repr()")


@_promise
def domain_takes_its_amounts_and_gives_them_back(device: pydlb.Device) -> None:
    """Nothing more than what was asked for is taken; all of it is had again after close."""
    whole = device.resources()
    amounts = {"ldb_queues": 3, "ldb_ports": 5, "dir_ports": 7, "history_entries": 128, "atomic_inflights": 32}
    with device.create_domain(**amounts, credits=64, sequence_slots=(1, 2), shared=False, class_ports=(0, 0, 0, 0)):
        left = device.resources()
        _same(left.domains, whole.domains - 1, "domains left")
        for name, amount in amounts.items():
            _same(getattr(left, name), getattr(whole, name) - amount, f"{name} left")
        _same(left.ldb_credits, whole.ldb_credits - 64, "credits left")
        _same(left.sequence_slots, (whole.sequence_slots[0] - 1, whole.sequence_slots[1] - 2), "slots left")
    _same(device.resources(), whole, "what is left in the end")


@_promise
def what_is_short_is_named(device: pydlb.Device) -> None:
    """A domain can have all there is of something, but no more; a failed creation takes nothing."""
    whole = device.resources()
    names = ("ldb_queues", "ldb_ports", "dir_ports", "history_entries", "atomic_inflights")
    nothing = dict.fromkeys((*names, "credits"), 0)
    for name in names:
        ports = {"ldb_ports": 1} if name == "ldb_queues" else {}
        amount = getattr(whole, name)
        with _raises(pydlb.ResourceExhausted, name):
            device.create_domain(**nothing | ports | {name: amount + 1}, sequence_slots=(0, 0))
        device.create_domain(**nothing | ports | {name: amount}, sequence_slots=(0, 0)).close()
    with _raises(pydlb.ResourceExhausted, "sequence_slots"):
        device.create_domain(sequence_slots=(0, 10**6))
    _same(device.resources(), whole, "what is left")


@_promise
def wrong_amounts_are_refused(device: pydlb.Device) -> None:
    """By name, and before anything is done."""
    for name, amount in (("ldb_queues", -1), ("ldb_ports", 1.5), ("credits", "many"), ("dir_ports", 2**32)):
        with _raises(pydlb.ConfigError, f"{name} is"):
            device.create_domain(**{name: amount})  # type: ignore[arg-type]
    with _raises(pydlb.ConfigError, "ldb_ports is 0"):
        device.create_domain(ldb_queues=1, ldb_ports=0)


@_promise
def start_and_stop(device: pydlb.Device) -> None:
    """Only a started domain takes events; what is queued when it stops can be received."""
    with _Line(device, start=False) as line:
        with _raises(pydlb.ConfigError, r"not started"):
            line.sender.send_one(1, line.queue)
        with _raises(pydlb.ConfigError, "not started"):
            line.domain.stop()
        line.domain.start()
        with _raises(pydlb.ConfigError, "started already"):
            line.domain.start()
        line.send(1)
        line.domain.stop()
        with _raises(pydlb.ConfigError, r"not started"):
            line.sender.send_one(2, line.queue)
        _same(_data(line.port, 1), [1], "after stop")
        line.domain.start()
        line.send(3)
        _same(_data(line.port, 1), [3], "after another start")


@_promise
def all_is_closed_with_its_domain(device: pydlb.Device) -> None:
    """Children go with their owner; to use them then is an error, to close them again is none."""
    line = _Line(device)
    line.send(1)
    line.domain.close()
    for thing in (line.domain, line.port, line.sender):
        _same((thing.closed, bool(thing), "closed" in repr(thing)), (True, False, True), "a closed one")
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
        with _raises(pydlb.ClosedError, "closed"):
            use()


@_promise
def what_a_closed_domain_held_can_be_had_again(device: pydlb.Device) -> None:
    """Events of a former life do not come back."""
    for _ in range(3):
        with _Line(device, credits=8) as line:
            _same(line.sender.send(line.events(10)), 8, "events taken")
            _same(len(line.port.recv(3, timeout=_SOON)), 3, "events received")


# ---- events ----------------------------------------------------------------------------------------------------------


@_promise
def events_arrive_as_they_were_sent(device: pydlb.Device) -> None:
    """Data, opaque, flow, priority, type and the sender's own bits."""
    with _Line(device) as line:
        for options in ({}, {"sched": ATOMIC}):
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
                _same(line.sender.send(np.array([event], events.dtype)), 1, "events taken")
                _same(_collect(line.port, 1, release=True).tolist(), [event.item()], "the event")
        line.send(5, flow=6, priority=2, opaque=9, sched=int(ATOMIC))
        (event,) = _collect(line.port, 1)
        _same((event["data"], event["flow"], event["opaque"]), (5, 6, 9), "one event's fields")
        _same((sched_of(event), priority_of(event)), (ATOMIC, 2), "its type and priority")


@_promise
def batches_of_every_size(device: pydlb.Device) -> None:
    """However they fall into lines of four, and round the ring."""
    with _Line(device, cq_depth=16) as line:
        for count in [*range(1, 14), 16]:
            events = line.events(count, opaque=count)
            _same(line.sender.send(events), count, "events taken")
            got = _collect(line.port, count, release=True)
            _same(got["data"].tolist(), list(range(count)), f"a batch of {count}")
            _same(set(got["opaque"].tolist()), {count}, "its mark")


@_promise
def order_within_a_queue(device: pydlb.Device) -> None:
    """One port receives in the order of arrival, over many laps of its ring, and no more than it asks for."""
    with _Line(device, cq_depth=8) as line:
        _same(line.sender.send(line.events(200)), 200, "events taken")
        got: list[int] = []
        deadline = time.monotonic() + _SOON
        while len(got) < 200 and time.monotonic() < deadline:
            batch = line.port.recv(3, timeout=0.1)["data"].tolist()
            _same(len(batch) <= 3, True, "no more than asked for")
            got += batch
            line.port.release(len(batch))
        _same(got, list(range(200)), "the order")


@_promise
def receive_into_an_array(device: pydlb.Device) -> None:
    """What is not filled stays as it was."""
    with _Line(device) as line:
        line.send(1, 2)
        out = np.zeros(8, pydlb.EVENT_DTYPE)
        out["data"] = 99
        found = 0
        while found < 2:
            found += len(line.port.recv(2 - found, timeout=_SOON, out=out[found:]))
        _same(out["data"].tolist(), [1, 2] + [99] * 6, "the array")
        _same(len(line.port.recv(timeout=0, out=out[:0])), 0, "into nothing")


@_promise
def waits_end_at_their_time(device: pydlb.Device) -> None:
    """Neither before nor never."""
    with _Line(device) as line:
        begin = time.monotonic()
        _same(len(line.port.recv(timeout=0.02)), 0, "events")
        _same(line.port.recv_one(timeout=0.02), None, "an event")
        _same(time.monotonic() - begin >= 0.04, True, "the whole time")
        _same(len(line.port.recv(timeout=-1)), 0, "a time that is over")
        for timeout in (None, 60.0, float("inf")):
            timer = threading.Timer(0.01, line.send, [5])
            timer.start()
            _same(line.port.recv(timeout=timeout)["data"].tolist(), [5], "a wait that ends with an event")
            timer.join()


@_promise
def a_wait_is_ended_by_close(device: pydlb.Device) -> None:
    """In another thread, with ClosedError."""
    with _Line(device) as line:
        outcomes: list[BaseException | None] = []

        def wait() -> None:
            try:
                line.port.recv(timeout=None)
            except pydlb.DLBError as error:
                outcomes.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(_MOMENT)
        line.port.close()
        thread.join(_SOON)
        _same([type(outcome) for outcome in outcomes], [pydlb.ClosedError], "how the wait ended")


@_promise
def a_port_has_one_user(device: pydlb.Device) -> None:
    """A second thread is told so."""
    with _Line(device) as line:
        thread = threading.Thread(target=line.port.recv, kwargs={"timeout": _SOON})
        thread.start()

        def is_busy() -> bool:
            try:
                line.port.release(0)
            except pydlb.BusyError:
                return True
            return False

        _eventually(is_busy, "the port is busy while another thread waits on it")
        line.send(1)
        thread.join()


# ---- credits ---------------------------------------------------------------------------------------------------------


@_promise
def a_send_takes_what_there_are_credits_for(device: pydlb.Device) -> None:
    """And they come back when events are received."""
    with _Line(device, credits=4) as line:
        events = line.events(6)
        _same(line.sender.send(events), 4, "events taken")
        _same(line.sender.send(events), 0, "without credits")
        _same(line.sender.send_one(9, line.queue), False, "one event without credits")
        stats = line.domain.stats()
        _same((stats.credits_free, stats.queued, stats.enqueued), (0, 4, 4), "the account")
        _same(stats.refused_no_credit >= 2, True, "refusals are counted")
        _same(_data(line.port, 4), [0, 1, 2, 3], "events received")
        _same(line.domain.stats().credits_free, 4, "credits after that")
        _same(line.sender.send(events[4:]), 2, "events taken then")
        _same(_data(line.port, 2), [4, 5], "and received")


@_promise
def no_port_keeps_credits_from_others(device: pydlb.Device) -> None:
    """Whoever sent or received before."""
    with _Line(device, ports=3, credits=6) as line:
        senders: list[pydlb.Port] = [line.sender, *line.ports]
        for turn in range(24):
            _same(senders[turn % 4].send(line.events(6)), 6, "all credits for one sender")
            _drain(line, 6)


def _drain(line: _Line, count: int) -> list[int]:
    """So many events from whichever ports they are given to; all are released."""
    got: list[int] = []
    deadline = time.monotonic() + _SOON
    while len(got) < count and time.monotonic() < deadline:
        for port in line.ports:
            batch = port.recv(timeout=0)["data"].tolist()
            port.release(len(batch))
            got += batch
    _same(len(got), count, "events received")
    return got


@_promise
def a_send_waits_for_credits(device: pydlb.Device) -> None:
    """For as long as it is told."""
    with _Line(device, credits=4) as line:
        begin = time.monotonic()
        _same(line.sender.send(line.events(6), timeout=0.02), 4, "events taken in a short time")
        _same(time.monotonic() - begin >= 0.02, True, "the whole time")
        _data(line.port, 4, release=True)
        arrived: list[int] = []

        def receive() -> None:
            while len(arrived) < 100:
                arrived.extend(line.port.recv(timeout=_SOON)["data"].tolist())
                line.port.release(32)

        thread = threading.Thread(target=receive)
        thread.start()
        _same(line.sender.send(line.events(100), timeout=None), 100, "events taken")
        thread.join()
        _same(arrived, list(range(100)), "events received")


# ---- refusals --------------------------------------------------------------------------------------------------------


@_promise
def the_events_before_a_wrong_one_are_taken(device: pydlb.Device) -> None:
    """The message says which one it is."""
    with _Line(device) as line:
        for wrong in range(6):
            events = line.events(7)
            events["queue"][wrong] = 200
            with _raises(pydlb.ConfigError, rf"event {wrong} .*queue is 200.*no load-balanced queue"):
                line.sender.send(events)
            _same(_data(line.port, wrong, release=True), list(range(wrong)), "those before it")
            _nothing(line.port)
        with _raises(pydlb.ConfigError, "no directed queue"):
            line.sender.send_one(1, line.queue, sched=pydlb.Sched.DIRECTED)
        stats = line.domain.stats()
        _same(stats.credits_free, 256, "no credit is lost")


@_promise
def a_queue_takes_only_what_it_does(device: pydlb.Device) -> None:
    """Each scheduling type needs a queue that was made for it."""
    kinds: tuple[tuple[_QueueShape, pydlb.Sched], ...] = (
        ({}, ORDERED),
        ({"atomic_inflights": 0}, ATOMIC),
        ({"sequence_numbers": 64}, pydlb.Sched.UNORDERED),
        ({"sequence_numbers": 64, "atomic_inflights": 0}, ATOMIC),
    )
    for queue, sched in kinds:
        with _Line(device, **queue) as line, _raises(pydlb.ConfigError, rf"event 0 .*its sched is {int(sched)}"):
            line.sender.send(line.events(5, sched=sched))


@_promise
def things_of_another_domain_are_refused(device: pydlb.Device) -> None:
    """Queues, most of all."""
    with _Line(device) as line, device.create_domain(ldb_queues=1, ldb_ports=1, dir_ports=1, credits=8) as elsewhere:
        queue = elsewhere.create_ldb_queue()
        with _raises(pydlb.ConfigError, "another scheduling domain"):
            line.sender.send_one(1, queue)
        with _raises(pydlb.ConfigError, "another scheduling domain"):
            line.port.link(queue)
        with _raises(pydlb.ConfigError, "of this domain"):
            elsewhere.create_dir_queue(line.sender)


# ---- queues and ports ------------------------------------------------------------------------------------------------


@_promise
def wrong_arguments_are_named(device: pydlb.Device) -> None:
    """Of queues and of ports."""
    with device.create_domain() as domain:
        with _raises(pydlb.ConfigError, "sequence_numbers"):
            domain.create_ldb_queue(sequence_numbers=65)
        with _raises(pydlb.ConfigError, "inflights"):
            domain.create_ldb_queue(inflights=-1)
        for depth in (0, 3, 2048):
            with _raises(pydlb.ConfigError, f"cq_depth is {depth}"):
                domain.create_ldb_port(cq_depth=depth)
        with _raises(pydlb.ConfigError, "history_entries is 0"):
            domain.create_ldb_port(history_entries=0)


@_promise
def a_domain_has_what_it_was_given(device: pydlb.Device) -> None:
    """And no more."""
    with device.create_domain(ldb_queues=1, ldb_ports=2, dir_ports=1, history_entries=64) as domain:
        domain.create_ldb_queue()
        with _raises(pydlb.ResourceExhausted, "queue"):
            domain.create_ldb_queue()
        ports = [domain.create_ldb_port(history_entries=40), domain.create_dir_port()]
        with _raises(pydlb.ResourceExhausted, "history_entries"):
            domain.create_ldb_port(history_entries=40)
        ports.append(domain.create_ldb_port(history_entries=24))
        with _raises(pydlb.ResourceExhausted, "port"):
            domain.create_ldb_port()
        with _raises(pydlb.ResourceExhausted, "port"):
            domain.create_dir_port()
        ports[0].close()
        ports.append(domain.create_ldb_port(history_entries=40))


@_promise
def a_port_has_eight_links(device: pydlb.Device) -> None:
    """Each of which can be taken back."""
    with device.create_domain(ldb_queues=9, ldb_ports=1, dir_ports=1, atomic_inflights=0) as domain:
        queues = [domain.create_ldb_queue(atomic_inflights=0) for _ in range(9)]
        port, sender = domain.create_ldb_port(), domain.create_dir_port()
        with _raises(pydlb.ConfigError, "not linked"):
            port.unlink(queues[0])
        for queue in queues[:8]:
            port.link(queue)
        with _raises(pydlb.ResourceExhausted, "eight queues"):
            port.link(queues[8])
        port.unlink(queues[3])
        port.link(queues[8])
        domain.start()
        for number, queue in enumerate(queues):
            sender.send_one(number, queue)
        _same(sorted(_data(port, 8)), [0, 1, 2, 4, 5, 6, 7, 8], "events of the linked queues")
        _nothing(port)
        _same(queues[3].depth, 1, "the other one's event waits")


@_promise
def directed_pairs(device: pydlb.Device) -> None:
    """Whichever half was made first; in order; and nothing is held."""
    with device.create_domain(ldb_queues=0, ldb_ports=0, dir_ports=3, credits=64) as domain:
        queue = domain.create_dir_queue()
        port = domain.create_dir_port(queue)
        with _raises(pydlb.ConfigError, "port"):
            domain.create_dir_port(queue)
        late = domain.create_dir_port()
        late_queue = domain.create_dir_queue(late)
        with _raises(pydlb.ConfigError, "queue"):
            domain.create_dir_queue(late)
        domain.start()
        _same(port.send(pydlb.make_events(range(20), late_queue)), 20, "events taken")
        _same(late.send(pydlb.make_events(range(30, 45), queue)), 15, "events taken")
        _same(_data(late, 20), list(range(20)), "one way")
        _same(_data(port, 15), list(range(30, 45)), "the other way")
        _same(port.in_flight, 0, "what a directed port holds")
        with _raises(pydlb.ConfigError, "holds no event"):
            port.forward(pydlb.make_events([1], queue))


@_promise
def descriptor_tells_of_events(device: pydlb.Device) -> None:
    """It is readable once there is one, and quiet when all was received."""
    with _Line(device) as line:
        poll = select.poll()
        poll.register(line.port, select.POLLIN)
        for turn in range(50):
            _drain_quietly(line.port)
            _same(poll.poll(1 if turn < 3 else 0), [], "nothing to tell")
            line.send(turn)
            _same(poll.poll(_SOON * 1000), [(line.port.fileno(), select.POLLIN)], "an event to tell of")
            _same(_data(line.port, 1, release=True), [turn], "the event")


def _drain_quietly(port: pydlb.Port) -> None:
    """Receive until the port is armed again: a wake-up may have come too many."""
    for _ in range(3):
        port.recv(timeout=0)


@_promise
def no_wake_up_is_lost(device: pydlb.Device) -> None:
    """Two threads hand an event to each other, one waiting in recv, one on its descriptor."""
    turns = 300
    with _Line(device, 2, start=False) as line:
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
                number = there.recv_one(timeout=_SOON)
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
                    assert poll.poll(_SOON * 1000), "a wake-up on the descriptor was lost"
                _same(number, turn, "the answer")
                back.release()
        finally:
            thread.join()
        _same(lost.is_set(), False, "a wake-up in recv was lost")


@_promise
def a_disabled_port_is_given_nothing(device: pydlb.Device) -> None:
    """And may not send, until it is enabled again."""
    with _Line(device, 2) as line:
        one, other = line.ports
        one.disable()
        line.send(1, 2, 3)
        _same(_data(other, 3, release=True), [1, 2, 3], "all go to the other port")
        _nothing(one)
        with _raises(pydlb.ConfigError, r"disabled.*Port\.enable"):
            one.send_one(1, line.queue)
        other.disable()
        one.enable()
        line.send(4)
        _same(_data(one, 1), [4], "after enable")


@_promise
def an_unlinked_port_is_given_no_more(device: pydlb.Device) -> None:
    """What it holds stays with it, until it is released."""
    with _Line(device) as line:
        line.send(1)
        _same(_data(line.port, 1), [1], "before")
        line.port.unlink(line.queue)
        _same(line.port.in_flight, 1, "what it holds")
        line.send(2)
        _nothing(line.port)
        _same(line.port.release(), 1, "what it held")
        _same(line.queue.depth, 1, "what waits")
        line.port.link(line.queue)
        _same(_data(line.port, 1), [2], "linked again")


@_promise
def what_a_closed_port_had_goes_to_others(device: pydlb.Device) -> None:
    """What it was given and did not receive; what it held is released."""
    with _Line(device, 2, cq_depth=8) as line:
        one, other = line.ports
        _same(line.sender.send(line.events(12)), 12, "events taken")
        got = one.recv(2, timeout=_SOON)["data"].tolist()
        one.close()
        got += _data(other, 12 - len(got), release=True)
        _same(sorted(got), list(range(12)), "each event once")
        again = line.domain.create_ldb_port(cq_depth=8, history_entries=16)
        again.link(line.queue)
        other.close()
        line.send(77)
        _same(_data(again, 1), [77], "a port in its place")
        _same(again.stats().received, 1, "it counts from the beginning")


@_promise
def counts_add_up(device: pydlb.Device) -> None:
    """Of a port and of its domain."""
    with _Line(device) as line:
        fresh = dataclasses.asdict(line.domain.stats())
        _same(fresh.pop("credits_free"), 256, "free credits")
        _same(any(fresh.values()), False, "any other count")
        line.send(1, 2, 3)
        _data(line.port, 3)
        line.port.release(2)
        stats = line.port.stats()
        _same((stats.received, stats.released, stats.in_flight), (3, 2, 1), "the port's counts")
        _same(line.port.in_flight, 1, "in flight")
        _same(line.sender.stats().sent, 3, "the sender's count")
        total = line.domain.stats()
        _same((total.enqueued, total.scheduled, total.queued), (3, 3, 0), "the domain's counts")


@_promise
def depth_counts_what_no_port_has_room_for(device: pydlb.Device) -> None:
    """What was given to ports does not count."""
    with _Line(device, history_entries=2, cq_depth=8) as line:
        _same(line.queue.depth, 0, "depth of an empty queue")
        line.send(1, 2, 3, 4, 5)
        _data(line.port, 2)
        _eventually(lambda: line.queue.depth == 3, "three events wait")
        _nothing(line.port)


# ---- scheduling ------------------------------------------------------------------------------------------------------


@_promise
def high_priorities_come_first(device: pydlb.Device) -> None:
    """On the whole: a device has four levels, and lets low ones through now and then."""
    with _Line(device, cq_depth=32) as line:
        line.port.disable()
        priorities = [6, 2, 4, 0] * 8
        _same(line.sender.send(line.events(32, priority=priorities)), 32, "events taken")
        line.port.enable()
        order = priority_of(_collect(line.port, 32)).tolist()
        places = {level: sum(i for i, p in enumerate(order) if p == level) for level in (0, 2, 4, 6)}
        _same(sorted(places, key=lambda level: places[level]), [0, 2, 4, 6], f"the levels by their places in {order}")


@_promise
def a_flow_is_with_one_port_at_a_time(device: pydlb.Device) -> None:
    """And in order, though it may move to another port."""
    with _Line(device, 3, credits=64) as line:
        holders: dict[int, tuple[pydlb.LDBPort, int]] = {}
        last: dict[int, int] = {}
        sent = got = 0
        deadline = time.monotonic() + _SOON
        held: dict[pydlb.LDBPort, collections.deque[int]] = {port: collections.deque() for port in line.ports}
        while got < 600 and time.monotonic() < deadline:
            if sent < 600:
                numbers = range(sent, min(sent + 16, 600))
                events = pydlb.make_events(list(numbers), line.queue, sched=ATOMIC, flow=[n % 7 for n in numbers])
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
        _same(got, 600, "events received")


@_promise
def order_of_arrival_is_restored(device: pydlb.Device) -> None:
    """What workers forward in any order comes out of the next queue in the order in which it went in."""
    with _Line(device, 3, start=False, sequence_numbers=64) as line:
        behind = line.domain.create_ldb_queue()
        end = line.domain.create_ldb_port()
        end.link(behind)
        line.domain.start()
        _same(line.sender.send(line.events(48)), 48, "events taken")
        work: dict[pydlb.LDBPort, list[int]] = {port: [] for port in line.ports}
        deadline = time.monotonic() + _SOON
        while sum(map(len, work.values())) < 48 and time.monotonic() < deadline:
            for port in line.ports:
                work[port] += port.recv(2, timeout=0)["data"].tolist()
        # The one with the oldest event goes last; every fifth is dropped.
        for port in sorted(line.ports, key=lambda port: min(work[port], default=48), reverse=True):
            for number in work[port]:
                if number % 5 == 4:
                    _same(port.release(), 1, "a release")
                else:
                    _same(port.forward(pydlb.make_events([number], behind)), 1, "a forward")
        _same(_data(end, 39, release=True), [n for n in range(48) if n % 5 != 4], "the order")


@_promise
def forward_needs_something_held(device: pydlb.Device) -> None:
    """It takes the place of the oldest event held."""
    with _Line(device) as line:
        events = line.events(2)
        with _raises(pydlb.ConfigError, r"event 0 .*holds no event"):
            line.port.forward(events)
        line.send(5)
        _same(_data(line.port, 1), [5], "the event")
        with _raises(pydlb.ConfigError, r"event 1 .*holds no event"):
            line.port.forward(events)
        _same(line.port.in_flight, 0, "what is held after it")
        _same(_data(line.port, 1), [0], "the forwarded one")


@_promise
def a_port_holds_no_more_than_its_history(device: pydlb.Device) -> None:
    """Releases make room."""
    with _Line(device, history_entries=3, cq_depth=8) as line:
        line.send(*range(10))
        _same(_data(line.port, 3), [0, 1, 2], "what it can hold")
        _nothing(line.port)
        _same(line.port.in_flight, 3, "what it holds")
        _same(line.port.release(2), 2, "released")
        _same(_data(line.port, 2), [3, 4], "what comes then")
        _nothing(line.port)
        _same((line.port.release(100), line.port.release()), (3, 0), "all that was held")


@_promise
def a_queue_has_no_more_out_than_its_limit(device: pydlb.Device) -> None:
    """Over all its ports; an ordered one no more than its sequence numbers."""
    with _Line(device, 2, inflights=3) as line:
        line.send(*range(10))
        held = {port: _some(port) for port in line.ports}
        _same(sum(held.values()), 3, "events out")
        holder = max(line.ports, key=lambda port: held[port])
        holder.release(1)
        _eventually(lambda: sum(map(_some, line.ports)) == 1, "another one comes")
    with _Line(device, cq_depth=128, history_entries=256, sequence_numbers=64) as line:
        _same(line.sender.send(line.events(100)), 100, "events taken")
        _same(_data(line.port, 64), list(range(64)), "events out")
        _nothing(line.port)
        _same(line.port.release(10), 10, "released")
        _same(_data(line.port, 10), list(range(64, 74)), "events that come then")


def _some(port: pydlb.Port) -> int:
    """How many events come within a moment."""
    count = 0
    while more := len(port.recv(timeout=_MOMENT)):
        count += more
    return count


@_promise
def release_on_recv(device: pydlb.Device) -> None:
    """Each receive releases what the one before returned."""
    with _Line(device, history_entries=4, cq_depth=8, release="on_recv") as line:
        line.send(*range(10))
        got: list[int] = []
        while len(got) < 10:
            batch = line.port.recv(4, timeout=_SOON)["data"].tolist()
            assert batch, f"nothing came after {got}"
            _same(line.port.in_flight, len(batch), "what is held")
            got += batch
        _same(got, list(range(10)), "the order")
        _nothing(line.port)
        _same(line.port.in_flight, 0, "what is held in the end")


@_promise
def release_later_is_done_without_the_owner(device: pydlb.Device) -> None:
    """The owner may be waiting for the room that it makes."""
    with _Line(device, history_entries=2, cq_depth=8) as line:
        line.send(1, 2, 3)
        _same(_data(line.port, 2), [1, 2], "what it can hold")
        timer = threading.Timer(_MOMENT, line.port.release_later, [1])
        timer.start()
        _same(line.port.recv(timeout=_SOON)["data"].tolist(), [3], "what there is room for then")
        timer.join()
        _same(line.port.in_flight, 2, "what is held")


# ---- many threads ----------------------------------------------------------------------------------------------------


@_promise
def each_event_comes_once(device: pydlb.Device) -> None:
    """Through many threads, with credits that are scarce."""
    count, consumers = 3000, 3
    with _Line(device, consumers, credits=64) as line:
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
                _same(line.sender.send(pydlb.make_events(numbers, line.queue), timeout=_SOON), 50, "events taken")
            _eventually(lambda: sum(map(len, got)) >= count, "all events were received")
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        _same(sorted(itertools.chain(*got)), list(range(count)), "each event once")
        stats = line.domain.stats()
        _same((stats.enqueued, stats.scheduled, stats.credits_free), (count, count, 64), "the account")
