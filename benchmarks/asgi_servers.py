#!/usr/bin/env python3
"""Rows 18 to 21: `pydlb serve` beside uvicorn, granian, pyvoy and gunicorn, with a hello-world ASGI application.

    python benchmarks/asgi_servers.py [--rounds 3] [--json FILE]
    PDLB_ROWS=21 python3.13t benchmarks/asgi_servers.py --rounds 5

Row 18: two worker processes each, requests over 64 connections that are kept, and over one connection each, by `wrk`
(Debian: wrk). Row 19: 16, 64 and 200 held connections over four workers, opened one by one and at once. Row 20: one of
four workers blocks for 50 ms in each request, 2,000 connections a second. A peer that is not installed beside this
interpreter, or beside the one of PDLB_PEERS, is left out: `pip install granian pyvoy gunicorn`. SECONDS of each run by
PDLB_SECONDS, 3 by default.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from against_c import cpu_seconds, free_port
from results import LeftOut, Result, program, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("PDLB_SECONDS", "3"))
CONNECTIONS = 64
HELD = (16, 64, 200)
OURS = "pydlb serve"
THREADS = "pydlb serve, threads"
APP = "hello_asgi:app"
REQUEST = b"GET / HTTP/1.1\r\nHost: hello\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n"
RATE = 2000
START = 30.0  # seconds in which a server must answer


def beside(name: str) -> str | None:
    """The path of a program that was installed beside this interpreter, or that of PDLB_PEERS."""
    folders = [Path(sys.executable).parent]
    if "PDLB_PEERS" in os.environ:
        folders.append(Path(os.environ["PDLB_PEERS"]).parent)
    return next((str(folder / name) for folder in folders if (folder / name).exists()), None)


COMMANDS = {
    OURS: ("pydlb", ["serve", APP, "--workers={workers}", "--port={port}", "--worker-class=process"]),
    "uvicorn": ("uvicorn", [APP, "--workers={workers}", "--port={port}", "--no-access-log"]),
    "granian": ("granian", ["--interface=asgi", "--workers={workers}", "--port={port}", "--no-access-log", APP]),
    "pyvoy": ("pyvoy", ["--port={port}", "--worker-threads={workers}", APP]),
    "gunicorn --reuse-port": (
        "gunicorn",
        ["--reuse-port", "-k", "asgi", "--workers={workers}", "--bind=127.0.0.1:{port}", APP],
    ),
}
COMMANDS[THREADS] = ("pydlb", [*COMMANDS[OURS][1][:-1], "--worker-class=thread"])
PLAIN = {kind: f"plain uvicorns in {kind}" for kind in ("threads", "processes")}
for kind, name in PLAIN.items():
    COMMANDS[name] = ("python", ["uvicorns.py", kind, APP, "{workers}", "{port}"])
QUIET = {
    THREADS: ["--no-access-log", "--log-level=warning"],
    OURS: ["--no-access-log", "--log-level=warning"],
    "uvicorn": ["--log-level=warning"],
}


class Server(NamedTuple):
    """One that runs."""

    name: str
    port: int
    pid: int


@contextlib.contextmanager
def running(name: str, workers: int, stall: str | None = None) -> Iterator[Server]:
    """A server, once it answers.

    Raises:
        LeftOut: It is not installed, or does not start.
    """
    command, arguments = COMMANDS[name]
    path = beside(command)
    if path is None:
        raise LeftOut(f"{name} is not installed: pip install {command}")
    port = free_port()
    filled = [argument.format(workers=workers, port=port) for argument in [*arguments, *QUIET.get(name, [])]]
    environment = {**os.environ, "PYTHONPATH": str(HERE / "peers")} | ({"PDLB_STALL": stall} if stall else {})
    process = subprocess.Popen(
        [path, *filled],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=HERE / "peers",
    )
    try:
        deadline = time.monotonic() + START
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LeftOut(f"{name} does not start")
            time.sleep(0.1)
        time.sleep(0.5)  # the other workers
        yield Server(name, port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
        sock.sendall(CLOSING)
        return sock.recv(1000).startswith(b"HTTP/1.1 200")
    return False


# ---- row 18: rates -------------------------------------------------------------------------------------------------


class Rate(NamedTuple):
    """Requests a second, the 99th percentile in milliseconds, and requests for each CPU second of the server."""

    rate: float
    p99: float
    per_cpu: float


UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def wrk(server: Server, *, close: bool) -> Rate:
    """What `wrk` says.

    Raises:
        LeftOut: It says nothing, or requests failed.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS:g}s", "--latency", f"http://127.0.0.1:{server.port}/"]
    if close:
        command += ["-H", "Connection: close"]
    before = cpu_seconds(server.pid)
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    used = cpu_seconds(server.pid) - before
    count = re.search(r"(\d+) requests in", told)
    rate, p99 = re.search(r"Requests/sec:\s+([\d.]+)", told), re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", told)
    if rate is None or p99 is None or count is None:
        raise LeftOut(f"wrk says nothing of {server.name}: {told[:200]}")
    failed = re.search(r"(Non-2xx.*|Socket errors.*)", told)
    if failed is not None and not re.search(r"connect 0, read 0, write 0, timeout 0", told):
        print(f"      {server.name}: {failed[1]}", flush=True)
    return Rate(float(rate[1]), float(p99[1]) * UNITS[p99[2]], int(count[1]) / used)


