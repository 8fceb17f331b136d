"""What every adapter promises, whichever framework is behind it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypercorn.config import Config

import pydlb
from pydlb.adapters.aiohttp import AiohttpAdapter
from pydlb.adapters.hypercorn import HypercornAdapter
from pydlb.adapters.hypercorn_trio import HypercornTrioAdapter
from pydlb.adapters.streams import StreamAdapter
from pydlb.adapters.trio import TrioAdapter, TrioWorker
from pydlb.adapters.uvicorn import UvicornAdapter

from . import applications

if TYPE_CHECKING:
    from collections.abc import Callable

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def by_streams(seen: list[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    seen.append(writer.get_extra_info("peername"))
    while await read_head(reader):
        writer.write(RESPONSE)
        await writer.drain()
    writer.close()


async def read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def by_trio(seen: list[Any], stream: Any) -> None:
    seen.append(getattr(stream, "transport_stream", stream).socket.getpeername())
    while await stream.receive_some():
        await stream.send_all(RESPONSE)


def aiohttp_app(seen: list[Any]) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.append(request.transport.get_extra_info("peername"))
        assert request.remote == seen[-1][0]
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/", answer)
    return app


def hypercorn_config(certificate: str | None) -> Config:
    config = Config()
    config.certfile = config.keyfile = certificate
    return config


def make(kind: str, certificate: str | None, seen: list[Any] | None = None) -> tuple[Callable[[], Any], dict[str, Any]]:
    """An adapter's maker, and what runs it. What it serves appends its clients' addresses to `seen`."""
    seen = [] if seen is None else seen

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(tuple(scope["client"]))
        await applications.asgi(scope, receive, send)

    by_seen_streams, by_seen_trio = functools.partial(by_streams, seen), functools.partial(by_trio, seen)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    if kind == "uvicorn":
        return functools.partial(UvicornAdapter, asgi, ssl_certfile=certificate), {}
    if kind == "hypercorn":
        return lambda: HypercornAdapter(asgi, hypercorn_config(certificate)), {}
    if kind == "hypercorn_trio":
        return lambda: HypercornTrioAdapter(asgi, hypercorn_config(certificate)), {"runner": TrioWorker}
    if kind == "aiohttp":
        return functools.partial(AiohttpAdapter, functools.partial(aiohttp_app, seen), ssl=context), {}
    if kind == "trio":
        return functools.partial(TrioAdapter, by_seen_trio, ssl=context), {"runner": TrioWorker}
    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop", reason="uvloop has no wheel for this interpreter")
        return functools.partial(StreamAdapter, by_seen_streams, ssl=context), {"loop_factory": uvloop.new_event_loop}
    return functools.partial(StreamAdapter, by_seen_streams, ssl=context), {}


KINDS = ("uvicorn", "hypercorn", "hypercorn_trio", "aiohttp", "trio", "asyncio", "uvloop")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_tls_keep_alive_and_a_failed_handshake(
    run: Callable[..., Any], client: Any, certificate: Any, client_context: ssl.SSLContext, kind: str
) -> None:
    """The handshake is on the worker; one that fails hurts nobody and is counted."""
    make_adapter, runner = make(kind, str(certificate))

    async def main() -> None:
        async with await pydlb.serve(make_adapter, "localhost", 0, workers=2, **runner) as server:
            port = server.sockets[0].getsockname()[1]
            secure = client(("localhost", port), client_context)
            connections = [secure.connect() for _ in range(4)]
            for connection in connections * 3:
                assert (await asyncio.to_thread(secure.ask, connection)).status == 200
            assert [worker.open for worker in server.balancer.stats().workers] == [2, 2]
            plain = client(("localhost", port))
            with pytest.raises((ConnectionError, OSError)):
                await asyncio.to_thread(plain.get)
            plain.close()
            secure.close()
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (5, 4, 1)

    run(main())


def test_what_is_open_at_the_end_is_aborted_and_counted(run: Callable[..., Any], client: Any, kind: str) -> None:
    make_adapter, runner = make(kind, None)

    async def main() -> None:
        server = await pydlb.serve(make_adapter, "127.0.0.1", 0, workers=2, **runner)
        held = client(server.sockets[0].getsockname())
        for _ in range(4):
            assert (await asyncio.to_thread(held.get)).status == 200
        await asyncio.to_thread(server.balancer.close, 0)
        for connection in held.held:
            await asyncio.to_thread(assert_ended, connection)
        server.close()
        await server.wait_closed()
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (4, 0, 4)

    run(main())


def assert_ended(connection: Any) -> None:
    with contextlib.suppress(ConnectionError):
        assert connection.sock.recv(1) == b""


def test_what_is_active_is_known_until_it_has_ended(run: Callable[..., Any], client: Any, kind: str) -> None:
    make_adapter, runner = make(kind, None)
    adapters: list[Any] = []

    def remember() -> Any:
        adapters.append(make_adapter())
        return adapters[-1]

    async def main() -> None:
        async with await pydlb.serve(remember, "127.0.0.1", 0, workers=1, **runner) as server:
            held = client(server.sockets[0].getsockname())
            assert (await asyncio.to_thread(held.get)).status == 200
            assert len(adapters[0].active) == 1
            held.close()
            worker = server.balancer.workers[0]
            assert await asyncio.to_thread(server.balancer.remove_worker, worker, 60) == 0
            assert len(adapters[0].active) == 0
        assert server.balancer.stats().served == 1

    run(main())


def test_the_client_is_the_proxys(
    run: Callable[..., Any], certificate: Any, client_context: ssl.SSLContext, kind: str
) -> None:
    """After a PROXY header, before a TLS handshake: where each framework looks for its client."""
    seen: list[Any] = []
    make_adapter, runner = make(kind, str(certificate), seen)

    async def main() -> None:
        async with await pydlb.serve(
            make_adapter, "localhost", 0, workers=2, proxy_protocol=True, backend="software", **runner
        ) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.to_thread(ask_as_proxy, port, client_context)
        assert server.balancer.stats().served == 1

    run(main())
    assert seen == [("192.0.2.1", 56324)]


def ask_as_proxy(port: int, context: ssl.SSLContext) -> None:
    with socket.create_connection(("localhost", port), timeout=60) as plain:
        plain.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n")
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in client.recv(1000)
