"""ASGI applications by uvicorn's protocols, on the balancer's workers."""

from __future__ import annotations

import asyncio
import collections
import functools
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
import websockets

import pydlb
from pydlb.adapters.uvicorn import UvicornAdapter

from . import applications

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def fresh() -> None:
    applications.events.clear()
    applications.arrived.clear()
    applications.allowed.clear()


def serving(app: Any = applications.asgi, workers: int = 3, **options: Any) -> Any:
    config = uvicorn.Config(app, loop=options.pop("loop", "asyncio"), log_config=None)
    make = functools.partial(UvicornAdapter, app, **options)
    return pydlb.serve(make, "127.0.0.1", 0, workers=workers, loop_factory=config.get_loop_factory())


async def tell_addresses(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    body = repr((scope["client"], scope["server"], scope["scheme"])).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_applications_are_told_the_addresses(run: Callable[..., Any], host: str, http: str, loop: str) -> None:
    for compiled in {http, loop} & {"httptools", "uvloop"}:
        pytest.importorskip(compiled, reason=f"{compiled} has no wheel for this interpreter")
    config = uvicorn.Config(tell_addresses, loop=loop, log_config=None)
    make = functools.partial(UvicornAdapter, tell_addresses, http=http, lifespan="off")

    async def main() -> None:
        async with await pydlb.serve(make, host, 0, workers=1, loop_factory=config.get_loop_factory()) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            body = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
            here, there = (writer.get_extra_info(name)[:2] for name in ("sockname", "peername"))
            assert body == repr((here, there, "http"))
            writer.close()

    run(main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_spreads_held_connections(run: Callable[..., Any], client: Any, http: str, loop: str) -> None:
    for compiled in {http, loop} & {"httptools", "uvloop"}:
        pytest.importorskip(compiled, reason=f"{compiled} has no wheel for this interpreter")

    async def main() -> None:
        async with await serving(http=http, loop=loop) as server:
            web = client(server.sockets[0].getsockname())
            answers = [(await asyncio.to_thread(web.get)).text.split() for _ in range(12)]
            names = [f"worker_{n}" for n in range(3)]
            assert collections.Counter(name for name, *_ in answers) == dict.fromkeys(names, 4)
            # Each worker has an application state of its own.
            assert all(name == state for name, _, state in answers)
            connection = web.held[0]
            assert len({(await asyncio.to_thread(web.ask, connection)).text for _ in range(5)}) == 1
            assert [worker.open for worker in server.balancer.stats().workers] == [4, 4, 4]
            web.close()
        assert sorted(applications.events) == sorted(
            f"{what} worker_{n}" for what in ("start", "stop") for n in range(3)
        )
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (12, 12, 0)

    run(main())


def test_tls_handshakes_run_on_the_worker(
    run: Callable[..., Any], client: Any, certificate: Path, client_context: Any
) -> None:
    async def main() -> None:
        async with await serving(ssl_certfile=str(certificate)) as server:
            web = client(("localhost", server.sockets[0].getsockname()[1]), client_context)
            for _ in range(3):
                _name, scheme, _ = (await asyncio.to_thread(web.get)).text.split()
                assert scheme == "https"
            silent = client(server.sockets[0].getsockname())
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(silent.get)
            web.close()
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (4, 3, 1)

    run(main())


@pytest.mark.parametrize("ws", ["websockets", "websockets-sansio", "wsproto"])
@pytest.mark.filterwarnings("ignore::uvicorn.config.UvicornDeprecationWarning", "ignore::DeprecationWarning")
def test_websockets_count_until_they_end(run: Callable[..., Any], ws: str) -> None:
    async def main() -> None:
        async with await serving(ws=ws) as server:
            host, port = server.sockets[0].getsockname()
            chats = [await websockets.connect(f"ws://{host}:{port}/") for _ in range(6)]
            names = collections.Counter()
            for chat in chats:
                await chat.send("hello")
                names[(await chat.recv()).split()[0]] += 1
            assert names == {f"worker_{n}": 2 for n in range(3)}
            assert server.balancer.stats().open == 6
            for chat in chats:
                await chat.close()
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (6, 6, 0)

    run(main())


def test_a_failing_application_answers_500(run: Callable[..., Any], client: Any) -> None:
    async def main() -> None:
        async with await serving(workers=1) as server:
            web = client(server.sockets[0].getsockname())
            assert (await asyncio.to_thread(web.get, "/fail")).status == 500
            assert (await asyncio.to_thread(web.get)).status == 200
            web.close()

    run(main())


def test_an_application_that_does_not_start_starts_no_server(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(SystemExit):
            await serving(applications.broken, lifespan="on")
        with pytest.raises(SystemExit):
            await serving("tests.adapters.nowhere:app")

    run(main())


# ---- draining ------------------------------------------------------------------------------------------------------


def test_a_drain_asks_clients_to_close(run: Callable[..., Any], client: Any) -> None:
    """A kept connection has one more answer, with ``Connection: close``; a request in progress is served."""

    async def main() -> None:
        async with await serving(workers=2) as server:
            web = client(server.sockets[0].getsockname())
            kept = web.connect()
            assert (await asyncio.to_thread(web.ask, kept)).getheader("connection") is None
            slow = asyncio.create_task(asyncio.to_thread(web.get, "/slow"))
            await asyncio.to_thread(applications.arrived.wait)
            server.balancer.begin_drain(30)
            answer = await asyncio.to_thread(web.ask, kept)
            while answer.getheader("connection") is None:
                answer = await asyncio.to_thread(web.ask, kept)
            assert answer.getheader("connection") == "close"
            assert not slow.done()
            applications.allowed.set()
            assert (await slow).status == 200
            late = await asyncio.to_thread(web.get)
            assert (late.status, late.getheader("connection")) == (200, "close")
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (3, 3, 0)

    run(main())


def test_a_drain_closes_silent_connections_and_websockets_last(run: Callable[..., Any], client: Any) -> None:
    async def main() -> None:
        async with await serving(workers=2) as server:
            web = client(server.sockets[0].getsockname())
            await asyncio.to_thread(web.get)
            host, port = server.sockets[0].getsockname()
            async with websockets.connect(f"ws://{host}:{port}/") as chat:
                await chat.send("hello")
                assert await chat.recv()
                server.balancer.begin_drain(0.4)
                assert await asyncio.to_thread(web.held[0].sock.recv, 10) == b""
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await chat.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (2, 2, 0)

    run(main())


def test_what_does_not_end_is_aborted(run: Callable[..., Any], client: Any) -> None:
    async def main() -> None:
        server = await serving(workers=1)
        web = client(server.sockets[0].getsockname())
        slow = asyncio.create_task(asyncio.to_thread(web.get, "/slow"))
        await asyncio.to_thread(applications.arrived.wait)
        await asyncio.to_thread(server.balancer.close, 0)
        with pytest.raises(ConnectionError):
            await slow
        assert applications.events[-1] == "stop worker_0"
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (1, 0, 1)
        server.close()
        await server.wait_closed()

    run(main())


def test_tells_when_its_requests_are_used_up(run: Callable[..., Any], client: Any) -> None:
    async def main() -> None:
        used_up = asyncio.Event()
        loop = asyncio.get_running_loop()
        tell = functools.partial(loop.call_soon_threadsafe, used_up.set)
        async with await serving(workers=1, limit_max_requests=3, on_exhausted=tell) as server:
            web = client(server.sockets[0].getsockname())
            for _ in range(3):
                await asyncio.to_thread(web.get)
            await used_up.wait()
            web.close()

    run(main())
