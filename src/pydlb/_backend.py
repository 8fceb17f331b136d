"""Which backend a device name means, and why."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .errors import BackendUnavailable, ConfigError, DeviceError, DeviceNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

DEV = Path("/dev")
"""Where device nodes are looked for."""


class Choice(NamedTuple):
    """A backend that was chosen: its name, and why nothing better was (None if it was asked for)."""

    backend: str
    fallback_reason: str | None


def choose(device: str | int | os.PathLike[str]) -> Choice:
    """Find the backend for what the user named.

    Args:
        device: ``"auto"``, ``"software"``, ``"device"``, a path such as ``"/dev/dlb0"``, a number N for ``/dev/dlbN``,
            or ``"libdlb"`` with an optional ``":path"``. The environment variable ``PYDLB_BACKEND`` takes the place of
            ``"auto"``.

    Raises:
        ConfigError: The name means nothing.
        DeviceNotFound: There is no such node.
        BackendUnavailable: The backend cannot be had in this build or on this machine.
    """
    if device == "auto":
        device = os.environ.get("PYDLB_BACKEND", "auto")
    if isinstance(device, bool) or not isinstance(device, str | int | os.PathLike):
        raise ConfigError(f"device is {device!r}: it is 'auto', 'software', 'device', a path or a number")
    name = str(device)
    if name == "auto":
        return Choice("software", _why_not_hardware())
    if name == "software":
        return Choice("software", None)
    if name == "device":
        raise BackendUnavailable(f"no DLB device can be used: {_why_not_hardware()}", {"device": _why_not_hardware()})
    if name == "libdlb" or name.startswith("libdlb:"):
        reason = "this version of pydlb does not drive the vendor's libdlb.so"
        raise BackendUnavailable(f"{reason}; use 'auto' or 'software'", {"libdlb": reason})
    return _open_node(DEV / f"dlb{name}" if name.isdigit() else Path(name))


def _open_node(path: Path) -> Choice:
    """Look at a node without opening it: to open one has effects on the device."""
    if "/" not in str(path):
        raise ConfigError(
            f"device is {str(path)!r}: it is 'auto', 'software', 'device', 'libdlb', a path such as /dev/dlb0, or a number"
        )
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DeviceNotFound(errno.ENOENT, f"there is no {path}; {_nodes_there(nodes())}", op="open") from None
    except OSError as error:
        raise DeviceError(error.errno or errno.EIO, f"{path}: {error.strerror}", op="open") from error
    if not stat.S_ISCHR(mode):
        raise DeviceError(errno.ENODEV, f"{path} is not a character device, so it is no DLB", op="open")
    reason = f"{path} cannot be used: this version of pydlb has no driver for the device"
    raise BackendUnavailable(f"{reason}; use 'auto' or 'software'", {str(path): reason})


def nodes() -> list[Path]:
    """The DLB device nodes of this machine, in the order of their numbers."""
    found = [path for path in DEV.glob("dlb*") if path.name[3:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[3:]))


def _nodes_there(found: Sequence[Path]) -> str:
    return f"there is {', '.join(map(str, found))}" if found else "this machine has no DLB device node (/dev/dlbN)"


def _why_not_hardware() -> str:
    found = nodes()
    if not found:
        return _nodes_there(found)
    return f"{_nodes_there(found)}, but this version of pydlb has no driver for the device"
