"""Machines with and without devices, and clients."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pydlb import _backend
from pydlb.testing import EmulatedDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 30.0


class Machine:
    """Devices that the backends find in the place of this machine's."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.devices: dict[str, EmulatedDevice] = {}
        self.opened: list[int] = []
        self._stack = stack

    def add(self, number: int, **options: Any) -> EmulatedDevice:
        device = self._stack.enter_context(EmulatedDevice(**options))
        self.devices[f"dlb{number}"] = device
        (self.directory / f"dlb{number}").touch()
        return device

    def open(self, path: Path) -> Any:
        if path.name not in self.devices:
            raise _backend.DeviceNotFound(2, f"there is no {path}", op="open")
        self.opened.append(int(path.name[3:]))
        return self.devices[path.name]._native.open()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    """A machine without devices, until some are added."""
    directory = tmp_path / "dev"
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        made = Machine(directory, stack)
        monkeypatch.setattr(_backend, "DEV", directory)
        monkeypatch.setattr(_backend, "_open_node", made.open)
        yield made
        made.devices.clear()


@pytest.fixture
def connect() -> Iterator[Callable[[Any], socket.socket]]:
    """``connect(address)``: a client that is closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(address: Any) -> socket.socket:
            family = socket.AF_UNIX if isinstance(address, str | bytes) else socket.AF_INET
            if isinstance(address, tuple) and ":" in address[0]:
                family = socket.AF_INET6
            client = stack.enter_context(socket.socket(family))
            client.settimeout(PATIENCE)
            client.connect(address)
            return client

        yield make
