"""What a connection was made of is gone with it: the cycle collector, which stops all workers, finds nothing to do."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import TYPE_CHECKING

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

CLIENTS = 50


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    writer.close()


def ask(address: tuple[str, int]) -> None:
    """Without a loop: asyncio's own client connections are left to the collector."""
    for _ in range(CLIENTS):
        with socket.create_connection(address) as client:
            client.sendall(b"hello\n")
            assert client.recv(6) == b"hello\n"
            assert client.recv(1) == b""


async def left_after_connections(loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> int:
    """How many objects only the collector can free, once clients have come and gone."""
    async with await pydlb.start_server(echo, "127.0.0.1", 0, workers=2, loop_factory=loop_factory) as server:
        address = server.sockets[0].getsockname()
        await asyncio.to_thread(ask, address)
        gc.collect()
        gc.disable()
        try:
            await asyncio.to_thread(ask, address)
            while server.balancer.stats().open:
                await asyncio.sleep(0.001)
            return gc.collect()
        finally:
            gc.enable()


def test_connections_leave_nothing_to_the_collector(
    run: Callable[[Coroutine[Any, Any, int]], int], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    assert run(left_after_connections(loop_factory)) < CLIENTS
