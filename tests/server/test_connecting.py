"""Sockets are connected to event loops of any kind, whatever they wait for meanwhile; where that fails, it is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pydlb

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class SlowLoop(asyncio.SelectorEventLoop):
    """Its transports take some turns, and a future, to be made."""

    async def connect_accepted_socket(self, protocol_factory: Any, sock: socket.socket, **options: Any) -> Any:
        await asyncio.sleep(0)
        waiter = self.create_future()
        self.call_later(0, waiter.set_result, None)
        await waiter
        return await super().connect_accepted_socket(protocol_factory, sock, **options)


class FailingLoop(asyncio.SelectorEventLoop):
    """Its transports cannot be made, which is found out late."""

    async def connect_accepted_socket(self, protocol_factory: Any, sock: socket.socket, **options: Any) -> Any:
        waiter = self.create_future()
        self.call_later(0, waiter.set_exception, OSError("there is no transport"))
        await waiter


async def answers(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> tuple[list[bytes], pydlb.BalancerStats]:
    """What twenty clients are told, and the account of them."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def ask(host: str, port: int) -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(b"hello\n")
            return await reader.read()
        except ConnectionError:
            return b"reset"
        finally:
            writer.close()

    server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=2, loop_factory=loop_factory)
    async with server:
        told = await asyncio.gather(*(ask(*server.sockets[0].getsockname()) for _ in range(20)))
        while server.balancer.stats().open:
            await asyncio.sleep(0.001)
        return told, server.balancer.stats()


def test_what_takes_its_time_is_served() -> None:
    told, stats = asyncio.run(answers(SlowLoop))
    assert told == [b"hello\n"] * 20
    assert (stats.served, stats.aborted) == (20, 0)


def test_what_fails_is_closed_and_counted() -> None:
    told, stats = asyncio.run(answers(FailingLoop))
    assert set(told) <= {b"", b"reset"}
    assert (stats.served, stats.aborted) == (0, 20)
