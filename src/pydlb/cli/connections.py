"""Connections over loopback: pydlb's servers beside what people use without it."""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from . import servers
from .measure import CountError, Figures, Plan, alternate

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    Server = Callable[[int], contextlib.AbstractContextManager[int]]

__all__ = ["measure"]

# Descriptors for everything but the connections.
_DESCRIPTORS: Final = 200


def _load(port: int, workers: int, connections: int, clients: int, rate: float = 0.0) -> Figures:
    """Open connections from a process of its own; all must be answered."""
    command = [sys.executable, "-m", "pydlb.cli.load", *map(str, (port, connections, clients, rate))]
    start_cpu = time.process_time()
    # In a process group of its own, so that Ctrl-C does not end it before the run is over.
    result = subprocess.run(command, capture_output=True, text=True, check=False, process_group=0)
    cpu = time.process_time() - start_cpu
    if result.returncode:
        raise CountError(f"the client failed: {result.stderr.strip()}")
    told = json.loads(result.stdout)
    answered = sum(told["workers"])
    if told["failed"] or answered != connections:
        raise CountError(f"{answered} of {connections} connections were answered, {told['failed']} failed")
    return Figures(
        answered / told["seconds"],
        per_cpu=answered / cpu,
        latencies=told["latencies_us"],
        spread=[*told["workers"], *[0] * (workers - len(told["workers"]))],
    )


def _short(server: Server, workers: int, clients: int, connections: int) -> Figures:
    with server(workers) as port:
        return _load(port, workers, connections, clients)


def _held(server: Server, workers: int, rate: float, connections: int) -> Figures:
    with server(workers) as port:
        return _load(port, workers, connections, connections, rate)


def _make_room(connections: int) -> None:
    """Have descriptors for so many connections.

    Raises:
        OSError: This process may not have so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = connections + _DESCRIPTORS
    if hard != resource.RLIM_INFINITY and need > hard:
        raise OSError(f"{connections} connections need {need} descriptors; this process may have {hard} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and need > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def measure(plan: Plan, *, workers: int, clients: int, connections: int | None, held: int, rate: float) -> None:
    """Measure short connections on event loops and on plain threads, and how evenly held ones are spread.

    Args:
        plan: How.
        workers: Worker threads of each server.
        clients: Short connections at a time.
        connections: Short connections of each run; None for as many as are served in the planned time.
        held: Connections that are opened and stay open; 0 leaves them out.
        rate: How many of those are opened in a second.
    """
    _make_room(max(clients, held))
    loops: dict[str, Server] = {
        "pydlb.start_server": functools.partial(servers.pydlb_start_server, backend=plan.backend),
        "asyncio, shared listener": servers.asyncio_shared,
        "asyncio, SO_REUSEPORT": servers.asyncio_reuse_port,
    }
    threads: dict[str, Server] = {
        "pydlb.Balancer": functools.partial(servers.pydlb_balancer, backend=plan.backend),
        "acceptor + SimpleQueue": servers.acceptor_and_queue,
    }
    for kind, contenders in (("event loops", loops), ("plain threads", threads)):
        alternate(
            plan,
            f"short connections, {clients} at a time, {workers} {kind}",
            "connections/s",
            {name: functools.partial(_short, server, workers, clients) for name, server in contenders.items()},
            count=connections,
        )
    if held:
        alternate(
            plan,
            f"{held} held connections, opened at {rate:g}/s, {workers} event loops",
            "connections/s",
            {name: functools.partial(_held, server, workers, rate) for name, server in loops.items()},
            count=held,
        )
