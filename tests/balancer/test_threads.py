"""Callbacks on plain threads, one connection at a time each."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Clients


def echo(connection: pydlb.Connection) -> None:
    while data := connection.socket.recv(100):
        connection.socket.sendall(data)


def name_worker(connection: pydlb.Connection) -> None:
    connection.socket.recv(1)
    connection.socket.sendall(threading.current_thread().name.encode())


def test_every_connection_is_served_and_counted(clients: Clients, account: Callable[..., None]) -> None:
    with pydlb.Balancer(4, handler=name_worker) as balancer:
        address = balancer.address(balancer.listen())
        answers = [clients.ask(*clients.connect(address)) for _ in range(40)]
        stats = balancer.close()
    assert {answer.decode() for answer in answers} == {f"worker_{number}" for number in range(4)}
    account(stats)
    assert (stats.accepted, stats.served, stats.open, stats.waiting) == (40, 40, 0, 0)
    assert [worker.accepted for worker in stats.workers] == [
        sum(answer == worker.name.encode() for answer in answers) for worker in stats.workers
    ]


def test_a_thread_serves_one_connection_at_a_time(clients: Clients, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(2, handler=echo) as balancer:
        address = balancer.address(balancer.listen())
        first, second, third = clients.connect(address, 3)
        wait_until(lambda: balancer.stats().open == 2)
        assert balancer.stats().waiting == 1 or balancer.stats().accepted == 2
        served = [client for client in (first, second, third) if client is not third]
        assert [clients.ask(client) for client in served] == [b"?", b"?"]
        third.sendall(b"?")
        clients.close([first])
        assert third.recv(1) == b"?"
        clients.close([second, third])


@pytest.mark.parametrize("failure", [RuntimeError("on purpose"), SystemExit(3)])
def test_a_handler_that_raises_loses_only_its_connection(
    failure: BaseException, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(connection: pydlb.Connection) -> None:
        if connection.socket.recv(1) == b"!":
            raise failure
        connection.socket.sendall(b"fine")

    with caplog.at_level(logging.ERROR, "pydlb"), pydlb.Balancer(1, handler=handler) as balancer:
        address = balancer.address(balancer.listen())
        (client,) = clients.connect(address)
        assert clients.ask(client, b"!") == b""
        (client,) = clients.connect(address)
        assert clients.ask(client) == b"fine"
        stats = balancer.close()
    assert (stats.served, stats.aborted) == (1, 1)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [failure]


def test_a_detached_connection_counts_until_its_ticket_is_released(
    clients: Clients, wait_until: Callable[..., None]
) -> None:
    kept = []
    detached = threading.Event()

    def handler(connection: pydlb.Connection) -> None:
        kept.append(connection.detach())
        detached.set()

    with pydlb.Balancer(1, handler=handler) as balancer:
        (client,) = clients.connect(balancer.address(balancer.listen()))
        assert detached.wait(30)
        sock, ticket = kept[0]
        sock.sendall(b"still here")
        assert client.recv(100) == b"still here"
        assert balancer.stats().open == 1
        sock.close()
        ticket.release()
        ticket.release()
        stats = balancer.stats()
        assert (stats.open, stats.served) == (0, 1)


def test_the_least_loaded_thread_is_not_a_blocked_one(clients: Clients) -> None:
    """Nothing waits for a worker that does not come back."""
    go_on, blocked = threading.Event(), threading.Event()

    def handler(connection: pydlb.Connection) -> None:
        if connection.socket.recv(1) == b"!":
            blocked.set()
            go_on.wait(60)
        connection.socket.sendall(b"done")

    with pydlb.Balancer(4, handler=handler) as balancer:
        address = balancer.address(balancer.listen())
        (stuck,) = clients.connect(address)
        stuck.sendall(b"!")
        assert blocked.wait(30)
        others = clients.connect(address, 200)
        assert all(clients.ask(client) == b"done" for client in others)
        assert not go_on.is_set()
        go_on.set()
        assert stuck.recv(10) == b"done"


# ---- iterating -----------------------------------------------------------------------------------------------------


def test_iteration_in_threads_of_ones_own_ends_with_the_balancer(clients: Clients) -> None:
    with pydlb.Balancer(0) as balancer:
        address = balancer.address(balancer.listen())
        served = []

        def serve() -> None:
            for connection in balancer.connections():
                with connection:
                    name_worker(connection)
                    served.append(connection.listener)

        threads = [threading.Thread(target=serve) for _ in range(3)]
        for thread in threads:
            thread.start()
        answers = [clients.ask(*clients.connect(address)) for _ in range(12)]
        stats = balancer.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert all(answers)
    assert (len(served), stats.served) == (12, 12)


def test_leaving_a_connection_by_an_exception_aborts_it(clients: Clients) -> None:
    with pydlb.Balancer(0) as balancer:
        worker = balancer.worker("mine")
        (client,) = clients.connect(balancer.address(balancer.listen()))
        connection = worker.accept_blocking(30)
        assert connection is not None
        with pytest.raises(KeyError), connection:
            raise KeyError
        assert client.recv(1) == b""
        (record,) = balancer.stats().workers
        assert (record.name, record.accepted, record.aborted) == ("mine", 1, 1)


def test_accept_blocking_keeps_its_timeout_and_closing_ends_it() -> None:
    with pydlb.Balancer(0) as balancer:
        worker = balancer.worker()
        assert worker.accept_blocking(0) is None
        assert worker.accept_blocking(0.01) is None
        ended = []

        def wait() -> None:
            try:
                worker.accept_blocking()
            except pydlb.ClosedError as error:
                ended.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        balancer.close()
        thread.join(30)
        assert ended


def test_a_forgotten_connection_warns_and_is_closed(clients: Clients) -> None:
    with pydlb.Balancer(0) as balancer:
        worker = balancer.worker()
        (client,) = clients.connect(balancer.address(balancer.listen()))
        connection = worker.accept_blocking(30)
        assert connection is not None
        with pytest.warns(ResourceWarning, match="unclosed"):
            del connection
        assert client.recv(1) == b""
        (stats,) = balancer.stats().workers
        assert (stats.accepted, stats.open, stats.aborted) == (1, 0, 1)


def test_a_forgotten_connection_is_counted_also_if_its_socket_cannot_be_made(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is no memory left."""

    def fail(*_: object) -> Any:
        raise MemoryError

    failures: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda failure: failures.append(failure.exc_type))
    with pydlb.Balancer(0) as balancer:
        worker = balancer.worker()
        (client,) = clients.connect(balancer.address(balancer.listen()))
        connection = worker.accept_blocking(30)
        assert connection is not None
        worker._inlet.set_sockets(fail)
        del connection
        assert client.recv(1) == b""
        assert failures == [MemoryError]
        (stats,) = balancer.stats().workers
        assert (stats.accepted, stats.open, stats.aborted) == (1, 0, 1)


