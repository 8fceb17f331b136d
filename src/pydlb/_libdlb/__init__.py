"""The vendor's libdlb.so behind pydlb's interface, for those who have it: by cffi, with nothing of it at build time."""

from __future__ import annotations

from .device import open_device

__all__ = ["open_device"]
