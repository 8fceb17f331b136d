"""A client that opens connections: one byte out, one byte back, which names the worker. Runs as a program.

    python -m pydlb.cli.load PORT CONNECTIONS IN_FLIGHT

Prints one line of JSON: seconds, latencies in microseconds, connections per worker, errors.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections import Counter

__all__ = ["main"]

# Closing with a reset leaves no port behind in TIME_WAIT.
_LINGER = struct.pack("ii", 1, 0)
_TIMEOUT = 30.0


class _Load:
    def __init__(self, port: int, total: int, in_flight: int) -> None:
        self.address = ("127.0.0.1", port)
        self.left = total
        self.in_flight = in_flight
        self.poll = select.epoll()
        self.open: dict[int, tuple[socket.socket, float]] = {}
        self.latencies: list[float] = []
        self.workers: Counter[int] = Counter()
        self.errors = 0

    def connect(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        started = time.perf_counter()
        try:
            sock.connect(self.address)
        except BlockingIOError:
            pass
        except OSError:
            self.errors += 1
            sock.close()
            return
        self.open[sock.fileno()] = (sock, started)
        self.poll.register(sock.fileno(), select.EPOLLOUT)

    def ready(self, descriptor: int, events: int) -> None:
        sock, started = self.open[descriptor]
        try:
            if events & select.EPOLLOUT and not events & select.EPOLLIN:
                sock.send(b"S")
                self.poll.modify(descriptor, select.EPOLLIN)
                return
            answer = sock.recv(1)
        except OSError:
            answer = b""
        if answer:
            self.latencies.append((time.perf_counter() - started) * 1e6)
            self.workers[answer[0]] += 1
        else:
            self.errors += 1
        self.poll.unregister(descriptor)
        del self.open[descriptor]
        sock.close()

    def run(self) -> float:
        started = time.perf_counter()
        while self.left or self.open:
            while self.left and len(self.open) < self.in_flight:
                self.left -= 1
                self.connect()
            ready = self.poll.poll(_TIMEOUT)
            if not ready:
                self.errors += len(self.open)
                break
            for descriptor, events in ready:
                self.ready(descriptor, events)
        return time.perf_counter() - started


def main() -> int:
    """Open the connections and say what came of them."""
    port, total, in_flight = (int(argument) for argument in sys.argv[1:4])
    load = _Load(port, total, in_flight)
    seconds = load.run()
    json.dump(
        {
            "seconds": seconds,
            "latencies": sorted(load.latencies),
            "workers": sorted(load.workers.values()),
            "errors": load.errors,
        },
        sys.stdout,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
