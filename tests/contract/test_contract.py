"""Every backend keeps the contract; and what checks it can fail."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.libdlb import open_standin

import pydlb
from pydlb import testing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEVICES: dict[str, Callable[[], pydlb.Device]] = {
    "software": functools.partial(pydlb.open, "software"),
    "software-large": functools.partial(pydlb.open, "software", limits="large"),
    "libdlb-2.0": functools.partial(open_standin, "2.0"),
    "libdlb-2.5": functools.partial(open_standin, "2.5"),
}
EMULATED = ["2.0", "2.5"]
# The vendor's library does not say how many of a queue's events may be in flight, and the adapter says so.
LIBDLB_LACKS = "a_queue_has_no_more_out_than_its_limit"
PROMISES = [
    (device, check)
    for device in (*DEVICES, *(f"emulated-{version}" for version in EMULATED))
    for check in testing.CHECKS
    if not (device.startswith("libdlb") and check == LIBDLB_LACKS)
]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[pydlb.Device]:
    if request.param in DEVICES:
        with DEVICES[request.param]() as device:
            yield device
    else:
        with testing.EmulatedDevice(request.param.removeprefix("emulated-")) as emulated, emulated.open() as device:
            yield device


@pytest.mark.parametrize(("device", "check"), PROMISES, indirect=["device"])
def test_contract(device: pydlb.Device, check: str) -> None:
    testing.CHECKS[check](device)


PROGRAM = """
import functools, pydlb, pydlb.testing
pydlb.testing.check_backend(functools.partial(pydlb.open, {device!r}))
"""


def run_contract(device: str, *under: str | Path) -> None:
    program = [*under, sys.executable, "-W", "error", "-X", "faulthandler", "-c", PROGRAM.format(device=device)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "a misuse was reported"


@pytest.mark.parametrize("version", EMULATED)
def test_contract_through_the_preloaded_door(version: str) -> None:
    launcher = Path(pydlb._native.__file__).with_name("pdlb-emulate")
    run_contract("/dev/dlb0", launcher, "--version", version, "--")


def test_contract_on_hardware() -> None:
    if not list(Path("/dev").glob("dlb[0-9]*")):
        pytest.skip("needs a DLB device")
    run_contract("device")


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (lambda emulated: emulated.drop_element(1), "batches_of_every_size"),
        (lambda emulated: emulated.lose_interrupt(4), "no_wake_up_is_lost"),
        (lambda emulated: emulated.reset_at_element(20), "order_within_a_queue"),
        (lambda emulated: emulated.fail("MAP_QID"), "release_on_recv"),
    ],
)
def test_a_check_fails_where_the_device_does(
    fault: Callable[[testing.EmulatedDevice], None], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydlb.testing.contract.rig.SOON", 0.5)
    emulated = testing.EmulatedDevice("2.5")
    fault(emulated)
    with emulated.open() as device, pytest.raises((AssertionError, pydlb.DLBError)):
        testing.CHECKS[check](device)


def test_check_backend_names_what_was_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydlb.testing.contract.rig.SOON", 0.5)

    def open_broken() -> pydlb.Device:
        emulated = testing.EmulatedDevice("2.5")
        emulated.fail("GET_LDB_QUEUE_DEPTH")
        return emulated.open()

    with pytest.raises(AssertionError, match=r"^a_port_has_eight_links: "):
        testing.check_backend(open_broken)
