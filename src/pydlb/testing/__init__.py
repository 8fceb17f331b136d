"""For tests of programs that use pydlb, and of its backends: an emulated device, and the contract of all backends."""

from __future__ import annotations

from .contract import CHECKS, check_backend
from .emulated import EmulatedDevice, live_handles

__all__ = ["CHECKS", "EmulatedDevice", "check_backend", "live_handles"]