def test_connections_are_blocking_where_threads_take_them(clients: Clients) -> None:
    with pydlb.Balancer(0) as balancer:
        worker = balancer.worker()
        (client,) = clients.connect(balancer.address(balancer.listen()))
        connection = worker.accept_blocking(30)
        assert connection is not None
        with connection:
            threading.Timer(0.01, client.sendall, [b"late"]).start()
            assert connection.socket.recv(10) == b"late"
            assert connection.socket.getpeername() == client.getsockname()
        with pytest.raises(pydlb.ClosedError):
            connection.detach()


# ---- the end -------------------------------------------------------------------------------------------------------


def test_a_silent_client_does_not_hold_up_the_end(clients: Clients, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(2, handler=echo) as balancer:
        (client,) = clients.connect(balancer.address(balancer.listen()))
        wait_until(lambda: balancer.stats().open == 1)
        stats = balancer.close(timeout=0)
        assert (stats.accepted, stats.aborted, stats.open) == (1, 1, 0)
        assert client.recv(1) == b""


def test_a_blocked_handler_does_not_hold_up_the_end(clients: Clients, caplog: pytest.LogCaptureFixture) -> None:
    go_on, blocked = threading.Event(), threading.Event()

    def handler(connection: pydlb.Connection) -> None:
        blocked.set()
        go_on.wait(60)

    with pydlb.Balancer(1, handler=handler) as balancer:
        address = balancer.address(balancer.listen())
        clients.connect(address, 3)
        assert blocked.wait(30)
        stats = balancer.close(timeout=0.1)
        assert not go_on.is_set()
        assert stats.accepted == stats.refused + stats.aborted
        assert (stats.served, stats.open, stats.waiting) == (0, 0, 0)
        assert "left behind" in caplog.text
        go_on.set()
    assert balancer.stats() == stats


def test_closing_from_several_threads_at_once_closes_once(clients: Clients) -> None:
    balancer = pydlb.Balancer(4, handler=name_worker)
    address = balancer.address(balancer.listen())
    assert all(clients.ask(*clients.connect(address)) for _ in range(10))
    accounts = []
    threads = [threading.Thread(target=lambda: accounts.append(balancer.close())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert balancer.closed
    assert len(accounts) == 4
    assert {account.served for account in accounts} == {10}
    with pytest.raises(pydlb.ClosedError):
        balancer.listen()
    with pytest.raises(pydlb.ClosedError):
        balancer.worker()


def test_an_interrupt_ends_a_drain(clients: Clients, wait_until: Callable[..., None]) -> None:
    """Signal handlers run while close() waits."""
    import signal

    with pydlb.Balancer(1, handler=echo) as balancer:
        clients.connect(balancer.address(balancer.listen()))
        wait_until(lambda: balancer.stats().open == 1)
        main = threading.get_ident()
        threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            balancer.drain()
        balancer.close(timeout=0)


def test_a_forgotten_balancer_warns_and_is_closed() -> None:
    balancer = pydlb.Balancer(2, handler=echo)
    address = balancer.address(balancer.listen())
    with pytest.warns(ResourceWarning, match="unclosed <pydlb.Balancer"):
        del balancer
    import socket

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_time_from_accept_to_worker_is_recorded(clients: Clients) -> None:
    with pydlb.Balancer(2, handler=name_worker) as balancer:
        address = balancer.address(balancer.listen())
        before = time.monotonic()
        for _ in range(10):
            assert clients.ask(*clients.connect(address))
        stats = balancer.close()
        assert sum(count for _, count in stats.handoff_seconds) == 10
        assert 0 < stats.handoff_quantile(0.5) <= stats.handoff_quantile(1.0) < 4 * (time.monotonic() - before)
        assert stats.handoff_quantile(0) <= stats.handoff_quantile(0.5)


def test_who_was_given_what_is_gone_looks_again(clients: Clients, wait_until: Callable[..., None]) -> None:
    """What a paused worker was picked for goes to another one; its port still has the token, which gives nothing."""

    async def take_late(worker: pydlb.Worker, address: object) -> pydlb.Connection:
        task = asyncio.create_task(worker.accept())
        await asyncio.sleep(0)  # it has found the token, and waits
        clients.connect(address, 2)
        return await asyncio.wait_for(task, 30)

    with pydlb.Balancer(0, policy="exact", grace=60) as balancer:
        late, other = balancer.worker(), balancer.worker()
        late.fileno()  # it has waited before
        address = balancer.address(balancer.listen())
        clients.connect(address)
        wait_until(lambda: late.stats().waiting == 1)
        balancer.pause_worker(late)
        taken = [other.accept_blocking(30)]
        balancer.resume_worker(late)
        taken += [asyncio.run(take_late(late, address)), other.accept_blocking(30)]
        for connection in taken:
            assert connection is not None
            connection.close()
