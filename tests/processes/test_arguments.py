"""What is refused, and what keeps worker processes from starting."""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb.loops import LoopWorker

from . import handlers

if TYPE_CHECKING:
    from collections.abc import Callable


def test_handler_that_cannot_be_pickled(clients: Any) -> None:
    def inner(connection: pydlb.Connection) -> None:
        handlers.name_process(connection)

    with pytest.raises(pydlb.ConfigError, match=r"pickle.*start_method='fork'"):
        pydlb.Balancer(1, handler=inner, worker_class="process")
    with pydlb.Balancer(1, handler=inner, worker_class="process", start_method="fork") as balancer:
        balancer.listen()
        assert all(clients.hold(balancer.address(), 1))
        clients.close()


def test_words_that_mean_nothing() -> None:
    with pytest.raises(pydlb.ConfigError, match="worker_class is 'fiber'"):
        pydlb.Balancer(1, handler=handlers.name_process, worker_class="fiber")  # type: ignore[arg-type]
    with pytest.raises(pydlb.ConfigError, match="start_method is 'clone'"):
        pydlb.Balancer(1, handler=handlers.name_process, worker_class="process", start_method="clone")  # type: ignore[arg-type]


def test_what_only_the_process_does() -> None:
    with pydlb.Balancer(1, handler=handlers.name_process, worker_class="process") as balancer:
        with pytest.raises(pydlb.ConfigError, match="is a process"):
            balancer.workers[0].accept_blocking(0)
        with pytest.raises(pydlb.ConfigError, match="processes"):
            balancer.worker()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_application_that_does_not_start(method: Any) -> None:
    """The worker's own exception is raised here, and nothing is left behind."""
    with (
        pydlb.Balancer(0, worker_class="process", start_method=method) as balancer,
        pytest.raises(LookupError, match="no such application"),
    ):
        balancer.add_some(functools.partial(LoopWorker, make_adapter=handlers.Unready, loop_factory=None), 2)


def test_failing_handler_costs_one_connection(clients: Any, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(1, handler=handlers.fail, worker_class="process") as balancer:
        balancer.listen()
        before = balancer.workers[0].pid  # type: ignore[attr-defined]
        assert clients.hold(balancer.address(), 2) == [b"", b""]
        wait_until(lambda: balancer.stats().aborted == 2)
        assert balancer.workers[0].pid == before  # type: ignore[attr-defined]


def test_listener_that_is_removed_is_closed_everywhere(clients: Any, wait_until: Callable[..., None]) -> None:
    """Also in workers that were forked: else its address would stay taken."""
    with pydlb.Balancer(2, handler=handlers.name_process, worker_class="process", start_method="fork") as balancer:
        first, second = balancer.listen(), balancer.listen()
        address = balancer.address(first)
        assert all(clients.hold(address, 2))
        clients.close()
        balancer.unlisten(first)

        def can_be_bound() -> bool:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    sock.bind(address)
                    sock.listen()
                except OSError:
                    return False
                return True

        wait_until(can_be_bound)
        assert all(clients.hold(balancer.address(second), 2))
        clients.close()


def test_pause_and_removal(clients: Any) -> None:
    with pydlb.Balancer(2, handler=handlers.name_process, worker_class="process") as balancer:
        balancer.listen()
        one, other = balancer.workers
        balancer.pause_worker(one)
        for _ in range(4):
            assert clients.hold(balancer.address(), 1) == [b"%d\n" % other.pid]  # type: ignore[attr-defined]
            clients.close()
        balancer.resume_worker(one)
        assert balancer.remove_worker(other, timeout=5) == 0
        assert clients.hold(balancer.address(), 1) == [b"%d\n" % one.pid]  # type: ignore[attr-defined]
        clients.close()


def test_close_ends_what_is_open(clients: Any) -> None:
    balancer = pydlb.Balancer(1, handler=handlers.name_process, worker_class="process")
    balancer.listen()
    assert all(clients.hold(balancer.address(), 1))
    stats = balancer.close(timeout=0)
    assert (stats.accepted, stats.open, stats.aborted) == (1, 0, 1)
    assert clients.ask(clients.open[0]) == b""


def test_server_drains_processes(clients: Any) -> None:
    """What is open when the server is closed is served to its end."""

    async def main() -> None:
        server = await pydlb.start_server(
            handlers.name_process_by_streams, "127.0.0.1", 0, workers=2, worker_class="process"
        )
        client = clients.connect(server.sockets[0].getsockname())
        name = await asyncio.to_thread(clients.ask, client)
        server.close()
        assert await asyncio.to_thread(clients.ask, client) == name
        client.close()
        await server.wait_closed()
        assert server.balancer.stats().served == 1

    asyncio.run(asyncio.wait_for(main(), 60))
