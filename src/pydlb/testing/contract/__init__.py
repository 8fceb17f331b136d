"""What every backend promises, as checks of one device each.

A device pushes events into the consumer queues of ports, and takes its time for it; software hands them out when a port
asks. The checks ask only for what holds of both: they wait for what must come, and for a moment where nothing may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import credits, devices, events, ports, refusals, scheduling  # noqa: F401 (each names its checks)
from .rig import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable

    import pydlb

__all__ = ["CHECKS", "check_backend"]


def check_backend(open_device: Callable[[], pydlb.Device]) -> None:
    """Hold a backend against the contract.

    Args:
        open_device: Opens a device that nobody else uses; called once for each check.

    Raises:
        AssertionError: A promise is not kept; the message names the check.
    """
    for name, check in CHECKS.items():
        with open_device() as device:
            try:
                check(device)
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
