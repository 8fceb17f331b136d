#!/usr/bin/env python3
"""gRPC behind a front port: long-lived HTTP/2 connections, even over servers that accept for themselves.

    python examples/grpc_front_port.py [--port 50051] [--workers 4]
    python examples/grpc_front_port.py --demo       # with 12 clients of its own

gRPC's servers take no accepted sockets. So each worker has one, on a UNIX socket that nobody else knows, and passes the
bytes of its connections on to it. What is balanced is connections, which a gRPC client keeps for all its calls.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

import pydlb
from pydlb.adapters.streams import StreamAdapter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVICE = "demo.Greeter"


async def greet(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Answer with the worker's name. Messages are plain bytes, so that the example needs no generated code."""
    return request + b" from " + threading.current_thread().name.encode()


class GrpcWorker(StreamAdapter):
    """A gRPC server on a UNIX socket, and connections that are passed on to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(self.relay)
        self.path = folder / threading.current_thread().name

    async def start(self) -> None:
        """Start the gRPC server."""
        await super().start()
        self.server = grpc.aio.server()
        handlers = {"Greet": grpc.unary_unary_rpc_method_handler(greet)}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.server.add_insecure_port(f"unix:{self.path}")
        await self.server.start()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass the bytes of one connection on, both ways."""
        inner_reader, inner_writer = await asyncio.open_unix_connection(self.path)
        try:
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        finally:
            for one in (inner_writer, writer):
                one.close()

    async def stop(self) -> None:
        """Let calls in progress end, then stop the gRPC server."""
        await self.server.stop(grace=1.0)
        await super().stop()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def show(balancer: pydlb.Balancer) -> None:
    """Say how many connections are with each worker."""
    stats = balancer.stats()
    print(f"{stats.open} open: " + " ".join(f"{worker.name}={worker.open}" for worker in stats.workers), flush=True)


@contextlib.asynccontextmanager
async def channels(target: str, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Clients with a connection each: gRPC would let them share one."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    made = [grpc.aio.insecure_channel(target, options=own) for _ in range(count)]
    try:
        yield made
    finally:
        for channel in made:
            await channel.close()


async def demonstrate(balancer: pydlb.Balancer, target: str) -> None:
    """Twelve clients, three calls each."""
    async with channels(target, 12) as clients:
        calls = [channel.unary_unary(f"/{SERVICE}/Greet") for channel in clients]
        answers = [await call(b"hello") for call in calls for _ in range(3)]
        show(balancer)
        print(f"{len(answers)} calls answered by {len(set(answers))} workers")


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal comes, or the demonstration is over."""
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    with tempfile.TemporaryDirectory() as folder:
        serving = pydlb.serve(lambda: GrpcWorker(Path(folder)), "127.0.0.1", options.port, workers=options.workers)
        async with await serving as server:
            host, port = server.sockets[0].getsockname()
            print(f"{options.workers} workers: gRPC on {host}:{port}", flush=True)
            if options.demo:
                await demonstrate(server.balancer, f"{host}:{port}")
            else:
                await over.wait()
                server.close_clients()


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="gRPC servers behind one port, balanced by pydlb.")
    parser.add_argument("--port", type=int, default=50051, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="gRPC servers (default: %(default)s)")
    parser.add_argument("--demo", action="store_true", help="come with clients, show the balance, and end")
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
