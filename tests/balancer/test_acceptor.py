"""The accepting thread by itself: a token names a connection once."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

import pydlb
from pydlb import _native
from pydlb.workers import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Clients


class Rig:
    """A domain with an acceptor, and one port that receives its tokens."""

    def __init__(self, slots: int) -> None:
        self.device = pydlb.open("software", limits="large")
        domain = self.device.create_domain(credits=slots, atomic_inflights=0)
        queue = domain.create_ldb_queue(atomic_inflights=0, sharing="even")
        domain.start()
        self.sender = domain.create_dir_port()
        self.port = domain.create_ldb_port()
        self.port.link(queue)
        self.acceptor = _native.Acceptor(
            domain._native, self.sender._native, queue=queue.id, slots=slots, batch=16, blocking=True
        )
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.number = self.acceptor.add(self.listener.fileno())

    def close(self) -> None:
        if hasattr(self, "acceptor"):
            self.acceptor.end()
            while (left := self.acceptor.take_left()) is not None:
                socket.close(left[0])
        self.listener.close()
        self.device.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(slots=4)
    yield made
    made.close()


def test_a_token_is_good_for_one_take(rig: Rig, clients: Clients) -> None:
    tokens = []
    for _ in range(20):
        (client,) = clients.connect(rig.listener.getsockname())
        token = rig.port.recv_one(30)
        assert token is not None
        taken = rig.acceptor.take(NOBODY, token)
        assert taken is not None
        descriptor, number, family, protocol, proxied = taken
        assert (family, protocol, proxied) == (socket.AF_INET, socket.IPPROTO_TCP, None)
        assert number == rig.number
        with socket.socket(fileno=descriptor) as sock:
            assert sock.getpeername() == client.getsockname()
            assert sock.gettimeout() is None
            assert not sock.get_inheritable()
        tokens.append(token)
        rig.port.release()
    assert len(set(tokens)) == 20
    for token in tokens:
        assert rig.acceptor.take(NOBODY, token) is None
    stats = rig.acceptor.stats()
    assert (stats["accepted"], stats["taken"]) == (20, 20)


@pytest.mark.parametrize("token", [0, 3, 4, 1 << 20, (1 << 32) | 1, (2 << 32) | 1, 2**64 - 1])
def test_tokens_out_of_nowhere_give_nothing(rig: Rig, token: int) -> None:
    assert rig.acceptor.take(NOBODY, token) is None


def test_what_is_left_can_be_taken_once(rig: Rig, clients: Clients, wait_until: Callable[..., None]) -> None:
    clients.connect(rig.listener.getsockname(), 3)
    wait_until(lambda: rig.acceptor.stats()["accepted"] == 3)
    rig.acceptor.end()
    left = [rig.acceptor.take_left() for _ in range(4)]
    assert left[3] is None
    for taken in left[:3]:
        assert taken is not None
        socket.close(taken[0])
    token = rig.port.recv_one(0)
    assert token is not None
    assert rig.acceptor.take(NOBODY, token) is None


def test_an_acceptor_that_is_dropped_closes_what_it_has(clients: Clients, wait_until: Callable[..., None]) -> None:
    rig = Rig(slots=4)
    (client,) = clients.connect(rig.listener.getsockname())
    wait_until(lambda: rig.acceptor.stats()["accepted"] == 1)
    del rig.acceptor
    assert clients.ask(client) == b""
    rig.close()


def test_stopping_again_hastens(rig: Rig, clients: Clients) -> None:
    clients.connect(rig.listener.getsockname(), 10)
    rig.acceptor.stop(3600)
    assert not rig.acceptor.wait(0)
    rig.acceptor.stop(0)
    assert rig.acceptor.wait(30)
    with pytest.raises(pydlb.DeviceError):
        rig.acceptor.add(rig.listener.fileno())


def test_what_cannot_be_listened_on_is_named(rig: Rig) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(pydlb.ConfigError, match="does not listen"):
            rig.acceptor.add(sock.fileno())
    with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(pydlb.ConfigError, match="is blocking"):
        rig.acceptor.add(sock.fileno())
    with open("/dev/null") as file, pytest.raises(pydlb.DeviceError, match="is no socket"):  # noqa: PTH123
        rig.acceptor.add(file.fileno())
    with pytest.raises(pydlb.ConfigError, match="no listener 77"):
        rig.acceptor.remove(77, drain=False)
