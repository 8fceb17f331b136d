"""Connections from a proxy that says for whom."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Iterator

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def line(client: str = "192.0.2.1", port: int = 56324) -> bytes:
    family = "TCP6" if ":" in client else "TCP4"
    server = "2001:db8::9" if ":" in client else "198.51.100.2"
    return f"PROXY {family} {client} {server} {port} 443\r\n".encode()


def binary(client: str = "192.0.2.1", port: int = 56324, extra: bytes = b"") -> bytes:
    if ":" in client:
        family, server = 0x21, "2001:db8::9"
        packed = socket.inet_pton(socket.AF_INET6, client) + socket.inet_pton(socket.AF_INET6, server)
    else:
        family, server = 0x11, "198.51.100.2"
        packed = socket.inet_aton(client) + socket.inet_aton(server)
    rest = packed + struct.pack("!HH", port, 443) + extra
    return V2 + bytes([0x21, family]) + struct.pack("!H", len(rest)) + rest


LOCAL = V2 + b"\x20\x00\x00\x00"
UNIX = V2 + b"\x21\x31\x00\xd8" + b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")


def tell_client(connection: pydlb.Connection) -> None:
    """Answer with the client's address and with what it said."""
    said = connection.socket.recv(1000)
    connection.socket.sendall(repr((connection.client_address, said, threading.current_thread().name)).encode())


@pytest.fixture
def balancer() -> Iterator[pydlb.Balancer]:
    with pydlb.Balancer(workers=2, handler=tell_client, backend="software") as balancer:
        yield balancer


def connect(balancer: pydlb.Balancer, listener: int) -> socket.socket:
    return socket.create_connection(balancer.address(listener), timeout=60)


def ask(balancer: pydlb.Balancer, listener: int, *pieces: bytes) -> Any:
    with connect(balancer, listener) as client:
        for piece in pieces:
            client.sendall(piece)
        answer = client.makefile("rb").read()
    return eval(answer) if answer else None  # what repr wrote


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (line(), ("192.0.2.1", 56324)),
        (line("2001:db8::1", 1), ("2001:db8::1", 1, 0, 0)),
        (binary(), ("192.0.2.1", 56324)),
        (binary("2001:db8::1", 1), ("2001:db8::1", 1, 0, 0)),
        (binary(extra=b"\x04\x10\x00" + b"x" * 4096), ("192.0.2.1", 56324)),
        (UNIX, "/client"),
    ],
    ids=["v1", "v1-ipv6", "v2", "v2-ipv6", "v2-tlv", "v2-unix"],
)
@pytest.mark.parametrize("mode", [True, "optional"])
def test_the_client_is_the_proxys(balancer: pydlb.Balancer, header: bytes, client: Any, mode: Any) -> None:
    listener = balancer.listen(proxy_protocol=mode)
    assert ask(balancer, listener, header + b"hello")[:2] == (client, b"hello")
    assert ask(balancer, listener, header[:5], header[5:20], header[20:], b"hello")[:2] == (client, b"hello")


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", LOCAL], ids=["v1", "v2"])
def test_a_proxy_that_speaks_for_itself(balancer: pydlb.Balancer, header: bytes) -> None:
    listener = balancer.listen(proxy_protocol=True)
    with connect(balancer, listener) as client:
        client.sendall(header + b"hello")
        assert eval(client.recv(1000))[:2] == (client.getsockname(), b"hello")


def test_none_is_needed_where_it_is_optional(balancer: pydlb.Balancer) -> None:
    listener = balancer.listen(proxy_protocol="optional")
    assert ask(balancer, listener, b"hello")[1] == b"hello"
    assert ask(balancer, listener, b"PROPFIND")[1] == b"PROPFIND"


def test_none_is_read_where_none_is_expected(balancer: pydlb.Balancer) -> None:
    listener = balancer.listen()
    assert ask(balancer, listener, line())[1] == line()


def test_what_is_no_header_is_refused_and_counted(balancer: pydlb.Balancer) -> None:
    strict, lax = balancer.listen(proxy_protocol=True), balancer.listen(proxy_protocol="optional")
    for listener, said in ((strict, b"GET / HTTP/1.1\r\n"), (strict, b"PROXY what\r\n"), (lax, b"PROXY what\r\n")):
        with connect(balancer, listener) as client:
            client.sendall(said)
            with contextlib.suppress(ConnectionError):
                assert client.recv(10) == b""
    connect(balancer, strict).close()
    while balancer.stats().refused < 4:
        pass
    stats = balancer.stats()
    assert stats.refused_headers == {"broken": 3, "late": 0, "gone": 1}
    assert (stats.accepted, stats.served, stats.refused, stats.waiting) == (4, 0, 4, 0)


