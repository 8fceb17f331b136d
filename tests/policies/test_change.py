"""Policies and workers that change while connections come."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import policies

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.alone

ALL = ["dlb", "exact", "nop", "random", "round_robin", "least", "hash", lambda workers, _: workers[0]]
PICKING = ["exact", "random", "round_robin", "least", "hash"]


def test_the_policy_may_change_at_any_time(house: Callable[..., Any]) -> None:
    made = house(4)
    for policy in ALL * 2:
        made.balancer.policy = policy
        made.visit(5)
    made.balancer.policy = "exact"
    made.visit(40)
    assert made.spread <= 1, made.counts  # it counts what others have brought
    assert sum(made.counts) == 5 * 2 * len(ALL) + 40


def test_the_policy_changes_under_load(house: Callable[..., Any]) -> None:
    made = house(4)
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for policy in ALL:
                made.balancer.policy = policy

    changer = threading.Thread(target=change)
    changer.start()
    try:
        clients = made.connect(400)
        assert all(made.answers(clients))
    finally:
        over.set()
        changer.join()
    stats = made.balancer.stats()
    assert (stats.open, stats.waiting, stats.refused) == (400, 0, 0)


@pytest.mark.parametrize("policy", ALL)
def test_a_paused_worker_gets_nothing(policy: Any, house: Callable[..., Any]) -> None:
    made = house(2, policy=policy)
    made.balancer.pause_worker(made.workers[0])
    assert set(made.visit(6)) == {"worker_1"}
    made.balancer.resume_worker(made.workers[0])
    made.balancer.pause_worker(made.workers[1])
    assert set(made.visit(6)) == {"worker_0"}


@pytest.mark.parametrize("policy", PICKING)
def test_what_waits_for_a_stalled_worker_goes_to_others(policy: Any, house: Callable[..., Any]) -> None:
    made = house(3, policy=policy)
    for holder in made.holders[:2]:
        holder.may_go_on.clear()
    clients = made.connect(12)
    assert len(made.answers(clients)) == 12
    assert sum(made.counts) == 12
    assert made.counts[2] >= 10
    made.holders[0].may_go_on.set()
    made.holders[1].may_go_on.set()
    made.balancer.policy = "exact"
    for _ in range(100):  # those that stalled are picked again; on a busy machine, they may stall once more
        made.visit(1)
        if made.spread <= 1:
            break
    assert made.spread <= 1, made.counts


def test_what_waits_for_a_worker_that_is_paused_goes_to_others_at_once(house: Callable[..., Any]) -> None:
    made = house(2, policy=policies.Exact(tie="first"), grace=3000.0)
    made.holders[0].may_go_on.clear()
    first = made.connect(1)
    assert made.answers(first) == ["worker_0"]
    rest = made.connect(3)
    made.wait_until(lambda: made.balancer.stats().workers[0].waiting == 1)
    made.balancer.pause_worker(made.workers[0])
    assert made.answers(rest) == ["worker_1"] * 3
    assert made.balancer.stats().taken_back == 1
    made.holders[0].may_go_on.set()


def test_what_waits_for_a_worker_that_is_removed_goes_to_others(house: Callable[..., Any]) -> None:
    made = house(2, policy=policies.Exact(tie="first"), grace=3000.0)
    made.holders[0].may_go_on.clear()
    made.visit(1)
    rest = made.connect(3)
    made.wait_until(lambda: made.balancer.stats().workers[0].waiting == 1)
    made.balancer.remove_worker(made.workers[0], timeout=0)
    assert made.answers(rest) == ["worker_1"] * 3


def test_a_drained_worker_finishes_what_it_has(house: Callable[..., Any]) -> None:
    made = house(2, policy="exact")
    made.visit(4)
    assert made.balancer.drain_worker(made.workers[0], timeout=0) == 2
    assert set(made.visit(2)) == {"worker_1"}
    made.holders[0].close_all()
    assert made.balancer.drain_worker(made.workers[0]) == 0
    made.balancer.resume_worker(made.workers[0])
    assert set(made.visit(2)) == {"worker_0"}


def test_workers_come_and_go(house: Callable[..., Any]) -> None:
    made = house(2, policy="exact", grace=1.0)
    for _ in range(40):  # more often than there are queues or ports
        worker = made.balancer.worker()
        thread = threading.Thread(target=lambda worker=worker: [one.close() for one in worker])
        thread.start()
        made.balancer.remove_worker(worker)
        thread.join()
    assert len(made.visit(4)) == 4


def test_wrong_arguments_change_nothing(house: Callable[..., Any]) -> None:
    made = house(2, policy="exact")
    for wrong in ("best", 7, None, policies.Exact, object()):
        with pytest.raises(pydlb.ConfigError, match="policy is"):
            made.balancer.policy = wrong
    for weight in (-1, 1001):
        with pytest.raises(pydlb.ConfigError, match="weight is"):
            made.balancer.set_weight(made.workers[0], weight)
    for wrong_options in ({"tie": "last"},):
        with pytest.raises(pydlb.ConfigError, match="tie is"):
            policies.Exact(**wrong_options)
    with pytest.raises(pydlb.ConfigError, match="choices"):
        policies.Least(choices=0)
    with pytest.raises(pydlb.ConfigError, match="bound"):
        policies.Hash(bound=1)
    stranger = house(1).workers[0]
    for call in (made.balancer.pause_worker, made.balancer.resume_worker, made.balancer.drain_worker):
        with pytest.raises(pydlb.ConfigError, match="not a worker"):
            call(stranger)
    assert str(made.balancer.policy) == "exact"
    made.visit(2)
    assert made.counts == [1, 1]
