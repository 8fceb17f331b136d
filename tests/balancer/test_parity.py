"""Workers that accept by themselves and send through ports of their own, as Envoy's: nothing is lost either way."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import policies
from pydlb.testing import EmulatedDevice

from .test_fallback import echo, under_load

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Clients

# Envoy's numbers.
ENVOY: dict[str, Any] = {"accept": "workers", "queue_depth": 8, "receive_batch": 32, "release": "receive"}
POLICIES = ["dlb", "exact", "nop", "random", "round_robin", "least", "hash"]
PATIENCE = 30.0


def backend(kind: str) -> Any:
    return EmulatedDevice() if kind == "device" else kind


def loop_factory(kind: str) -> Any:
    if kind != "uvloop":
        return None
    return pytest.importorskip("uvloop", reason="uvloop has no wheel for this interpreter").new_event_loop


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(100))
    await writer.drain()
    writer.close()


def ask_all(waiting: list[socket.socket]) -> None:
    for client in waiting:
        client.sendall(b"!")
    for client in waiting:
        assert client.recv(10) == b"!"


# ---- each kind of worker -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["software", "device"])
def test_threads(kind: str, policy: Any, account: Callable[..., None]) -> None:
    with pydlb.Balancer(3, handler=echo, backend=backend(kind), policy=policy, **ENVOY) as balancer:
        with under_load(balancer.address(balancer.listen())) as load:
            load.go_on_for(100)
            account(balancer.stats())
        stats = balancer.close()
    assert (stats.accepted, stats.served) == (load.answered, load.answered)
    assert stats.backoffs == stats.fallbacks == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("policy", ["dlb", "exact", "nop"])
@pytest.mark.parametrize("kind", ["software", "device"])
def test_event_loops(kind: str, policy: Any, loop: str, clients: Clients) -> None:
    async def main() -> pydlb.BalancerStats:
        server = await pydlb.start_server(
            answer,
            "127.0.0.1",
            0,
            workers=3,
            backend=backend(kind),
            policy=policy,
            loop_factory=loop_factory(loop),
            **ENVOY,
        )
        async with server:
            waiting = clients.connect(server.sockets[0].getsockname(), 200)
            await asyncio.to_thread(ask_all, waiting)
            server.close()
            await server.wait_closed()
        return server.balancer.stats()

    stats = asyncio.run(main())
    assert (stats.accepted, stats.served, stats.refused, stats.aborted) == (200, 200, 0, 0)
    assert (stats.kept == 200) if policy == "nop" else (stats.kept < 200)


def test_a_loop_of_ones_own(clients: Clients) -> None:
    async def main() -> None:
        async with pydlb.Balancer(0, **ENVOY) as balancer:
            address = balancer.address(balancer.listen())
            for _ in range(3):
                (client,) = clients.connect(address)
                connection = await asyncio.wait_for(balancer.accept(), PATIENCE)
                assert connection.socket.getpeername() == client.getsockname()
                connection.close()

    asyncio.run(main())


def test_unix_sockets(clients: Clients, tmp_path: Any) -> None:
    with pydlb.Balancer(2, handler=echo, **ENVOY) as balancer:
        balancer.listen(path=tmp_path / "socket")
        for client in clients.connect(str(tmp_path / "socket"), 20):
            client.sendall(b"?")
            client.shutdown(socket.SHUT_WR)
        assert [client.recv(10) for client in clients.open] == [b"?"] * 20


# ---- who gets it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["software", "device"])
def test_what_one_worker_accepts_goes_to_whom_the_engine_chooses(kind: str, clients: Clients) -> None:
    """Every connection goes through the engine, even where the worker that accepts has nothing to do."""
    with pydlb.Balancer(0, backend=backend(kind), max_workers=2, **ENVOY) as balancer:
        accepts, other = balancer.worker(), balancer.worker()
        balancer.pause_worker(accepts)
        clients.connect(balancer.address(balancer.listen()), 5)
        held: list[pydlb.Connection] = []
        while balancer.stats().accepted < 5:
            assert accepts.receive(4) == ([], False)
        while len(held) < 5:
            held += other.receive(32)[0]
        assert (other.stats().open, accepts.stats().open, balancer.stats().kept) == (5, 0, 0)
        for connection in held:
            connection.close()


@pytest.mark.parametrize("policy", ["nop", policies.Exact(tie="local"), lambda _, arrival: arrival.current])
def test_it_may_stay_where_it_was_accepted(policy: Any, clients: Clients) -> None:
    with pydlb.Balancer(0, policy=policy, **ENVOY) as balancer:
        address = balancer.address(balancer.listen())
        workers = [balancer.worker() for _ in range(3)]
        for worker in workers:
            clients.connect(address)
            connection = worker.accept_blocking(PATIENCE)
            assert connection is not None
            connection.close()
        assert [worker.stats().served for worker in workers] == [1, 1, 1]
        assert balancer.stats().kept == 3


def test_envoys_exact_balance_ends_with_the_first(clients: Clients) -> None:
    """Whoever accepts: of those with as few the first one, and all of it under one lock."""
    with pydlb.Balancer(0, policy=policies.Exact(tie="first", per_listener=True), **ENVOY) as balancer:
        workers = [balancer.worker() for _ in range(3)]
        clients.connect(balancer.address(balancer.listen()), 7)
        held = []
        while balancer.stats().accepted < 7:
            held += workers[2].receive(32)[0]
        assert [worker.open for worker in workers] == [3, 2, 2]
        for worker in workers:
            held += worker.receive(32)[0]
        assert [worker.stats().open for worker in workers] == [3, 2, 2]
        for connection in held:
            connection.close()


@pytest.mark.parametrize("count", [16, 64, 400])
def test_open_connections_are_level_where_release_is_on_close(count: int, clients: Clients) -> None:
    """What Envoy's queue forgets, ours need not, also where workers accept."""
    with pydlb.Balancer(0, accept="workers", policy="exact") as balancer:
        workers = [balancer.worker() for _ in range(4)]
        clients.connect(balancer.address(balancer.listen()), count)
        held: list[pydlb.Connection] = []
        while len(held) < count:
            for worker in workers:
                held += worker.receive(16)[0]
        opened = [worker.stats().open for worker in workers]
        assert max(opened) - min(opened) <= 1
        for connection in held:
            connection.close()


