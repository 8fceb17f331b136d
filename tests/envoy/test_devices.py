"""Which device is taken, and what happens where none can be: each step of the set-up, with each policy."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import envoy, policies
from pydlb.envoy import FallbackPolicy, find_device

from .inputs import ENVOY_FILTER, dlb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FALLBACKS = {FallbackPolicy.NOP: "Nop", FallbackPolicy.EXACT: "Exact"}


def serve(connection: pydlb.Connection) -> None:
    connection.socket.sendall(b"served")


@contextlib.contextmanager
def running(fields: str = "", workers: int = 2, **options: Any) -> Any:
    listener = envoy.load(dlb(fields))
    with listener.make_balancer(workers, handler=serve, **options) as balancer:
        balancer.listen()
        yield balancer


# ---- Envoy's search --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "preferred", "found"),
    [((6,), 1, 6), ((0, 6), 6, 6), ((3, 6), 0, 3), ((), 0, None), ((70,), 70, 70), ((70,), 1, None), ((9, 10), 1, 9)],
)
def test_the_search(there: tuple[int, ...], preferred: int, found: int | None, tmp_path: Path) -> None:
    """The first is Envoy's own test. Any number may be asked for; only 0 to 63 are searched."""
    for number in there:
        (tmp_path / f"dlb{number}").touch()
    assert find_device(preferred, tmp_path) == found


@pytest.mark.parametrize(("fields", "taken"), [("", 0), ("id: 1", 1), ("id: 7", 0)])
def test_the_preferred_device_is_taken(fields: str, taken: int, machine: Any, caplog: Any, connect: Any) -> None:
    machine.add(0)
    machine.add(1)
    with caplog.at_level(logging.WARNING, "pydlb"), running(fields) as balancer:
        assert balancer.backend == str(machine.directory / f"dlb{taken}")
        assert connect(balancer.address()).recv(10) == b"served"
    warning = ["dlb device 7 is not found, use dlb device 0 instead"] if fields == "id: 7" else []
    assert [record.message for record in caplog.records] == warning


def test_a_busy_device_is_passed_over(machine: Any, caplog: Any) -> None:
    """Envoy took the device that it found, and failed."""
    machine.add(0)
    machine.add(2, limits={"ldb_credits": 0, "dir_credits": 0})
    machine.add(3, limits={"domains": 0})
    with caplog.at_level(logging.WARNING, "pydlb"), running("id: 2") as balancer:
        assert balancer.backend.endswith("dlb0")
    assert [record.message for record in caplog.records] == ["dlb device 2 cannot be used, use dlb device 0 instead"]


def test_a_bug_of_options_is_no_reason_to_fall_back(machine: Any) -> None:
    machine.add(0)
    with pytest.raises(pydlb.ConfigError, match="batch is 0"), running("fallback_policy: 2", batch=0):
        pass


# ---- no device -------------------------------------------------------------------------------------------------------


def test_none_raises(machine: Any) -> None:
    with (
        pytest.raises(pydlb.BackendUnavailable, match=r"^no available dlb hardware: .*no DLB device node"),
        running("fallback_policy: None"),
    ):
        pass


@pytest.mark.parametrize("policy", FALLBACKS)
@pytest.mark.parametrize("parity", [False, True])
def test_fallbacks(policy: FallbackPolicy, parity: bool, machine: Any, caplog: Any, connect: Any) -> None:
    with (
        caplog.at_level(logging.WARNING, "pydlb"),
        running(f"fallback_policy: {policy}", parity=parity) as balancer,
    ):
        assert balancer.backend == "software"
        expected = policies.Exact(tie="first", per_listener=True) if parity else policies.Exact()
        if policy is FallbackPolicy.NOP:
            assert isinstance(balancer.policy, policies.Nop)
        else:
            assert balancer.policy == expected
        assert connect(balancer.address()).recv(10) == b"served"
    (record,) = caplog.records
    assert record.message.startswith("error: no available dlb hardware (")
    assert record.message.endswith(f"fallback to {FALLBACKS[policy]} Connection Balance")


def test_software_by_request_needs_no_device_and_no_fallback(machine: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "pydlb"), running(backend="software") as balancer:
        assert (balancer.backend, str(balancer.policy)) == ("software", "dlb")
    assert not caplog.records


def test_the_policy_is_for_any_backend(machine: Any) -> None:
    with (
        pytest.raises(pydlb.BackendUnavailable, match=r"no available dlb hardware: .*there is no"),
        running(backend="5"),
    ):
        pass
    with running("fallback_policy: 2", backend="5") as balancer:
        assert balancer.backend == "software"
    with pytest.raises(pydlb.BackendUnavailable), running("fallback_policy: 2", backend="5", fallback=None):
        pass