BARS = {False: 0.98, True: 1.1}
P99_BAR = 0.7


def rates(servers: Sequence[Server], rounds: int) -> Iterator[Result]:
    """Both kinds of load, all servers in turn."""
    if shutil.which("wrk") is None:
        raise LeftOut("wrk is not installed (Debian: wrk)")
    for close in (False, True):
        found: dict[str, list[Rate]] = collections.defaultdict(list)
        for turn in range(rounds):
            for server in servers if turn % 2 == 0 else servers[::-1]:
                found[server.name].append(wrk(server, close=close))
        kind = "a connection each" if close else f"{CONNECTIONS} connections kept"
        for name, theirs in found.items():
            if name == OURS:
                continue
            bar = BARS[close] if name == "uvicorn" else None
            mine = found[OURS]
            pairs = [[one.rate for one in mine], [one.rate for one in theirs]]
            yield ratio("18", f"requests/s, {kind}, beside {name}", *pairs, bar=bar, better="more", unit="/s")
            pairs = [[one.per_cpu for one in mine], [one.per_cpu for one in theirs]]
            yield ratio("18", f"requests/CPU s, {kind}, beside {name}", *pairs, bar=None, better="more", unit="/s")
            bar = P99_BAR if close and name == "uvicorn" else None
            pairs = [[one.p99 for one in mine], [one.p99 for one in theirs]]
            yield ratio("18", f"p99, {kind}, beside {name}", *pairs, bar=bar, better="less", unit="ms")


# ---- row 19: held connections --------------------------------------------------------------------------------------


def hold(server: Server, count: int, *, at_once: bool) -> list[int]:
    """How many of so many held connections each process has."""
    names: collections.Counter[bytes] = collections.Counter()
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.settimeout(20)
            if at_once:
                client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", server.port))
            clients.append(client)
            if not at_once:
                names[ask(client)] += 1
        if at_once:
            for client in clients:
                client.settimeout(20)
                select.select([], [client], [], 20)
                client.sendall(REQUEST)
            for client in clients:
                names[read_name(client)] += 1
    time.sleep(0.3)  # until the closed ones are noticed
    return list(names.values())


def ask(client: socket.socket) -> bytes:
    client.sendall(REQUEST)
    return read_name(client)


def read_name(client: socket.socket) -> bytes:
    data = b""
    while not (body := data.partition(b"\r\n\r\n")[2]).endswith(b"\n"):
        more = client.recv(4096)
        if not more:
            raise LeftOut("a held connection was closed")
        data += more
    return body.rpartition(b" ")[2].strip()


def spread(servers: Sequence[Server], workers: int, rounds: int) -> Iterator[Result]:
    """The most minus the fewest, the worst of the rounds."""
    for at_once in (False, True):
        for count in HELD:
            differences: dict[str, list[int]] = collections.defaultdict(list)
            for _ in range(rounds):
                for server in servers:
                    counts = hold(server, count, at_once=at_once)
                    counts += [0] * (workers - len(counts))
                    differences[server.name].append(max(counts) - min(counts))
            how = "at once" if at_once else "one by one"
            for name, found in differences.items():
                what = f"most minus fewest of {count} held, opened {how}: {name}"
                bar = (2.0 if at_once else 1.0) if name == OURS else None
                yield Result(
                    row="19",
                    what=what,
                    value=max(found),
                    least=min(found),
                    most=max(found),
                    unit="",
                    bar=bar,
                    better="less",
                )


# ---- row 20: one that stalls ---------------------------------------------------------------------------------------


