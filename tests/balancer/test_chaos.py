"""A few seconds of everything that may happen; `make soak` goes on for longer."""

from __future__ import annotations

import os
import random

import pytest

from .chaos import Chaos

SECONDS = float(os.environ.get("PDLB_SOAK_SECONDS", "5"))
RATE = float(os.environ.get("PDLB_SOAK_RATE", "300"))


@pytest.mark.parametrize("accept", ["native", "workers"])
@pytest.mark.parametrize("backend", ["emulated", "software"])
@pytest.mark.timeout(SECONDS + 180)
def test_nothing_is_lost_whatever_happens(backend: str, accept: str) -> None:
    seed = int(os.environ.get("PDLB_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"seed {seed}")
    chaos = Chaos(rate=RATE, seed=seed, backend=backend, accept=accept)
    stats = chaos.run(SECONDS)
    print(chaos.done, stats)
    assert chaos.verdict(stats) == []
    assert stats.served > 0