@pytest.mark.parametrize("policy", FallbackPolicy)
def test_the_policy_holds_when_the_device_fails_later(policy: FallbackPolicy, machine: Any, connect: Any) -> None:
    """Envoy's was for the set-up only: after a reset its clients hung."""
    device = machine.add(0)

    def wait_until(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not done():
            assert time.monotonic() < deadline, balancer.stats()
            time.sleep(0.001)

    with running(f"fallback_policy: {policy}") as balancer:
        assert connect(balancer.address()).recv(10) == b"served"
        device.fail("CREATE_SCHED_DOMAIN", 1)  # it is not there again at once
        device.reset()
        wait_until(lambda: balancer.stats().fallbacks == 1)
        clients = [connect(balancer.address()) for _ in range(5)]
        assert [client.recv(10) for client in clients] == [b"served"] * 5
        wait_until(lambda: balancer.stats().recoveries == 1)
        assert balancer.backend.endswith("dlb0")
        assert connect(balancer.address()).recv(10) == b"served"
        stats = balancer.close()
    assert (stats.served, stats.aborted, stats.refused) == (7, 0, 0)


# What the set-up asks the kernel for. A failure of what is asked for later is not for a fallback policy.
STEPS = [
    "open",
    "GET_DEVICE_VERSION",
    "QUERY_CQ_POLL_MODE",
    "GET_NUM_RESOURCES",
    "CREATE_SCHED_DOMAIN",
    "close_on_exec",
    "CREATE_LDB_QUEUE",
    "CREATE_DIR_PORT",
    "GET_DIR_PORT_CQ_FD",
    "GET_DIR_PORT_PP_FD",
    "CREATE_LDB_PORT",
    "GET_LDB_PORT_CQ_FD",
    "GET_LDB_PORT_PP_FD",
    "map",
    "START_DOMAIN",
]
ANSWERS = [errno.EINVAL, errno.ENOMEM, errno.ENODEV, errno.EMFILE, errno.EPERM]


def try_with(device: Any, policy: FallbackPolicy, what: str, connect: Any) -> None:
    """One failure waits: None raises, the others serve in software; without a failure the device does."""
    listener = envoy.load(dlb(f"fallback_policy: {policy}"))
    try:
        balancer = listener.make_balancer(0, max_workers=2)
    except pydlb.BackendUnavailable as error:
        message = str(error)
    else:
        message = ""
        with balancer:
            assert (balancer.backend == "software") == (not device.failure_waits), what
            balancer.listen()
            worker, client = balancer.worker(), connect(balancer.address())
            with worker.accept_blocking(timeout=30) as connection:
                connection.socket.sendall(b"served")
            assert client.recv(10) == b"served", what
    raises = policy is FallbackPolicy.NONE and not device.failure_waits
    assert message.startswith("no available dlb hardware: ") == raises, what


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("policy", FallbackPolicy)
def test_each_step_of_the_set_up_may_fail(step: str, policy: FallbackPolicy, machine: Any, connect: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    answers = random.Random(seed)
    device = machine.add(0)
    with device.open() as whole:
        before = whole.resources()
    nth = 0
    while not device.failure_waits:
        nth += 1
        number = answers.choice(ANSWERS)
        what = f"{step} {nth} failing with {errno.errorcode[number]}"
        device.fail(step, nth, errno=number)
        try_with(device, policy, what, connect)
        if not device.failure_waits:
            with device.open() as left:
                assert left.resources() == before, what
    assert nth > 1, "the set-up does not ask for it"


# ---- many workers ----------------------------------------------------------------------------------------------------


def test_more_than_32_workers(machine: Any, connect: Any) -> None:
    """Envoy refused the 33rd: it sent from load-balanced ports, of which a device has 64."""
    machine.add(0)
    with running(workers=48) as balancer:
        assert balancer.backend.endswith("dlb0")
        assert len(balancer.workers) == 48
        assert connect(balancer.address()).recv(10) == b"served"


def test_too_few_ports_are_a_reason_to_fall_back(machine: Any) -> None:
    machine.add(0, limits={"ldb_ports": 3})
    with pytest.raises(pydlb.BackendUnavailable, match=r"^no available dlb hardware"), running(workers=4):
        pass
    with running("fallback_policy: 2", workers=4) as balancer:
        assert balancer.backend == "software"


# ---- as a program sees it --------------------------------------------------------------------------------------------


def test_another_program_is_served_by_the_filter_of_a_gateway(tmp_path: Path) -> None:
    path = tmp_path / "filter.yaml"
    path.write_text(ENVOY_FILTER.rstrip() + "\n              id: 1\n")
    program = f"""
import socket
import pydlb.envoy
balancer = pydlb.envoy.load({str(path)!r}).make_balancer(2, handler=lambda connection: connection.socket.sendall(b"hi"))
with balancer:
    with socket.create_connection(balancer.address(balancer.listen())) as client:
        print(balancer.backend, client.recv(10))
"""
    emulate = [sys.executable, "-m", "pydlb.cli.main", "emulate", "--devices", "2", "--", sys.executable]
    result = subprocess.run([*emulate, "-c", program], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr, result.returncode) == ("/dev/dlb1 b'hi'\n", "", 0)
