"""What opening something says that is no DLB; and that what it is comes to no harm."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pydlb
from pydlb import _backend, _native

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def terminal() -> Iterator[str]:
    controller, terminal = pty.openpty()
    yield os.ttyname(terminal)
    os.close(controller)
    os.close(terminal)


def test_things_that_are_no_device(tmp_path: Path) -> None:
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.write_text("")
    os.mkfifo(fifo)  # which nobody else opens: to wait for a writer would take for ever
    for path in file, fifo, tmp_path:
        with pytest.raises(pydlb.DeviceError, match=r"is not a character device, so it is no DLB"):
            pydlb.open(str(path))
    with pytest.raises(pydlb.DeviceNotFound, match=r"there is no .*/nothing"):
        pydlb.open(str(tmp_path / "nothing"))


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx"])
def test_other_devices(path: str) -> None:
    """The kernel's files tell what they are; none is opened."""
    with pytest.raises(pydlb.DeviceError, match=r"no DLB|is another device"):
        pydlb.open(path)


def test_other_devices_by_the_names_of_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: str) -> None:
    """A node may be made by hand: then the driver's first request shows what it is."""
    monkeypatch.setattr(_backend, "DEV", tmp_path)
    for number, target in enumerate(("/dev/null", "/dev/zero", terminal)):
        (tmp_path / f"dlb{number}").symlink_to(target)
        with pytest.raises(pydlb.DeviceError, match=r"does not answer as a DLB does .*: it is another device"):
            pydlb.open(number)
    with pydlb.open("auto") as device:
        assert device.backend == "software"
        assert "does not answer as a DLB does" in str(device.fallback_reason)


def test_a_terminal_does_not_become_the_controlling_one(terminal: str) -> None:
    """As opening one does to a process that has none."""
    program = (
        "import os, sys, pydlb._native as native\n"
        "try: native.open_device(sys.argv[1])\n"
        "except OSError: pass\n"
        "try: os.open('/dev/tty', os.O_RDWR)\n"
        "except OSError: print('none')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, terminal], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert done.stdout == "none\n", done.stderr


def test_the_core_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in file, tmp_path, Path("/dev/null"), Path("/nowhere"):
        with pytest.raises(OSError, match=str(path)):
            _native.open_device(str(path))
