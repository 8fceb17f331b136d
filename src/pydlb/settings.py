"""What only hardware has: settings of a whole device, or of one port, that scheduling does not depend on."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from . import _native
from .errors import ConfigError

if TYPE_CHECKING:
    from .device import Device
    from .port import LDBPort

__all__ = ["HardwareSettings", "Register", "SequenceGroup"]


class SequenceGroup(NamedTuple):
    """One of a device's two groups of 1024 sequence numbers."""

    numbers: int
    """Sequence numbers that an ordered queue takes from it: 64, 128, 256, 512 or 1024."""

    slots: int
    """How many such queues it has room for."""

    taken: int
    """Slots that scheduling domains have reserved."""


class Register(enum.IntEnum):
    """Registers that the driver reads out, of a queue or of a port's consumer queue (CQ), by the driver's numbers."""

    LDB_QUEUE_INFLIGHTS = 0x10000
    LDB_QUEUE_INFLIGHT_LIMIT = 0x10001
    LDB_QUEUE_ATOMIC_ACTIVE = 0x10002
    LDB_QUEUE_ATOMIC_DEPTH_THRESHOLD = 0x10003
    LDB_QUEUE_DEPTH_THRESHOLD = 0x10004
    LDB_QUEUE_ENQUEUED = 0x10006
    LDB_CQ_DEPTH = 0x20000
    LDB_CQ_TOKENS = 0x20001
    LDB_CQ_DEPTH_SELECT = 0x20002
    LDB_CQ_INFLIGHTS = 0x20003
    DIR_CQ_DEPTH_SELECT = 0x30000
    DIR_CQ_DEPTH = 0x30001
    DIR_QUEUE_DEPTH_THRESHOLD = 0x30002
    DIR_QUEUE_ENQUEUED = 0x30003


class HardwareSettings:
    """Settings of a device that :func:`pydlb.open` opened by its node. They hold for all who use the device.

    Args:
        device: The device.

    Raises:
        ConfigError: It is not driven by its node: software has no such settings, and the vendor's library keeps them
            to itself.

    **Synchronization**: any thread.

    **Error handling**: :class:`pydlb.DeviceError` where the driver refuses, :class:`pydlb.DeviceGone` after a reset.
    """

    def __init__(self, device: Device) -> None:
        native = getattr(device, "_native", None)
        if not isinstance(native, _native.Device) or device.is_software:
            raise ConfigError(f"{device!r} has no settings of hardware: they are those of a device such as /dev/dlb0")
        self._native: Final = native

    def sequence_group(self, group: int) -> SequenceGroup:
        """What a group of sequence numbers, 0 or 1, is set to, and how much of it is taken."""
        return SequenceGroup(*_native.sequence_group(self._native, group))

    def set_sequence_numbers(self, group: int, numbers: int) -> None:
        """Set how many sequence numbers an ordered queue takes from a group.

        Args:
            group: 0 or 1.
            numbers: 64 (as a device starts), 128, 256, 512 or 1024.

        Raises:
            ConfigError: An argument is out of range.
            DeviceError: EBUSY, domains have reserved slots of the group; EPERM, this function may not set it.
        """
        _native.set_sequence_numbers(self._native, group, numbers)

    def bandwidth(self, class_of_service: int) -> int:
        """The share of a class of service, 0 to 3, in what the device schedules, in per cent."""
        return _native.bandwidth(self._native, class_of_service)

    def set_bandwidth(self, class_of_service: int, percent: int) -> None:
        """Set the share of a class of service.

        Args:
            class_of_service: 0 to 3.
            percent: 0 to 100; all four classes together have at most 100.

        Raises:
            ConfigError: An argument is out of range.
        """
        _native.set_bandwidth(self._native, class_of_service, percent)

    @property
    def poll_mode(self) -> Literal["sparse", "standard"]:
        """How consumer queues are laid out: with one event to a cache line, or four."""
        return "sparse" if _native.polls_sparse(self._native) else "standard"

    def read(self, register: Register, number: int) -> int:
        """Read a register.

        Args:
            register: Which.
            number: Of the queue or the port; it may be anybody's.

        Raises:
            DeviceError: ENXIO, there is no such queue or port.
        """
        return _native.read_register(self._native, register, number)

    def set_weight(self, port: LDBPort, weight: int) -> None:
        """Set how many events a port is given in one turn. DLB 2.5 only, and before its domain is started.

        Args:
            port: A load-balanced port of this device.
            weight: 1 to the port's `cq_depth`. The driver takes none for depths of 256 and more.

        Raises:
            ConfigError: `weight` is out of range.
            DeviceError: The domain is started, or the device is a DLB 2.0.
        """
        _native.set_weight(_native_port(port), weight)

    def set_inflight_threshold(self, port: LDBPort, threshold: int | None) -> None:
        """Give a port no more events while it holds so many. DLB 2.5 only.

        Whether such limits hold is one switch of the device: setting one turns on those of all ports, whosever they
        are, and None turns them off.

        Args:
            port: A load-balanced port of this device.
            threshold: Up to 4095 events.
        """
        _native.set_inflight_threshold(_native_port(port), threshold)


def _native_port(port: LDBPort) -> _native.Port:
    native = port._native
    if not isinstance(native, _native.Port):
        raise ConfigError(f"{port!r} has no settings of hardware")
    return native
