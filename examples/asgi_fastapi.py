#!/usr/bin/env python3
"""A FastAPI application on balanced workers, by uvicorn's protocols and without its listening sockets.

    python examples/asgi_fastapi.py [--port 8000] [--workers 4]

The same without a program of one's own: ``pydlb serve examples.asgi_fastapi:app --workers 4``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import fastapi

import pydlb
from pydlb.adapters.uvicorn import UvicornAdapter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def lifespan(_app: fastapi.FastAPI) -> AsyncIterator[dict[str, str]]:
    """What each worker has for itself: here a name, elsewhere a pool of database connections."""
    yield {"worker": f"{threading.current_thread().name} of process {os.getpid()}"}


app = fastapi.FastAPI(lifespan=lifespan)


@app.get("/")
async def worker(request: fastapi.Request) -> dict[str, str]:
    """Who answers."""
    return {"worker": request.state.worker}


async def serve(port: int, workers: int) -> None:
    """Serve until a signal comes, then let what is open end."""
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    make_adapter = functools.partial(UvicornAdapter, app, access_log=False)
    async with await pydlb.serve(make_adapter, "127.0.0.1", port, workers=workers) as server:
        host, port = server.sockets[0].getsockname()
        print(f"{workers} workers: curl http://{host}:{port}/", flush=True)
        await over.wait()
        server.balancer.begin_drain(1.0)
    stats = server.balancer.stats()
    print(f"{stats.accepted} accepted = {stats.served} served + {stats.refused} refused + {stats.aborted} aborted")


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="A FastAPI application balanced over workers by pydlb.")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="event loops (default: %(default)s)")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