class OpenLoad:
    """Connections at fixed times, whatever became of those before, one request each."""

    def __init__(self, port: int, rate: float, seconds: float) -> None:
        self._port, self._rate, self._total = port, rate, int(rate * seconds)
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self.times: list[float] = []
        self.failed = 0

    def run(self) -> None:
        """All of them, and up to ten seconds until the last is answered."""
        begun, start = 0, time.perf_counter()
        end = start + self._total / self._rate + 10
        while (begun < self._total or self._open) and time.perf_counter() < end:
            due = start + begun / self._rate
            while begun < self._total and due <= time.perf_counter():
                self._connect(due)
                begun += 1
                due = start + begun / self._rate
            left = due - time.perf_counter() if begun < self._total else 0.1
            for descriptor, events in self._poll.poll(max(0.0, left)):
                self._ready(descriptor, events)
        now = time.perf_counter()
        self.failed += sum(1 for _ in self._open)
        self.times += [now - begin for _, begin in self._open.values()]  # at least
        for sock, _ in self._open.values():
            sock.close()

    def _connect(self, begin: float) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(("127.0.0.1", self._port))
        self._open[sock.fileno()] = sock, begin
        self._poll.register(sock.fileno(), select.EPOLLOUT)

    def _ready(self, descriptor: int, events: int) -> None:
        sock, begin = self._open[descriptor]
        try:
            if events & select.EPOLLOUT:
                sock.send(CLOSING)
                self._poll.modify(descriptor, select.EPOLLIN)
                return
            if sock.recv(4096):
                self.times.append(time.perf_counter() - begin)
            else:
                self.failed += 1
        except OSError:
            self.failed += 1
        self._poll.unregister(descriptor)
        del self._open[descriptor]
        sock.close()


def p98(server: Server) -> float:
    load = OpenLoad(server.port, RATE, SECONDS)
    load.run()
    if load.failed:
        print(f"      {server.name}: {load.failed} of {RATE * SECONDS:g} were not answered", flush=True)
    return statistics.quantiles(load.times, n=50)[-1] * 1e3


def stalls(rounds: int) -> Iterator[Result]:
    """Each with one worker that blocks."""
    peer = "gunicorn --reuse-port"
    mine: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for name, found in ((OURS, mine), (peer, theirs)):
                with running(name, 4, stall=f"{folder}/{name.split()[0]}{turn}") as server:
                    found.append(p98(server))
    yield ratio(
        "20",
        f"p98, one of four blocks 50 ms, {RATE}/s, {peer}'s by ours",
        theirs,
        mine,
        bar=20,
        better="more",
        unit="ms",
    )


def start_all(stack: contextlib.ExitStack, names: Sequence[str], workers: int) -> list[Server]:
    servers = []
    for name in names:
        try:
            servers.append(stack.enter_context(running(name, workers)))
        except LeftOut as error:
            if name == OURS:
                raise
            print(f"      {error}", flush=True)
    return servers


# ---- row 21: threads where there is no lock --------------------------------------------------------------------------


def has_lock() -> bool:
    """Whether this interpreter has a lock."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def threads_beside_processes(rounds: int) -> Iterator[Result]:
    """The same server on the same interpreter, each kind alone on the machine and in turn.

    Beside it a uvicorn for each worker, with nothing of pydlb: what the interpreter makes of two event loops.
    """
    if has_lock():
        raise LeftOut("row 21 needs an interpreter without a lock: make free-threaded builds one")
    with contextlib.ExitStack() as stack:
        servers = start_all(stack, [THREADS, OURS, *PLAIN.values()], 2)
        for close in (False, True):
            found: dict[str, list[float]] = collections.defaultdict(list)
            for turn in range(rounds):
                for server in servers if turn % 2 == 0 else servers[::-1]:
                    found[server.name].append(wrk(server, close=close).rate)
            kind = "a connection each" if close else f"{CONNECTIONS} connections kept"
            what = f"requests/s of 2 threads beside 2 processes, {kind}"
            yield ratio("21", what, found[THREADS], found[OURS], bar=0.9, better="more", unit="/s")
            plain = [found[name] for name in PLAIN.values()]
            yield ratio("21", f"{what}, plain uvicorns", *plain, bar=None, better="more", unit="/s")


def measure(rounds: int) -> Iterator[Result]:
    """The rows that this program fills."""
    only = os.environ.get("PDLB_ROWS", "18,19,20,21").split(",")
    if "18" in only:
        with contextlib.ExitStack() as stack:
            yield from rates(start_all(stack, [OURS, "uvicorn", "granian", "pyvoy"], 2), rounds)
    if "19" in only:
        with contextlib.ExitStack() as stack:
            yield from spread(start_all(stack, [OURS, "uvicorn", "granian"], 4), 4, rounds)
    if "20" in only:
        yield from stalls(rounds)
    if "21" in only and ("PDLB_ROWS" in os.environ or not has_lock()):
        yield from threads_beside_processes(rounds)


if __name__ == "__main__":
    sys.exit(program("`pydlb serve` beside other ASGI servers.", measure, rounds=3))
