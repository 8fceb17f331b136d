"""Listening sockets: kinds of them, while the balancer runs, and how they end."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Clients


def answer(connection: pydlb.Connection) -> None:
    """The number of the listener, once the client says something."""
    if connection.socket.recv(1):
        connection.socket.sendall(str(connection.listener).encode())


@pytest.fixture
def balancer() -> Iterator[pydlb.Balancer]:
    with pydlb.Balancer(2, handler=answer) as made:
        yield made


def test_connections_say_where_they_came_from(balancer: pydlb.Balancer, clients: Clients, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    numbers = [balancer.listen(), balancer.listen("::1"), balancer.listen(path=path), balancer.listen("localhost")]
    assert len(set(numbers)) == 4
    for number in numbers:
        (client,) = clients.connect(balancer.address(number))
        assert clients.ask(client) == str(number).encode()
    balancer.close()
    assert not path.exists()


def test_sockets_of_the_caller_are_taken_over(balancer: pydlb.Balancer, clients: Clients) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    number = balancer.listen(sock=sock)
    assert clients.ask(*clients.connect(sock.getsockname())) == str(number).encode()
    balancer.close()
    assert sock.fileno() == -1


def test_shared_sockets_stay_open_for_others(balancer: pydlb.Balancer, clients: Clients) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = balancer.listen(sock=sock, shared=True)
        assert clients.ask(*clients.connect(sock.getsockname())) == str(number).encode()
        balancer.close()
        (client,) = clients.connect(sock.getsockname())
        sock.setblocking(True)
        other, _ = sock.accept()
        with other:
            other.sendall(b"still here")
            assert client.recv(100) == b"still here"


def test_pause_leaves_clients_in_the_backlog(balancer: pydlb.Balancer, clients: Clients) -> None:
    address = balancer.address(balancer.listen())
    assert clients.ask(*clients.connect(address))
    balancer.pause()
    accepted = balancer.stats().accepted
    waiting = clients.connect(address, 5)
    assert balancer.stats().accepted == accepted
    balancer.resume()
    assert all(clients.ask(client) for client in waiting)


def test_one_listener_is_removed_while_others_go_on(balancer: pydlb.Balancer, clients: Clients) -> None:
    gone, stays = balancer.listen(), balancer.listen()
    addresses = balancer.address(gone), balancer.address(stays)
    assert clients.ask(*clients.connect(addresses[0])) == str(gone).encode()
    balancer.unlisten(gone)
    with pytest.raises(ConnectionRefusedError):
        clients.connect(addresses[0])
    assert clients.ask(*clients.connect(addresses[1])) == str(stays).encode()
    with pytest.raises(pydlb.ConfigError, match="no listener"):
        balancer.unlisten(gone)
    with pytest.raises(pydlb.ConfigError, match="no listener"):
        balancer.address(gone)
    assert balancer.listen() not in {gone, stays}


@pytest.mark.parametrize("kind", ["tcp", "ipv6", "unix"])
def test_a_backlog_is_emptied_before_the_end(kind: str, clients: Clients, tmp_path: Path) -> None:
    """Who connected before the end is served, though nothing had been accepted by then."""
    with pydlb.Balancer(2, handler=answer) as balancer:
        arguments = {"tcp": {}, "ipv6": {"host": "::1"}, "unix": {"path": tmp_path / "socket"}}[kind]
        address = balancer.address(balancer.listen(**arguments, backlog=100))
        balancer.pause()
        waiting = clients.connect(address, 50)
        for client in waiting:
            client.sendall(b"?")
        stats = balancer.close()
        assert all(client.recv(10) for client in waiting)
        assert (stats.accepted, stats.drained, stats.served) == (50, 50, 50)


def test_clients_that_come_during_the_end_are_refused_or_served(clients: Clients) -> None:
    """Nobody who got a connection loses it: who comes too late is never connected."""
    with pydlb.Balancer(4, handler=answer) as balancer:
        address = balancer.address(balancer.listen(backlog=1024))
        outcomes: list[str] = []
        over = threading.Event()

        def connect() -> None:
            while not over.is_set():
                try:
                    client = socket.create_connection(address, timeout=30)
                except OSError:
                    outcomes.append("refused")
                    return
                with client:
                    try:
                        client.sendall(b"?")
                        outcomes.append("served" if client.recv(10) else "lost")
                    except OSError:
                        outcomes.append("lost")

        threads = [threading.Thread(target=connect) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(outcomes) < 200:
            threads[0].join(0.001)
        stats = balancer.close()
        for thread in threads:
            thread.join(60)
        over.set()
        assert outcomes.count("lost") == 0
        assert outcomes.count("refused") == 8
        assert stats.served == stats.accepted == outcomes.count("served")


def test_listeners_take_turns_for_the_last_slot(clients: Clients, wait_until: Callable[..., None]) -> None:
    """With room for one connection at a time none of the listeners is left out."""
    with pydlb.Balancer(1, handler=answer, max_waiting=1, batch=1) as balancer:
        numbers = [balancer.listen() for _ in range(3)]
        balancer.pause()
        waiting = [client for number in numbers for client in clients.connect(balancer.address(number), 10)]
        for client in waiting:
            client.sendall(b"?")
        balancer.resume()
        got = [client.recv(10) for client in waiting]
        assert sorted(got) == sorted(str(number).encode() for number in numbers for _ in range(10))
        assert balancer.stats().held_up > 0


def test_what_does_not_listen_is_refused(balancer: pydlb.Balancer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(pydlb.ConfigError, match="stream socket"):
            balancer.listen(sock=datagrams)
    with pytest.raises(pydlb.ConfigError, match="stream socket"):
        balancer.listen(sock=7)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="in use"), socket.create_server(("127.0.0.1", 0)) as other:
        balancer.listen(port=other.getsockname()[1])
    with pytest.raises(OSError, match="address"):
        balancer.listen("192.0.2.1")
