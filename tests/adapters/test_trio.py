"""Trio and AnyIO programs behind a balancer."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from anyio.abc import SocketAttribute

import pydlb
from pydlb.adapters.anyio import Listener as AnyioListener
from pydlb.adapters.trio import Listener, TrioAdapter, TrioWorker

from .clients import names_of

if TYPE_CHECKING:
    from collections.abc import Callable


async def name_worker(stream: Any) -> None:
    """Answer each message with the worker's name."""
    async for message in stream:
        if message.strip() == b"fail":
            raise ValueError("as asked")
        await stream.send_all(threading.current_thread().name.encode() + b"\n")


def test_serve_listeners_takes_ours_unchanged() -> None:
    with pydlb.Balancer(workers=0) as balancer:
        ends = [threading.Thread(target=trio.run, args=(serve, balancer.worker()), name=f"trio_{n}") for n in range(3)]
        for end in ends:
            end.start()
        listener = balancer.listen()
        with contextlib.ExitStack() as stack:
            assert names_of(stack, balancer.address(listener), 9) == {f"trio_{n}": 3 for n in range(3)}
            assert balancer.stats().open == 9
        stats = balancer.close()
        for end in ends:
            end.join()
    assert (stats.accepted, stats.served, stats.aborted) == (9, 9, 0)


async def serve(worker: pydlb.Worker) -> None:
    with contextlib.suppress(BaseExceptionGroup):  # the listener's end is an error to trio
        await trio.serve_listeners(name_worker, [Listener(worker)])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_programs(backend: str) -> None:
    async def handle(stream: anyio.abc.SocketStream) -> None:
        async for _ in stream:
            await stream.send(threading.current_thread().name.encode() + b"\n")

    def run(worker: pydlb.Worker) -> None:
        listener = AnyioListener(worker)

        async def main() -> None:
            async with listener:
                await listener.serve(handle)

        anyio.run(main, backend=backend)

    with pydlb.Balancer(workers=0) as balancer:
        ends = [threading.Thread(target=run, args=(balancer.worker(),), name=f"anyio_{n}") for n in range(3)]
        for end in ends:
            end.start()
        listener = balancer.listen()
        with contextlib.ExitStack() as stack:
            assert names_of(stack, balancer.address(listener), 9) == {f"anyio_{n}": 3 for n in range(3)}
        stats = balancer.close()
        for end in ends:
            end.join()
    assert (stats.accepted, stats.served, stats.aborted) == (9, 9, 0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_streams_tell_of_the_proxys_client(backend: str) -> None:
    async def handle(stream: anyio.abc.SocketStream) -> None:
        attributes = [SocketAttribute.remote_address, SocketAttribute.remote_port, SocketAttribute.local_address]
        await stream.send(repr([stream.extra(attribute) for attribute in attributes]).encode())
        assert stream.extra(SocketAttribute.raw_socket).fileno() >= 0
        assert await stream.receive() == b"?"

    def run(worker: pydlb.Worker) -> None:
        async def main() -> None:
            async with AnyioListener(worker) as listener:
                await listener.serve(handle)

        anyio.run(main, backend=backend)

    with pydlb.Balancer(workers=0) as balancer:
        end = threading.Thread(target=run, args=(balancer.worker(),))
        end.start()
        balancer.listen(proxy_protocol="optional")
        with socket.create_connection(balancer.address(), timeout=20) as client:
            client.sendall(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n")
            assert client.recv(200) == b"[('192.0.2.7', 4711), 4711, ('10.0.0.1', 80)]"
            client.sendall(b"?")
            assert client.recv(1) == b""
        with socket.create_connection(balancer.address(), timeout=20) as client:
            client.sendall(b"?")  # what is none of a header's first bytes
            assert client.recv(200).startswith(repr([client.getsockname()]).encode()[:-1])
        stats = balancer.close()
        end.join()
    assert (stats.served, stats.aborted) == (2, 0)


def test_trio_workers(run: Callable[..., Any]) -> None:
    async def main() -> None:
        serving = pydlb.serve(lambda: TrioAdapter(name_worker), "127.0.0.1", 0, workers=3, runner=TrioWorker)
        async with await serving as server:
            address = server.sockets[0].getsockname()
            with contextlib.ExitStack() as stack:
                names = await asyncio.to_thread(names_of, stack, address, 9)
                assert names == {f"worker_{n}": 3 for n in range(3)}
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (9, 9, 0)

    run(main())


def test_tls_on_trio_workers(run: Callable[..., Any], certificate: Any, client_context: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def main() -> None:
        serving = pydlb.serve(
            lambda: TrioAdapter(name_worker, ssl=context), "localhost", 0, workers=1, runner=TrioWorker
        )
        async with await serving as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("localhost", port, ssl=client_context)
            writer.write(b"?\n")
            assert await reader.readline() == b"worker_0\n"
            writer.close()
            plain, other = await asyncio.open_connection("localhost", port)
            other.write(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await plain.read()
            other.close()
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (2, 1, 1)

    run(main())


def test_failures_and_the_end_are_counted(run: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        serving = pydlb.serve(lambda: TrioAdapter(name_worker), "127.0.0.1", 0, workers=1, runner=TrioWorker)
        async with await serving as server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"fail\n")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"?\n")
            assert await reader.readline()
            await asyncio.to_thread(server.balancer.close, 0)
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            writer.close()
            stats = server.balancer.stats()
            assert (stats.accepted, stats.served, stats.aborted) == (2, 0, 2)

    run(main())
    assert collections.Counter(record.message for record in caplog.records) == {
        "the handler failed; its connection is closed": 1
    }


def test_a_program_that_does_not_start(run: Callable[..., Any]) -> None:
    class Broken(TrioAdapter):
        async def start(self) -> None:
            raise ConnectionError("no database")

    async def main() -> None:
        with pytest.raises(ConnectionError, match="no database"):
            await pydlb.serve(lambda: Broken(name_worker), "127.0.0.1", 0, runner=TrioWorker)

    run(main())
