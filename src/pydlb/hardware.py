"""What DLB hardware a machine has, as the kernel's files tell it. Nothing is opened: that would wake a device."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from .types import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Access", "Function", "Hardware", "Node", "survey"]

Access: TypeAlias = Literal["granted", "no node", "wrong node", "mode", "container"]
"""Whether this process may open a node; if not, what stands in its way.

``"mode"``: the node's owner, group and mode. ``"container"``: its mode would allow it, so the device is not among those
that the container was granted. ``"wrong node"``: the node is not the character device that the driver made.
"""

_INTEL: Final = "0x8086"
# The PCI device id of each kind of function.
_FUNCTIONS: Final[dict[str, tuple[Literal["PF", "VF"], Literal["2.0", "2.5"]]]] = {
    "0x2710": ("PF", "2.0"),
    "0x2711": ("VF", "2.0"),
    "0x2714": ("PF", "2.5"),
    "0x2715": ("VF", "2.5"),
}
_CPU_FEATURES: Final = ("movdir64b", "waitpkg", "enqcmd")
# The file in which the driver tells each amount of pydlb.Resources.
_AMOUNTS: Final = {
    "domains": "num_sched_domains",
    "ldb_queues": "num_ldb_queues",
    "ldb_ports": "num_ldb_ports",
    "dir_ports": "num_dir_ports",
    "ldb_credits": "num_ldb_credits",
    "dir_credits": "num_dir_credits",
    "history_entries": "num_hist_list_entries",
    "atomic_inflights": "num_atomic_inflights",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A PCI function that is a DLB.

    Attributes:
        address: Its PCI address, such as ``"0000:6d:00.0"``.
        device_id: Its PCI device id, such as ``"0x2714"``.
        kind: ``"PF"`` for a physical function, ``"VF"`` for a virtual one.
        version: ``"2.0"`` or ``"2.5"``.
        driver: The driver that is bound to it; None if none is.
        numa_node: The memory node that it is next to; None if the machine does not say.
        num_vfs: How many virtual functions it has been divided into; None for a virtual function.
    """

    address: str
    device_id: str
    kind: Literal["PF", "VF"]
    version: Literal["2.0", "2.5"]
    driver: str | None
    numa_node: int | None
    num_vfs: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A device node, or a device of the driver that has none here.

    Attributes:
        path: ``/dev/dlbN``.
        function: The PCI function behind it; None if the kernel's files do not tell.
        driver_version: The driver's own, such as ``"8.8.0"``; None if it does not tell.
        total: Amounts in all; None if the driver does not tell.
        free: Amounts not allocated; None if the driver does not tell.
        access: Whether this process may open it.
        owner: User and group that own the node, as numbers; None if there is no node.
        mode: The node's permission bits; None if there is no node.
    """

    path: str
    function: Function | None
    driver_version: str | None
    total: Resources | None
    free: Resources | None
    access: Access
    owner: tuple[int, int] | None
    mode: int | None

    @property
    def number(self) -> int:
        """The N of ``/dev/dlbN``."""
        return int(self.path.rpartition("dlb")[2])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What there is.

    Attributes:
        functions: PCI functions that are a DLB, by address.
        nodes: Nodes and devices of the driver, by number.
        module_version: The version of the loaded driver module dlb2, ``""`` if it does not tell; None if not loaded.
        module_installed: Whether the running kernel has a dlb2 module that could be loaded.
        cpu_features: Which of movdir64b, waitpkg (umwait) and enqcmd the processor has.
        container: What this is inside of, ``"kubernetes"``, ``"docker"`` or ``"container"``; None for a host.
    """

    functions: tuple[Function, ...]
    nodes: tuple[Node, ...]
    module_version: str | None
    module_installed: bool
    cpu_features: frozenset[str]
    container: str | None


