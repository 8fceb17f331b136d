#!/usr/bin/env python3
"""An echo server on plain threads: each worker calls a function for one connection at a time.

    python examples/thread_acceptor.py [--port 9000] [--workers 4]

Try it with ``nc 127.0.0.1 9000``. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

import pydlb


def echo(connection: pydlb.Connection) -> None:
    """Send everything back, and say who did."""
    connection.socket.sendall(f"{threading.current_thread().name} echoes\n".encode())
    while data := connection.socket.recv(65536):
        connection.socket.sendall(data)


def main() -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="An echo server balanced over worker threads by pydlb.")
    parser.add_argument("--port", type=int, default=9000, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="worker threads (default: %(default)s)")
    options = parser.parse_args()
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with pydlb.Balancer(options.workers, handler=echo) as balancer:
        balancer.listen("127.0.0.1", options.port)
        host, port = balancer.address()[:2]
        print(f"{options.workers} threads on the {balancer.backend} backend: nc {host} {port}", flush=True)
        while not over.wait(1):
            pass
        stats = balancer.close(timeout=1)
    print(f"{stats.accepted} accepted = {stats.served} served + {stats.refused} refused + {stats.aborted} aborted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
