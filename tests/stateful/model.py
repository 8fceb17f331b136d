"""A naive model of a scheduling domain: lists, no locks, no thought of speed.

It does not foretell what a port receives, because the engine may choose among equals. It judges: each event received
must have been eligible at that moment, with every limit kept, and a receive that brings fewer events than it might is
right only if no other is eligible.
"""

from __future__ import annotations

import dataclasses

ATOMIC, UNORDERED, ORDERED, DIRECTED = range(4)

STARVATION_PERIOD = 64
"""A lower priority is served first for one of so many events of a queue, and in one of so many receives of a port."""


@dataclasses.dataclass
class Event:
    data: int
    queue: Queue | None
    """None if it names a queue that does not exist."""
    sched: int
    priority: int = 0
    flow: int = 0


@dataclasses.dataclass(eq=False)
class Place:
    """That of an ordered event in its line, until all before it are settled."""

    open: bool = True
    taken_by: Event | None = None


@dataclasses.dataclass
class Held:
    event: Event
    place: Place | None


@dataclasses.dataclass(eq=False)
class Queue:
    kinds: set[int]
    limit: int = 1 << 30
    """Events in flight."""
    window: int = 1 << 30
    """Places in the line of an ordered queue."""
    waiting: list[Event] = dataclasses.field(default_factory=list)
    line: list[Place] = dataclasses.field(default_factory=list)
    picks: int = 0
    out_of_turn: int = 0


@dataclasses.dataclass(eq=False)
class Port:
    cq_depth: int
    room: int
    """Events that it may hold."""
    release_on_recv: bool = False
    fed_by: Queue | None = None
    """For a directed port."""
    links: dict[int, tuple[Queue, int]] = dataclasses.field(default_factory=dict)
    """Queue and priority, by the queue's identity."""
    enabled: bool = True
    held: list[Held] = dataclasses.field(default_factory=list)
    later: int = 0
    calls: int = 0
    out_of_turn: int = 0


class Domain:
    def __init__(self, credits: int) -> None:
        self.credits = self.total_credits = credits
        self.ports: list[Port] = []
        self.started = False
        self.enqueued = self.scheduled = 0

    # ---- in -------------------------------------------------------------------------------------------------------

    def refusal(self, port: Port, event: Event, *, forward: bool) -> str | None:
        """Why an event is not taken; None if it is."""
        if not self.started:
            return "not started"
        if not port.enabled:
            return "disabled"
        if forward and not port.held:
            return "holds no event"
        if event.queue is None:
            return "no .* queue of that number"
        if event.sched not in event.queue.kinds:
            return "does not do"
        return None if self.credits else "no credit"

    def send(self, port: Port, events: list[Event], *, forward: bool = False) -> tuple[int, str | None]:
        """How many are taken, and why not the next."""
        for taken, event in enumerate(events):
            if refusal := self.refusal(port, event, forward=forward):
                return taken, refusal
            self.credits -= 1
            self.enqueued += 1
            if forward:
                self._complete_oldest(port, event)
            else:
                self._append(event)
        return len(events), None

    def _append(self, event: Event) -> None:
        assert event.queue is not None
        event.queue.waiting.append(event)

    # ---- held -----------------------------------------------------------------------------------------------------

    def release(self, port: Port, count: int) -> int:
        self._settle_later(port)
        return self._complete(port, count)

    def release_later(self, port: Port, count: int) -> None:
        port.later += count

    def _settle_later(self, port: Port) -> None:
        self._complete(port, port.later)
        port.later = 0

    def _complete(self, port: Port, count: int) -> int:
        completed = min(count, len(port.held))
        for _ in range(completed):
            self._complete_oldest(port, None)
        return completed

    def _complete_oldest(self, port: Port, successor: Event | None) -> None:
        held = port.held.pop(0)
        if held.place is None:
            if successor:
                self._append(successor)
            return
        held.place.open = False
        held.place.taken_by = successor
        line = held.event.queue.line
        while line and not line[0].open:
            if event := line.pop(0).taken_by:
                self._append(event)

    def close(self, port: Port) -> None:
        port.later = 0
        self._complete(port, len(port.held))
        self.ports.remove(port)

    # ---- out ------------------------------------------------------------------------------------------------------

    def in_flight(self, queue: Queue) -> int:
        return sum(held.event.queue is queue for port in self.ports for held in port.held)

    def _held_elsewhere(self, port: Port, event: Event) -> bool:
        return any(
            held.event.queue is event.queue and held.event.sched == ATOMIC and held.event.flow == event.flow
            for other in self.ports
            if other is not port
            for held in other.held
        )

    def eligible(self, port: Port, queue: Queue) -> list[Event]:
        """Events of the queue that the port might be given next."""
        if not port.enabled or len(port.held) >= port.room:
            return []
        if id(queue) not in port.links and port.fed_by is not queue:
            return []
        if port.fed_by is None and self.in_flight(queue) >= queue.limit:
            return []
        found, seen = [], set()
        for event in queue.waiting:
            key = event.priority, event.sched, event.flow if event.sched == ATOMIC else None
            if key in seen:
                continue
            seen.add(key)
            if event.sched == ORDERED and len(queue.line) >= queue.window:
                continue
            if event.sched == ATOMIC and self._held_elsewhere(port, event):
                continue
            found.append(event)
        return found

    def sources(self, port: Port) -> list[tuple[Queue, int]]:
        return [(port.fed_by, 0)] if port.fed_by else list(port.links.values())

    def before_recv(self, port: Port) -> None:
        self._settle_later(port)
        if port.release_on_recv:
            self._complete(port, len(port.held))
        port.calls += 1

    def take(self, port: Port, data: int) -> bool:
        """The port received an event with this `data`: find it, judge it. False if a better link had work."""
        for queue, priority in self.sources(port):
            for event in queue.waiting:
                if event.data == data:
                    break
            else:
                continue
            eligible = self.eligible(port, queue)
            assert event in eligible, f"{event.data} was not eligible"
            in_turn = not any(better < priority and self.eligible(port, other) for other, better in self.sources(port))
            queue.picks += 1
            queue.out_of_turn += min(candidate.priority for candidate in eligible) < event.priority
            queue.waiting.remove(event)
            self.credits += 1
            self.scheduled += 1
            if port.fed_by is None:
                place = Place() if event.sched == ORDERED else None
                if place:
                    queue.line.append(place)
                port.held.append(Held(event, place))
            return in_turn
        raise AssertionError(f"{data} waits in no queue that feeds the port")

    def anything_eligible(self, port: Port) -> bool:
        """Whether a receive would bring anything. A full line stops its whole queue."""
        return any(self.eligible(port, queue) for queue, _ in self.sources(port) if len(queue.line) < queue.window)
