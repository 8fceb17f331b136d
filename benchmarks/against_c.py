#!/usr/bin/env python3
"""pydlb's servers beside others, in C and Python, under the same load.

    python benchmarks/against_c.py spread|slow|floor|short|light|calls [--rounds 5] [--only WORD] [--json FILE]

spread: connections that are held, opened in three ways. slow: one worker of four blocks in each of its connections.
floor: what one asyncio or uvloop loop has under the load of slow, where nothing blocks.
short: as many connections as can be served, 64 at a time. light: 500 connections a second.
calls: of what a connection of short costs: processor time, system calls, switches of threads (needs perf).
With --only uvloop, say, only servers take part in short, light and calls in whose name that is.

Builds peers/csrv.c and peers/connload.c with cc into build/peers. The contenders alternate, and ratios are taken round
by round; the median is shown. Runs on 127.0.0.1 only, a minute or two for five rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kernel_calls import counted, family
from results import LeftOut

HERE = Path(__file__).parent
BUILT = HERE.parent / "build" / "peers"
WORKERS = int(os.environ.get("PDLB_WORKERS", "4"))
BLOCK_MS = 50


def build() -> None:
    """Compile the load generator and the C server where their sources are newer."""
    BUILT.mkdir(parents=True, exist_ok=True)
    for name in ("csrv", "connload"):
        source, program = HERE / "peers" / f"{name}.c", BUILT / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-pthread", "-o", program, source, "-lm"], check=True)


def c_server(mode: str, slow: int) -> list[str]:
    return [str(BUILT / "csrv"), "-m", mode, "-N", str(WORKERS), "-S", str(slow), "-t", "100", "-p"]


def pydlb_server(mode: str) -> list[str]:
    return [sys.executable, str(HERE / "echo_server.py"), mode]


def python_server(mode: str) -> list[str]:
    return [sys.executable, str(HERE / "peers" / "python_server.py"), mode]


def cpu_seconds(pid: int) -> float:
    """What a process and those that it has started have used until now, all their threads together."""
    return sum(own_cpu_seconds(member) for member in family(pid))


def own_cpu_seconds(pid: int) -> float:
    clock = ~pid << 3 | 2  # as clock_getcpuclockid makes it; /proc/PID/stat counts in hundredths only
    return time.clock_gettime(clock)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def measure(server: list[str], slow: int, load: list[str], *, count: bool = False) -> dict[str, Any]:
    """Start the server, put the load on it, stop it; if asked to, count what it has the kernel do, as "calls"."""
    port = free_port()
    is_c = server[0].endswith("csrv")
    command = [*server, str(port)] if is_c else [*server, str(port), str(WORKERS), str(slow)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        with counted(process.pid) if count else contextlib.nullcontext({}) as calls:
            cpu_before = cpu_seconds(process.pid)
            result = subprocess.run(
                [str(BUILT / "connload"), "-p", str(port), "-W", str(WORKERS), *load],
                capture_output=True,
                text=True,
                check=True,
            )
            cpu = cpu_seconds(process.pid) - cpu_before
    finally:
        process.terminate()
        process.wait()
    figures: dict[str, Any] = json.loads(result.stdout)
    figures["per_cpu"] = figures["conns"] / cpu if cpu else 0.0
    figures["calls"] = {name: number / figures["conns"] for name, number in calls.items()}
    return figures


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"nothing serves on port {port}")


def spread(rounds: int) -> list[dict[str, Any]]:
    """400 connections held open, opened in three ways: most on a worker over the mean."""
    patterns = {"burst": ["-k", "400"], "16 at a time": ["-k", "16"], "200 a second": ["-r", "200"]}
    contenders = {
        "pydlb asyncio": pydlb_server("asyncio"),
        "pydlb uvloop": pydlb_server("uvloop"),
        "C fewest open": c_server("least", 0),
        "C SO_REUSEPORT": c_server("reuseport", 0),
    }
    rows = []
    for pattern, load in patterns.items():
        runs: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, server in contenders.items():
                figures = measure(server, 0, [*load, "-n", "400", "-H", "-t", "6"])
                if figures["unanswered"] or figures["errs"]:
                    raise SystemExit(f"{name}: {figures['unanswered']} unanswered, {figures['errs']} failed")
                runs[name].append(figures["max_mean"])
        for name, values in runs.items():
            rows.append({"load": pattern, "server": name, "max/mean": statistics.median(values), "worst": max(values)})
    return rows


@dataclasses.dataclass(frozen=True)
class SlowCase:
    """An open load on servers one of whose workers blocks; the peer is the C server whose idle workers take."""

    rate: int
    total: int
    blocked: dict[str, list[str]]
    unblocked: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def rows(self, rounds: int) -> list[dict[str, Any]]:
        """Tails of all, alternating, beside the peer's."""
        peer_name = "C shared queue"
        load = ["-r", str(self.rate), "-n", str(self.total), "-t", "12"]
        servers = {**self.unblocked, **self.blocked, peer_name: c_server("pull", BLOCK_MS)}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                runs[name].append(measure(server, 0 if name in self.unblocked else BLOCK_MS, load))
        return [self._row(name, figures, runs[peer_name]) for name, figures in runs.items()]

    def _row(self, name: str, runs: list[dict[str, Any]], peer: list[dict[str, Any]]) -> dict[str, Any]:
        # One in a hundred is blocked where a worker is: what is p98 there is p99 of those that are not.
        tail = "p99" if name in self.unblocked else "p98"
        ratios = [ours[tail] / theirs["p98"] for ours, theirs in zip(runs, peer, strict=True)]
        return {
            "load": f"{self.rate}/s",
            "server": name,
            "unanswered": sum(figures["unanswered"] for figures in runs),
            "p50 ms": statistics.median(figures["p50"] for figures in runs) / 1000,
            "p98 ms": statistics.median(figures[tail] for figures in runs) / 1000,
            "p98 x peer": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "p99.9 ms": statistics.median(figures["p999"] for figures in runs) / 1000,
            "by the slow one": 0
            if name in self.unblocked
            else statistics.median(figures["per"].get("0", 0) for figures in runs),
        }


