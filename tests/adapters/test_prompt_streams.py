"""Streams whose first bytes are there before their loop knows of them: their handlers are to find no difference."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import queue
import random
import socket
import ssl
import struct
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb.adapters import descriptors, prompt, streams
from pydlb.adapters.streams import StreamAdapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LARGE = random.Random(0).randbytes(1 << 16) * 128
RESET = struct.pack("ii", 1, 0)
SIOCOUTQNSD = 0x894B


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Any:
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop has no wheel for this interpreter")
    return request.param


@pytest.fixture
def told() -> queue.SimpleQueue[Any]:
    """What handlers have found."""
    return queue.SimpleQueue()


@pytest.fixture
def serve(loop: str, told: queue.SimpleQueue[Any], certificate: Path) -> Callable[..., Any]:
    """Serve with a handler of (told, reader, writer)."""
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop

    def make(handler: Any, **options: Any) -> Any:
        adapter = functools.partial(StreamAdapter, functools.partial(handler, told), **options)
        return pydlb.serve(adapter, "127.0.0.1", 0, workers=1, loop_factory=factory)

    return make


@contextlib.contextmanager
def waiting(server: Any, *sent: bytes) -> Any:
    """A client each, whose bytes are there when it is accepted."""
    server.balancer.pause()
    with contextlib.ExitStack() as all_of_them:
        clients = [all_of_them.enter_context(socket.create_connection(address(server), 60)) for _ in sent]
        for client, data in zip(clients, sent, strict=True):
            client.sendall(data)
        server.balancer.resume()
        yield clients


def address(server: Any) -> Any:
    return server.sockets[0].getsockname()


async def rest(client: socket.socket) -> bytes:
    """All that comes until the end."""

    def read_all() -> bytes:
        return b"".join(iter(functools.partial(client.recv, 1 << 16), b""))

    return await asyncio.to_thread(read_all)


async def get(client: socket.socket, count: int) -> bytes:
    def read() -> bytes:
        got = b""
        while len(got) < count and (more := client.recv(count - len(got))):
            got += more
        return got

    return await asyncio.to_thread(read)


async def found(told: queue.SimpleQueue[Any]) -> Any:
    return await asyncio.to_thread(told.get, timeout=60)


def account(server: Any, served: int, aborted: int = 0) -> None:
    stats = server.balancer.stats()
    assert (stats.accepted, stats.served, stats.aborted, stats.open) == (served + aborted, served, aborted, 0)


async def echo_once(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read(100)).upper())
    writer.close()


async def echo(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.write(b"over")
    writer.close()
    await writer.wait_closed()
    told.put(writer.is_closing())


def test_what_asks_at_once_and_only_once_is_not_passed_on(
    run: Any, serve: Any, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt, "connect_descriptor", None)

    async def main() -> None:
        async with await serve(echo_once) as server:
            with waiting(server, *[b"a%d" % number for number in range(20)]) as clients:
                assert [await rest(client) for client in clients] == [b"A%d" % number for number in range(20)]
        account(server, 20)

    run(main())


def test_what_goes_on_goes_on_in_order_and_to_its_end(run: Any, serve: Any, told: Any) -> None:
    async def main() -> None:
        async with await serve(echo) as server:
            with waiting(server, b"one\ntwo\nth", b"one\n") as (client, other):
                assert await get(client, 8) == b"ONE\nTWO\n"
                assert await get(other, 4) == b"ONE\n"
                for number in range(20):
                    client.sendall(b"ree%d\nth" % number)
                    assert await get(client, 7 + (number > 9)) == b"THREE%d\n" % number
                client.shutdown(socket.SHUT_WR)
                assert await rest(client) == b"THover"
                other.shutdown(socket.SHUT_WR)
                assert await rest(other) == b"over"
                assert [await found(told) for _ in range(2)] == [True] * 2
        account(server, 2)

    run(main())


def test_what_goes_on_rests_until_its_client_has_left(
    run: Any, serve: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the first bytes are there or not, the loop is told at the end."""
    passed_on: list[str] = []

    def note(*arguments: Any, **options: Any) -> Any:
        passed_on.append("one")
        return descriptors.connect_descriptor(*arguments, **options)

    monkeypatch.setattr(prompt, "connect_descriptor", note)

    async def main() -> None:
        async with await serve(echo) as server:
            with waiting(server, b"first\n", b"") as (early, late):
                assert await get(early, 6) == b"FIRST\n"
                for turn in range(20):
                    for client in (early, late):
                        client.sendall(b"turn %d\n" % turn)
                    assert [await get(client, len(b"turn %d\n" % turn)) for client in (early, late)] == [
                        b"TURN %d\n" % turn
                    ] * 2
                assert not passed_on
                for client in (early, late):
                    client.shutdown(socket.SHUT_WR)
                    assert await rest(client) == b"over"
                    assert await found(told) is True
            assert len(passed_on) == 2
        account(server, 2)

    run(main())


