"""First requests are answered at once where they can be; whatever else a connection does, it does as on any loop."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import queue
import random
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
import websockets

import pydlb
from pydlb.adapters import prompt
from pydlb.adapters.uvicorn import UvicornAdapter

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.parametrize("loop", ["asyncio", "uvloop"]),
    pytest.mark.parametrize("http", ["h11", "httptools"]),
]

LARGE = 8 << 20
LARGE_BODY = random.Random(0).randbytes(1 << 16) * (LARGE >> 16)


@pytest.fixture
def left() -> queue.SimpleQueue[str]:
    """What clients had asked that left before they were answered."""
    return queue.SimpleQueue()


@pytest.fixture
def app(left: queue.SimpleQueue[str]) -> Any:
    async def answer(send: Any, *pieces: bytes, pause: float = 0.0) -> None:
        headers = [(b"content-length", b"%d" % sum(map(len, pieces)))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(pause)
        await send({"type": "http.response.body", "body": pieces[-1]})

    async def body_of(receive: Any) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body

    async def application(scope: Any, receive: Any, send: Any) -> None:
        match scope["type"], scope.get("path"):
            case "websocket", _:
                await receive()
                await send({"type": "websocket.accept"})
                while (message := await receive())["type"] == "websocket.receive":
                    await send({"type": "websocket.send", "text": message["text"] + str(scope["client"][1])})
            case "http", "/large":
                await answer(send, LARGE_BODY)
            case "http", "/slow":
                await asyncio.sleep(0.05)
                await answer(send, b"slow")
            case "http", "/stream":
                await answer(send, b"one ", b"two ", b"three", pause=0.01)
            case "http", "/digest":
                await answer(send, hashlib.sha256(await body_of(receive)).hexdigest().encode())
            case "http", "/wait":
                await body_of(receive)
                left.put("asked")
                await receive()
                left.put(scope["query_string"].decode())
            case "http", path:
                await answer(send, path.encode())

    return application


@pytest.fixture
def serve(app: Any, loop: str, http: str) -> Callable[[], Any]:
    for compiled in {http, loop} & {"httptools", "uvloop"}:
        pytest.importorskip(compiled, reason=f"{compiled} has no wheel for this interpreter")
    factory = None  # for our own
    if loop == "uvloop":
        factory = uvicorn.Config(app, loop=loop, log_config=None).get_loop_factory()
    make = functools.partial(UvicornAdapter, app, http=http, lifespan="off", ws="websockets-sansio")
    return lambda: pydlb.serve(make, "127.0.0.1", 0, workers=1, loop_factory=factory)


async def ask(server: Any, *pieces: bytes, waiting: bool = False) -> bytes:
    """What a server answers to bytes that are sent one piece after the other, until it closes.

    Args:
        server: The server.
        pieces: What to send.
        waiting: The first one is to be there before the connection is accepted.
    """
    if waiting:
        server.balancer.pause()
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for number, piece in enumerate(pieces):
        writer.write(piece)
        if number or not waiting:
            await writer.drain()
        if waiting:
            server.balancer.resume()
        await asyncio.sleep(0.01 if len(pieces) > 1 else 0)  # so that they are read one by one, at least sometimes
    if not pieces:
        writer.write_eof()
    server.balancer.resume()
    try:
        answer = await reader.read()
    except ConnectionResetError:
        answer = b""
    writer.close()
    return answer


def read_all(client: socket.socket) -> bytes:
    with client:
        return b"".join(iter(functools.partial(client.recv, 4096), b""))


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode()


CLOSE = "Connection: close"


def body(answer: bytes) -> bytes:
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    return rest


def account(server: Any, served: int, aborted: int = 0) -> None:
    stats = server.balancer.stats()
    assert (stats.accepted, stats.served, stats.aborted, stats.open) == (served + aborted, served, aborted, 0)


def test_what_asks_at_once_and_only_once_is_not_passed_on(
    run: Callable[..., Any], serve: Any, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt, "connect_descriptor", None)

    async def main() -> None:
        async with await serve() as server:
            server.balancer.pause()
            clients = [socket.create_connection(server.sockets[0].getsockname(), timeout=60) for _ in range(9)]
            for client in clients:
                client.sendall(request("/a", CLOSE))
            server.balancer.resume()
            assert [body(await asyncio.to_thread(read_all, client)) for client in clients] == [b"/a"] * 9
        account(server, 9)

    run(main())


def test_the_loop_is_told_whether_somebody_has_looked_for_a_request(
    run: Callable[..., Any], serve: Any, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    connect = prompt.connect_descriptor

    def connect_descriptor(*arguments: Any, read: bool, **options: Any) -> Any:
        looked.append(read)
        return connect(*arguments, read=read, **options)

    monkeypatch.setattr(prompt, "connect_descriptor", connect_descriptor)

    async def main() -> None:
        async with await serve() as server:
            for waiting in (True, False):
                if waiting:
                    server.balancer.pause()
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                if waiting:
                    writer.write(request("/a"))
                    server.balancer.resume()
                else:
                    while len(looked) < 2:
                        await asyncio.sleep(0.01)
                    writer.write(request("/a"))
                assert (await reader.readuntil(b"/a")).endswith(b"/a")
                writer.close()
        assert looked == [True, False]

    run(main())


@pytest.mark.parametrize("waiting", [True, False])
def test_all_that_a_client_may_do(run: Callable[..., Any], serve: Any, waiting: bool) -> None:
    digest = hashlib.sha256(LARGE_BODY).hexdigest().encode()
    long = f"Content-Length: {LARGE}"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (b"some", b"more")) + b"0\r\n\r\n"

    async def main() -> None:
        async with await serve() as server:
            at = functools.partial(ask, server, waiting=waiting)
            assert body(await at(request("/large", CLOSE))) == LARGE_BODY
            assert body(await at(request("/slow", CLOSE))) == b"slow"
            assert body(await at(request("/stream", CLOSE))) == b"one two three"
            assert body(await at(request("/head", CLOSE, method="HEAD"))) == b""
            assert body(await at(request("/digest", CLOSE, long, method="POST") + LARGE_BODY)) == digest
            assert body(await at(request("/digest", CLOSE, long, method="POST"), LARGE_BODY)) == digest
            encoded = request("/digest", CLOSE, "Transfer-Encoding: chunked", method="POST")
            assert body(await at(encoded + chunks)) == hashlib.sha256(b"somemore").hexdigest().encode()
            whole = request("/pieces", CLOSE)
            assert body(await at(whole[:9], whole[9:20], whole[20:])) == b"/pieces"
            both = await at(request("/first") + request("/slow") + request("/last", CLOSE))
            assert [one.rpartition(b"\r\n")[2] for one in both.split(b"HTTP/1.1 200 OK")] == [
                b"",
                b"/first",
                b"slow",
                b"/last",
            ]
            kept = [request(f"/{number}") for number in range(5)]
            answers = await at(*kept, request("/", CLOSE))
            assert all(b"\r\n\r\n/%d" % number in answers for number in range(5))
            assert (await at(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
            assert await at() == b""
        account(server, 12)

    run(main())


def test_the_application_is_told_that_a_client_has_left(
    run: Callable[..., Any], serve: Any, left: queue.SimpleQueue[str]
) -> None:
    async def main() -> None:
        async with await serve() as server:
            for number, how in enumerate((b"", struct.pack("ii", 1, 0))):
                with socket.create_connection(server.sockets[0].getsockname()) as sock:
                    sock.sendall(request(f"/wait?{number}"))
                    assert await asyncio.to_thread(left.get, timeout=60) == "asked"
                    if how:  # by a reset
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
                assert await asyncio.to_thread(left.get, timeout=60) == str(number)
        account(server, 2)

    run(main())


def test_a_websocket_on_a_new_connection(run: Callable[..., Any], serve: Any) -> None:
    async def main() -> None:
        async with await serve() as server:
            host, port = server.sockets[0].getsockname()
            for _ in range(3):
                async with websockets.connect(f"ws://{host}:{port}/") as chat:
                    own = str(chat.local_address[1])
                    for text in ("a", "b" * 100_000):
                        await chat.send(text)
                        assert await chat.recv() == text + own
        account(server, 3)

    run(main())


def test_what_is_open_at_the_end_is_cut_and_counted(run: Callable[..., Any], serve: Any) -> None:
    async def main() -> None:
        server = await serve()
        asked = [asyncio.create_task(ask(server, request("/wait"), waiting=True)) for _ in range(5)]
        idle = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(2)]
        while server.balancer.stats().workers[0].accepted < 7:
            await asyncio.sleep(0.01)
        server.close()
        server.abort_clients()
        assert [await one for one in asked] == [b""] * 5
        assert [await reader.read() for reader, _ in idle] == [b""] * 2
        await server.wait_closed()
        account(server, 0, 7)
        for _, writer in idle:
            writer.close()

    run(main())