def test_what_a_chosen_worker_does_not_come_for_goes_to_another(clients: Clients) -> None:
    """The clock runs, though it is workers who send."""
    with pydlb.Balancer(0, **ENVOY) as balancer:
        lazy, accepts, other = balancer.worker(), balancer.worker(), balancer.worker()
        balancer.pause_worker(accepts)
        for worker in (lazy, other):
            worker.receive(1)
            worker.fileno()  # from now on it is believed to wait
        clients.connect(balancer.address(balancer.listen()))
        while balancer.stats().accepted == 0:
            accepts.receive(1)
        connection = other.accept_blocking(PATIENCE)
        assert connection is not None
        connection.close()


# ---- what cannot be sent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 5])
def test_what_the_engine_does_not_take_stays_and_is_served(retries: int, clients: Clients) -> None:
    """Envoy lost it. With four credits, six of ten connections stay with who accepted them."""
    emulated = EmulatedDevice(limits={"ldb_credits": 4, "dir_credits": 0})
    options: dict[str, Any] = ENVOY | {"queue_depth": 1}
    with pydlb.Balancer(0, backend=emulated, max_workers=2, max_retries=retries, **options) as balancer:
        accepts, other = balancer.worker(), balancer.worker()
        balancer.pause_worker(accepts)  # so that it is given nothing
        waiting = clients.connect(balancer.address(balancer.listen()), 10)
        kept: list[pydlb.Connection] = []
        while balancer.stats().accepted < 10:
            kept += accepts.receive(16)[0]
        assert len(kept) == balancer.stats().kept == 6
        assert (balancer.stats().retries > 0) == (retries > 0)
        assert balancer.stats().retries <= 6 * retries
        given: list[pydlb.Connection] = []
        while len(given) < 4:
            given += other.receive(16)[0]
        for connection in kept + given:
            connection.socket.sendall(b"served")
            connection.close()
        assert [client.recv(10) for client in waiting] == [b"served"] * 10
        assert [worker.stats().served for worker in (accepts, other)] == [6, 4]


# ---- while everything changes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["dlb", "exact", "nop"])
def test_a_reset_under_load_drops_nothing(policy: Any, wait_until: Callable[..., None]) -> None:
    emulated = EmulatedDevice()
    with pydlb.Balancer(3, handler=echo, backend=emulated, policy=policy, **ENVOY) as balancer:
        with under_load(balancer.address(balancer.listen())) as load:
            load.go_on_for(50)
            emulated.reset()
            wait_until(lambda: balancer.stats().fallbacks == 1)
            load.go_on_for(50)
            wait_until(lambda: balancer.stats().recoveries == 1)
            load.go_on_for(50)
        stats = balancer.close()
    assert (stats.served, stats.accepted) == (load.answered, load.answered)


