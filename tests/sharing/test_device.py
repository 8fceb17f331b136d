"""Ports of a device's domain in several processes: on the emulated device that processes share."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.emulated import run_emulated

import pydlb
from pydlb import _native
from pydlb.testing import EmulatedDevice

PROGRAM = Path(__file__).with_name("on_device.py")
SEED = random.SystemRandom().randrange(1 << 32)


@pytest.mark.parametrize(("version", "method"), [("2.5", "fork"), ("2.0", "forkserver"), ("2.5", "spawn")])
def test_who_is_killed_leaves_its_port_as_it_should_be(version: str, method: str) -> None:
    """Whatever it was doing: all that was before it is received once, and the device has nothing to complain of."""
    kills = 12 if method == "fork" else 4
    run_emulated(version, PROGRAM, method, SEED, kills)


@pytest.mark.parametrize("version", ["2.0", "2.5"])
def test_who_joins_without_descriptors_says_so_and_leaves_none(version: str) -> None:
    """And the domain stays, though such a process cannot see who else has it."""
    run_emulated(version, PROGRAM.with_name("without_descriptors.py"))


def test_a_device_of_this_process_alone_is_not_shared() -> None:
    with EmulatedDevice() as emulated, emulated.open() as device, pytest.raises(pydlb.DLBError, match="pydlb emulate"):
        device.create_domain(shared=True)


def test_what_is_no_shared_domain_is_refused(tmp_path: Any) -> None:
    with (
        pytest.raises(pydlb.ConfigError, match="not the memory of a shared domain"),
        (tmp_path / "file").open("w") as f,
    ):
        _native.join_device(f.fileno())
