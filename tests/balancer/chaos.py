"""Everything that may happen to a balancer, at random and for as long as is wanted, while clients keep count.

    python tests/balancer/chaos.py --seconds 300 [--rate 1000] [--seed N] [--backend emulated|software]

Workers are added, removed, drained, paused and stalled, weights, policy and limits changed, listeners opened and
closed, and the device reset. Every client must be answered, and the balancer's account must be theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pydlb
from pydlb import policies
from pydlb.adapters.streams import StreamAdapter
from pydlb.loops import LoopWorker
from pydlb.testing import EmulatedDevice
from pydlb.workers import ThreadWorker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

PATIENCE = 60.0
FEWEST, MOST = 2, 8  # workers
POLICIES = ["dlb", "exact", "nop", "random", "round_robin", "least", "hash", policies.Exact(per_listener=True)]


class Clients:
    """Threads that connect, ask and wait for the answer, at a rate that they share."""

    def __init__(self, rate: float, count: int) -> None:
        self.addresses: list[Any] = []
        self.answered = 0
        self.failures: list[str] = []
        self._connecting: Counter[Any] = Counter()
        self._pause = count / rate
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            try:
                self._ask()
            except (OSError, AssertionError) as error:
                with self._lock:
                    self.failures.append(repr(error))
            due = max(due + self._pause, time.monotonic() - 1)
            self._over.wait(max(0.0, due - time.monotonic()))

    def _ask(self) -> None:
        with self._lock:
            address = random.choice(self.addresses)
            self._connecting[address] += 1
        try:
            client = socket.create_connection(address, PATIENCE)
        finally:
            with self._lock:
                self._connecting[address] -= 1
        with client:
            client.sendall(b"question")
            answer = b""
            while part := client.recv(100):
                answer += part
        assert answer == b"answer", f"it said {answer!r}"
        with self._lock:
            self.answered += 1

    def forget(self, address: Any) -> None:
        """Connect there no more; returns once nobody is about to."""
        with self._lock:
            self.addresses = [other for other in self.addresses if other != address]
        while self._connecting[address]:
            time.sleep(0.001)


class Chaos:
    """A balancer, its clients, and what is done to it."""

    def __init__(self, *, rate: float, seed: int, backend: str, accept: Any = "native", loop: str = "none") -> None:
        self.chance = random.Random(seed)
        self.emulated = EmulatedDevice() if backend == "emulated" else None
        self.stall_until = 0.0
        self.done: dict[str, int] = {}
        # Envoy's way where workers accept.
        parity: dict[str, Any] = {"release": "receive", "queue_depth": 8, "receive_batch": 32}
        self.balancer = pydlb.Balancer(
            0,
            backend=self.emulated or "software",
            max_workers=MOST,
            accept=accept,
            **parity if accept == "workers" else {},
        )
        self.make_runner = functools.partial(ThreadWorker, handler=self.handler) if loop == "none" else self.loops(loop)
        self.clients = Clients(rate, 8)
        self.listeners = [self.balancer.listen(backlog=4096)]
        self.clients.addresses = [self.balancer.address(self.listeners[0])]
        for _ in range(FEWEST):
            self.add()

    # ---- what is done ----------------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The same on an event loop; who takes its time keeps the loop from everything else."""
        if time.monotonic() < self.stall_until:
            time.sleep(0.05)  # noqa: ASYNC251 - as bad handlers do
        assert await reader.read(100) == b"question"
        writer.write(b"answer")
        writer.close()

    def handler(self, connection: pydlb.Connection) -> None:
        """Answers; one in a while takes its time."""
        if time.monotonic() < self.stall_until:
            time.sleep(0.05)
        assert connection.socket.recv(100) == b"question"
        connection.socket.sendall(b"answer")

    def loops(self, name: str) -> Callable[[pydlb.Worker], LoopWorker]:
        factory = None
        if name == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        make_adapter = functools.partial(StreamAdapter, self.serve, limit=2**16)
        return functools.partial(LoopWorker, make_adapter=make_adapter, loop_factory=factory)

    def add(self) -> None:
        if len(self.balancer.workers) < MOST:
            self.balancer.add(self.make_runner)

    def remove(self) -> None:
        if len(self.balancer.workers) > FEWEST:
            self.balancer.remove_worker(self.chance.choice(self.balancer.workers), timeout=PATIENCE)

    def drain(self) -> None:
        worker = self.chance.choice(self.balancer.workers)
        self.balancer.drain_worker(worker, PATIENCE)
        self.balancer.resume_worker(worker)

    def pause_and_resume(self) -> None:
        worker = self.chance.choice(self.balancer.workers)
        self.balancer.pause_worker(worker)
        time.sleep(self.chance.random() * 0.02)
        self.balancer.resume_worker(worker)

    def stall(self) -> None:
        self.stall_until = time.monotonic() + 0.1

    def weigh(self) -> None:
        with contextlib.suppress(pydlb.ResourceExhausted):
            self.balancer.set_weight(self.chance.choice(self.balancer.workers), self.chance.choice([1, 2, 5]))

    def change_policy(self) -> None:
        with contextlib.suppress(pydlb.ResourceExhausted):
            self.balancer.policy = self.chance.choice([*POLICIES, lambda workers, _: self.chance.choice(workers)])

    def change_limits(self) -> None:
        limits = [
            None,
            pydlb.Limits(total=6),
            pydlb.Limits(per_worker=3),
            pydlb.Limits(per_worker=1, when_full="overflow"),
        ]
        with contextlib.suppress(pydlb.ResourceExhausted):
            self.balancer.limits = self.chance.choice(limits)

    def listen(self) -> None:
        self.listeners.append(self.balancer.listen(backlog=4096))
        self.clients.addresses = [*self.clients.addresses, self.balancer.address(self.listeners[-1])]

    def unlisten(self) -> None:
        """Nobody is told to connect there any more; who has, is served."""
        if len(self.listeners) > 1:
            listener = self.listeners.pop()
            self.clients.forget(self.balancer.address(listener))
            self.balancer.unlisten(listener, PATIENCE)

    def pause_accepting(self) -> None:
        self.balancer.pause()
        time.sleep(self.chance.random() * 0.02)
        self.balancer.resume()

    def reset(self) -> None:
        if self.emulated is not None:
            self.emulated.reset()

    # ---- the run ---------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> pydlb.BalancerStats:
        actions: list[Callable[[], None]] = [
            self.add,
            self.remove,
            self.drain,
            self.pause_and_resume,
            self.stall,
            self.weigh,
            self.change_policy,
            self.change_limits,
            self.listen,
            self.unlisten,
            self.pause_accepting,
        ]
        end = time.monotonic() + seconds
        next_reset = time.monotonic() + 1
        self.clients.start()
        try:
            while time.monotonic() < end:
                action = self.chance.choice(actions)
                if time.monotonic() >= next_reset:
                    action, next_reset = self.reset, time.monotonic() + 2
                action()
                self.done[action.__name__] = self.done.get(action.__name__, 0) + 1
                self.check()
                time.sleep(self.chance.random() * 0.02)
        finally:
            self.clients.stop()
            self.balancer.limits = None
            stats = self.balancer.close(PATIENCE)
        return stats

    def check(self) -> None:
        stats = self.balancer.stats()
        assert stats.accepted == stats.waiting + stats.open + stats.served + stats.refused + stats.aborted
        assert min(stats.waiting, stats.open, stats.served, stats.refused, stats.aborted) >= 0

    def verdict(self, stats: pydlb.BalancerStats) -> list[str]:
        """What is wrong; nothing, if nothing is."""
        wrong = (
            [f"{len(self.clients.failures)} clients failed: {self.clients.failures[:5]}"]
            if self.clients.failures
            else []
        )
        if not stats.accepted == stats.served == self.clients.answered:
            wrong.append(f"{self.clients.answered} answered, {stats.accepted} accepted, {stats.served} served")
        if self.emulated is not None and self.emulated.misuses:
            wrong.append(f"the device was misused: {self.emulated.misuses}")
        return wrong


def main() -> int:
    """Run, and tell."""
    parser = argparse.ArgumentParser(description="Everything that may happen to a balancer.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000, help="connections per second")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--backend", choices=["emulated", "software"], default="emulated")
    parser.add_argument("--accept", choices=["native", "workers"], default="native")
    parser.add_argument("--loop", choices=["none", "asyncio", "uvloop"], default="none", help="none: plain threads")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chaos = Chaos(
        rate=options.rate, seed=options.seed, backend=options.backend, accept=options.accept, loop=options.loop
    )
    stats = chaos.run(options.seconds)
    print(json.dumps(chaos.done))
    names = (
        "accepted",
        "served",
        "refused",
        "aborted",
        "fallbacks",
        "recoveries",
        "resent",
        "taken_back",
        "limited",
        "kept",
    )
    figures = ", ".join(f"{getattr(stats, name)} {name.replace('_', ' ')}" for name in names)
    print(f"{chaos.clients.answered} answered in {options.seconds:.0f} s; {figures}")
    wrong = chaos.verdict(stats)
    print("\n".join(wrong) or "the account is right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