def test_what_rests_is_written_to_at_once_and_without_limit(run: Any, serve: Any, told: Any) -> None:
    """By a handler that waits for something else; large pieces become the loop's business."""
    go = asyncio.Event()

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        while not go.is_set():
            await asyncio.sleep(0.001)
        writer.write(b"more")
        told.put(writer.transport.get_write_buffer_size())
        await asyncio.sleep(0.01)
        writer.write(LARGE)
        await writer.drain()
        assert await reader.readline() == b"last\n"
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"one\n") as (client,):
                assert await get(client, 4) == b"one\n"
                go.set()
                assert await get(client, 4) == b"more"
                assert await found(told) == 0
                assert await get(client, len(LARGE)) == LARGE
                client.sendall(b"last\n")
                assert await rest(client) == b""
        account(server, 1)

    run(main())


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n\r\n"])
def test_what_rests_sends_each_piece_at_once(run: Any, serve: Any, told: Any, header: bytes) -> None:
    """Whether or not its client acknowledges the one before, and however it began."""

    def unsent(writer: asyncio.StreamWriter) -> int:
        found = fcntl.ioctl(writer.get_extra_info("socket").fileno(), SIOCOUTQNSD, b"\0" * 4)
        return int(struct.unpack("i", found)[0])

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(header + await reader.readline())
        writer.write(b"body")
        await asyncio.sleep(0.01)
        told.put(unsent(writer))
        assert await reader.readline() == b"two\n"
        writer.write(b"header")
        writer.write(b"body")
        told.put(unsent(writer))
        writer.close()

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"one\n") as (client,):
                assert await found(told) == 0
                assert await get(client, len(header) + 8) == header + b"one\nbody"
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
                client.sendall(b"two\n")
                assert await found(told) == 0
                assert await rest(client) == b"headerbody"
        account(server, 1)

    run(main())


def test_who_rests_is_told_of_a_reset(run: Any, serve: Any, told: Any) -> None:
    """It is no end: what came before it is not all."""

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        try:
            await reader.read()
        except ConnectionResetError as error:
            told.put(error)
        else:
            told.put(None)
        writer.close()
        told.put(writer.get_extra_info("peername"))

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"one\n") as (client,):
                assert await get(client, 4) == b"one\n"
                client.sendall(b"a part")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                assert isinstance(await found(told), ConnectionResetError)
                await found(told)
        account(server, 1)

    run(main())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_what_rests_may_be_closed_at_any_time(run: Any, serve: Any, told: Any, end: str) -> None:
    """Its handler is told of the end, and its descriptor watched no more."""

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        asyncio.get_running_loop().call_later(0.01, getattr(writer.transport, end))
        try:
            told.put(await reader.read())
            await writer.wait_closed()
            told.put(writer.is_closing())
        finally:
            told.put(writer.get_extra_info("peername"))

    async def main() -> None:
        async with await serve(handle) as server:
            for _ in range(3):
                with waiting(server, b"one\n") as (client,):
                    assert await get(client, 4) == b"one\n"
                    assert await rest(client) == b""
                    assert [await found(told) for _ in range(2)] == [b"", True]
                    assert await found(told) == client.getsockname()
        account(server, 3)

    run(main())


