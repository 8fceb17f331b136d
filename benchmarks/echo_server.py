#!/usr/bin/env python3
"""pydlb as a server of the load generator's protocol (peers/connload.c): one byte in, the worker's letter out.

    python benchmarks/echo_server.py threads|asyncio|uvloop|asyncio-processes|uvloop-processes PORT [WORKERS] [SLOW_MS]

'S' is answered and closed, 'H' is answered and held until the client goes. With SLOW_MS worker 0 blocks so long in
every request. Ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
import threading
import time

import pydlb

mine = threading.local()


def letter() -> bytes:
    """'A' for worker 0 and so on; found out once in each thread."""
    try:
        return mine.letter  # type: ignore[no-any-return]
    except AttributeError:
        mine.letter = bytes([ord("A") + int(threading.current_thread().name.rpartition("_")[2])])
        return letter()


def block(slow: float, answer: bytes) -> None:
    """Be slow, if it is worker 0 that answers."""
    if slow and answer == b"A":
        time.sleep(slow)


async def serve(slow: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection on an event loop."""
    try:
        request = await reader.read(1)
        if request:
            answer = letter()
            block(slow, answer)
            writer.write(answer)
            if request == b"H":
                await reader.read(1)
    except ConnectionError:
        pass
    writer.close()


def main() -> int:
    """Serve until SIGTERM."""
    mode, port = sys.argv[1], int(sys.argv[2])
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 4
    slow = float(sys.argv[4]) / 1000 if len(sys.argv) > 4 else 0.0
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())

    if mode == "threads":

        def handle(connection: pydlb.Connection) -> None:
            sock = connection.socket
            request = sock.recv(1)
            if not request:
                return
            answer = letter()
            block(slow, answer)
            sock.send(answer)
            if request == b"H":
                sock.recv(1)

        with pydlb.Balancer(workers, handler=handle) as balancer:
            balancer.listen("127.0.0.1", port, backlog=4096)
            over.wait()
            print(balancer.stats(), file=sys.stderr)
        return 0

    async def run() -> None:
        loop, _, kind = mode.partition("-")
        factory = None
        if loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        server = await pydlb.start_server(
            functools.partial(serve, slow),
            "127.0.0.1",
            port,
            workers=workers,
            worker_class="process" if kind else "thread",
            loop_factory=factory,
            backlog=4096,
        )
        await asyncio.to_thread(over.wait)
        print(server.balancer.stats(), file=sys.stderr)
        server.close()
        server.abort_clients()
        await server.wait_closed()

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
