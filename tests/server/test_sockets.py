"""The sockets of workers: what socket.socket does, in all that a program may ask of it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pydlb import _native

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

Pair = tuple[socket.socket, socket.socket]


def connected(family: int, address: Any) -> Pair:
    """One of ours, and its peer."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        peer = socket.socket(family, socket.SOCK_STREAM)
        peer.connect(listener.getsockname())
        accepted, _ = listener.accept()
        return _native.Socket(accepted.family, accepted.type, accepted.proto, accepted.detach()), peer


@pytest.fixture(params=["inet", "inet6", "unix"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    places = {
        "inet": (socket.AF_INET, ("127.0.0.1", 0)),
        "inet6": (socket.AF_INET6, ("::1", 0)),
        "unix": (socket.AF_UNIX, str(tmp_path / "socket")),
    }
    ours, peer = connected(*places[request.param])
    with ours, peer:
        yield ours, peer


def test_is_a_socket(pair: Pair) -> None:
    ours, peer = pair
    assert isinstance(ours, socket.socket)
    assert ours.getsockname() == peer.getpeername()
    assert ours.getpeername() == peer.getsockname()
    for _ in range(2):
        assert isinstance(ours.family, socket.AddressFamily)
        assert ours.family is peer.family
        assert ours.type is socket.SOCK_STREAM
    with socket.socket(ours.family, ours.type, ours.proto, ours.dup().detach()) as twin:
        assert twin.getsockname() == ours.getsockname()
        assert twin.getpeername() == ours.getpeername()


def test_sends_and_receives(pair: Pair) -> None:
    ours, peer = pair
    assert ours.send(b"one") == 3
    assert ours.send(memoryview(bytearray(b"two")), 0) == 3
    assert ours.send(b"") == 0
    assert peer.recv(100) == b"onetwo"
    peer.sendall(b"three")
    assert ours.recv(2) == b"th"
    assert ours.recv(100, socket.MSG_PEEK) == b"ree"
    buffer = bytearray(b"........")
    assert ours.recv_into(buffer, 2) == 2
    assert ours.recv_into(memoryview(buffer)[4:]) == 1
    assert buffer == b"re..e..."
    peer.close()
    assert ours.recv(1) == b""
    assert ours.recv(0) == b""


@pytest.mark.parametrize("size", [1, 1 << 16, (1 << 16) + 1, 3 << 20])
def test_any_size_arrives(pair: Pair, size: int) -> None:
    ours, peer = pair
    data = bytes(range(256)) * (size // 256 + 1)
    sender = threading.Thread(target=ours.sendall, args=(data[:size],))
    sender.start()
    got = bytearray()
    while len(got) < size:
        got += peer.recv(1 << 20)
    sender.join()
    assert got == data[:size]
    sender = threading.Thread(target=peer.sendall, args=(data[:size],))
    sender.start()
    back = bytearray()
    while len(back) < size:
        back += ours.recv(1 << 20 if len(back) % 2 else 4096)
    sender.join()
    assert back == data[:size]


def test_waits_as_it_was_told(pair: Pair) -> None:
    ours, peer = pair
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    with pytest.raises(BlockingIOError):
        ours.recv_into(bytearray(1))
    with pytest.raises(BlockingIOError):
        [ours.send(bytes(4096)) for _ in range(1 << 20)]
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.recv(1)
    ours.settimeout(None)
    threading.Timer(0.01, peer.sendall, [b"late"]).start()
    assert ours.recv(10) == b"late"


def test_refuses_what_socket_refuses(pair: Pair) -> None:
    ours, _ = pair
    with pytest.raises(TypeError):
        ours.recv("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ours.recv()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="negative"):
        ours.recv(-1)
    with pytest.raises((OverflowError, MemoryError)):
        ours.recv(1 << 70)
    with pytest.raises(TypeError):
        ours.send("text")  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError)):
        ours.recv_into(b"read-only")
    with pytest.raises(TypeError):
        ours.recv(*range(9))  # type: ignore[call-arg]


def test_a_reset_is_told_once_and_as_an_error() -> None:
    ours, peer = connected(socket.AF_INET, ("127.0.0.1", 0))
    with ours:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        with pytest.raises(ConnectionResetError):
            ours.recv(1)
        with pytest.raises(BrokenPipeError):
            ours.send(b"x")


@pytest.mark.parametrize("linger", [None, (1, 0), (1, 1)])
def test_close_closes_once(linger: tuple[int, int] | None) -> None:
    ours, peer = connected(socket.AF_INET, ("127.0.0.1", 0))
    with peer:
        if linger:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", *linger))
        number = ours.fileno()
        file = ours.makefile("rb")
        ours.close()
        peer.sendall(b"for the file")
        assert file.read(3) == b"for"  # the descriptor lives as long as the file does
        file.close()
        ours.close()
        assert ours.fileno() == -1
        with pytest.raises(OSError) as caught:
            ours.recv(1)
        assert caught.value.errno == errno.EBADF
        other = fcntl.fcntl(peer, fcntl.F_DUPFD, number)
        assert other == number  # it is free again, and nobody closes it twice
        ours.close()
        os.close(other)


def test_can_be_wrapped_for_tls(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    ours, peer = connected(socket.AF_INET, ("127.0.0.1", 0))

    def serve() -> None:
        with server_context.wrap_socket(ours, server_side=True) as wrapped:
            wrapped.sendall(wrapped.recv(100))

    thread = threading.Thread(target=serve)
    thread.start()
    with client_context.wrap_socket(peer, server_hostname="localhost") as client:
        client.sendall(b"secret")
        assert client.recv(100) == b"secret"
    thread.join()


def test_who_brings_threads_of_his_own_gets_plain_sockets(run: Callable[..., Any]) -> None:
    """Some libraries take nothing but exactly socket.socket."""
    import pydlb

    async def main() -> None:
        async with pydlb.Balancer(0) as balancer:
            client = socket.create_connection(balancer.address(balancer.listen()))
            with client, await balancer.accept() as connection:
                assert type(connection.socket) is socket.socket

    run(main())
