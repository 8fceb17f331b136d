"""Processes that are killed while they work on a shared domain."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLS = 25
BURST = 64


@contextlib.contextmanager
def shared_domain() -> Iterator[pydlb.Domain]:
    with (
        pydlb.open("software") as device,
        device.create_domain(shared=True) as domain,
        pydlb.Sharing(domain),
    ):
        yield domain


def work_for_ever(shared: pydlb.SharedPort) -> None:
    """In the other process: take and release, as fast as it can."""
    port = shared.open()
    while True:
        port.release(len(port.recv(8)))


@pytest.fixture
def seed() -> int:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    return seed


def test_survivors_have_the_rest_of_what_killed_ones_worked_on(seed: int) -> None:
    """Whatever they were doing: nothing is locked, nothing comes twice, and the account is even."""
    draw = random.Random(seed)
    context = multiprocessing.get_context("fork")
    with shared_domain() as domain:
        queue, sender, survivor = domain.create_ldb_queue(), domain.create_dir_port(), domain.create_ldb_port()
        survivor.link(queue)
        domain.start()
        seen: set[int] = set()
        sent = 0

        def send() -> None:
            nonlocal sent
            flows = np.arange(sent, sent + BURST) % 7
            sent += sender.send(
                pydlb.make_events(range(sent, sent + BURST), queue, flow=flows, sched=pydlb.Sched.ATOMIC)
            )

        def take() -> int:
            got = survivor.recv(32, timeout=0)["data"].tolist()
            assert len(got) == len(set(got))
            assert seen.isdisjoint(got)
            seen.update(got)
            survivor.release(32)
            return len(got)

        for _ in range(KILLS):
            victim = domain.create_ldb_port()
            victim.link(queue)
            shared = pydlb.SharedPort(victim)
            process = context.Process(target=work_for_ever, args=(shared,), daemon=True)
            process.start()
            until = draw.randrange(1, 2000)
            patience = time.monotonic() + 60
            while victim.stats().received < until:
                assert time.monotonic() < patience, "the other process takes nothing"
                send()
                take()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            shared.bury()
            victim.close()
        while take():
            pass
        stats = domain.stats()
        assert (stats.queued, stats.enqueued, stats.scheduled) == (0, sent, sent)


def test_burying_somebody_who_never_came_changes_nothing() -> None:
    with shared_domain() as domain, domain.create_ldb_port() as port:
        shared = pydlb.SharedPort(port)
        assert shared.bury() == 0
    with pytest.raises(pydlb.ClosedError):
        shared.bury()


def bury(shared: pydlb.SharedPort) -> None:
    with pytest.raises((pydlb.ConfigError, pydlb.ClosedError)):
        shared.bury()


def test_only_the_creator_buries() -> None:
    with shared_domain() as domain, domain.create_ldb_port() as port:
        process = multiprocessing.get_context("fork").Process(target=bury, args=(pydlb.SharedPort(port),))
        process.start()
        process.join()
        assert process.exitcode == 0
        process.close()