def test_what_comes_for_one_that_another_has_closed_is_nobodys(run: Any, serve: Any, told: Any) -> None:
    """Two that are readable at once, of which the first ends both."""
    there: list[asyncio.StreamWriter] = []

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        there.append(writer)
        line = await reader.readline()
        told.put(line)
        for other in there:
            other.transport.abort()

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"one\n", b"two\n") as clients:
                for client in clients:
                    await get(client, 4)
                for client in clients:
                    client.sendall(b"end\n")
                ends = sorted([await found(told), await found(told)])
                assert ends in ([b"", b"end\n"], [b"end\n", b"end\n"])
                for client in clients:
                    with contextlib.suppress(ConnectionResetError):
                        assert await rest(client) == b""

    run(main())


def test_where_connections_go_on_that_do_not_rest_the_next_are_the_loops_at_once(
    run: Any, serve: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as one that is tried now and then goes on, too."""
    monkeypatch.setattr(StreamAdapter, "_let_rest", lambda *_: None)
    begun = 0

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        return descriptors.connect_descriptor(*arguments, **options)

    monkeypatch.setattr(prompt, "connect_descriptor", count)

    async def either(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(line)
        if line == b"on\n":
            await reader.read()
        writer.close()

    async def main() -> None:
        async with await serve(either) as server:
            for _ in range(4 + 32):
                with waiting(server, b"on\n") as (client,):
                    assert await get(client, 3) == b"on\n"
            assert begun == 4 + 2
            for _ in range(16):
                with waiting(server, b"off\n") as (client,):
                    assert await rest(client) == b"off\n"
            with waiting(server, b"on\n") as (client,):
                assert await get(client, 3) == b"on\n"
        assert begun == 4 + 2 + 1

    run(main())


async def much(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Many large writes: more than a socket takes; it tells how much its transport kept at most, and at the end."""
    await reader.readexactly(1)
    most = 0
    for start in range(0, len(LARGE), 1 << 16):
        writer.write(LARGE[start : start + (1 << 16)])
        most = max(most, writer.transport.get_write_buffer_size())
        await writer.drain()
    writer.close()
    told.put(most)


def test_a_large_answer_waits_for_its_client(run: Any, serve: Any, told: Any) -> None:
    async def main() -> None:
        async with await serve(much) as server:
            with waiting(server, b"?") as (client,):
                with pytest.raises(queue.Empty):
                    told.get(timeout=0.2)  # nobody reads: it must be waiting
                assert await rest(client) == LARGE
            assert await found(told) < 1 << 18
        account(server, 1)

    run(main())


async def ask_all(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    kept = writer.transport
    assert weakref.ref(kept)() is kept
    before = [writer.get_extra_info(name) for name in ("peername", "sockname", "sslcontext")]
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    told.put((sock.family, sock.getpeername(), sock.getsockname(), sock.fileno() >= 0, writer.can_write_eof()))
    goes_on = await reader.readline() == b"go on\n"
    if goes_on:
        await asyncio.sleep(0.01)
        told.put(kept.get_protocol() is writer.transport.get_protocol())
    told.put(bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)))
    told.put([writer.is_closing(), before])
    writer.close()
    told.put([writer.is_closing(), [writer.get_extra_info(name) for name in ("peername", "sockname", "sslcontext")]])
    await writer.wait_closed()
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        told.put("drained")
    await reader.read()
    told.put(reader.at_eof())
    told.put("end")
    await asyncio.sleep(3600)  # with its socket


@pytest.mark.parametrize("line", [b"once\n", b"go on\n"])
def test_what_can_be_asked(run: Any, serve: Any, told: Any, line: bytes) -> None:
    async def main() -> None:
        async with await serve(ask_all) as server:
            with waiting(server, line) as (client,):
                own, its = client.getsockname(), client.getpeername()
                assert await found(told) == (socket.AF_INET, own, its, True, True)
                if line == b"go on\n":
                    assert await found(told) is True
                assert await found(told) is True
                assert await found(told) == [False, [own, its, None]]
                assert await found(told) == [True, [own, its, None]]
                assert await found(told) is True
                assert await found(told) == "end"
                assert await rest(client) == b""
        account(server, 1)

    run(main())


