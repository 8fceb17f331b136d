"""When the device fails, at the start or later: connections go on through the software engine, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb.testing import EmulatedDevice, live_handles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Clients

POLICIES = ["dlb", "exact", "nop", "random", "round_robin", "least", "hash"]
PATIENCE = 30.0


def echo(connection: pydlb.Connection) -> None:
    while data := connection.socket.recv(100):
        connection.socket.sendall(data)


class Load:
    """Clients that connect, ask and leave, one after the other, until they are told to stop."""

    def __init__(self, address: object, threads: int = 3) -> None:
        self.address = address
        self.answered = 0
        self.failures: list[BaseException] = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                with socket.create_connection(self.address, PATIENCE) as client:  # type: ignore[arg-type]
                    client.sendall(b"hello")
                    assert client.recv(100) == b"hello", "the connection was dropped"
                with self._lock:
                    self.answered += 1
        except BaseException as error:  # told to the test
            self.failures.append(error)

    def go_on_for(self, more: int) -> None:
        """Until so many more were answered."""
        wanted, deadline = self.answered + more, time.monotonic() + PATIENCE
        while self.answered < wanted and not self.failures:
            assert time.monotonic() < deadline, f"{self.answered} of {wanted} were answered"
            time.sleep(0.002)
        assert not self.failures, self.failures

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert not self.failures, self.failures


@contextlib.contextmanager
def under_load(address: object) -> Iterator[Load]:
    load = Load(address)
    try:
        yield load
    finally:
        load.stop()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def check_answers(waiting: list[socket.socket]) -> None:
    """Each gets its own, whoever is served first."""
    for client in waiting:
        client.sendall(b"!")
        client.shutdown(socket.SHUT_WR)
    for client in waiting:
        assert client.recv(10) == b"!"


# ---- at the start --------------------------------------------------------------------------------------------------


def set_up(emulated: EmulatedDevice, **options: Any) -> pydlb.Balancer:
    return pydlb.Balancer(2, handler=echo, backend=emulated, max_workers=2, **options)


def calls_of_set_up(policy: str) -> int:
    emulated = EmulatedDevice()
    with set_up(emulated, policy=policy):
        return emulated.calls


def outcome_of(step: int, policy: str, fallback: Any, error: int, clients: Clients) -> str:
    """What becomes of a set-up whose nth system call fails; whatever it is, connections are served."""
    emulated = EmulatedDevice()
    emulated.fail(None, step, errno=error)
    try:
        balancer = set_up(emulated, policy=policy, fallback=fallback)
    except pydlb.DLBError:
        assert fallback in ("auto", None), f"step {step}: {emulated.failed_call}"
        return "raised"
    with balancer:
        (client,) = clients.connect(balancer.address(balancer.listen()))
        assert clients.ask(client, b"hello") == b"hello", f"step {step}: {emulated.failed_call}"
        clients.close_all()
        if balancer.backend != "software":
            return "did not matter"
        assert balancer.fallback_reason
        assert str(balancer.policy) == (policy if fallback in ("software", "auto") else fallback)
        return "fell back"


@pytest.mark.parametrize("policy", ["dlb", "exact"])
@pytest.mark.parametrize("fallback", ["software", "exact", "nop", "auto", None])
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSPC, errno.ENODEV])
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_each_step_of_the_set_up_may_fail(policy: str, fallback: Any, error: int, clients: Clients) -> None:
    gc.collect()
    before, open_before = descriptors(), live_handles()
    steps = range(1, calls_of_set_up(policy) + 1)
    outcomes = {outcome_of(step, policy, fallback, error, clients) for step in steps}
    assert outcomes & {"raised", "fell back"}
    assert ("raised" in outcomes) == (fallback in ("auto", None))
    gc.collect()
    assert live_handles() == open_before
    assert descriptors() <= before


def test_nothing_left_of_what_is_needed() -> None:
    for left in ({"ldb_ports": 1}, {"ldb_credits": 0, "dir_credits": 0}, {"domains": 0}, {"dir_ports": 0}):
        emulated = EmulatedDevice(limits=left)
        with pytest.raises(pydlb.ResourceExhausted):
            set_up(emulated)
        with set_up(emulated, fallback="nop") as balancer:
            assert (balancer.backend, str(balancer.policy)) == ("software", "nop")
            assert balancer.fallback_reason


def test_what_means_nothing_is_not_fallen_back_from() -> None:
    with pytest.raises(pydlb.ConfigError, match="it is 'auto'"):
        pydlb.Balancer(0, backend="nonsense", fallback="software")
    with pytest.raises(pydlb.ConfigError, match="fallback is 'hope'"):
        pydlb.Balancer(0, fallback="hope")  # type: ignore[arg-type]


def test_nothing_to_fall_back_on_where_there_is_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pydlb._backend.DEV", tmp_path)
    monkeypatch.delenv("PYDLB_BACKEND", raising=False)
    with pytest.raises(pydlb.BackendUnavailable, match="no DLB device"):
        pydlb.Balancer(0, backend="auto", fallback=None)
    with pydlb.Balancer(0, backend="auto", fallback="exact") as balancer:
        assert str(balancer.policy) == "exact"
    with pydlb.Balancer(0, backend="software", fallback=None) as balancer:
        assert balancer.fallback_reason is None


# ---- later ---------------------------------------------------------------------------------------------------------


def switches(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "pydlb" and record.levelno >= logging.WARNING]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("version", ["2.0", "2.5"])
def test_a_reset_under_load_drops_nothing(
    policy: str, version: Any, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    emulated = EmulatedDevice(version)
    with pydlb.Balancer(4, handler=echo, backend=emulated, policy=policy) as balancer:  # type: ignore[arg-type]
        address = balancer.address(balancer.listen())
        with under_load(address) as load:
            load.go_on_for(50)
            emulated.reset()
            wait_until(lambda: balancer.stats().fallbacks == 1)
            load.go_on_for(50)
            wait_until(lambda: balancer.stats().recoveries == 1)
            assert balancer.backend == "the emulated device"
            assert balancer.fallback_reason is None
            load.go_on_for(50)
        stats = balancer.close()
    assert str(balancer.policy) == policy
    assert (stats.served, stats.accepted) == (load.answered, load.answered)
    away, back = switches(caplog)
    assert "reset" in away
    assert "software engine" in away
    assert "again" in back


@pytest.mark.parametrize(("fallback", "name"), [("software", "random"), ("exact", "exact"), ("nop", "nop")])
def test_what_is_picked_by_meanwhile(fallback: Any, name: str, wait_until: Callable[..., None]) -> None:
    emulated = EmulatedDevice()
    with pydlb.Balancer(2, handler=echo, backend=emulated, policy="random", fallback=fallback) as balancer:
        seen: list[str] = []
        emulated.fail("CREATE_SCHED_DOMAIN", 1)  # the first probe: there is time to look
        emulated.reset()
        wait_until(lambda: balancer.backend == "software")
        seen.append(str(balancer.policy))
        wait_until(lambda: balancer.stats().recoveries == 1)
        assert (*seen, str(balancer.policy)) == (name, "random")
        assert not emulated.failure_waits


def test_without_a_fallback_connections_wait_for_the_device(clients: Clients, wait_until: Callable[..., None]) -> None:
    emulated = EmulatedDevice()
    with pydlb.Balancer(2, handler=echo, backend=emulated, fallback=None) as balancer:
        address = balancer.address(balancer.listen())
        emulated.fail("CREATE_SCHED_DOMAIN", 1)
        emulated.reset()
        wait_until(lambda: balancer.state == "failed")
        waiting = clients.connect(address, 5)
        wait_until(lambda: balancer.stats().recoveries == 1)
        assert balancer.state == "accepting"
        check_answers(waiting)


def disable_the_sender(_: EmulatedDevice, balancer: pydlb.Balancer) -> None:
    balancer._engines._engine.sender.disable()


def reset_at_an_element(emulated: EmulatedDevice, _: pydlb.Balancer) -> None:
    emulated.reset_at_element(7)


def drop_an_element(emulated: EmulatedDevice, _: pydlb.Balancer) -> None:
    emulated.drop_element(1)


@pytest.mark.parametrize("policy", ["dlb", "exact"])
@pytest.mark.parametrize("harm", [disable_the_sender, reset_at_an_element, drop_an_element])
def test_other_ways_to_fail(policy: Any, harm: Callable[..., None], wait_until: Callable[..., None]) -> None:
    """The port that sends is disabled; the reset comes amid a send; what was sent is dropped, and its credit gone."""
    emulated = EmulatedDevice()
    with pydlb.Balancer(4, handler=echo, backend=emulated, policy=policy) as balancer:
        with under_load(balancer.address(balancer.listen())) as load:
            load.go_on_for(20)
            harm(emulated, balancer)
            wait_until(lambda: balancer.stats().fallbacks >= 1)
            load.go_on_for(20)
            wait_until(lambda: balancer.stats().recoveries >= 1)
            load.go_on_for(20)
        stats = balancer.close()
    assert (stats.served, stats.accepted) == (load.answered, load.answered)


@pytest.mark.parametrize("policy", ["dlb", "exact"])
def test_a_full_engine_is_waited_for(policy: Any, clients: Clients, wait_until: Callable[..., None]) -> None:
    """With fewer credits than connections, those without stay behind, and none is lost; nobody spins meanwhile."""
    emulated = EmulatedDevice(limits={"ldb_credits": 4, "dir_credits": 0})
    gate = threading.Event()

    def handler(connection: pydlb.Connection) -> None:
        gate.wait(PATIENCE)
        echo(connection)

    with pydlb.Balancer(2, handler=handler, backend=emulated, policy=policy) as balancer:
        waiting = clients.connect(balancer.address(balancer.listen()), 60)
        wait_until(lambda: balancer.stats().held_up > 0)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.15
        gate.set()
        check_answers(waiting)
        stats = balancer.stats()
        assert stats.fallbacks == 0
        assert stats.retries > 0


@pytest.mark.parametrize("policy", ["dlb", "exact"])
def test_what_waited_on_the_dead_device_is_sent_again(
    policy: Any, clients: Clients, wait_until: Callable[..., None]
) -> None:
    emulated = EmulatedDevice()
    gate = threading.Event()

    def handler(connection: pydlb.Connection) -> None:
        gate.wait(PATIENCE)
        echo(connection)

    with pydlb.Balancer(2, handler=handler, backend=emulated, policy=policy) as balancer:
        waiting = clients.connect(balancer.address(balancer.listen()), 40)
        wait_until(lambda: balancer.stats().waiting == 38)
        emulated.reset()
        wait_until(lambda: balancer.stats().resent >= 38)
        gate.set()
        check_answers(waiting)
        assert balancer.close().served == 40


def test_open_connections_count_on_after_a_switch(clients: Clients, wait_until: Callable[..., None]) -> None:
    """What was open before is not forgotten: the worker that has less gets the next ones."""
    emulated = EmulatedDevice()
    with pydlb.Balancer(0, backend=emulated) as balancer:
        first, second = balancer.worker(), balancer.worker()
        address = balancer.address(balancer.listen())
        balancer.pause_worker(second)
        clients.connect(address, 6)
        held = [first.accept_blocking(PATIENCE) for _ in range(6)]
        emulated.fail("CREATE_SCHED_DOMAIN", 1)
        emulated.reset()
        wait_until(lambda: balancer.stats().fallbacks == 1)
        balancer.resume_worker(second)
        clients.connect(address, 6)
        held += [second.accept_blocking(PATIENCE) for _ in range(6)]
        assert [worker.stats().open for worker in (first, second)] == [6, 6]
        for connection in held:
            assert connection is not None
            connection.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_event_loops_go_on_through_a_reset(loop: str) -> None:
    factory = (
        None
        if loop == "asyncio"
        else pytest.importorskip("uvloop", reason="uvloop has no wheel for this interpreter").new_event_loop
    )
    emulated = EmulatedDevice()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def main() -> pydlb.BalancerStats:
        server = await pydlb.start_server(serve, "127.0.0.1", 0, backend=emulated, loop_factory=factory)
        balancer = server.balancer

        def drive() -> None:
            with under_load(server.sockets[0].getsockname()) as load:
                load.go_on_for(30)
                emulated.reset()
                while balancer.stats().recoveries == 0:
                    load.go_on_for(10)
                load.go_on_for(30)

        await asyncio.to_thread(drive)
        server.close()
        await server.wait_closed()
        return balancer.stats()

    stats = asyncio.run(main())
    assert stats.accepted == stats.served
    assert (stats.fallbacks, stats.recoveries) == (1, 1)


def test_workers_come_and_go_while_the_device_is_gone(clients: Clients, wait_until: Callable[..., None]) -> None:
    emulated = EmulatedDevice()
    with pydlb.Balancer(0, backend=emulated, max_workers=3) as balancer:
        address = balancer.address(balancer.listen())
        first = balancer.worker()
        emulated.reset()
        second = balancer.worker()  # at once: perhaps before anybody has noticed
        balancer.remove_worker(first)
        wait_until(lambda: balancer.stats().recoveries == 1)
        third, fourth = balancer.worker(), balancer.worker()
        with pytest.raises(pydlb.ResourceExhausted):
            balancer.worker()
        for worker in (second, third, fourth):
            for other in {second, third, fourth} - {worker}:
                balancer.pause_worker(other)
            clients.connect(address)
            connection = worker.accept_blocking(PATIENCE)
            assert connection is not None
            connection.close()
            for other in {second, third, fourth} - {worker}:
                balancer.resume_worker(other)


def test_closing_in_the_middle_of_a_switch(clients: Clients) -> None:
    for _ in range(10):
        emulated = EmulatedDevice()
        balancer = pydlb.Balancer(2, handler=echo, backend=emulated)
        clients.connect(balancer.address(balancer.listen()), 4)
        emulated.reset()
        stats = balancer.close(timeout=0)
        clients.close_all()
        assert stats.accepted == stats.served + stats.refused + stats.aborted


# ---- a device that comes later ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fallback", "name"), [("software", "random"), ("exact", "exact"), ("nop", "nop")])
def test_a_device_that_could_not_be_had_at_the_start_is_taken_when_it_can(
    fallback: Any, name: str, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    """It is tried again, less and less often; what is said of it is said once."""
    emulated = EmulatedDevice()
    emulated.fail("CREATE_SCHED_DOMAIN", 1)
    with (
        caplog.at_level(logging.INFO, "pydlb"),
        pydlb.Balancer(2, handler=echo, backend=emulated, policy="random", fallback=fallback) as balancer,
    ):
        assert (balancer.backend, str(balancer.policy), balancer.stats().fallbacks) == ("software", name, 1)
        emulated.fail("CREATE_SCHED_DOMAIN", 1)  # the first probe
        with under_load(balancer.address(balancer.listen())) as load:
            load.go_on_for(20)
            wait_until(lambda: balancer.stats().probes == 1)
            load.go_on_for(20)
            wait_until(lambda: balancer.stats().recoveries == 1)
            assert (balancer.backend, str(balancer.policy)) == ("the emulated device", "random")
            assert balancer.fallback_reason is None
            load.go_on_for(20)
        stats = balancer.close()
    assert (stats.served, stats.accepted, stats.probes) == (load.answered, load.answered, 2)
    told = [record.message for record in caplog.records if record.name == "pydlb"]
    assert len(told) == 2
    assert f"software engine, by policy {name}" in told[0]
    assert "can be used again" in told[1]


def test_where_there_is_no_device_nobody_looks_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pydlb._backend.DEV", tmp_path)
    monkeypatch.setattr("pydlb.balancer.backends.nodes", list)
    monkeypatch.delenv("PYDLB_BACKEND", raising=False)
    for options in ({}, {"backend": "software", "fallback": "exact"}, {"worker_class": "process", "backend": "auto"}):
        with pydlb.Balancer(0, **options) as balancer:  # type: ignore[arg-type]
            assert not [thread for thread in threading.enumerate() if thread.name == "pydlb-guard"]
            assert balancer.stats().fallbacks == 0