def survey(root: str | os.PathLike[str] = "/", *, access: Callable[[Path, int], bool] = os.access) -> Hardware:
    """Look at what DLB hardware there is.

    Args:
        root: The directory that holds ``dev``, ``sys`` and ``proc``.
        access: Asks whether this process may open a path in a mode, as :func:`os.access` does.

    Returns:
        What was found; files that are missing or cannot be read are taken for things that are not there.

    **Synchronization**: any thread.

    **Resource handling**: opens no device node: to open one wakes the device and may reset it.
    """
    base = Path(root)
    functions = {function.address: function for function in _functions(base)}
    return Hardware(
        functions=tuple(functions[address] for address in sorted(functions)),
        nodes=tuple(_nodes(base, functions, access)),
        module_version=_module_version(base),
        module_installed=_module_installed(base),
        cpu_features=_cpu_features(base),
        container=_container(base),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


# ---- PCI functions -------------------------------------------------------------------------------------------------


def _functions(base: Path) -> Iterator[Function]:
    """From the PCI bus, and from the driver: a container may have been shown only one of the two."""
    folders = _entries(base / "sys/bus/pci/devices")
    folders += [path for path in _entries(base / "sys/bus/pci/drivers/dlb2") if ":" in path.name]
    folders += [(path / "device").resolve() for path in _entries(base / "sys/class/dlb2")]
    for folder in folders:
        function = _function(folder)
        if function is not None:
            yield function


def _function(folder: Path) -> Function | None:
    device_id = _text(folder / "device") if _text(folder / "vendor") == _INTEL else None
    if device_id not in _FUNCTIONS:
        return None
    kind, version = _FUNCTIONS[device_id]
    driver = folder / "driver"
    numa_node = _number(folder / "numa_node")
    return Function(
        address=folder.name,
        device_id=device_id,
        kind=kind,
        version=version,
        driver=driver.resolve().name if driver.exists() else None,
        numa_node=None if numa_node is None or numa_node < 0 else numa_node,
        num_vfs=_number(folder / "sriov_numvfs"),
    )


# ---- nodes ---------------------------------------------------------------------------------------------------------


def _nodes(base: Path, functions: dict[str, Function], access: Callable[[Path, int], bool]) -> Iterator[Node]:
    """The devices of the driver, and nodes that belong to none of them."""
    paths = [*_entries(base / "sys/class/dlb2"), *_entries(base / "dev")]
    names = {path.name for path in paths if re.fullmatch("dlb[0-9]+", path.name)}
    for name in sorted(names, key=lambda name: int(name[3:])):
        yield _node(base, name, functions, access)


def _node(base: Path, name: str, functions: dict[str, Function], access: Callable[[Path, int], bool]) -> Node:
    known = base / "sys/class/dlb2" / name
    attributes = known / "device"
    path = base / "dev" / name
    try:
        status: os.stat_result | None = path.stat()
    except OSError:
        status = None
    return Node(
        path=f"/dev/{name}",
        function=functions.get(attributes.resolve().name),
        driver_version=_text(attributes / "driver_ver"),
        total=_resources(attributes / "total_resources"),
        free=_resources(attributes / "avail_resources"),
        access=_access(path, status, _text(known / "dev"), access),
        owner=None if status is None else (status.st_uid, status.st_gid),
        mode=None if status is None else stat.S_IMODE(status.st_mode),
    )


def _resources(folder: Path) -> Resources | None:
    amounts = {name: _number(folder / file) for name, file in _AMOUNTS.items()}
    slots = (_number(folder / "num_sn0_slots"), _number(folder / "num_sn1_slots"))
    if None in amounts.values() or None in slots:
        return None
    return Resources.of({**amounts, "sequence_slots": slots})


def _access(
    path: Path, status: os.stat_result | None, number: str | None, access: Callable[[Path, int], bool]
) -> Access:
    if status is None:
        return "no node"
    if not stat.S_ISCHR(status.st_mode):
        return "wrong node"
    if number is not None and number != f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}":
        return "wrong node"
    if access(path, os.R_OK | os.W_OK):
        return "granted"
    return "container" if _mode_allows(status) else "mode"


def _mode_allows(status: os.stat_result) -> bool:
    """Whether owner, group and mode alone would let this process read and write."""
    if os.geteuid() in (0, status.st_uid):
        return os.geteuid() == 0 or status.st_mode & 0o600 == 0o600
    if status.st_gid in {os.getegid(), *os.getgroups()}:
        return status.st_mode & 0o060 == 0o060
    return status.st_mode & 0o006 == 0o006


# ---- the machine ---------------------------------------------------------------------------------------------------


def _module_version(base: Path) -> str | None:
    return (_text(base / "sys/module/dlb2/version") or "") if (base / "sys/module/dlb2").exists() else None


def _module_installed(base: Path) -> bool:
    release = _text(base / "proc/sys/kernel/osrelease")
    listed = _text(base / "lib/modules" / release / "modules.dep") if release else None
    return listed is not None and re.search(r"(^|/)dlb2\.ko", listed, re.MULTILINE) is not None


def _cpu_features(base: Path) -> frozenset[str]:
    flags = re.search(r"^flags\s*:(.*)$", _text(base / "proc/cpuinfo") or "", re.MULTILINE)
    return frozenset(_CPU_FEATURES) & frozenset(flags[1].split() if flags else ())


def _container(base: Path) -> str | None:
    groups = _text(base / "proc/1/cgroup") or ""
    if "kubepods" in groups or "Kubernetes-managed" in (_text(base / "etc/hosts") or ""):
        return "kubernetes"
    if (base / ".dockerenv").exists() or "docker" in groups:
        return "docker"
    if (base / "run/.containerenv").exists():
        return "container"
    layered = re.search(r" / / .* - overlay ", _text(base / "proc/1/mountinfo") or "")
    return "container" if layered else None
