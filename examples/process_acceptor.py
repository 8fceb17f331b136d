#!/usr/bin/env python3
"""An echo server on event loops in worker processes, of which any may be killed at any time.

    python examples/process_acceptor.py [--port 9000] [--workers 4]

Try it with ``nc 127.0.0.1 9000``, and ``kill -9`` one of the processes that it names. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import pydlb

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Method: TypeAlias = Literal["fork", "forkserver", "spawn"]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back, and say who did. Runs in a worker's process."""
    writer.write(f"process {os.getpid()} echoes\n".encode())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(port: int, workers: int, method: Method) -> pydlb.BalancerStats:
    """Serve until a signal comes."""
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    server = await pydlb.start_server(
        echo, "127.0.0.1", port, workers=workers, worker_class="process", start_method=method
    )
    async with server:
        host, port = server.sockets[0].getsockname()
        print(f"{workers} processes on the {server.balancer.backend} backend: nc {host} {port}", flush=True)
        await over.wait()
        server.close_clients()
    return server.balancer.stats()


def main() -> int:
    """Say what was served."""
    parser = argparse.ArgumentParser(description="An echo server balanced over worker processes by pydlb.")
    parser.add_argument("--port", type=int, default=9000, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default: %(default)s)")
    parser.add_argument("--start-method", choices=["fork", "forkserver", "spawn"], default="forkserver")
    options = parser.parse_args()
    stats = asyncio.run(serve(options.port, options.workers, options.start_method))
    for worker in stats.workers:
        print(f"{worker.name}: {worker.accepted} accepted")
    print(f"{stats.accepted} accepted = {stats.served} served + {stats.refused} refused + {stats.aborted} aborted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