@pytest.mark.parametrize("kind", ["software", "device"])
def test_workers_come_and_go(kind: str) -> None:
    """A worker that left gave its ports back: there are no more of them than workers at a time."""
    options: dict[str, Any] = {"backend": backend(kind), "max_workers": 3, **ENVOY}
    with pydlb.Balancer(2, handler=echo, **options) as balancer:
        with under_load(balancer.address(balancer.listen())) as load:
            for policy in ("dlb", "exact", "dlb", "nop", "round_robin", "dlb"):
                balancer.policy = policy  # type: ignore[assignment]
                load.go_on_for(10)
                balancer.replace_worker(balancer.workers[0])
                load.go_on_for(10)
                balancer.pause()
                balancer.resume()
                balancer.pause_worker(balancer.workers[0])
                load.go_on_for(10)
                balancer.resume_worker(balancer.workers[0])
        stats = balancer.close()
    assert (stats.served, stats.accepted) == (load.answered, load.answered)


def test_limits_hold(clients: Clients, wait_until: Callable[..., None]) -> None:
    limits = pydlb.Limits(total=3, when_full="reply", reply=b"full")
    with pydlb.Balancer(4, handler=echo, limits=limits, **ENVOY) as balancer:
        address = balancer.address(balancer.listen())
        held = clients.connect(address, 3)
        assert [clients.ask(client) for client in held] == [b"?"] * 3
        (refused,) = clients.connect(address)
        assert refused.recv(10) == b"full"
        clients.close(held)
        wait_until(lambda: balancer.stats().open == 0)
        assert clients.ask(clients.connect(address)[0]) == b"?"
        balancer.limits = pydlb.Limits(per_worker=1)
        held = clients.connect(address, 4)
        wait_until(lambda: balancer.stats().open == 4)
        assert [worker.open for worker in balancer.stats().workers] == [1] * 4


def test_listeners_that_are_removed_are_emptied(clients: Clients, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(0, **ENVOY) as balancer:
        worker, listener = balancer.worker(), balancer.listen()
        waiting = clients.connect(balancer.address(listener), 5)
        balancer.unlisten(listener)
        assert balancer.stats().drained == 5
        for _ in waiting:
            connection = worker.accept_blocking(PATIENCE)
            assert connection is not None
            connection.close()


def test_closing_ends_a_wait_and_leaves_nothing_open(clients: Clients, wait_until: Callable[..., None]) -> None:
    balancer = pydlb.Balancer(0, **ENVOY)
    balancer.listen()
    worker = balancer.worker()
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            worker.accept_blocking()
        except pydlb.ClosedError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: worker._either is not None)
    balancer.close()
    thread.join(PATIENCE)
    assert len(ended) == 1


def test_nobody_accepts_until_there_is_a_worker(clients: Clients) -> None:
    with pydlb.Balancer(0, **ENVOY) as balancer:
        (client,) = clients.connect(balancer.address(balancer.listen()))
        assert balancer.stats().accepted == 0
        connection = balancer.worker().accept_blocking(PATIENCE)
        assert connection is not None
        assert connection.socket.getpeername() == client.getsockname()
        connection.close()


# ---- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"accept": "nobody"}, "accept is 'nobody'"),
        ({"max_retries": 1}, "max_retries is 1"),
        ({"accept": "workers", "max_retries": -1}, "max_retries is -1"),
        ({"accept": "workers", "worker_class": "process"}, "by permit"),
        ({"release": "never"}, "release is 'never'"),
        ({"queue_depth": 12}, "queue_depth is 12"),
        ({"queue_depth": 2048}, "queue_depth is 2048"),
        ({"receive_batch": 65}, "receive_batch is 65"),
    ],
)
def test_arguments(options: Any, what: str) -> None:
    with pytest.raises(pydlb.ConfigError, match=what):
        pydlb.Balancer(0, **options)


@pytest.mark.parametrize(("version", "policy", "most"), [("2.5", "dlb", 64), ("2.0", "dlb", 63), ("2.5", "exact", 47)])
def test_as_many_workers_as_there_are_ports(version: Any, policy: Any, most: int) -> None:
    """Envoy had 32: its workers sent from load-balanced ports."""
    options: dict[str, Any] = {"policy": policy, "max_workers": 96, **ENVOY}
    with pydlb.Balancer(0, backend=EmulatedDevice(version), **options) as balancer:
        for _ in range(most):
            balancer.worker()
        with pytest.raises(pydlb.ResourceExhausted):
            balancer.worker()
    with pydlb.Balancer(0, max_workers=1024, backend="software", **ENVOY) as balancer:
        balancer.worker()
