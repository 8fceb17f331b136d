"""Which engine a balancer begins with, and what it falls back on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

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

_NAMES: Final = (*get_args(Fallback), None)


class Begun(NamedTuple):
    """An engine.

    Attributes:
        engine: It.
        reason: Why it is no better one; None if it was asked for.
        reopen: Opens its device again; None for software.
        fell_back: Whether it stands for a device that was asked for.
    """

    engine: Engine
    reason: str | None
    reopen: Callable[[], Device] | None
    fell_back: bool


def check_fallback(fallback: object) -> None:
    """Raise ConfigError unless it is one."""
    if fallback not in _NAMES:
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
        begun = _open(backend, build)
    except DLBError as error:
        bad_name = isinstance(error, ConfigError) and not opened
        if bad_name or fallback in ("auto", None):
            raise
        return Begun(open_software(needs), str(error), None, fell_back=True)
    if begun.fell_back and fallback is None:
        begun.engine.close()
        raise BackendUnavailable(f"no DLB device can be used: {begun.reason}", {"device": str(begun.reason)})
    return begun


def _open(backend: Backend, build: Callable[[Device], Engine]) -> Begun:
    if not isinstance(backend, str | int | os.PathLike):
        if not hasattr(backend, "open"):
            raise ConfigError(f"backend is {backend!r}: it is a name as of pydlb.open, or has an open()")
        device = backend.open()
        try:
            return Begun(build(device), None, backend.open, fell_back=False)
        except BaseException:
            device.close()
            raise
    engines: list[Engine] = []
    device, reason = open_with(backend, lambda device: engines.append(build(device)))
    if device.is_software:
        return Begun(engines[-1], reason, None, fell_back=reason is not None)
    name = device.backend
    return Begun(engines[-1], reason, lambda: open_device(name), fell_back=False)


def open_software(needs: Needs) -> Engine:
    """An engine that needs no device."""
    device = open_device("software", limits="large")
    try:
        return Engine(device, needs)
    except BaseException:
        device.close()
        raise
