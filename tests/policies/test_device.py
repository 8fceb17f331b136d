"""On a device: directed ports where workers are picked, the history list where a queue is shared."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb.testing import EmulatedDevice

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS = ["2.0", "2.5"]

# Where evenness is asserted, a machine that is busy with other things must not look like a worker that stalls.
PATIENT = 30.0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("policy", ["exact", "round_robin"])
@pytest.mark.parametrize("count", [16, 64, 400])
def test_where_the_balancer_steers_counts_are_even(
    version: Any, policy: str, count: int, house: Callable[..., Any]
) -> None:
    made = house(4, policy=policy, backend=EmulatedDevice(version), grace=PATIENT)
    made.visit(count)
    assert made.spread <= 1, made.counts


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("policy", ["exact", "round_robin"])
@pytest.mark.parametrize("count", [16, 64, 400])
def test_a_burst_within_two(version: Any, policy: str, count: int, house: Callable[..., Any]) -> None:
    made = house(4, policy=policy, backend=EmulatedDevice(version), grace=PATIENT)
    made.connect(count)
    made.wait_until(lambda: sum(made.counts) == count)
    assert made.spread <= 2, made.counts


@pytest.mark.parametrize("policy", ["random", "least", "hash", "nop", lambda workers, _: workers[0]])
def test_every_policy_serves(policy: Any, house: Callable[..., Any]) -> None:
    made = house(4, policy=policy, backend=EmulatedDevice())
    made.visit(64)
    assert sum(made.counts) == 64


@pytest.mark.parametrize("version", VERSIONS)
def test_a_history_list_that_is_used_up_releases_on_receive(version: Any, house: Callable[..., Any]) -> None:
    """Each port holds its share of the device's history until connections are closed; the rest is counted."""
    made = house(2, backend=EmulatedDevice(version), grace=PATIENT)
    made.visit(20)
    assert made.balancer.stats().released_early == 0
    made.visit(100)
    stats = made.balancer.stats()
    assert sum(made.counts) == 120
    assert stats.released_early > 0
    for worker, port in zip(stats.workers, [holder.worker.port for holder in made.holders], strict=True):
        assert port.in_flight == worker.open - worker.released_early
    for holder in made.holders:
        holder.close_all()
    made.wait_until(lambda: made.balancer.stats().open == 0)
    made.wait_until(lambda: all(holder.worker.port.in_flight == 0 for holder in made.holders))
    made.visit(20)


@pytest.mark.parametrize(("version", "most"), [("2.0", 63), ("2.5", 95)])
def test_more_than_32_workers_by_directed_ports(version: Any, most: int, house: Callable[..., Any]) -> None:
    made = house(most, policy="exact", backend=EmulatedDevice(version), grace=PATIENT)
    made.visit(2 * most)
    assert made.counts == [2] * most


@pytest.mark.parametrize("policy", ["dlb", "exact"])
def test_for_more_workers_there_are_more_devices(policy: Any) -> None:
    """The error says so; and balancers on several devices share an address."""
    with contextlib.ExitStack() as stack:
        few = {"ldb_ports": 2, "dir_ports": 3}
        balancers = [
            stack.enter_context(pydlb.Balancer(0, policy=policy, backend=EmulatedDevice(limits=few))) for _ in range(2)
        ]
        workers = [balancer.worker() for balancer in balancers for _ in range(2)]
        with pytest.raises(pydlb.ResourceExhausted, match=r"another device.*reuse_port=True"):
            balancers[0].worker()
        port = balancers[0].address(balancers[0].listen(reuse_port=True))[1]
        balancers[1].listen(port=port, reuse_port=True)
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        taken = 0
        while taken < 20:
            for worker in workers:
                connections, _ = worker.receive(4)
                taken += len(connections)
                for connection in connections:
                    stack.callback(connection.close)
        assert sum(balancer.stats().open for balancer in balancers) == 20


def test_a_policy_that_needs_other_ports_moves_to_them(house: Callable[..., Any]) -> None:
    """From a shared queue to directed ports and back, with connections open all the while."""
    made = house(4, policy="dlb", backend=EmulatedDevice(), grace=PATIENT)
    made.visit(20)
    made.balancer.policy = "exact"
    made.visit(44)
    assert made.spread <= 1, made.counts
    made.balancer.set_weight(made.holders[0].worker, 3)
    made.balancer.policy = "dlb"
    made.balancer.set_weight(made.holders[0].worker, 1)
    made.balancer.policy = "dlb"
    made.visit(20)
    assert sum(made.counts) == 84
    assert made.balancer.backend == "the emulated device"
    assert made.balancer.stats().fallbacks == 0


def test_a_policy_that_finds_no_ports_changes_nothing(house: Callable[..., Any]) -> None:
    made = house(4, policy="dlb", backend=EmulatedDevice(limits={"dir_ports": 3}))
    with pytest.raises(pydlb.ResourceExhausted):
        made.balancer.policy = "exact"
    assert str(made.balancer.policy) == "dlb"
    made.visit(8)


@pytest.mark.parametrize("version", VERSIONS)
def test_several_balancers_on_one_device(version: Any, house: Callable[..., Any]) -> None:
    emulated = EmulatedDevice(version)
    made = [house(2, policy=policy, backend=emulated) for policy in ("dlb", "exact", "dlb", "hash")]
    for one in made:
        one.visit(8)
    emulated.reset()
    for one in made:
        one.wait_until(lambda one=one: one.balancer.stats().recoveries == 1)
        one.visit(8)
        assert sum(one.counts) == 16


# ---- a worker that does not come -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["dlb", "nop"])
@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_arbiter_gave_to_one_that_does_not_come_is_taken_back(version: Any, policy: Any) -> None:
    """It stands before that worker, and is sent again for the one that waits; the first one finds it stale later."""
    with pydlb.Balancer(0, policy=policy, backend=EmulatedDevice(version)) as balancer:
        lazy, other = balancer.worker(), balancer.worker()
        address = balancer.address(balancer.listen())
        assert lazy.receive(1) == ([], False)  # there is room before it from now on
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(socket.create_connection(address))
            for _ in range(4):
                connection = other.accept_blocking(30)
                assert connection is not None
                stack.callback(connection.close)
            stats = balancer.stats()
            assert (stats.accepted, stats.open, stats.waiting, other.stats().open) == (4, 4, 0, 4)
            assert stats.taken_back > 0
            assert lazy.receive(16)[0] == []
            stack.enter_context(socket.create_connection(address))
            balancer.pause_worker(other)
            connection = lazy.accept_blocking(30)
            assert connection is not None
            connection.close()
