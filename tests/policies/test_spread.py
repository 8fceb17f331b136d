"""How held connections are spread: by each policy, one by one and in bursts."""

from __future__ import annotations

import random
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pydlb import policies

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydlb import Worker

pytestmark = pytest.mark.alone

EVEN = ["dlb", "exact", "round_robin"]

# A machine that is busy with other things must not look like a worker that stalls.
PATIENT = 30.0


@pytest.mark.parametrize("policy", EVEN)
@pytest.mark.parametrize("count", [16, 64, 400])
def test_one_by_one_within_one(policy: Any, count: int, house: Callable[..., Any]) -> None:
    made = house(4, policy=policy, grace=PATIENT)
    made.visit(count)
    assert made.spread <= 1, made.counts


@pytest.mark.parametrize("policy", EVEN)
@pytest.mark.parametrize("count", [16, 64, 400])
def test_a_burst_within_two(policy: Any, count: int, house: Callable[..., Any]) -> None:
    made = house(4, policy=policy, grace=PATIENT)
    made.connect(count)
    made.wait_until(lambda: sum(made.counts) == count)
    assert made.spread <= 2, made.counts


@pytest.mark.parametrize("policy", ["nop", "random", "least", "hash", lambda workers, _: workers[-1]])
@pytest.mark.parametrize("count", [16, 64, 400])
def test_the_others_lose_none(policy: Any, count: int, house: Callable[..., Any]) -> None:
    """They promise no evenness; each connection has one worker all the same, one by one and in a burst."""
    made = house(4, policy=policy, grace=PATIENT)
    made.visit(count // 2)
    made.connect(count - count // 2)
    made.wait_until(lambda: sum(made.counts) == count)
    stats = made.balancer.stats()
    assert (stats.accepted, stats.open) == (count, count)


def test_exact_fills_up_those_that_have_less(house: Callable[..., Any]) -> None:
    made = house(4, policy="exact", grace=PATIENT)
    made.visit(40)
    made.holders[2].close_all()
    assert set(made.visit(10)) == {"worker_2"}
    assert made.counts == [10] * 4


@pytest.mark.parametrize(
    ("tie", "first"),
    [
        ("rotate", ["worker_0", "worker_1", "worker_2", "worker_3"]),
        ("first", ["worker_0", "worker_1", "worker_2", "worker_3"]),
    ],
)
def test_ties(tie: Any, first: list[str], house: Callable[..., Any]) -> None:
    made = house(4, policy=policies.Exact(tie=tie), grace=PATIENT)
    assert made.visit(4) == first
    for holder in made.holders:
        holder.close_all()
    made.wait_until(lambda: made.balancer.stats().open == 0)
    after = []
    for _ in range(4):  # with nothing open, all have as few
        after += made.visit(1)
        for holder in made.holders:
            holder.close_all()
    assert after == (first if tie == "rotate" else ["worker_0"] * 4)


def test_balance_is_over_all_listeners_or_per_listener(house: Callable[..., Any]) -> None:
    for per_listener, expected in [(False, {"worker_1"}), (True, {"worker_0"})]:
        made = house(2, policy=policies.Exact(tie="first", per_listener=per_listener), grace=PATIENT)
        other = made.balancer.listen()
        made.visit(1)
        assert set(made.visit(1, listener=other)) == expected


def test_random_is_repeatable_and_reaches_all(house: Callable[..., Any]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    first, second = (house(4, policy=policies.Random(seed), grace=PATIENT).visit(64) for _ in range(2))
    assert first == second
    assert len(set(first)) == 4


def test_least_of_two_is_near_even(house: Callable[..., Any]) -> None:
    made = house(4, policy=policies.Least(choices=2))
    made.visit(200)
    assert made.spread <= 8, made.counts
    everyone = house(4, policy=policies.Least(choices=4))
    everyone.visit(64)
    assert everyone.spread <= 1, everyone.counts


def test_hash_keeps_clients_together_within_the_bound(house: Callable[..., Any]) -> None:
    loose = house(4, policy=policies.Hash(bound=1000))
    sources = [f"127.0.0.{n}" for n in range(2, 18)]
    where = {source: set(loose.visit(3, source=source)) for source in sources}
    assert all(len(workers) == 1 for workers in where.values()), where
    assert len(set.union(*where.values())) > 1
    tight = house(4, policy=policies.Hash(bound=1.25))
    tight.visit(40)  # all from one client
    assert max(tight.counts) <= 13
    assert min(tight.counts) > 0


def test_hash_moves_only_the_clients_of_a_worker_that_leaves(house: Callable[..., Any]) -> None:
    made = house(4, policy=policies.Hash(bound=1000))
    sources = [f"127.0.0.{n}" for n in range(2, 34)]
    before = {source: made.visit(1, source=source)[0] for source in sources}
    gone = made.holders[1]
    gone.close_all()
    made.balancer.remove_worker(gone.worker)
    for source in sources:
        after = made.visit(1, source=source)[0]
        assert after == before[source] or before[source] == gone.worker.name
        assert after != gone.worker.name


def test_nop_gives_to_whoever_comes(house: Callable[..., Any]) -> None:
    made = house(4, policy="nop")
    for holder in made.holders[1:]:
        holder.may_go_on.clear()
    made.visit(8)
    assert made.counts[0] >= 5  # the only one that comes back for more


@pytest.mark.parametrize("policy", ["exact", "round_robin", "dlb"])
def test_weights(policy: Any, house: Callable[..., Any]) -> None:
    made = house(3, policy=policy, grace=PATIENT)
    for worker, weight in zip(made.workers, (1, 2, 5), strict=True):
        made.balancer.set_weight(worker, weight)
    made.visit(80)
    assert made.counts == [10, 20, 50]


def test_no_weight_no_connections(house: Callable[..., Any]) -> None:
    for policy in ("dlb", "exact", "random", "nop"):
        made = house(2, policy=policy)
        made.balancer.set_weight(made.workers[0], 0)
        assert set(made.visit(8)) == {"worker_1"}
        made.balancer.set_weight(made.workers[0], 1)
        made.holders[1].may_go_on.clear()
        made.visit(2)
        assert "worker_0" in made.visit(2)
        made.holders[1].may_go_on.set()


def test_a_function_picks(house: Callable[..., Any]) -> None:
    seen: list[policies.Arrival] = []

    def last(workers: tuple[Worker, ...], arrival: policies.Arrival) -> Worker | None:
        seen.append(arrival)
        return workers[-1]

    made = house(3, policy=last)
    client = made.connect()[0]
    assert client.recv(100) == b"worker_2"
    assert seen[0].listener == made.listener
    assert seen[0].address == client.getsockname()
    assert seen[0].current is None
    assert str(made.balancer.policy) == "last"


def test_a_function_sees_the_counts(house: Callable[..., Any]) -> None:
    made = house(4, policy=lambda workers, _: min(workers, key=lambda worker: worker.open), grace=PATIENT)
    made.visit(64)
    assert made.counts == [16] * 4


def test_a_function_that_fails_loses_nothing(house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Any] = []

    def fail(_: object, arrival: policies.Arrival) -> Worker | None:
        errors.append(arrival)
        raise RuntimeError("no idea")

    made = house(4, policy=fail)
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    made.visit(8)
    assert len(errors) == len(reported) == 8
    assert sum(made.counts) == 8


def test_a_policy_of_ones_own_knows_the_workers(house: Callable[..., Any]) -> None:
    class Sticky(policies.Policy):
        name = "sticky"

        def __init__(self) -> None:
            self.workers: list[Worker] = []

        def register(self, worker: Worker) -> None:
            self.workers.append(worker)

        def unregister(self, worker: Worker) -> None:
            self.workers.remove(worker)

        def pick(self, arrival: policies.Arrival) -> Worker | None:
            return self.workers[0]

    policy = Sticky()
    made = house(3, policy=policy)
    assert policy.workers == made.workers
    assert set(made.visit(4)) == {"worker_0"}
    made.holders[0].close_all()
    made.balancer.remove_worker(made.workers[0])
    assert set(made.visit(4)) == {"worker_1"}
    made.balancer.policy = "exact"
    assert policy.workers == []


def test_many_workers(house: Callable[..., Any]) -> None:
    made = house(40, policy="exact")
    assert len(Counter(made.visit(80))) == 40
    assert made.spread == 0