def test_methods_that_were_kept_act_on_no_other_connection(run: Any, serve: Any, told: Any) -> None:
    """The descriptor of one that is closed is the next one's."""
    kept: list[Any] = []

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport: Any = writer.transport
        if await reader.readline() == b"first\n":
            kept.append(transport)
            kept.extend(getattr(transport, name) for name in ("write", "flush", "get_extra_info", "close", "abort"))
            told.put(transport.get_extra_info("socket").fileno())
            writer.write(b"one")
            writer.close()
            return
        closed, write, flush, get_extra_info, close, abort = kept
        told.put(transport.get_extra_info("socket").fileno())
        for _ in range(2):
            write(b"for somebody else")
        flush()
        told.put(get_extra_info("peername"))
        told.put(closed.get_extra_info("peername"))
        close()
        abort()
        writer.write(b"another")
        await reader.read()
        writer.write(b" one")
        writer.close()

    async def main() -> None:
        async with await serve(handle) as server:
            with socket.socket() as other, waiting(server, b"first\n") as (client,):
                own = client.getsockname()
                assert await rest(client) == b"one"
                server.balancer.pause()
                other.connect(address(server))
                other.sendall(b"second\n")
                server.balancer.resume()
                assert await found(told) == await found(told), "the test is for a descriptor that is used again"
                assert [await found(told) for _ in range(2)] == [own, own]
                other.shutdown(socket.SHUT_WR)
                assert await rest(other) == b"another one"
        account(server, 2)

    run(main())


def test_methods_that_were_kept_act_on_what_the_connection_has_become(run: Any, serve: Any, told: Any) -> None:
    names = ["write", "close", "is_closing", "get_extra_info", "pause_reading", "resume_reading", "is_reading"]
    names += ["get_write_buffer_size", "set_write_buffer_limits", "get_write_buffer_limits", "get_protocol"]

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = {name: getattr(writer.transport, name) for name in names}
        drain = writer.drain
        kept["write"](await reader.readline())
        await drain()
        line = await reader.readline()
        kept["pause_reading"]()  # the loop knows of it from now on
        told.put(kept["is_reading"]())
        kept["resume_reading"]()
        told.put(kept["is_reading"]())
        kept["set_write_buffer_limits"](1000, 10)
        told.put((*kept["get_write_buffer_limits"](), kept["get_write_buffer_size"]()))
        told.put(kept["get_protocol"]() is writer.transport.get_protocol())
        told.put(kept["get_extra_info"]("peername"))
        kept["write"](line)
        await drain()
        told.put(kept["is_closing"]())
        kept["close"]()
        told.put(kept["is_closing"]())

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"one\n") as (client,):
                assert await get(client, 4) == b"one\n"
                client.sendall(b"two\n")
                assert await rest(client) == b"two\n"
                assert [await found(told) for _ in range(2)] == [False, True]
                assert await found(told) == (10, 1000, 0)
                assert await found(told) is True
                assert await found(told) == client.getsockname()
                assert [await found(told) for _ in range(2)] == [False, True]
        account(server, 1)

    run(main())


def test_methods_that_were_kept_lead_on_while_the_loop_makes_its_transport(run: Any, serve: Any, told: Any) -> None:
    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport: Any = writer.transport
        write, close, get_extra_info = transport.write, transport.close, transport.get_extra_info
        is_closing = transport.is_closing
        await reader.readline()
        transport.pause_reading()
        later = transport.write
        write(b"one ")
        told.put(get_extra_info("peername"))
        transport.resume_reading()
        await asyncio.sleep(0.01)
        later(b"two")
        close()
        told.put(is_closing())

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"go\n") as (client,):
                assert await rest(client) == b"one two"
                assert await found(told) == client.getsockname()
                assert await found(told) is True
        account(server, 1)

    run(main())


class Others(asyncio.Protocol):
    """A protocol that a handler gives its connection to: it answers what comes, and tells of the end."""

    def __init__(self, told: Any, transport: Any) -> None:
        self._told = told
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"other " + data)

    def connection_lost(self, error: Exception | None) -> None:
        self._told.put(("lost", error))


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, told: Any, transport: Any) -> None:
        self._told = told
        self._transport = transport
        self._buffer = bytearray(100)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.write(b"other " + self._buffer[:nbytes])

    def connection_lost(self, error: Exception | None) -> None:
        self._told.put(("lost", error))


