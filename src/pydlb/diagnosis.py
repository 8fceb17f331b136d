"""Why DLB hardware is or is not used, finding by finding, each with the command that mends it."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .hardware import Function, Hardware, Node

__all__ = ["Finding", "diagnose", "usable"]

# The release of the driver whose interface pydlb knows.
_DRIVER: Final = "8.8.0"
# What a scheduling domain cannot do without.
_NEEDED: Final = ("domains", "ldb_queues", "ldb_ports", "ldb_credits", "history_entries")
_SAME_DRIVER: Final = "dlb2"

_UDEV_RULE: Final = 'SUBSYSTEM=="dlb2", KERNEL=="dlb[0-9]*", GROUP="dlb", MODE="0660"'
_GRANT_TO_GROUP: Final = (
    "sudo groupadd --force --system dlb",
    'sudo usermod --append --groups dlb "$USER"  # then log in again',
    f"echo {shlex.quote(_UDEV_RULE)} | sudo tee /etc/udev/rules.d/70-dlb.rules",
    "sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=dlb2",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``"good"``; ``"note"`` for what is worth knowing; ``"bad"`` for what stands in the hardware's way.
        subject: What was looked at: ``"PCI"``, ``"module"``, ``"/dev/dlb0"``, ...
        text: What was found.
        commands: What mends it, line by line; empty if there is nothing to mend, or no command does.
    """

    level: Literal["good", "note", "bad"]
    subject: str
    text: str
    commands: Sequence[str] = ()


def usable(hardware: Hardware) -> list[Node]:
    """The nodes that this process may open and that have something left."""
    return [node for node in hardware.nodes if node.access == "granted" and not _used_up(node)]


def diagnose(hardware: Hardware) -> list[Finding]:
    """Look at each thing that hardware needs, from the bus upwards.

    Args:
        hardware: What :func:`pydlb.hardware.survey` found.

    Returns:
        The findings. The hardware can be used if, and only if, :func:`usable` names a node.
    """
    found = [*_bus(hardware), *_module(hardware)]
    for function in hardware.functions:
        found += _binding(function, loaded=hardware.module_version is not None)
    found += _nodes(hardware)
    found += _processor(hardware)
    return found


def _bus(hardware: Hardware) -> Iterator[Finding]:
    if not hardware.functions:
        where = " that this container is shown" if hardware.container else ""
        yield Finding(
            level="bad",
            subject="PCI",
            text=f"there is no DLB (8086:2710, 2711, 2714, 2715) on the bus{where}. Xeons from the 4th generation on "
            "have them, some models only; firmware and hypervisors can hide them",
            commands=("lspci -nn -d 8086:2710; lspci -nn -d 8086:2714  # on the host",),
        )
        return
    for function in hardware.functions:
        place = "" if function.numa_node is None else f", memory node {function.numa_node}"
        kind = f"DLB {function.version} {function.kind} (8086:{function.device_id[2:]}{place})"
        yield Finding(level="good", subject="PCI", text=f"{function.address} is a {kind}")


def _module(hardware: Hardware) -> Iterator[Finding]:
    version = hardware.module_version
    if version is not None:
        told = f", version {version}" if version else ""
        yield Finding(level="good", subject="module", text=f"the driver module dlb2 is loaded{told}")
        if version and version != _DRIVER:
            yield Finding(level="note", subject="module", text=f"pydlb was written for the driver's release {_DRIVER}")
    elif not hardware.functions:
        yield Finding(
            level="note", subject="module", text="the driver module dlb2 is not loaded; it has nothing to drive"
        )
    elif hardware.module_installed:
        yield Finding(
            level="bad",
            subject="module",
            text="the driver module dlb2 is installed, but not loaded",
            commands=("sudo modprobe dlb2",),
        )
    else:
        where = "on the host: " if hardware.container else ""
        yield Finding(
            level="bad",
            subject="module",
            text=f"the driver module dlb2 is not loaded, and this kernel has none installed. Build it {where}from "
            f"Intel's DLB software release (dlb_linux_src_release), for the running kernel",
            commands=("make -C dlb/driver/dlb2", "sudo insmod dlb/driver/dlb2/dlb2.ko"),
        )


