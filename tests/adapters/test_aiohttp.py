"""aiohttp's applications on the balancer's workers."""

from __future__ import annotations

import asyncio
import collections
import functools
import ssl
import threading
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

import pydlb
from pydlb.adapters.aiohttp import AiohttpAdapter

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = web.AppKey("name", str)
CHATS = web.AppKey("chats", set)


class Site:
    """Makes applications, and knows what became of them."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def make_app(self) -> web.Application:
        app = web.Application()
        app[NAME] = threading.current_thread().name
        app[CHATS] = set()
        app.router.add_get("/", self.name)
        app.router.add_get("/chat", self.chat)
        for signal, what in ((app.on_startup, "start"), (app.on_shutdown, "shut"), (app.on_cleanup, "clean")):
            signal.append(functools.partial(self.happened, what))
        return app

    async def happened(self, what: str, app: web.Application) -> None:
        self.events.append(f"{what} {app[NAME]}")
        if what == "shut":
            for chat in list(app[CHATS]):
                await chat.close(code=1001)

    async def name(self, request: web.Request) -> web.Response:
        return web.Response(text=f"{request.app[NAME]} {request.scheme}")

    async def chat(self, request: web.Request) -> web.WebSocketResponse:
        chat = web.WebSocketResponse()
        await chat.prepare(request)
        request.app[CHATS].add(chat)
        async for message in chat:
            await chat.send_str(f"{request.app[NAME]} {message.data}")
        request.app[CHATS].discard(chat)
        return chat


def serving(site: Site, workers: int = 3, **options: Any) -> Any:
    return pydlb.serve(functools.partial(AiohttpAdapter, site.make_app, **options), "127.0.0.1", 0, workers=workers)


def test_spreads_held_connections(run: Callable[..., Any], client: Any) -> None:
    site = Site()

    async def main() -> None:
        async with await serving(site) as server:
            held = client(server.sockets[0].getsockname())
            names = collections.Counter([(await asyncio.to_thread(held.get)).text.split()[0] for _ in range(12)])
            assert names == {f"worker_{n}": 4 for n in range(3)}
            held.close()
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (12, 12, 0)

    run(main())
    assert sorted(site.events) == sorted(f"{what} worker_{n}" for what in ("start", "shut", "clean") for n in range(3))


def test_tls(run: Callable[..., Any], client: Any, certificate: Any, client_context: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def main() -> None:
        async with await serving(Site(), ssl=context) as server:
            secure = client(("localhost", server.sockets[0].getsockname()[1]), client_context)
            assert (await asyncio.to_thread(secure.get)).text.endswith(" https")
            secure.close()

    run(main())


def test_a_drain_asks_then_closes_then_shuts_down(run: Callable[..., Any], client: Any) -> None:
    async def main() -> None:
        async with await serving(Site(), workers=2) as server, aiohttp.ClientSession() as session:
            address = server.sockets[0].getsockname()
            held = client(address)
            silent, kept = held.connect(), held.connect()
            await asyncio.to_thread(held.ask, silent)
            await asyncio.to_thread(held.ask, kept)
            async with session.ws_connect(f"http://{address[0]}:{address[1]}/chat") as chat:
                await chat.send_str("hello")
                assert (await chat.receive_str()).endswith(" hello")
                server.balancer.begin_drain(2)
                answer = await asyncio.to_thread(held.ask, kept)
                while answer.getheader("connection") is None:
                    answer = await asyncio.to_thread(held.ask, kept)
                assert answer.getheader("connection") == "close"
                assert await asyncio.to_thread(silent.sock.recv, 10) == b""
                assert (await chat.receive()).type is aiohttp.WSMsgType.CLOSE
                assert chat.close_code == 1001
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (3, 3, 0)

    run(main())


def test_an_application_that_does_not_start_starts_no_server(run: Callable[..., Any]) -> None:
    class Broken(Site):
        async def happened(self, what: str, app: web.Application) -> None:
            await super().happened(what, app)
            if what == "start":
                raise ConnectionError("no database")

    site = Broken()

    async def main() -> None:
        with pytest.raises(ConnectionError, match="no database"):
            await serving(site)

    run(main())
