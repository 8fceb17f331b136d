"""A plain uvicorn on each of some threads, or in each of some processes, that share a port by SO_REUSEPORT.

    python uvicorns.py threads|processes APP WORKERS PORT

What an interpreter without a lock makes of two event loops in one process, with nothing of pydlb.
"""

from __future__ import annotations

import multiprocessing
import signal
import socket
import sys
import threading

import uvicorn


def serve(app: str, port: int) -> None:
    with socket.socket(proto=socket.IPPROTO_TCP) as sock:  # by its protocol asyncio sees that it may not delay
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning")).run([sock])


def main(kind: str, app: str, workers: str, port: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which ends processes, too
    make = threading.Thread if kind == "threads" else multiprocessing.get_context("fork").Process
    for _ in range(int(workers)):
        make(target=serve, args=(app, int(port)), daemon=True).start()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