def _binding(function: Function, *, loaded: bool) -> Iterator[Finding]:
    address = function.address
    device = f"/sys/bus/pci/devices/{address}"
    if function.driver not in (None, _SAME_DRIVER):
        passed_on = " (for DPDK or a virtual machine)" if function.driver == "vfio-pci" else ""
        yield Finding(
            level="bad",
            subject=address,
            text=f"it is bound to {function.driver}{passed_on}, so the kernel driver does not have it",
            commands=(
                f"echo {address} | sudo tee {device}/driver/unbind",
                f"echo | sudo tee {device}/driver_override",
                f"echo {address} | sudo tee /sys/bus/pci/drivers/dlb2/bind",
            ),
        )
    elif function.driver is None and loaded:
        yield Finding(
            level="bad",
            subject=address,
            text="the driver is loaded, but not bound to it; the kernel's log says why",
            commands=(f"echo {address} | sudo tee /sys/bus/pci/drivers/dlb2/bind", "sudo dmesg | grep dlb2"),
        )
    if function.num_vfs:
        yield Finding(
            level="note",
            subject=address,
            text=f"it is divided into {function.num_vfs} virtual functions, which have taken resources from it; "
            "Kubernetes' device plugin offers only these",
            commands=(f"echo 0 | sudo tee {device}/sriov_numvfs  # gives everything back",),
        )


def _nodes(hardware: Hardware) -> Iterator[Finding]:
    if not hardware.nodes:
        if any(function.driver == _SAME_DRIVER for function in hardware.functions):
            yield _no_node(hardware, "/dev/dlbN")
        else:
            yield Finding(level="bad", subject="/dev", text="there is no device node /dev/dlbN")
    for node in hardware.nodes:
        match node.access:
            case "granted":
                yield from _free(node)
            case "no node":
                yield _no_node(hardware, node.path)
            case "wrong node":
                yield Finding(
                    level="bad",
                    subject=node.path,
                    text="it is not the character device that the driver made: it was left behind or made by hand",
                    commands=(f"sudo rm {node.path}", "sudo udevadm trigger --subsystem-match=dlb2 --action=add"),
                )
            case "mode":
                yield Finding(
                    level="bad",
                    subject=node.path,
                    text=f"this user may not open it: its mode is {node.mode or 0:04o}",
                    commands=_GRANT_TO_GROUP,
                )
            case "container":
                yield _not_granted(hardware, node.path)


def _no_node(hardware: Hardware, path: str) -> Finding:
    if hardware.container:
        return _not_granted(hardware, path)
    return Finding(
        level="bad",
        subject=path,
        text="the driver has the device, but there is no node for it",
        commands=("sudo udevadm trigger --subsystem-match=dlb2 --action=add",),
    )


def _not_granted(hardware: Hardware, path: str) -> Finding:
    if hardware.container == "kubernetes":
        return Finding(
            level="bad",
            subject=path,
            text="the pod was not granted it. Ask for a device in the container's resources, under limits: "
            "dlb.intel.com/pf or dlb.intel.com/vf",
            commands=("kubectl get nodes -o json | grep dlb.intel.com  # what there is to ask for",),
        )
    return Finding(
        level="bad",
        subject=path,
        text="the container was not granted it",
        commands=(f"docker run --device {path} ...",),
    )


def _used_up(node: Node) -> list[str]:
    return [] if node.free is None else [name for name in _NEEDED if getattr(node.free, name) == 0]


def _free(node: Node) -> Iterator[Finding]:
    gone = _used_up(node)
    if gone:
        yield Finding(
            level="bad",
            subject=node.path,
            text=f"nothing is left of its {', '.join(gone).replace('_', ' ')}: other programs have it all",
            commands=(f"sudo fuser --verbose {node.path}  # who they are",),
        )
        return
    text = "this process may open it"
    if (left := node.free) is not None:
        credits = left.ldb_credits + left.dir_credits
        text += f"; free: {left.domains} domains, {left.ldb_queues} queues, {left.ldb_ports} ports, {credits} credits"
    yield Finding(level="good", subject=node.path, text=text)


def _processor(hardware: Hardware) -> Iterator[Finding]:
    has = hardware.cpu_features
    yield Finding(
        level="good" if "movdir64b" in has else "note",
        subject="processor",
        text="it has movdir64b: four events in one store"
        if "movdir64b" in has
        else "it has no movdir64b; events are stored one by one, which works everywhere and is slower",
    )
    yield Finding(
        level="good" if "waitpkg" in has else "note",
        subject="processor",
        text="it has umwait (waitpkg)" if "waitpkg" in has else "it has no umwait (waitpkg); waits use interrupts",
    )
    yield Finding(
        level="note",
        subject="processor",
        text=f"it has {'' if 'enqcmd' in has else 'no '}enqcmd, which a DLB 2.x does not need",
    )