def test_silent_ones_keep_nobody_waiting(balancer: pydlb.Balancer) -> None:
    listener = balancer.listen(proxy_protocol=True)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(balancer, listener)) for _ in range(20)]
        for client in silent[10:]:
            client.sendall(line()[:10])
        for _ in range(10):
            assert ask(balancer, listener, line() + b"hello")[1] == b"hello"
        assert balancer.stats().waiting == 20
        for client in silent:  # until their time is over
            with contextlib.suppress(ConnectionError):
                assert client.recv(10) == b""
    stats = balancer.stats()
    assert stats.refused_headers == {"broken": 0, "late": 20, "gone": 0}


def test_the_end_does_not_wait_for_headers(balancer: pydlb.Balancer) -> None:
    listener = balancer.listen(proxy_protocol=True)
    with connect(balancer, listener), connect(balancer, listener):
        while balancer.stats().waiting < 2:
            pass
        stats = balancer.close(timeout=0)
    assert (stats.accepted, stats.refused, stats.refused_headers["late"]) == (2, 2, 2)


def test_a_header_that_comes_while_it_drains(balancer: pydlb.Balancer) -> None:
    listener = balancer.listen(proxy_protocol=True)
    with connect(balancer, listener) as client:
        while balancer.stats().waiting < 1:
            pass
        balancer.begin_stop(60)
        client.sendall(line() + b"late")
        assert eval(client.recv(1000))[1] == b"late"


def test_hash_is_by_the_proxys_client() -> None:
    """Clients stay with their worker, though all come from one proxy."""
    with pydlb.Balancer(workers=4, handler=tell_client, backend="software", policy="hash") as balancer:
        listener = balancer.listen(proxy_protocol=True)
        homes: dict[str, set[str]] = collections.defaultdict(set)
        for port in range(3):
            for host in range(32):
                client = f"10.0.0.{host}"
                homes[client].add(ask(balancer, listener, binary(client, 1000 + port) + b"hello")[2])
        assert all(len(names) == 1 for names in homes.values())
        assert len(set.union(*homes.values())) > 1


def test_functions_see_the_proxys_client() -> None:
    seen = []

    def pick(workers: Any, arrival: Any) -> Any:
        seen.append(arrival.address)
        return workers[0]

    with pydlb.Balancer(workers=2, handler=tell_client, backend="software", policy=pick) as balancer:
        listener = balancer.listen(proxy_protocol=True)
        assert ask(balancer, listener, line("2001:db8::7", 77) + b"hello")
    assert seen == [("2001:db8::7", 77)]


# ---- workers that are processes, which accept by themselves --------------------------------------------------------


def in_processes(handler: Any) -> contextlib.AbstractContextManager[pydlb.Balancer]:
    return pydlb.Balancer(workers=2, handler=handler, backend="software", worker_class="process", start_method="fork")


def test_processes_that_serve_one_at_a_time() -> None:
    with in_processes(tell_client) as balancer:
        listener = balancer.listen(proxy_protocol=True)
        for _ in range(4):
            assert ask(balancer, listener, line() + b"hello")[:2] == (("192.0.2.1", 56324), b"hello")
        with connect(balancer, listener) as client:
            client.sendall(b"GET / HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionError):
                assert client.recv(10) == b""
        assert ask(balancer, listener, binary() + b"hello")[1] == b"hello"
        stats = balancer.close()
    assert (stats.accepted, stats.served, stats.aborted) == (6, 5, 1)


def test_processes_with_event_loops() -> None:
    """Silent ones keep nobody waiting, and are closed when their time is over."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read(1000)
        writer.write(repr((writer.get_extra_info("peername"), said)).encode())
        writer.close()

    async def main() -> pydlb.Balancer:
        async with await pydlb.start_server(
            handle,
            "127.0.0.1",
            0,
            workers=2,
            worker_class="process",
            start_method="fork",
            proxy_protocol=True,
            backend="software",
        ) as server:
            await asyncio.to_thread(visit, server.balancer)
        return server.balancer

    def visit(balancer: pydlb.Balancer) -> None:
        with connect(balancer, 0) as silent, connect(balancer, 0) as slow:
            slow.sendall(line()[:9])
            for _ in range(6):
                assert ask(balancer, 0, binary() + b"hello") == (("192.0.2.1", 56324), b"hello")
            slow.sendall(line()[9:] + b"at last")
            assert eval(slow.recv(1000)) == (("192.0.2.1", 56324), b"at last")
            with contextlib.suppress(ConnectionError):
                assert silent.recv(10) == b""

    stats = asyncio.run(main()).stats()
    assert (stats.accepted, stats.served, stats.aborted) == (8, 7, 1)


def test_other_values_are_refused(balancer: pydlb.Balancer) -> None:
    with pytest.raises(pydlb.ConfigError, match="'optional'"):
        balancer.listen(proxy_protocol="yes")  # type: ignore[arg-type]
