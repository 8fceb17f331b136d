"""What Envoy's DLB balancer did wrong, tried on ours: docs/envoy-defects.md lists all, with the tests that hold them.

Those that have tests elsewhere are not repeated here.
"""

from __future__ import annotations

import fcntl
import re
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import _backend, envoy

from .inputs import dlb

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "envoy-defects.md"


def rows() -> list[list[str]]:
    """The cells of the table's rows: number, defect, what pydlb does, tests."""
    lines = [line for line in TABLE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def serve(connection: pydlb.Connection) -> None:
    connection.socket.sendall(str(connection.listener).encode())


def balancer_on(
    machine: Any, workers: int = 2, handler: Callable[[pydlb.Connection], object] = serve, **options: Any
) -> Any:
    """On the machine's first device, as a listener of Envoy's has it."""
    return envoy.load(dlb()).make_balancer(workers, handler=handler, **options)


def test_the_table_has_all_and_its_tests_are_there() -> None:
    assert [int(row[0]) for row in rows()] == list(range(1, 30))
    for number, _, what, tests in rows():
        assert what, number
        names = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", tests)
        assert names or tests.startswith("none:"), number
        for file, name in names:
            assert re.search(rf"^(    )?(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (number, name)


def test_2_what_cannot_be_sent_is_not_lost(machine: Any, connect: Any) -> None:
    """One credit and one slot for forty clients at once: each is served, in the device's own time."""
    machine.add(0)
    with balancer_on(machine, max_waiting=1) as balancer:
        listener = balancer.listen(backlog=64)
        clients = [connect(balancer.address(listener)) for _ in range(40)]
        assert [client.recv(10) for client in clients] == [str(listener).encode()] * 40
        balancer.drain(30)
        stats = balancer.stats()
        assert (stats.accepted, stats.served, stats.refused, stats.aborted) == (40, 40, 0, 0)


def test_6_to_9_a_worker_that_leaves_is_the_one_that_was_meant(machine: Any, connect: Any) -> None:
    """By identity, not by place: with its share taken away, the others' names stay right."""
    machine.add(0)
    seen: list[str] = []

    def note(connection: pydlb.Connection) -> None:
        seen.append(threading.current_thread().name)
        connection.socket.sendall(b"x")

    with balancer_on(machine, 4, note) as balancer:
        listener = balancer.listen()
        gone = balancer.workers[1]
        balancer.remove_worker(gone)
        for _ in range(40):
            assert connect(balancer.address(listener)).recv(1) == b"x"
        balancer.drain(30)
        told = {worker.name: worker.served for worker in balancer.stats().workers}
    assert gone.name not in seen
    assert sum(told.values()) == 40
    assert {name: count for name, count in told.items() if count} == dict(Counter(seen))


def test_8_workers_register_from_many_threads_at_once(machine: Any, connect: Any) -> None:
    machine.add(0)
    listener = envoy.load(dlb()).listener
    with listener.make_balancer(max_workers=12) as balancer:
        barrier = threading.Barrier(12)
        made: list[pydlb.Worker] = []

        def register() -> None:
            barrier.wait()
            made.append(balancer.worker())

        threads = [threading.Thread(target=register) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(worker.name for worker in made) == sorted(f"worker_{number}" for number in range(12))
        assert set(made) == set(balancer.workers)


def test_10_and_11_listeners_share_a_balancer_and_are_told_apart(machine: Any, connect: Any) -> None:
    machine.add(0)
    with balancer_on(machine) as balancer:
        listeners = [balancer.listen() for _ in range(3)]
        for listener in listeners * 3:
            assert connect(balancer.address(listener)).recv(10) == str(listener).encode()


def test_10_and_21_balancers_share_a_device(machine: Any, connect: Any) -> None:
    """Envoy's first took all credits and both groups of sequence numbers: there was no second."""
    device = machine.add(0)
    with balancer_on(machine) as one, balancer_on(machine) as two, device.open() as left:
        for balancer in (one, two):
            assert balancer.backend.endswith("dlb0")
            listener = balancer.listen()
            assert connect(balancer.address(listener)).recv(10) == str(listener).encode()
        free, total = left.resources(), left.resources(available=False)
        assert free.ldb_credits > 0
        assert free.sequence_slots == total.sequence_slots
        assert free.domains == total.domains - 2


def test_19_what_is_on_its_way_counts(machine: Any, connect: Any) -> None:
    """From the moment at which it is picked, and never below nothing, though handlers end at once."""
    with envoy.load("connection_balance_config: {exact_balance: {}}").make_balancer() as balancer:
        listener = balancer.listen()
        workers = [balancer.worker() for _ in range(2)]
        clients = [connect(balancer.address(listener)) for _ in range(2)]
        taken = [worker.accept_blocking(timeout=30) for worker in workers]
        assert all(taken)
        assert [worker.open for worker in workers] == [1, 1]
        for connection in taken:
            assert connection is not None
            connection.close()
        assert [worker.open for worker in workers] == [0, 0]
        assert len(clients) == 2


def test_23_statistics_have_envoys_names(connect: Any) -> None:
    with envoy.load("connection_balance_config: {exact_balance: {}}").make_balancer() as balancer:
        listener = balancer.listen()
        workers = [balancer.worker() for _ in range(4)]
        for worker in workers[1:]:
            balancer.pause_worker(worker)
        clients = [connect(balancer.address(listener)) for _ in range(3)]
        taken = [workers[0].accept_blocking(timeout=30) for _ in clients]
        stats = balancer.stats()
        assert [worker.name for worker in stats.workers] == [f"worker_{number}" for number in range(4)]
        assert [worker.downstream_cx_active for worker in stats.workers] == [3, 0, 0, 0]
        assert (stats.downstream_cx_total, stats.downstream_cx_active) == (3, 3)
        assert (stats.imbalance, stats.fairness) == (4.0, 0.25)
        for connection in taken:
            assert connection is not None
            connection.close()
        after = balancer.stats()
        assert (after.workers[0].downstream_cx_total, after.downstream_cx_active, after.fairness) == (3, 0, 1.0)


def test_25_a_build_without_devices_keeps_to_the_policy(monkeypatch: pytest.MonkeyPatch, machine: Any) -> None:
    """There is a node, and this build cannot drive it."""
    machine.add(0)

    def open_node(_: Path) -> Any:
        raise pydlb.BackendUnavailable("this build has no device backend", {"device": "no x86-64"})

    monkeypatch.setattr(_backend, "_open_node", open_node)
    for policy in ("NopConnectionBalance", "ExactConnectionBalance"):
        with envoy.load(dlb(f"fallback_policy: {policy}")).make_balancer(1, handler=serve) as balancer:
            assert balancer.backend == "software"
    with pytest.raises(pydlb.BackendUnavailable, match="no available dlb hardware"):
        balancer_on(machine)


def test_26_a_device_in_pieces_will_do(machine: Any) -> None:
    """Others hold credits here and there: what is free in all is more than what is free in one piece."""
    device = machine.add(0, version="2.0")
    with device.open() as other:
        amounts = {"ldb_queues": 1, "ldb_ports": 1, "dir_ports": 1, "credits": 512, "history_entries": 64}
        held = [other.create_domain(**amounts, atomic_inflights=0, sequence_slots=(0, 0)) for _ in range(4)]
        for domain in held[::2]:
            domain.close()
        with balancer_on(machine, max_waiting=2048) as balancer:
            assert balancer.backend.endswith("dlb0")


def test_27_no_descriptor_goes_to_other_programs(machine: Any) -> None:
    descriptors = Path("/proc/self/fd")
    before = set(descriptors.iterdir())
    machine.add(0)
    with balancer_on(machine) as balancer:
        balancer.listen()
        made, kept = set(descriptors.iterdir()) - before, []
        for entry in made:
            try:
                if not fcntl.fcntl(int(entry.name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                    kept.append(entry.readlink())
            except OSError:
                continue  # the listing's own
        assert len(made) > 3
        assert not kept
