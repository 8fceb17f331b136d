"""A client that opens connections: one byte out, one byte back, which names the worker. Runs as a program.

    python -m pydlb.cli.load PORT CONNECTIONS CLIENTS [RATE]

CLIENTS connections at a time, each closed when it is answered; or with RATE so many opened in a second, each measured
from the moment at which it was to be opened, and held until all are answered. Prints one line of JSON: seconds,
percentiles in microseconds, answered connections per worker, and how many failed.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections import Counter
from typing import Final

from .measure import percentiles

__all__ = ["main"]

# Closing with a reset leaves no port behind in TIME_WAIT.
_LINGER: Final = struct.pack("ii", 1, 0)
_TIMEOUT: Final = 30.0
_CLOSE: Final = b"S"
_HOLD: Final = b"H"


class Load:
    """Opens connections and counts what comes of them."""

    def __init__(self, port: int, total: int, clients: int, rate: float) -> None:
        self._address = ("127.0.0.1", port)
        self._total = total
        self._clients = clients
        self._rate = rate
        self._begun = 0
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._held: list[socket.socket] = []
        self.latencies: list[float] = []
        self.workers: Counter[int] = Counter()
        self.failed = 0

    def run(self) -> float:
        """Open all connections and wait for their answers; the seconds that it took."""
        start = time.perf_counter()
        while self._begun < self._total or self._open:
            pause = self._connect_due(start)
            ready = self._poll.poll(pause)
            if not ready and pause == _TIMEOUT:
                self.failed += len(self._open)
                break
            for descriptor, events in ready:
                self._ready(descriptor, events)
        return time.perf_counter() - start

    def _connect_due(self, start: float) -> float:
        """Open what is to be open by now; how long to wait before there is more to do."""
        if not self._rate:
            while self._begun < self._total and len(self._open) < self._clients:
                self._connect(time.perf_counter())
            return _TIMEOUT
        while self._begun < self._total:
            due = start + self._begun / self._rate
            left = due - time.perf_counter()
            if left > 0:
                return left
            self._connect(due)
        return _TIMEOUT

    def _connect(self, begin: float) -> None:
        self._begun += 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        try:
            sock.connect(self._address)
        except BlockingIOError:
            pass
        except OSError:
            self.failed += 1
            sock.close()
            return
        self._open[sock.fileno()] = (sock, begin)
        self._poll.register(sock.fileno(), select.EPOLLOUT)

    def _ready(self, descriptor: int, events: int) -> None:
        sock, begin = self._open[descriptor]
        try:
            if events & select.EPOLLOUT and not events & select.EPOLLIN:
                sock.send(_HOLD if self._rate else _CLOSE)
                self._poll.modify(descriptor, select.EPOLLIN)
                return
            answer = sock.recv(1)
        except OSError:
            answer = b""
        self._poll.unregister(descriptor)
        del self._open[descriptor]
        if not answer:
            self.failed += 1
            sock.close()
            return
        self.latencies.append((time.perf_counter() - begin) * 1e6)
        self.workers[answer[0]] += 1
        if self._rate:
            self._held.append(sock)
        else:
            sock.close()


def main() -> int:
    """Open the connections and say what came of them."""
    port, total, clients = (int(argument) for argument in sys.argv[1:4])
    rate = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    load = Load(port, total, clients, rate)
    seconds = load.run()
    told = {
        "seconds": seconds,
        "latencies_us": percentiles(load.latencies) if load.latencies else {},
        "workers": [load.workers[letter] for letter in sorted(load.workers)],
        "failed": load.failed,
    }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
