"""A connection ends once, whoever ends it and however, and is counted then."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import struct
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Clients

THREADS = 4


class Given:
    """A balancer with one worker, which is given a connection for each client."""

    def __init__(self, balancer: pydlb.Balancer, clients: Clients) -> None:
        self.balancer = balancer
        self.worker = balancer.worker()
        self.clients = clients
        self.address = balancer.address(balancer.listen())

    def connection(self) -> tuple[pydlb.Connection, socket.socket]:
        (client,) = self.clients.connect(self.address)
        connection = self.worker.accept_blocking(30)
        assert connection is not None
        return connection, client

    def counts(self) -> tuple[int, int, int, int]:
        """Accepted, open, served, aborted."""
        stats = self.worker.stats()
        return stats.accepted, stats.open, stats.served, stats.aborted


@pytest.fixture
def given(clients: Clients) -> Iterator[Given]:
    with pydlb.Balancer(0) as balancer:
        yield Given(balancer, clients)


def at_once(call: Callable[[], object]) -> list[object]:
    """Call it in several threads at the same moment; what each returned, or raised."""
    barrier, results = threading.Barrier(THREADS), list[object]()

    def run() -> None:
        barrier.wait(30)
        try:
            results.append(call())
        except pydlb.ClosedError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_closing_twice_counts_once(given: Given) -> None:
    connection, client = given.connection()
    assert given.counts() == (1, 1, 0, 0)
    connection.close()
    connection.close(aborted=True)
    assert given.counts() == (1, 0, 1, 0)
    assert client.recv(1) == b""
    assert connection.socket.fileno() == -1


def test_threads_that_close_it_at_once_count_once(given: Given) -> None:
    for number in range(1, 51):
        connection, _ = given.connection()
        at_once(connection.close)
        assert given.counts() == (number, 0, number, 0)


def test_threads_that_detach_it_at_once_get_it_once(given: Given) -> None:
    for _ in range(50):
        connection, client = given.connection()
        results = at_once(connection.detach)
        got = [result for result in results if isinstance(result, tuple)]
        assert (len(got), len(results)) == (1, THREADS)
        sock, ticket = got[0]
        client.sendall(b"?")
        assert sock.recv(1) == b"?"
        sock.close()
        ticket.release()
    assert given.counts() == (50, 0, 50, 0)


def test_threads_that_ask_for_its_socket_at_once_get_the_same_one(given: Given) -> None:
    for _ in range(50):
        connection, client = given.connection()
        with connection:
            assert len({id(sock) for sock in at_once(lambda made=connection: made.socket)}) == 1
            client.sendall(b"?")
            assert connection.socket.recv(1) == b"?"


def test_a_ticket_counts_once(given: Given) -> None:
    connection, _ = given.connection()
    sock, ticket = connection.detach()
    assert (ticket.listener, ticket.port) == (connection.listener, given.worker.port)
    connection.close()
    assert given.counts() == (1, 1, 0, 0)
    sock.close()
    ticket.release(aborted=True)
    ticket.release()
    assert given.counts() == (1, 0, 0, 1)


@pytest.mark.parametrize("has_socket", [False, True])
def test_a_descriptor_that_was_detached_is_the_callers(given: Given, has_socket: bool) -> None:
    connection, client = given.connection()
    if has_socket:
        assert connection.socket.fileno() >= 0
    descriptor, family, ticket = connection.detach_descriptor()
    assert family == socket.AF_INET
    with pytest.raises(pydlb.ClosedError):
        connection.detach_descriptor()
    if not has_socket:
        with pytest.raises(pydlb.ClosedError, match="detached"):
            _ = connection.socket
    del connection
    with socket.socket(family, fileno=descriptor) as sock:
        client.sendall(b"?")
        assert sock.recv(1) == b"?"
    ticket.release()
    assert given.counts() == (1, 0, 1, 0)


def test_one_that_is_forgotten_in_a_cycle_is_counted_by_the_collector(given: Given) -> None:
    connection, client = given.connection()
    cycle: list[object] = [connection]
    cycle.append(cycle)
    del connection, cycle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert client.recv(1) == b""
    assert given.counts() == (1, 0, 0, 1)


def test_one_that_is_forgotten_with_an_exception_leaves_it_as_it_is(given: Given) -> None:
    def fail() -> None:
        connection, _ = given.connection()
        raise KeyError(connection.listener)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(KeyError) as raised:
            fail()
        del raised
        gc.collect()
    assert given.counts() == (1, 0, 0, 1)


def test_one_that_is_closed_after_its_worker_was_aborted_with_it(given: Given) -> None:
    first, _ = given.connection()
    second, client = given.connection()
    first.close()
    given.worker.close()
    assert given.counts() == (2, 0, 1, 1)
    second.close()
    assert given.counts() == (2, 0, 1, 1)
    assert client.recv(1) == b""
    assert given.worker.by_listener() == {second.listener: (2, 2)}


def test_what_an_event_loop_takes_does_not_block(given: Given) -> None:
    given.clients.connect(given.address, 3)
    taken: list[pydlb.Connection] = []
    while len(taken) < 3:
        taken += given.worker.receive(64)[0]
    for connection in taken:
        with connection, pytest.raises(BlockingIOError):
            connection.socket.recv(1)
    assert given.counts() == (3, 0, 3, 0)


def test_sums_hold_at_any_moment_while_threads_serve(clients: Clients, account: Callable[..., None]) -> None:
    with pydlb.Balancer(THREADS, handler=lambda connection: connection.socket.recv(1)) as balancer:
        address = balancer.address(balancer.listen())
        over = threading.Event()

        def connect() -> None:
            while not over.is_set():
                with socket.create_connection(address) as client:
                    client.sendall(b"?")
                    client.recv(1)

        threads = [threading.Thread(target=connect) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            for worker in balancer.stats().workers:
                assert worker.accepted == worker.open + worker.served + worker.aborted
                assert 0 <= worker.open <= 1
        over.set()
        for thread in threads:
            thread.join(30)
        account(balancer.close())


LINGERS = struct.pack("ii", 1, 10)


def set_by_listener(given: Given) -> tuple[pydlb.Connection, socket.socket]:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGERS)
    given.address = given.balancer.address(given.balancer.listen(sock=listening))
    return given.connection()


def set_by_handler(given: Given) -> tuple[pydlb.Connection, socket.socket]:
    connection, client = given.connection()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGERS)
    return connection, client


def set_by_twin(given: Given) -> tuple[pydlb.Connection, socket.socket]:
    connection, client = given.connection()
    with connection.socket.dup() as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGERS)
    return connection, client


@pytest.mark.parametrize("lingering", [set_by_listener, set_by_handler, set_by_twin])
def test_others_run_while_a_close_lingers(
    given: Given, lingering: Callable[[Given], tuple[pydlb.Connection, socket.socket]]
) -> None:
    given.worker.keep_lock()  # as workers with a handler do
    plain, _ = given.connection()
    with plain:
        plain.socket.fileno()
    connection, client = lingering(given)
    sock = connection.socket
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))
    descriptor = sock.fileno()
    closing = threading.Thread(target=connection.close)
    closing.start()
    with contextlib.suppress(OSError):
        while True:  # the number is free as soon as the kernel has begun
            os.fstat(descriptor)
    assert given.counts() == (2, 1, 1, 0)
    while client.recv(1 << 20):
        pass
    closing.join()
    assert given.counts() == (2, 0, 2, 0)
