"""Worker processes on a device: the emulated one that processes share."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.emulated import run_emulated

import pydlb
from pydlb.testing import EmulatedDevice

from . import handlers

PROGRAM = Path(__file__).with_name("on_device.py")
SEED = random.SystemRandom().randrange(1 << 32)


@pytest.mark.parametrize(
    ("look", "version", "policy", "method"),
    [
        ("kill", "2.5", "dlb", "forkserver"),
        ("kill", "2.0", "dlb", "fork"),
        ("kill", "2.5", "exact", "fork"),
        ("stop", "2.5", "dlb", "fork"),
        ("stop", "2.0", "exact", "fork"),
        ("replace", "2.5", "dlb", "forkserver"),
        ("replace", "2.5", "round_robin", "spawn"),
        ("hold", "2.5", "dlb", "spawn"),
        ("hold", "2.0", "exact", "fork"),
        ("reset", "2.5", "dlb", "fork"),
        ("reset", "2.0", "exact", "forkserver"),
    ],
)
def test_on_a_device(look: str, version: str, policy: str, method: str) -> None:
    run_emulated(version, PROGRAM, look, policy, method, SEED)


def test_a_device_of_this_process_alone_says_what_to_do() -> None:
    with EmulatedDevice() as emulated, pytest.raises(pydlb.DLBError, match="pydlb emulate"):
        pydlb.Balancer(1, handler=handlers.name_process, worker_class="process", backend=emulated)


def test_software_in_its_place_says_why() -> None:
    with (
        EmulatedDevice() as emulated,
        pydlb.Balancer(
            1, handler=handlers.name_process, worker_class="process", backend=emulated, fallback="software"
        ) as balancer,
    ):
        assert balancer.backend == "software"
        assert "pydlb emulate" in str(balancer.fallback_reason)
