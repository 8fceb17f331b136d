"""Fail each system call in turn: every scenario ends with the right exception, and nothing is left.

The short run takes a sample; `make sweep` sets PDLB_SWEEP=all and takes all of them.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

import pydlb
from pydlb.testing import EmulatedDevice, live_handles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHOLE = os.environ.get("PDLB_SWEEP") == "all"
SEED = int(os.environ.get("PDLB_TEST_SEED") or random.SystemRandom().randrange(2**32))
SAMPLE = 15  # of each scenario's calls and errors

# What the driver answers: the error, and the status with it.
ANSWERS = [
    (errno.EINVAL, pydlb.DriverStatus.SUCCESS),
    (errno.EINVAL, pydlb.DriverStatus.DOMAIN_UNAVAILABLE),
    (errno.EINVAL, pydlb.DriverStatus.INVALID_PORT_ID),
    (errno.EINVAL, pydlb.DriverStatus.DOMAIN_RESET_FAILED),
    (errno.ENOMEM, pydlb.DriverStatus.NO_MEMORY),
    (errno.EPERM, pydlb.DriverStatus.MBOX_ERROR),
    (errno.EFAULT, pydlb.DriverStatus.SUCCESS),
    (errno.EMFILE, pydlb.DriverStatus.SUCCESS),
    (errno.ENODEV, pydlb.DriverStatus.SUCCESS),
    (errno.EINTR, pydlb.DriverStatus.SUCCESS),
    (errno.ENFILE, pydlb.DriverStatus.SUCCESS),
    (errno.EACCES, pydlb.DriverStatus.SUCCESS),
    (errno.ENOTTY, pydlb.DriverStatus.SUCCESS),
    (errno.ETIMEDOUT, pydlb.DriverStatus.SUCCESS),
]
VERSIONS: tuple[Literal["2.0", "2.5"], ...] = ("2.0", "2.5")


def control(device: pydlb.Device) -> None:
    """Everything is created, linked, changed and closed."""
    device.resources()
    with device.create_domain(ldb_queues=2, ldb_ports=2, dir_ports=2, credits=32, history_entries=64) as domain:
        plain, ordered = domain.create_ldb_queue(), domain.create_ldb_queue(sequence_numbers=64)
        ports = [domain.create_ldb_port(cq_depth=8, history_entries=16) for _ in range(2)]
        pair = domain.create_dir_port(domain.create_dir_queue())
        lone = domain.create_dir_port()
        domain.create_dir_queue(lone)
        for port in ports:
            port.link(plain, 3)
            port.link(ordered)
        ports[0].link(plain, 0)
        domain.start()
        ports[1].unlink(ordered)
        ports[1].disable()
        ports[1].enable()
        assert plain.depth == 0
        ports[1].close()
        domain.create_ldb_port(cq_depth=8, history_entries=16)
        assert pair.fileno() >= 0
        domain.stop()


def traffic(device: pydlb.Device) -> None:
    """Events go through a queue to a port that waits for them."""
    with device.create_domain(ldb_queues=1, ldb_ports=1, dir_ports=1, credits=32, history_entries=64) as domain:
        queue, port, sender = domain.create_ldb_queue(), domain.create_ldb_port(), domain.create_dir_port()
        port.link(queue)
        domain.start()
        for number in range(3):
            timer = threading.Timer(0.001, sender.send_one, (number, queue))
            timer.start()
            try:
                assert port.recv_one(timeout=10) == number
            finally:
                timer.join()
            port.release()
        assert sender.send(pydlb.make_events(range(20), queue)) == 20
        port.close()


SCENARIOS = {"control": control, "traffic": traffic}


def run(scenario: Callable[[pydlb.Device], None], emulated: EmulatedDevice) -> BaseException | None:
    """What it ended with."""
    try:
        with emulated.open() as device:
            scenario(device)
    except (pydlb.DLBError, AssertionError) as error:
        return error
    return None


class Case(NamedTuple):
    version: Literal["2.0", "2.5"]
    scenario: str
    nth: int
    number: int
    status: pydlb.DriverStatus


def calls_of(version: Literal["2.0", "2.5"], name: str) -> int:
    emulated = EmulatedDevice(version)
    assert run(SCENARIOS[name], emulated) is None
    return emulated.calls


def cases() -> Iterator[Case]:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    for version in VERSIONS:
        for name in SCENARIOS:
            calls = range(1, calls_of(version, name) + 1)
            every = [Case(version, name, nth, *answer) for nth in calls for answer in ANSWERS]
            yield from every if WHOLE else chance.sample(every, SAMPLE)


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.timeout(1200)
def test_every_system_call_may_fail() -> None:
    run(traffic, EmulatedDevice("2.0"))
    gc.collect()  # what other tests left is not ours to count
    before, domains = descriptors(), live_handles()["domains"]
    raised = 0
    for case in cases():
        scenario = SCENARIOS[case.scenario]
        emulated = EmulatedDevice(case.version)
        emulated.fail(None, case.nth, errno=case.number, status=case.status)
        error = run(scenario, emulated)
        if emulated.failure_waits:
            # A busy machine repeats some calls: this run had fewer of them than the one that was counted.
            assert error is None, case
            assert emulated.calls < case.nth, case
            continue
        assert not emulated.misuses, (case, emulated.misuses)
        if error is not None:
            raised += 1
            check(error, emulated.failed_call, case.number, case.status)
        assert live_handles()["domains"] <= domains, case
        assert descriptors() <= before, case
        with emulated.open() as device:
            assert device.resources() == device.resources(available=False), (case, "resources were kept")
        assert run(scenario, emulated) is None, (case, "the device is of no more use")
    assert raised, "no failure was noticed"


def check(error: BaseException, call: str | None, number: int, status: pydlb.DriverStatus) -> None:
    """Whether the exception tells what the call failed with."""
    described = f"{call} failed with {errno.errorcode[number]} {status.name}: {error!r}"
    assert isinstance(error, pydlb.DeviceError), described
    assert str(error), described
    is_request = call is not None and call.isupper()
    if call == "read_alert" or number == errno.ENODEV or (is_request and number == errno.EINVAL and status == 0):
        assert isinstance(error, pydlb.DeviceGone) or call in {"open", "GET_DEVICE_VERSION"}, described
    elif is_request and call != "GET_DEVICE_VERSION":
        assert (error.errno, error.status) == (number, status), described
        assert isinstance(error, pydlb.ResourceExhausted) == (
            status.means_exhausted or number in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
        ), described
    else:
        translated = {errno.EINVAL: {errno.EIO, errno.EBUSY, errno.ENOTTY}}
        assert error.errno in translated.get(number, {number}), described
