"""Worker processes on a device: the emulated one that processes share."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import pydlb
from pydlb import _native
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
    ],
)
def test_on_a_device(look: str, version: str, policy: str, method: str) -> None:
    emulate = Path(_native.__file__).with_name("pdlb-emulate")
    done = subprocess.run(
        [emulate, "--version", version, "--", sys.executable, str(PROGRAM), look, policy, method, str(SEED)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"seed {SEED}: {done.stdout}"
    assert "emulated device" not in done.stdout, f"seed {SEED}: it was misused: {done.stdout}"


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
