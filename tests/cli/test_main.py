"""The pydlb program, run as a user does."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

import pydlb


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pydlb.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_version() -> None:
    assert run("version").stdout.strip() == pydlb.__version__


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["version", "twice"]])
def test_wrong_commands_get_the_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "usage: pydlb" in result.stderr


def test_emulate_shows_devices_to_any_program() -> None:
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 processor")
    result = run("emulate", "--devices", "2", "--", "ls", "/dev")
    assert result.returncode == 0, result.stderr
    assert {"dlb0", "dlb1"} <= set(result.stdout.split())


def test_under_emulation_auto_is_the_device() -> None:
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 processor")
    code = "import pydlb; d = pydlb.open(); print(d.backend, '|', d.fallback_reason); d.close()"
    result = run("emulate", "--", sys.executable, "-c", code)
    assert result.stdout.strip() == "/dev/dlb0 | None", result.stderr


@pytest.mark.parametrize("command", ["doctor", "info"])
def test_a_reader_that_has_seen_enough(command: str) -> None:
    """As head has."""
    readable, writable = os.pipe()
    os.close(readable)
    program = [sys.executable, "-W", "error", "-m", "pydlb.cli.main", command, "--json"]
    done = subprocess.run(program, stdout=writable, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writable)
    assert (done.returncode, done.stderr) == (1, "")
