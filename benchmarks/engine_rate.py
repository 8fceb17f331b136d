#!/usr/bin/env python3
"""Rows 5 and 6: events a second through the C core, in one thread and between threads, beside DPDK's.

    python benchmarks/engine_rate.py [--rounds 7] [--json FILE]

Two-processor rates of a virtual machine swing tenfold from one moment to the next: of those the best round of each
side is compared. Needs the core's programs (make core-test) and DPDK for the peers.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

from programs import megaevents, ours, peer
from results import Result, alternate, program, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS = 3_000_000
MILLISECONDS = "200"


def one_thread(rounds: int, device: str, bar: float) -> Result:
    mine = functools.partial(megaevents, ours("bench_engine"), "--events", str(EVENTS))
    other = functools.partial(megaevents, peer("eventdev"), device, "atomic", "32", str(EVENTS // 3))
    figures = alternate(rounds, mine, other)
    what = f"events/s, atomic, batch 32, one thread, beside {device}"
    return ratio("5", what, *figures, bar=bar, better="more", unit="Mev/s")


def two_processors(rounds: int, mode: str, consumers: int, bar: float) -> Result:
    """The best round of each; the spread is that of the rounds' ratios."""
    mine = functools.partial(megaevents, ours("bench_threads"), "--consumers", str(consumers), "--ms", MILLISECONDS)
    other = functools.partial(megaevents, peer("rte_ring"), mode, "32", MILLISECONDS, "1", str(consumers))
    ours_, theirs = alternate(rounds, mine, other)
    spread = [a / b for a, b in zip(ours_, theirs, strict=True)]
    return Result(
        row="6",
        what=f"events/s, atomic, 1 to {consumers} threads on 2 processors, best, beside rte_ring {mode}",
        value=max(ours_) / max(theirs),
        least=min(spread),
        most=max(spread),
        bar=bar,
        better="more",
        ours=f"{max(ours_):.4g} Mev/s",
        theirs=f"{max(theirs):.4g} Mev/s",
    )


def measure(rounds: int) -> Iterator[Result]:
    """The rows that this program fills."""
    yield one_thread(rounds, "event_sw0", 8.0)
    yield one_thread(rounds, "event_dsw0", 1.7)
    yield two_processors(3 * rounds, "mt", 1, 0.7)
    yield two_processors(3 * rounds, "rts", 4, 1.5)


if __name__ == "__main__":
    sys.exit(program("Events a second through the C core, beside DPDK's.", measure))
