"""What a backend is, and which one a device name means.

A backend is whatever has the methods stated here. Amounts and options cross as plain numbers, checked above; events
as buffers of 16-byte items; failures as exceptions of :mod:`pydlb.errors`. Nothing is stated that only one backend has.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from . import _native
from .errors import BackendUnavailable, ConfigError, DeviceError, DeviceNotFound, DLBError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .calls import PortCalls

DEV = Path("/dev")
"""Where device nodes are looked for."""

CHARACTER_DEVICES = Path("/sys/dev/char")
"""Where the kernel says which subsystem a character device belongs to."""


# A connection as it is taken: descriptor, listener, family and protocol; and if a proxy named them, the addresses of
# its client and of what that connected to, as the system has them.
Taken: TypeAlias = tuple[int, int, int, int, tuple[bytes, bytes] | None]


# ---- what a backend does ---------------------------------------------------------------------------------------------


class BackendDevice(Protocol):
    """A device."""

    @property
    def closed(self) -> bool: ...
    @property
    def version(self) -> int:
        """The device's own code: 2 is DLB 2.0, 3 is DLB 2.5."""

    def resources(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Amounts in all, and those left, by the names of :class:`pydlb.Resources`."""

    def create_domain(
        self,
        ldb_queues: int,
        ldb_ports: int,
        dir_ports: int,
        credits: int,
        history_entries: int,
        atomic_inflights: int,
        sequence_slots: tuple[int, int],
        shared: bool = False,
        class_ports: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> BackendDomain: ...
    def close(self) -> None: ...


class BackendDomain(Protocol):
    """A scheduling domain. Its queues are numbers."""

    @property
    def closed(self) -> bool: ...
    @property
    def id(self) -> int: ...
    def create_ldb_queue(
        self, sequence_numbers: int, inflights: int, atomic_inflights: int, even: bool, grace_ns: int
    ) -> int: ...
    def create_dir_queue(self, port: int | None) -> int: ...
    def queue_depth(self, queue: int, directed: bool) -> int: ...
    def create_port(
        self,
        directed: bool,
        cq_depth: int,
        history_entries: int,
        release_on_recv: bool,
        queue: int | None,
        service_class: int = 0,
        watch_ns: int = 0,
        prefetch: int = 1,
    ) -> BackendPort:
        """A `service_class` of 0 is any, else one more than the class. `watch_ns` and `prefetch` may be ignored."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def stats(self) -> dict[str, int]:
        """By the names of :class:`pydlb.DomainStats`."""

    def close(self) -> None: ...


class BackendPort(Protocol):
    """A port, as any thread may use it."""

    @property
    def closed(self) -> bool: ...
    @property
    def id(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    def link(self, queue: int, priority: int) -> None: ...
    def unlink(self, queue: int) -> None: ...
    def set_enabled(self, enabled: bool) -> None: ...
    def fileno(self) -> int: ...
    def stats(self) -> dict[str, Any]:
        """By the names of :class:`pydlb.PortStats`."""

    def bind_calls(self, domain: BackendDomain, cq_depth: int) -> PortCalls:
        """The calls that are made once per event or batch, as functions that need no look-up."""

    def close(self) -> None: ...


# ---- which backend ---------------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """A device that was opened, the name of its backend, and why it is no better one (None if it was asked for)."""

    device: BackendDevice
    backend: str
    fallback_reason: str | None


def open_backend(device: str | int | os.PathLike[str], *, large: bool) -> Opened:
    """Open what the user named, the first that can be used where it names several: see :func:`open_in_turn`."""
    return next(open_in_turn(device, large=large))


def open_in_turn(device: str | int | os.PathLike[str], *, large: bool) -> Iterator[Opened]:
    """Open, one after the other, what the user's name may stand for; whoever asks for the next one closes the last.

    Args:
        device: ``"auto"``, ``"software"``, ``"device"``, a path such as ``"/dev/dlb0"``, a number N for ``/dev/dlbN``,
            or ``"libdlb"`` with an optional ``":path"``. The environment variable ``PYDLB_BACKEND`` takes the place of
            ``"auto"``. Several of these, ``"auto"`` apart, may be given with commas between them.
        large: Software has more of everything than the hardware.

    Yields:
        At least one device.

    Raises:
        ConfigError: The name means nothing.
        DeviceNotFound: There is no such node.
        DeviceError: The node is no DLB, or cannot be opened.
        BackendUnavailable: The backend cannot be had in this build or on this machine.
    """
    source = "device"
    if device == "auto" and "PYDLB_BACKEND" in os.environ:
        device, source = os.environ["PYDLB_BACKEND"], "the environment variable PYDLB_BACKEND"
    if isinstance(device, bool) or not isinstance(device, str | int | os.PathLike):
        raise _unknown(device, source)
    name = str(device)
    if "," in name:
        yield from _open_listed([item.strip() for item in name.split(",")], large=large)
    elif name == "auto":
        reasons: dict[str, str] = {}
        yield from _open_each(reasons)
        yield Opened(_native.open_software(large=large), "software", _because(reasons))
    elif name == "software":
        yield Opened(_native.open_software(large=large), "software", None)
    elif name == "device":
        reasons = {}
        yield from _open_each(reasons)
        text = f"no DLB device can be used: {_because(reasons)}; use 'auto' or 'software'"
        raise BackendUnavailable(text, reasons or {"device": _because(reasons)})
    elif name == "libdlb" or name.startswith("libdlb:"):
        from ._libdlb import open_device

        numbers = [int(node.name[3:]) for node in nodes()]
        yield Opened(open_device(name[7:] if ":" in name else None, numbers), "libdlb", None)
    else:
        path = DEV / f"dlb{name}" if name.isdecimal() else Path(name)
        if not path.is_absolute():
            raise _unknown(device, source)
        yield Opened(_open_node(path), str(path), None)


def _open_each(reasons: dict[str, str]) -> Iterator[Opened]:
    """Each device that can be used and has something left; `reasons` gets why the others cannot."""
    for path in nodes():
        try:
            device = _open_node(path)
        except DLBError as error:
            reasons[str(path)] = str(error)
            continue
        lacking = _lacking(device)
        if lacking:
            device.close()
            reasons[str(path)] = f"{path} is busy: nothing is left of its {lacking}"
        else:
            reasons[str(path)] = f"{path} did not do"
            yield Opened(device, str(path), None)


def _open_listed(names: Sequence[str], *, large: bool) -> Iterator[Opened]:
    """What each of several names stands for, one after the other."""
    for name in names:
        if name in ("", "auto"):
            raise _unknown(",".join(names), "device")
    reasons: dict[str, str] = {}
    found = False
    for name in names:
        try:
            for opened in open_in_turn(name, large=large):
                found = True
                because = [*reasons.values(), opened.fallback_reason or ""]
                yield opened._replace(fallback_reason="; ".join(filter(None, because)) or None)
        except (DeviceError, BackendUnavailable) as error:
            reasons[name] = str(error)
    if not found:
        raise BackendUnavailable(f"none of {', '.join(names)} can be used: {_because(reasons)}", reasons)


def _because(reasons: dict[str, str]) -> str:
    return "; ".join(reasons.values()) or _nodes_there([])


def _lacking(device: BackendDevice) -> str:
    """What a domain cannot do without, and the device has none left of."""
    _, left = device.resources()
    amounts = {
        "domains": left["domains"],
        "ports": left["ldb_ports"] + left["dir_ports"],
        "credits": left["ldb_credits"] + left["dir_credits"],
    }
    return " and ".join(name for name, amount in amounts.items() if amount == 0)


def _open_node(path: Path) -> BackendDevice:
    _check_node(path)
    return _native.open_device(str(path))


def _unknown(device: object, source: str) -> ConfigError:
    return ConfigError(
        f"{source} is {device!r}: it is 'auto', 'software', 'device', a path such as /dev/dlb0, its number, "
        "'libdlb' with an optional ':path', or several of these but 'auto' with commas between them"
    )


def _check_node(path: Path) -> None:
    """Look at a node without opening it: to open one has effects on the device."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DeviceNotFound(errno.ENOENT, f"there is no {path}; {_nodes_there(nodes())}", op="open") from None
    except OSError as error:
        raise DeviceError(error.errno or errno.EIO, f"{path}: {error.strerror}", op="open") from error
    if not stat.S_ISCHR(status.st_mode):
        raise DeviceError(errno.ENODEV, f"{path} is not a character device, so it is no DLB", op="open")
    if path in nodes():
        return  # an emulation's numbers may be those of any other device
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    subsystem = CHARACTER_DEVICES / number / "subsystem"
    if subsystem.exists() and not subsystem.resolve().name.startswith("dlb"):
        raise DeviceError(
            errno.ENODEV, f"{path} is a device of the kernel's {subsystem.resolve().name!r} class, no DLB", op="open"
        )


def nodes() -> list[Path]:
    """The DLB device nodes of this machine, in the order of their numbers."""
    found = [path for path in DEV.glob("dlb*") if path.name[3:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[3:]))


def _nodes_there(found: Sequence[Path]) -> str:
    return f"there is {', '.join(map(str, found))}" if found else "this machine has no DLB device node (/dev/dlbN)"
