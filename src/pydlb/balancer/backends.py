"""Which engine a balancer begins with, and what it falls back on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

from pydlb._backend import nodes
from pydlb.device import open as open_device
from pydlb.device import open_with
from pydlb.errors import BackendUnavailable, ConfigError, DLBError
from pydlb.policies import Exact, Nop

from .engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydlb.device import Device
    from pydlb.policies import Policy

    from .engine import Needs

__all__ = ["Backend", "Begun", "Fallback", "begin", "check_fallback", "fallback_policy", "open_software"]

Fallback = Literal["auto", "software", "exact", "nop"]


class Source(Protocol):
    """What devices can be opened from, such as :class:`pydlb.testing.EmulatedDevice`."""

    def open(self) -> Device:
        """Open the device."""


Backend: TypeAlias = "str | int | os.PathLike[str] | Source"

# Makes an engine that has what is needed.
Reopen: TypeAlias = "Callable[[Needs], Engine]"

_NAMES: Final = (*get_args(Fallback), None)


class Begun(NamedTuple):
    """An engine.

    Attributes:
        engine: It.
        reason: Why it is no better one; None if it was asked for.
        reopen: Makes one on the device again, or on one that could not be had; None where software is what was asked
            for.
        fell_back: Whether it stands for a device that was asked for.
    """

    engine: Engine
    reason: str | None
    reopen: Reopen | None
    fell_back: bool


def check_fallback(fallback: object) -> None:
    """Raise ConfigError unless it is one."""
    # An array would be compared with each name, element by element.
    if not isinstance(fallback, str | None) or fallback not in _NAMES:
        raise ConfigError(f"fallback is {fallback!r}: it is one of {', '.join(map(repr, _NAMES))}")


def fallback_policy(fallback: Fallback | None, policy: Policy) -> Policy:
    """By what is picked on the engine that was fallen back on."""
    return Exact() if fallback == "exact" else Nop() if fallback == "nop" else policy


def begin(backend: Backend, needs: Needs, fallback: Fallback | None) -> Begun:
    """The engine that a backend's name stands for, or the one to fall back on.

    Raises:
        ConfigError: The name means nothing.
        DLBError: What was asked for cannot be had, and there is nothing to fall back on.
    """
    opened: list[Device] = []

    def build(device: Device) -> Engine:
        opened.append(device)
        return Engine(device, needs)

    try:
        begun = _open(backend, needs, build)
    except DLBError as error:
        bad_name = isinstance(error, ConfigError) and not opened
        if bad_name or fallback in ("auto", None):
            raise
        return Begun(open_software(needs), str(error), _probe(backend, needs), fell_back=True)
    if begun.fell_back and fallback is None:
        begun.engine.close()
        raise BackendUnavailable(f"no DLB device can be used: {begun.reason}", {"device": str(begun.reason)})
    return begun


def _open(backend: Backend, needs: Needs, build: Callable[[Device], Engine]) -> Begun:
    if not isinstance(backend, str | int | os.PathLike):
        if not hasattr(backend, "open"):
            raise ConfigError(f"backend is {backend!r}: it is a name as of pydlb.open, or has an open()")
        device = backend.open()
        try:
            return Begun(build(device), None, None if needs.shared else _from_source(backend), fell_back=False)
        except BaseException:
            device.close()
            raise
    engines: list[Engine] = []
    device, reason = open_with(backend, lambda device: engines.append(build(device)))
    if device.is_software:
        return Begun(engines[-1], reason, _probe(backend, needs) if reason else None, fell_back=reason is not None)
    return Begun(engines[-1], reason, None if needs.shared else reopens(engines[-1]), fell_back=False)


# ---- a device, later -------------------------------------------------------------------------------------------------


def build_on(device: Device, needs: Needs) -> Engine:
    """An engine on a device, which is closed if that fails."""
    try:
        return Engine(device, needs)
    except BaseException:
        device.close()
        raise


def reopens(engine: Engine) -> Reopen:
    """What makes another engine on the device of one that was opened by name."""
    name = engine.device.backend
    return lambda needs: build_on(open_device(name), needs)


def _from_source(source: Source) -> Reopen:
    return lambda needs: build_on(source.open(), needs)


def _probe(backend: Backend, needs: Needs) -> Reopen | None:
    """Tries what could not be had at the start; None where that has no sense: there is no device to be had."""
    if needs.shared:
        return None
    if not isinstance(backend, str | int | os.PathLike):
        return _from_source(backend)
    name = os.environ.get("PYDLB_BACKEND", "auto") if backend == "auto" else str(backend)
    devices = [part for part in map(str.strip, name.split(",")) if not part.startswith(("software", "libdlb"))]
    name = ",".join("device" if part == "auto" else part for part in devices)
    if not name or (backend == "auto" and not nodes()):
        return None

    def try_all(needs: Needs) -> Engine:
        engines: list[Engine] = []
        open_with(name, lambda device: engines.append(Engine(device, needs)))
        return engines[-1]

    return try_all


def open_software(needs: Needs) -> Engine:
    """An engine that needs no device."""
    device = open_device("software", limits="large")
    try:
        return Engine(device, needs)
    except BaseException:
        device.close()
        raise