@pytest.mark.parametrize("protocol", [Others, Buffered])
@pytest.mark.parametrize("first", [b"one\n", b""])
@pytest.mark.parametrize("turns", [None, 0, 1, 2, 9])
def test_another_protocol_gets_what_comes(
    run: Any, serve: Any, told: Any, protocol: Any, turns: int | None, first: bytes
) -> None:
    """Set at once, or while the loop makes its transport, or later."""
    kept: list[asyncio.StreamWriter] = []

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        transport: Any = writer.transport
        if turns is not None:
            transport.pause_reading()
            for _ in range(turns):
                await asyncio.sleep(0)
            transport = writer.transport
        transport.set_protocol(protocol(told, transport))
        told.put(type(transport.get_protocol()))
        kept.append(writer)  # one that nobody refers to closes its transport, from Python 3.13 on
        if turns is not None:
            transport.resume_reading()

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, first) as (client,):
                if not first:
                    while not server.balancer.stats().workers[0].accepted:
                        await asyncio.sleep(0.01)
                    client.sendall(b"one\n")
                assert await get(client, 4) == b"one\n"
                assert await found(told) is protocol
                for line in (b"two\n", b"three\n"):
                    client.sendall(line)
                    assert await get(client, 6 + len(line)) == b"other " + line
            assert await found(told) == ("lost", None)
        account(server, 1)

    run(main())


def test_limits_that_cannot_be_are_refused_where_they_are_asked_for(run: Any, serve: Any, told: Any) -> None:
    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport: Any = writer.transport
        await reader.readline()
        for _ in range(2):  # also while the loop makes its transport
            with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\)"):
                transport.set_write_buffer_limits(high=1, low=2)
            with pytest.raises(ValueError, match="must be >= 0"):
                transport.set_write_buffer_limits(high=1, low=-1)
            transport.set_write_buffer_limits(high=2**40)
        writer.write(b"after")
        await writer.drain()
        transport.set_write_buffer_limits(high=400)
        await asyncio.sleep(0.01)
        told.put(writer.transport.get_write_buffer_limits())
        writer.close()

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"go\n") as (client,):
                assert await rest(client) == b"after"
                assert await found(told) == (100, 400)
        account(server, 1)

    run(main())


@pytest.mark.parametrize("told_to", ["connection", "listener"])
def test_one_that_lingers_when_it_is_closed_keeps_no_other_thread_waiting(
    run: Any, serve: Any, told: Any, told_to: str
) -> None:
    answer = LARGE[:60_000]
    linger = struct.pack("ii", 1, 25)  # seconds that all threads would stand still, and longer than they are waited for

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if told_to == "connection":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        for _ in range(4):
            writer.write(answer)
        told.put("closing")
        writer.close()

    async def main() -> None:
        async with await serve(handle) as server:
            server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            if told_to == "listener":
                server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                server.balancer.pause()
                client.connect(address(server))
                client.sendall(b"go\n")
                async with asyncio.timeout(20):
                    server.balancer.resume()
                    assert await found(told) == "closing"
                    assert await rest(client) == answer * 4
        account(server, 1)

    run(main())


