"""An emulated device in this process."""

from __future__ import annotations

import errno as _errno
from typing import TYPE_CHECKING, Final, Literal, Self

from pydlb import _native
from pydlb.device import Device
from pydlb.errors import BackendUnavailable, ConfigError
from pydlb.status import DriverStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["EmulatedDevice", "live_handles"]

_VERSIONS: Final = {"2.0": 2, "2.5": 3}
_WHOLE: Final = {
    "domains": 32,
    "ldb_queues": 32,
    "ldb_ports": 64,
    "dir_ports": 96,
    "ldb_credits": 16384,
    "dir_credits": 4096,
    "history_entries": 2048,
    "atomic_inflights": 2048,
    "sequence_slots[0]": 16,
    "sequence_slots[1]": 16,
}


class EmulatedDevice:
    """A DLB with its driver, as the device backend finds it, for one test: nobody else has it.

    What the driver answers is what its release 8.8.0 does; what the silicon does is what public sources say.

    Args:
        version: ``"2.0"`` or ``"2.5"``.
        limits: How much is left of a resource, as if others had the rest, by the names of :class:`pydlb.Resources`
            (``"sequence_slots[0]"`` and ``[1]`` for the two groups). All of it, where nothing is said.
        port_probe: The driver's module parameter of this name: ports are handed out by their nearness to processors,
            which is to say, in no order that a program could count on.

    Raises:
        ConfigError: There is no such version or resource.
        BackendUnavailable: This build has no emulated device.

    **Synchronization**: any thread.

    **Resource handling**: a context manager; leaving it fails if the device was misused: if anything was done that
    hardware would have punished. What was opened on it keeps it alive.
    """

    def __init__(
        self,
        version: Literal["2.0", "2.5"] = "2.5",
        *,
        limits: Mapping[str, int] | None = None,
        port_probe: bool = False,
    ) -> None:
        if version not in _VERSIONS:
            raise ConfigError(f"version is {version!r}: it is '2.0' or '2.5'")
        if not hasattr(_native, "Emulated"):
            reason = "this build has no emulated device: it needs an x86-64 processor"
            raise BackendUnavailable(reason, {"emulated": reason})
        self.version: Final = version
        self._native = _native.Emulated(_VERSIONS[version], port_probe)
        if limits:
            unknown = set(limits) - set(_WHOLE)
            if unknown:
                raise ConfigError(f"limits has {sorted(unknown)}: there are {', '.join(_WHOLE)}")
            self._native.limit(_WHOLE | dict(limits))

    def open(self) -> Device:
        """Open the device, as :func:`pydlb.open` does."""
        return Device(self._native.open(), "the emulated device", None)

    # ---- faults ------------------------------------------------------------------------------------------------------

    def fail(
        self,
        call: str | None = None,
        nth: int = 1,
        *,
        errno: int = _errno.EINVAL,
        status: DriverStatus = DriverStatus.SUCCESS,
    ) -> None:
        """Let a system call fail, once, before it has any effect.

        Args:
            call: The name of a request to the driver, such as ``"CREATE_LDB_PORT"``, or ``"open"``, ``"map"``,
                ``"event"`` (an eventfd), ``"close_on_exec"`` or ``"read_alert"``; None for any of them.
            nth: Which one, from now and from 1.
            errno: What it fails with.
            status: What the driver says, if it is a request.
        """
        self._native.fail(call, nth, errno, status)

    @property
    def failure_waits(self) -> bool:
        """Whether a failure that was asked for has not come yet."""
        return self._native.failure_waits()

    @property
    def failed_call(self) -> str | None:
        """The last system call that failed because it was asked to; None if none has."""
        return self._native.failed_call()

    @property
    def calls(self) -> int:
        """How many system calls there were, of those that can fail."""
        return self._native.calls()

    def drop_element(self, nth: int = 1) -> None:
        """Lose the `nth` element that is stored to any producer port, as for lack of a credit: with an alert."""
        self._native.expect("drop", nth)

    def reset_at_element(self, nth: int = 1) -> None:
        """Reset the device just before the `nth` element that is stored to any producer port."""
        self._native.expect("reset", nth)

    def lose_interrupt(self, nth: int = 1) -> None:
        """Let the `nth` interrupt of a consumer queue tell nobody."""
        self._native.expect("lose", nth)

    def repeat_interrupt(self, nth: int = 1) -> None:
        """Let the `nth` interrupt of a consumer queue come twice."""
        self._native.expect("repeat", nth)

    def interrupt_all(self) -> None:
        """Signal every port that is waited for, though nothing has come."""
        self._native.interrupt_all()

    def reset(self) -> None:
        """Reset the device (FLR): every domain on it is gone."""
        self._native.reset()

    def alert(self, domain: int, alert: int, data: int = 0) -> None:
        """Let the driver tell a domain something.

        Args:
            domain: Its id.
            alert: 0 illegal enqueue, 1 excess token pops, 2 illegal element, 3 illegal queue, 4 disabled queue,
                5 device reset, 6 user, 7 consumer queue watchdog.
            data: The alert's data: for most, the port's id, with bit 8 set for a load-balanced one.
        """
        self._native.alert(domain, alert, data)

    # ---- what was seen -----------------------------------------------------------------------------------------------

    @property
    def misuses(self) -> list[str]:
        """What was done that hardware would have punished: credits overrun, tokens returned that were not owed."""
        return [text for text in self._native.misuses() if "as was asked for" not in text]

    @property
    def watches(self) -> int:
        """How often a port that waited watched the memory of its consumer queue, by what stands for UMWAIT here."""
        return self._native.watches()

    def __enter__(self) -> Self:
        """The device itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Fail if the device was misused."""
        if kind is None and self.misuses:
            raise AssertionError(f"the device was misused: {'; '.join(self.misuses)}")


def live_handles() -> dict[str, int]:
    """How many devices, domains, ports and acceptors of the C core are open in this process, by kind."""
    return _native.live_handles()
