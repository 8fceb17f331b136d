"""How evenly held connections are spread on a device: where its own arbiter chooses, and where the balancer steers.

On the emulated device: it has no silicon's timing, only its rules.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from statistics import median
from typing import Any

import pydlb
from pydlb.testing import EmulatedDevice


def hold(worker: pydlb.Worker, held: list[pydlb.Connection]) -> None:
    """Take what comes, and keep it."""
    for connection in worker:
        connection.socket.sendall(b"x")
        held.append(connection)


def spread(count: int, workers: int, *, burst: bool, options: dict[str, Any]) -> int:
    """The most that a worker has, less the fewest, of so many connections that stay open."""
    with pydlb.Balancer(0, max_workers=16, **options) as balancer:
        address = balancer.address(balancer.listen(backlog=1024))
        held: list[list[pydlb.Connection]] = [[] for _ in range(workers)]
        for mine in held:
            threading.Thread(target=hold, args=(balancer.worker(), mine), daemon=True).start()
        clients = []
        for _ in range(count):
            clients.append(socket.create_connection(address))
            if not burst:
                clients[-1].recv(1)
        while sum(map(len, held)) < count:
            time.sleep(0.001)
        counts = [len(mine) for mine in held]
        for connection in (connection for mine in held for connection in mine):
            connection.close()
        for client in clients:
            client.close()
    return max(counts) - min(counts)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("software, dlb", {"backend": "software"}),
        ("device, dlb", {}),
        ("device, dlb, release on receive", {"release": "receive"}),
        ("device, dlb, Envoy's way", {"release": "receive", "accept": "workers", "queue_depth": 8}),
        ("device, nop", {"policy": "nop"}),
        ("device, exact", {"policy": "exact"}),
    ]
    print(f"most less fewest of {options.workers} workers, median (most) of {options.runs} runs")
    print("| | " + " | ".join(f"{count} {how}" for count in (16, 64, 400) for how in ("one by one", "burst")) + " |")
    print("| --- |" + " --- |" * 6)
    for name, kind in kinds:
        cells = []
        for count in (16, 64, 400):
            for burst in (False, True):
                found = []
                for _ in range(options.runs):
                    chosen = {"backend": EmulatedDevice("2.5"), "grace": 30.0} | kind
                    found.append(spread(count, options.workers, burst=burst, options=chosen))
                cells.append(f"{median(found):g} ({max(found)})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
