"""What goes wrong with one connection stays with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


def test_a_handler_that_raises(
    run: Callable[..., Any], loop_factory: Any, connecting: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline() == b"!\n":
            raise LookupError("on purpose")
        writer.write(b"fine\n")
        writer.close()

    async def main() -> pydlb.BalancerStats:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=2, loop_factory=loop_factory)
        async with server, connecting(server) as clients:
            for request in (b"!\n", b"?\n", b"!\n", b"?\n"):
                reader, writer = await clients.connect()
                writer.write(request)
                try:
                    answer = await reader.readline()
                except ConnectionResetError:
                    answer = b""
                assert answer == (b"fine\n" if request == b"?\n" else b"")
        return server.balancer.stats()

    with caplog.at_level(logging.ERROR, "asyncio"):
        stats = run(main())
    assert (stats.served, stats.aborted, stats.open) == (2, 2, 0)
    raised = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [str(error) for error in raised] == ["on purpose"] * 2


def test_a_blocked_loop_holds_up_nobody_else(run: Callable[..., Any], loop_factory: Any, connecting: Any) -> None:
    """200 connections are answered while one of four workers is stuck, and it is itself again later."""
    go_on, blocked = threading.Event(), threading.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline() == b"!\n":
            blocked.set()
            go_on.wait(50)
        writer.write(threading.current_thread().name.encode() + b"\n")
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, loop_factory=loop_factory, backlog=200)
        async with server, connecting(server) as clients:
            stuck_reader, stuck_writer = await clients.connect()
            stuck_writer.write(b"!\n")
            await asyncio.to_thread(blocked.wait, 30)
            answers = await asyncio.gather(*(clients.ask() for _ in range(100)))
            answers += [await clients.ask() for _ in range(100)]
            assert not go_on.is_set()
            go_on.set()
            stuck = (await stuck_reader.readline()).decode().strip()
            assert stuck not in answers
            assert len(set(answers)) == 3
            assert stuck in [await clients.ask() for _ in range(70)]

    run(main())


def test_a_loop_that_is_never_idle_goes_on_taking_connections(
    run: Callable[..., Any], loop_factory: Any, connecting: Any
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline() == b"!\n":
            writer.write(b"busy\n")
            while not writer.is_closing() and not reader.at_eof():
                await asyncio.sleep(0)
        else:
            writer.write(b"answer\n")
            await reader.read()
        writer.close()

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=2, loop_factory=loop_factory)
        async with server, connecting(server) as clients:
            assert [await clients.ask(b"!\n") for _ in range(2)] == ["busy"] * 2
            assert [await clients.ask() for _ in range(20)] == ["answer"] * 20
            answers = await asyncio.gather(*(clients.ask() for _ in range(60)))
            assert answers == ["answer"] * 60

    run(main())


def test_a_blocked_loop_does_not_hold_up_the_end(
    run: Callable[..., Any], connecting: Any, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, blocked = threading.Event(), threading.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        blocked.set()
        go_on.wait(50)
        writer.close()

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=2)
        async with connecting(server) as clients:
            await clients.connect()
            await asyncio.to_thread(blocked.wait, 30)
            server.close()
            stats = await asyncio.to_thread(server.balancer.close, 0.1)
            assert not go_on.is_set()
            assert (stats.accepted, stats.aborted, stats.open) == (1, 1, 0)
            assert "left behind" in caplog.text
            assert await clients.open[0][0].read() == b""
            await server.wait_closed()
        go_on.set()

    run(main())


def test_clients_that_vanish_at_once(run: Callable[..., Any], loop_factory: Any, handler: Any) -> None:
    """Reset before anything is said; every one is accounted for."""

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, loop_factory=loop_factory)
        address = server.sockets[0].getsockname()
        for _ in range(100):
            with socket.create_connection(address) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        async with server:
            pass
        stats = server.balancer.stats()
        assert stats.accepted + stats.gone == 100
        assert stats.accepted == stats.served + stats.aborted

    run(main())


# ---- TLS -----------------------------------------------------------------------------------------------------------


def test_tls_handshakes_run_on_the_worker(
    run: Callable[..., Any],
    loop_factory: Any,
    connecting: Any,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    shaken: set[str] = set()

    def note(*_: object) -> None:
        shaken.add(threading.current_thread().name)

    server_context.sni_callback = note

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert writer.get_extra_info("ssl_object") is not None
        await reader.readline()
        writer.write(threading.current_thread().name.encode() + b"\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await pydlb.start_server(
            handler, "127.0.0.1", 0, workers=2, loop_factory=loop_factory, ssl=server_context
        )
        async with server, connecting(server, client_context) as clients:
            answers = {await clients.ask() for _ in range(4)}
            assert answers == {"worker_0", "worker_1"}
            assert shaken == answers
        assert server.balancer.stats().served == 4

    run(main())


def test_handshakes_that_fail_are_counted(
    run: Callable[..., Any], loop_factory: Any, connecting: Any, handler: Any, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        server = await pydlb.start_server(
            handler, "127.0.0.1", 0, loop_factory=loop_factory, ssl=server_context, ssl_handshake_timeout=0.1
        )
        async with server, connecting(server) as clients:
            reader, writer = await clients.connect()
            writer.write(b"this is no handshake\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            silent, _ = await clients.connect()
            with contextlib.suppress(ConnectionResetError):
                assert await silent.read() == b""
        stats = server.balancer.stats()
        assert (stats.accepted, stats.aborted, stats.served, stats.open) == (2, 2, 0, 0)

    run(main())


# ---- loops of one's own --------------------------------------------------------------------------------------------


def test_accept_in_loops_of_ones_own(run: Callable[..., Any], loop_factory: Any) -> None:
    async def serve(balancer: pydlb.Balancer) -> int:
        served = 0
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await balancer.accept()
            except pydlb.ClosedError:
                return served
            with connection:
                assert connection.socket.gettimeout() == 0
                await loop.sock_recv(connection.socket, 10)
                await loop.sock_sendall(connection.socket, b"done")
                served += 1

    served: list[int] = []

    def serve_in_thread(balancer: pydlb.Balancer) -> None:
        loop = (loop_factory or asyncio.new_event_loop)()
        served.append(loop.run_until_complete(serve(balancer)))
        loop.close()

    with pydlb.Balancer(0) as balancer:
        address = balancer.address(balancer.listen())
        threads = [threading.Thread(target=serve_in_thread, args=(balancer,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            with socket.create_connection(address, timeout=30) as client:
                client.sendall(b"?")
                assert client.recv(10) == b"done"
        balancer.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert sum(served) == 20


def test_a_cancelled_accept_loses_nothing(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with pydlb.Balancer(0) as balancer:
            address = balancer.address(balancer.listen())
            for _ in range(20):
                waiting = asyncio.create_task(balancer.accept())
                await asyncio.sleep(0)
                with socket.create_connection(address):
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
                    with await balancer.accept() as connection:
                        connection.socket.getpeername()
            assert balancer.stats().served == 20

    run(main())