def slow(rounds: int) -> list[dict[str, Any]]:
    """One of four workers blocks 50 ms in each connection: tails beside a shared queue in C."""
    loops = {"pydlb asyncio": pydlb_server("asyncio"), "pydlb uvloop": pydlb_server("uvloop")}
    threads = SlowCase(4000, 12000, {"pydlb threads": pydlb_server("threads")})
    return threads.rows(rounds) + SlowCase(2000, 6000, loops).rows(rounds)


def floor(rounds: int) -> list[dict[str, Any]]:
    """The load of `slow` on one loop that accepts for itself, with nothing that blocks: what Python itself takes.

    Its p99 stands in the column of the others' p98, of which one in a hundred is blocked.
    """
    ours = {"pydlb asyncio": pydlb_server("asyncio"), "pydlb uvloop": pydlb_server("uvloop")}
    one = {"asyncio, one loop": python_server("asyncio"), "uvloop, one loop": python_server("uvloop")}
    return SlowCase(2000, 6000, ours, one).rows(rounds)


def beside(load: list[str], rounds: int, contenders: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """Put one load on all contenders in turn, so often; all connections must be answered."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, server in contenders.items():
            figures = measure(server, 0, load)
            if figures["unanswered"] or figures["errs"]:
                raise SystemExit(f"{name}: {figures['unanswered']} unanswered, {figures['errs']} failed")
            runs[name].append(figures)
    return runs


# Each of ours with what it is compared with; one event loop that accepts for itself shows what the hand-off costs.
PEERS = {
    "pydlb threads": ["C shared queue", "acceptor + SimpleQueue"],
    "pydlb asyncio": ["C shared queue", "asyncio, one loop"],
    "pydlb uvloop": ["C shared queue", "uvloop, one loop"],
}


LOOPS = ("asyncio", "uvloop")


def everybody(only: str) -> dict[str, list[str]]:
    servers = {
        "pydlb threads": pydlb_server("threads"),
        "pydlb asyncio": pydlb_server("asyncio"),
        "pydlb uvloop": pydlb_server("uvloop"),
        "C shared queue": c_server("pull", 0),
        "acceptor + SimpleQueue": python_server("queue"),
        "asyncio, one loop": python_server("asyncio"),
        "uvloop, one loop": python_server("uvloop"),
    }
    return having(only, servers)


def having(word: str, servers: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: server for name, server in servers.items() if word in name}


def compared(runs: dict[str, list[dict[str, Any]]], key: str) -> list[dict[str, Any]]:
    """A row for each of ours and each of its peers, with the ratio of the figure named."""
    rows = []
    for ours, peers in PEERS.items():
        for peer in peers:
            if ours not in runs or peer not in runs:
                continue
            ratios = [mine[key] / other[key] for mine, other in zip(runs[ours], runs[peer], strict=True) if other[key]]
            rows.append(
                {
                    "ours": ours,
                    "beside": peer,
                    key: statistics.median(figures[key] for figures in runs[ours]),
                    f"{key} of peer": statistics.median(figures[key] for figures in runs[peer]),
                    "ratio": statistics.median(ratios),
                    "least": min(ratios),
                    "most": max(ratios),
                    "max/mean": statistics.median(figures["max_mean"] for figures in runs[ours]),
                }
            )
    return rows


def short(rounds: int, only: str = "") -> list[dict[str, Any]]:
    """8,000 connections, 64 at a time: how many for each second of the server's processor time."""
    return compared(beside(["-k", "64", "-n", "8000", "-w", "200", "-t", "20"], rounds, everybody(only)), "per_cpu")


def calls(rounds: int, only: str = "") -> list[dict[str, Any]]:
    """What a connection of `short` costs: microseconds of processor time, and how often the kernel is called for it.

    The time is of runs in which nothing is counted. What is by itself hands nothing on: plain threads that accept from
    one listener, or as many loops as pydlb has, in threads or processes, with a listener each (SO_REUSEPORT). What is
    more there than in one C server, or one loop, is no hand-off's.
    """
    servers = {**everybody(""), **{f"pydlb {kind} processes": pydlb_server(f"{kind}-processes") for kind in LOOPS}}
    servers[f"plain, {WORKERS} threads by themselves"] = python_server("accept")
    for kind in LOOPS:
        for how in ("threads", "processes"):
            servers[f"{kind}, {WORKERS} {how} by themselves"] = python_server(f"{kind}-{how}")
    servers = having(only, servers)
    load = ["-k", "64", "-n", "8000", "-w", "200", "-t", "20"]
    timed = beside(load, rounds, servers)
    rows = []
    for name, server in servers.items():
        of_kernel = measure(server, 0, load, count=True)["calls"]
        rows.append({"server": name, "us": statistics.median(1e6 / run["per_cpu"] for run in timed[name]), **of_kernel})
    return rows


def light(rounds: int, only: str = "") -> list[dict[str, Any]]:
    """500 connections a second: microseconds until the answer."""
    return compared(beside(["-r", "500", "-n", "1000", "-w", "50", "-t", "10"], rounds, everybody(only)), "p50")


WHAT = {"spread": spread, "slow": slow, "floor": floor}
OF_ALL = {"short": short, "light": light, "calls": calls}


def show(rows: list[dict[str, Any]]) -> None:
    lines = [list(rows[0]), *([f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(description="pydlb's servers beside others, in C and Python, under the same load.")
    parser.add_argument("what", choices=[*WHAT, *OF_ALL])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build()
    try:
        rows = (
            WHAT[options.what](options.rounds)
            if options.what in WHAT
            else OF_ALL[options.what](options.rounds, options.only)
        )
    except LeftOut as why:
        raise SystemExit(f"{options.what}: {why}") from None
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