def test_a_protocol_that_fails_is_told_why_its_connection_is_lost(
    run: Any, serve: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = ValueError("as asked")

    def fail(self: Any, data: bytes) -> None:
        raise failure

    def connection_lost(self: Any, error: Exception | None) -> None:
        told.put(error)

    monkeypatch.setattr(streams._Begun, "data_received", fail)
    monkeypatch.setattr(streams._Begun, "connection_lost", connection_lost)

    async def main() -> None:
        async with await serve(echo) as server:
            with waiting(server, b"x") as (client,):
                with contextlib.suppress(ConnectionResetError):
                    assert await rest(client) == b""
                assert await found(told) is failure
        assert server.balancer.stats().open == 0

    run(main())


def test_an_adapter_whose_submit_is_extended_has_it_called(run: Any, loop: str, told: Any) -> None:
    class Counting(StreamAdapter):
        def submit(self, connection: pydlb.Connection) -> None:
            told.put("submitted")
            super().submit(connection)

    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop

    async def main() -> None:
        adapter = functools.partial(Counting, functools.partial(echo_once, told))
        async with await pydlb.serve(adapter, "127.0.0.1", 0, workers=1, loop_factory=factory) as server:
            with waiting(server, b"a", b"b") as clients:
                assert [await rest(client) for client in clients] == [b"A", b"B"]
                assert [told.get_nowait() for _ in clients] == ["submitted"] * 2
        account(server, 2)

    run(main())


async def end_writing(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(9))
    writer.write_eof()
    try:
        writer.write(b"more")
    except RuntimeError as error:
        told.put(str(error))
    told.put(await reader.read())
    writer.close()


def test_half_a_close(run: Any, serve: Any, told: Any) -> None:
    async def main() -> None:
        async with await serve(end_writing) as server:
            with waiting(server, b"some") as (client,):
                assert await rest(client) == b"some"
                assert "write_eof" in await found(told)
                client.sendall(b"rest")
                client.shutdown(socket.SHUT_WR)
                assert await found(told) == b"rest"
        account(server, 1)

    run(main())


async def do(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As the client asks."""
    match await reader.readline():
        case b"fail\n":
            raise ValueError("as asked")
        case b"abort\n":
            writer.transport.abort()
        case b"cancel\n":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        case b"slow\n":
            await asyncio.sleep(0.02)
            writer.writelines([b"slow", bytearray(b" and "), memoryview(b"sure")])
            writer.close()
        case b"hold\n":
            told.put("held")
            try:
                told.put(await reader.read())
            except ConnectionError as error:
                told.put(type(error))
            writer.close()
        case b"twice\n":
            writer.write(b"a")
            writer.write(b"b")
            await writer.drain()
            writer.write(b"c")
            writer.close()
            writer.close()
            writer.write(b"lost")


def test_handlers_that_fail_abort_and_dawdle(run: Any, serve: Any, told: Any) -> None:
    async def main() -> None:
        async with await serve(do) as server:
            with waiting(server, b"fail\n", b"abort\n", b"cancel\n", b"slow\n", b"twice\n") as clients:
                answers = []
                for client in clients:
                    try:
                        answers.append(await rest(client))
                    except ConnectionResetError:
                        answers.append(b"")
                assert answers == [b"", b"", b"", b"slow and sure", b"abc"]
        account(server, 3, 2)

    run(main())


def test_clients_that_go(run: Any, serve: Any, told: Any) -> None:
    async def main() -> None:
        async with await serve(do) as server:
            for how in (b"", RESET):
                with waiting(server, b"hold\n") as (client,):
                    assert await found(told) == "held"
                    if how:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
                assert await found(told) in ((b"",) if not how else (b"", ConnectionResetError))
            server.balancer.pause()  # gone before it is accepted
            client = socket.create_connection(address(server), 60)
            client.sendall(b"twice\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            server.balancer.resume()
            with waiting(server, b"twice\n") as (client,):
                assert await rest(client) == b"abc"
        stats = server.balancer.stats()
        assert stats.open == 0
        assert stats.served + stats.aborted == stats.accepted >= 3

    run(main())


def test_more_than_the_reader_takes(run: Any, serve: Any, told: Any) -> None:
    async def in_pieces(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = 0
        while piece := await reader.read(1000):
            length += len(piece)
            if length % 7 == 0:
                await asyncio.sleep(0)
        writer.write(b"%d" % length)
        writer.close()

    async def main() -> None:
        async with await serve(in_pieces, limit=1000) as server:
            with waiting(server, LARGE[:50_000]) as (client,):
                await asyncio.to_thread(client.sendall, LARGE)
                client.shutdown(socket.SHUT_WR)
                assert await rest(client) == b"%d" % (len(LARGE) + 50_000)
        account(server, 1)

    run(main())


@pytest.mark.parametrize("rests", [False, True])
@pytest.mark.parametrize("loop", ["asyncio"], indirect=True)  # uvloop sends no files
def test_the_loop_sends_a_file_over_a_transport(run: Any, serve: Any, told: Any, rests: bool, tmp_path: Path) -> None:
    """It can, although it does not know of it yet."""
    (tmp_path / "file").write_bytes(LARGE)

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"go\n")
        await asyncio.sleep(0.01 if rests else 0)
        with (tmp_path / "file").open("rb") as file:
            told.put(await asyncio.get_running_loop().sendfile(writer.transport, file))
        writer.close()

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"FILE\n") as (client,):
                assert await rest(client) == b"go\n" + LARGE
                assert await found(told) == len(LARGE)
        account(server, 1)

    run(main())


@pytest.mark.parametrize("rests", [False, True])
def test_the_loop_begins_tls_over_a_transport(
    run: Any, serve: Any, told: Any, rests: bool, certificate: Path, client_context: ssl.SSLContext
) -> None:
    """It can, although it does not know of it yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def handle(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await asyncio.sleep(0.01 if rests else 0)
        writer.write(b"go\n")
        transport = writer.transport
        safe = await asyncio.get_running_loop().start_tls(
            transport, transport.get_protocol(), context, server_side=True
        )
        assert safe is not None
        safe.write(b"safe")
        told.put(await reader.read(4))
        safe.close()

    async def main() -> None:
        async with await serve(handle) as server:
            with waiting(server, b"STARTTLS\n") as (client,):
                assert await get(client, 3) == b"go\n"
                with await asyncio.to_thread(client_context.wrap_socket, client, server_hostname="localhost") as safe:
                    assert await get(safe, 4) == b"safe"
                    await asyncio.to_thread(safe.sendall, b"fine")
                    assert await found(told) == b"fine"
        account(server, 1)

    run(main())


@pytest.mark.parametrize("moved", [False, True])
def test_tls_that_begins_later(
    run: Any, serve: Any, told: Any, certificate: Path, client_context: ssl.SSLContext, moved: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def upgrade(told: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start_tls = writer.start_tls
        assert await reader.readline() == b"STARTTLS\n"
        if moved:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.transport.resume_reading()  # type: ignore[attr-defined]
        while moved and type(writer) is not asyncio.StreamWriter:
            await asyncio.sleep(0)
        writer.write(b"go\n")
        await start_tls(context)
        line = await reader.readline()
        writer.write(line.upper())
        await writer.drain()
        told.put(writer.get_extra_info("sslcontext") is context)
        writer.close()

    async def main() -> None:
        async with await serve(upgrade) as server:
            with waiting(server, b"STARTTLS\n") as (client,):
                assert await get(client, 3) == b"go\n"

                def speak() -> bytes:
                    with client_context.wrap_socket(client, server_hostname="localhost") as secure:
                        secure.sendall(b"secret\n")
                        return b"".join(iter(functools.partial(secure.recv, 100), b""))

                assert await asyncio.to_thread(speak) == b"SECRET\n"
                assert await found(told) is True
        account(server, 1)

    run(main())


def test_what_is_open_at_the_end_is_cut_and_counted(run: Any, serve: Any, told: Any) -> None:
    async def main() -> None:
        server = await serve(do)
        with waiting(server, *[b"hold\n"] * 5) as clients:
            assert [await found(told) for _ in clients] == ["held"] * 5
            server.close()
            server.abort_clients()
            for client in clients:
                with contextlib.suppress(ConnectionResetError):
                    assert await rest(client) == b""
            await server.wait_closed()
        account(server, 0, 5)

    run(main())


@pytest.mark.parametrize(("module", "part", "sent"), [(streams, "_Begun", b"x"), (descriptors, "_Watched", b"")])
def test_what_cannot_be_made_is_closed_and_counted(
    run: Any, serve: Any, loop: str, module: Any, part: str, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    async def main() -> None:
        async with await serve(echo) as server:
            monkeypatch.setattr(module, part, fail)
            with waiting(server, sent) as (client,):
                if part == "_Watched":
                    client.shutdown(socket.SHUT_WR)  # until then it rests
                if part == "_Watched" and loop == "uvloop":  # which needs none
                    assert await rest(client) == b"over"
                else:
                    assert await rest(client) == b""
        account(server, *((1, 0) if part == "_Watched" and loop == "uvloop" else (0, 1)))

    run(main())
