"""Two stages: four workers forward after random delays, and at the second queue the order of arrival is restored."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pydlb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from conftest import Team

WORKERS = 4
WINDOW = 2048  # events under way at once: fewer than the domain has credits, so that a worker can always forward
SEED = int(os.environ.get("PDLB_TEST_SEED") or random.SystemRandom().getrandbits(32))


@pytest.fixture(autouse=True)
def _show_seed() -> None:
    print(f"PDLB_TEST_SEED={SEED}")


def dropped(data: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which events a dropping worker releases instead of forwarding them."""
    return data % 7 == 3


@pytest.mark.parametrize("dropping", [False, True])
def test_order_of_arrival_is_restored(domain: pydlb.Domain, team: Team, events: int, dropping: bool) -> None:
    first = domain.create_ldb_queue(sequence_numbers=64)
    second = domain.create_dir_queue()
    producer = domain.create_dir_port()
    sink = domain.create_dir_port(second, cq_depth=64)
    workers = [domain.create_ldb_port(cq_depth=8) for _ in range(WORKERS)]
    arrived: list[NDArray[np.uint64]] = []
    for port in workers:
        port.link(first)
    domain.start()

    def produce() -> None:
        chance = random.Random(SEED)
        sent = 0
        while sent < events:
            batch = np.arange(sent, min(events, sent + chance.randint(1, 64)), dtype=np.uint64)
            while sent - team.progress > WINDOW:
                time.sleep(0)
            assert producer.send(pydlb.make_events(batch, first), timeout=None) == len(batch)
            sent += len(batch)

    def forward_all(port: pydlb.Port, batch: NDArray[np.void]) -> None:
        batch["queue"] = second.id
        batch["sched"] = pydlb.Sched.DIRECTED
        while len(batch):
            batch = batch[port.forward(batch) :]

    def work(number: int) -> None:
        chance = random.Random(SEED + 1 + number)
        try:
            while True:
                batch = workers[number].recv(chance.randint(1, 8))
                if chance.random() < 0.3:
                    time.sleep(chance.random() * 1e-4)
                drop = dropped(batch["data"]) if dropping else np.zeros(len(batch), dtype=bool)
                for event, gone in zip(np.split(batch, len(batch)), drop, strict=True):
                    if gone:
                        assert workers[number].release() == 1
                    else:
                        forward_all(workers[number], event)
                team.advance(int(np.count_nonzero(drop)))
        except pydlb.ClosedError:
            return

    def collect() -> None:
        try:
            while True:
                batch = sink.recv(64)
                arrived.append(batch["data"].copy())
                team.advance(len(batch))
        except pydlb.ClosedError:
            return

    team.start(collect)
    for number in range(WORKERS):
        team.start(work, number)
    team.start(produce)
    try:
        team.wait_for(events)
    finally:
        for port in (*workers, sink):
            port.close()
    team.join()
    expected = np.arange(events, dtype=np.uint64)
    if dropping:
        expected = expected[~dropped(expected)]
    np.testing.assert_array_equal(np.concatenate(arrived), expected)
