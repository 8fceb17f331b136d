"""Any sequence of operations, compared with the naive model after each."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import note, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pydlb

from . import model

FLOWS = 3
NO_QUEUE = 99

queue_configs = st.lists(
    st.fixed_dictionaries(
        {
            "sequence_numbers": st.sampled_from([64, 0]),
            "inflights": st.sampled_from([0, 0, 1, 3]),
            "atomic_inflights": st.sampled_from([64, 64, 0]),
        }
    ),
    min_size=1,
    max_size=3,
)
port_configs = st.fixed_dictionaries(
    {
        "cq_depth": st.sampled_from([1, 4, 32]),
        "history_entries": st.sampled_from([1, 5, 40]),
        "release": st.sampled_from(["explicit", "explicit", "on_recv"]),
    }
)


def holds_events(machine: Comparison) -> bool:
    return any(port.held for port in machine.model.ports)


class Comparison(RuleBasedStateMachine):
    """The engine on one side, the model on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.device = pydlb.open("software")
        self.next_data = 0

    @initialize(
        credits=st.sampled_from([200, 20, 5]),
        queues=queue_configs,
        ports=st.lists(port_configs, min_size=2, max_size=4),
    )
    def create(self, credits: int, queues: list[dict[str, int]], ports: list[dict[str, Any]]) -> None:
        self.domain = self.device.create_domain(credits=credits)
        self.model = model.Domain(credits)
        self.queues: list[tuple[pydlb.Queue, model.Queue]] = []
        for config in queues:
            kinds = {model.ORDERED if config["sequence_numbers"] else model.UNORDERED}
            if config["atomic_inflights"]:
                kinds.add(model.ATOMIC)
            queue = model.Queue(kinds)
            queue.limit = config["inflights"] or queue.limit
            queue.window = config["sequence_numbers"] or queue.window
            self.queues.append((self.domain.create_ldb_queue(**config), queue))
        directed = self.domain.create_dir_queue(), model.Queue({model.DIRECTED})
        self.queues.append(directed)
        self.ports = [(self.domain.create_dir_port(directed[0]), model.Port(32, 1 << 30, fed_by=directed[1]))]
        self.model.ports.append(self.ports[0][1])
        for number, config in enumerate(ports):
            self.add_port(config, number)
        self.domain.start()
        self.model.started = True

    # ---- rules: traffic, and as one rule whatever interrupts it ---------------------------------------------------

    index = st.integers(0, 59)
    recipes = st.lists(st.integers(0, 2**17 - 1), min_size=1, max_size=16)

    @rule(port=index, recipes=recipes)
    def send(self, port: int, recipes: list[int]) -> None:
        self.send_or_forward(*self.ports[port % len(self.ports)], recipes, forward=False)

    @rule(port=index, recipes=recipes)
    def send_more(self, port: int, recipes: list[int]) -> None:
        self.send(port, recipes)

    @rule(port=index, recipes=recipes)
    @precondition(holds_events)
    def forward(self, port: int, recipes: list[int]) -> None:
        self.send_or_forward(*self.holder(port), recipes, forward=True)

    @rule(port=index, queue=index)
    @precondition(holds_events)
    def forward_one(self, port: int, queue: int) -> None:
        self.send_or_forward(*self.holder(port), [queue % len(self.queues)], forward=True)

    @rule(port=index, count=st.integers(1, 40))
    def receive(self, port: int, count: int) -> None:
        real, modelled = self.receiver(port)
        self.model.before_recv(modelled)
        events = real.recv(count, timeout=0)
        assert len(events) <= min(count, modelled.cq_depth)
        self.judge(modelled, count, events["data"].tolist())

    @rule(port=index)
    def receive_one(self, port: int) -> None:
        real, modelled = self.receiver(port)
        self.model.before_recv(modelled)
        data = real.recv_one(timeout=0)
        self.judge(modelled, 1, [] if data is None else [data])

    @rule(port=index, count=st.integers(0, 10))
    @precondition(holds_events)
    def release(self, port: int, count: int) -> None:
        real, modelled = self.holder(port)
        assert real.release(count) == self.model.release(modelled, count)

    @rule(port=index, count=st.integers(1, 3))
    @precondition(holds_events)
    def release_later(self, port: int, count: int) -> None:
        real, modelled = self.holder(port)
        count = min(count, len(modelled.held) - modelled.later)
        real.release_later(count)
        self.model.release_later(modelled, count)

    @rule(port=index, queue=index, priority=st.integers(0, 7), config=port_configs, choice=st.integers(0, 9))
    def interrupt(self, port: int, queue: int, priority: int, config: dict[str, Any], choice: int) -> None:
        match choice:
            case 0 | 1 | 2:
                self.link(port, queue, priority)
            case 3 | 4:
                self.unlink(port, queue)
            case 5 | 6:
                self.disable_or_enable(port)
            case 7 | 8:
                self.replace(port, config)
            case 9:
                self.start_or_stop()

    # ---- what the rules do ----------------------------------------------------------------------------------------

    def add_port(self, config: dict[str, Any], priority: int) -> None:
        """A port linked to all load-balanced queues."""
        port = model.Port(config["cq_depth"], config["history_entries"], config["release"] == "on_recv")
        self.ports.append((self.domain.create_ldb_port(**config), port))
        self.model.ports.append(port)
        for queue in range(len(self.queues) - 1):
            self.link(len(self.ports) - 1, queue, (priority + queue) % 8)

    def holder(self, index: int) -> tuple[pydlb.Port, model.Port]:
        """One of the ports that hold events."""
        holders = [pair for pair in self.ports if pair[1].held]
        return holders[index % len(holders)]

    def receiver(self, index: int) -> tuple[pydlb.Port, model.Port]:
        """Any port for one in four indexes, for the others one for which there is something."""
        ports = [pair for pair in self.ports if self.model.anything_eligible(pair[1])] if index % 4 else self.ports
        return (ports or self.ports)[index // 4 % len(ports or self.ports)]

    def make_event(self, recipe: int) -> model.Event:
        """An event from the digits of a number."""
        digits = []
        for base in (len(self.queues), 2, FLOWS, 8, 300):
            recipe, digit = divmod(recipe, base)
            digits.append(digit)
        queue: model.Queue | None = self.queues[digits[0]][1]
        sched = sorted(queue.kinds)[digits[1] % len(queue.kinds)]
        if digits[4] == 1:
            queue = None
        elif digits[4] == 2 and sched != model.DIRECTED:  # perhaps not what its queue does
            sched = model.UNORDERED if sched == model.ORDERED else model.ORDERED
        self.next_data += 1
        return model.Event(self.next_data, queue, sched, digits[3], digits[2])

    def send_or_forward(self, real: pydlb.Port, modelled: model.Port, recipes: list[int], *, forward: bool) -> None:
        events = [self.make_event(recipe) for recipe in recipes]
        batch = pydlb.make_events([event.data for event in events], self.queues[0][0])
        for item, event in zip(batch, events, strict=True):
            number = next((queue.id for queue, other in self.queues if other is event.queue), NO_QUEUE)
            item["queue"], item["sched"], item["flow"] = number, event.sched | event.priority << 2, event.flow
        if modelled.later:  # a send is no occasion for what was put off; a release is, even of nothing
            assert real.release(0) == self.model.release(modelled, 0)
        taken, refusal = self.model.send(modelled, events, forward=forward)
        note(f"{taken} of {len(events)} events taken, refused because {refusal}")
        verb = real.forward if forward else real.send
        if refusal in (None, "no credit"):
            assert verb(batch) == taken
        else:
            with pytest.raises(pydlb.ConfigError, match=f"event {taken} was not taken.*{refusal}"):
                verb(batch)
        if refusal == "not started":
            self.start_or_stop()
        elif refusal == "disabled":
            self.disable_or_enable(0)

    def judge(self, modelled: model.Port, count: int, received: list[int]) -> None:
        """What came must have been eligible; where less came than asked for, nothing else may be."""
        in_turn = [self.model.take(modelled, data) for data in received]
        modelled.out_of_turn += not all(in_turn)
        if len(received) < min(count, modelled.cq_depth):
            assert not self.model.anything_eligible(modelled), f"{received}, yet there was more"

    def link(self, port: int, queue: int, priority: int) -> None:
        real, modelled = self.ports[port % len(self.ports)]
        queue_real, queue_modelled = self.queues[queue % (len(self.queues) - 1)]
        if isinstance(real, pydlb.LDBPort):
            real.link(queue_real, priority)
            modelled.links[id(queue_modelled)] = queue_modelled, priority

    def unlink(self, port: int, queue: int) -> None:
        real, modelled = self.ports[port % len(self.ports)]
        queue_real, queue_modelled = self.queues[queue % (len(self.queues) - 1)]
        if not isinstance(real, pydlb.LDBPort):
            return
        if modelled.links.pop(id(queue_modelled), None):
            real.unlink(queue_real)
        else:
            with pytest.raises(pydlb.ConfigError, match="not linked"):
                real.unlink(queue_real)

    def disable_or_enable(self, port: int) -> None:
        real, modelled = next((pair for pair in self.ports if not pair[1].enabled), self.ports[port % len(self.ports)])
        modelled.enabled = not modelled.enabled
        if modelled.enabled:
            real.enable()
        else:
            real.disable()

    def replace(self, port: int, config: dict[str, Any]) -> None:
        real, modelled = self.ports[port % len(self.ports)]
        if isinstance(real, pydlb.LDBPort):
            self.ports.remove((real, modelled))
            real.close()
            self.model.close(modelled)
            self.add_port(config, port)

    def start_or_stop(self) -> None:
        self.model.started = not self.model.started
        if self.model.started:
            self.domain.start()
        else:
            self.domain.stop()

    # ---- what is always true --------------------------------------------------------------------------------------

    @invariant()
    def accounts_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        stats = self.domain.stats()
        assert (stats.enqueued, stats.scheduled) == (self.model.enqueued, self.model.scheduled)
        assert stats.credits_free == self.model.credits
        assert stats.queued == self.model.total_credits - self.model.credits
        for queue, modelled in self.queues:
            assert queue.depth == len(modelled.waiting)
            assert modelled.out_of_turn <= modelled.picks / model.STARVATION_PERIOD + 1
        for port, modelled in self.ports:
            assert modelled.out_of_turn <= modelled.calls / model.STARVATION_PERIOD + 1
            if modelled.fed_by is None and not modelled.later:
                assert port.in_flight == len(modelled.held)

    def teardown(self) -> None:
        """All that was taken and not yet received can be received."""
        if hasattr(self, "model"):
            self.drain()
        self.device.close()

    def drain(self) -> None:
        if not self.model.started:
            self.start_or_stop()
        for number, (real, modelled) in enumerate(self.ports):
            real.enable()
            modelled.enabled = True
            for queue in range(len(self.queues) - 1):
                self.link(number, queue, 0)
        rounds = 0
        while self.model.credits < self.model.total_credits:
            for number in range(len(self.ports)):
                self.receive(4 * number, 40)
                real, modelled = self.ports[number]
                assert real.release(40) == self.model.release(modelled, 40)
            rounds += 1
            assert rounds < 10 * self.model.total_credits + 10, "what is left cannot be received"
        self.accounts_agree()


TestModel = Comparison.TestCase
TestModel.settings = settings(max_examples=6 * settings().max_examples, report_multiple_bugs=False)


def test_refusals_are_as_the_model_words_them() -> None:
    """So that a wrong word in the model cannot pass for a refusal."""
    from pydlb import errors

    for why, words in (
        (2, "not started"),
        (3, "disabled"),
        (5, "no .* queue of that number"),
        (6, "does not do"),
        (7, "holds no event"),
    ):
        assert re.search(words, str(errors.refused(why, 1, 1, 1)))
