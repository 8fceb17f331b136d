#!/usr/bin/env python3
"""Queues and ports without connections: two producers, four consumers, and flows that stay in order.

    python examples/raw_events.py [--events 100000]

Events of one flow are never with two consumers at once, so each can count its flows without a lock.
"""

from __future__ import annotations

import argparse
import sys
import threading

import numpy as np

import pydlb

FLOWS = 64
PRODUCERS = 2
CONSUMERS = 4


def produce(port: pydlb.Port, queue: pydlb.LDBQueue, count: int, flows: range) -> None:
    """Send `count` numbered events to each of the flows."""
    numbers = np.repeat(np.arange(count, dtype=np.uint64), len(flows))
    names = np.tile(np.array(flows, dtype=np.uint16), count)
    events = pydlb.make_events(numbers, queue, sched=pydlb.Sched.ATOMIC, flow=names)
    for start in range(0, len(events), 256):
        port.send(events[start : start + 256], timeout=None)


def consume(port: pydlb.Port, expected: list[int], over: threading.Event) -> int:
    """Receive until all is over; every flow's events must come in order. Returns how many came."""
    received = 0
    while not over.is_set():
        events = port.recv(32, timeout=0.05)
        for number, flow in zip(events["data"].tolist(), events["flow"].tolist(), strict=True):
            if number != expected[flow]:
                raise AssertionError(f"flow {flow}: {number} came where {expected[flow]} was next")
            expected[flow] += 1
        port.release(len(events))
        received += len(events)
    return received


def main() -> int:
    """Move the events and say who moved how many."""
    parser = argparse.ArgumentParser(description="Events in atomic flows through a load-balanced queue.")
    parser.add_argument("--events", type=int, default=100_000, help="how many, roughly (default: %(default)s)")
    per_flow = max(1, parser.parse_args().events // FLOWS)
    expected = [0] * FLOWS
    over = threading.Event()
    moved = [0] * CONSUMERS
    with pydlb.open("software") as device, device.create_domain() as domain:
        queue = domain.create_ldb_queue(atomic_inflights=1024)
        consumers = [domain.create_ldb_port() for _ in range(CONSUMERS)]
        for port in consumers:
            port.link(queue)
        producers = [domain.create_dir_port() for _ in range(PRODUCERS)]
        domain.start()

        def run(index: int) -> None:
            moved[index] = consume(consumers[index], expected, over)

        share = FLOWS // PRODUCERS
        workers = [threading.Thread(target=run, args=(index,)) for index in range(CONSUMERS)]
        senders = [
            threading.Thread(target=produce, args=(port, queue, per_flow, range(n * share, (n + 1) * share)))
            for n, port in enumerate(producers)
        ]
        for thread in [*workers, *senders]:
            thread.start()
        for thread in senders:
            thread.join()
        while domain.stats().queued or any(port.in_flight for port in consumers):
            over.wait(0.01)
        over.set()
        for thread in workers:
            thread.join()
    total = per_flow * FLOWS
    print(f"{sum(moved)} of {total} events in {FLOWS} flows, in order, by {moved} per consumer")
    return 0 if sum(moved) == total else 1


if __name__ == "__main__":
    sys.exit(main())
