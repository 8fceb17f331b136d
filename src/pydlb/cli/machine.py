"""The machine and the software that a figure was measured on, without which it means nothing."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

import pydlb

__all__ = ["StealMeter", "environment"]


def environment(backend: str) -> dict[str, Any]:
    """Versions, processors, and which backend was chosen and why."""
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    with pydlb.open(backend) as device:
        chosen, reason = device.backend, device.fallback_reason
    return {
        "pydlb": pydlb.__version__,
        "backend": chosen,
        "fallback_reason": reason,
        "emulated": chosen not in ("software", "libdlb") and "PDLB_EMULATED" in os.environ,
        "python": sys.version.split()[0],
        "gil": is_enabled is None or is_enabled(),
        "numpy": np.__version__,
        "kernel": platform.release(),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


class StealMeter:
    """What part of the machine's time its host gave to others since this was made."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return fields[7], sum(fields)

    def stolen(self) -> float:
        """From 0 to 1."""
        stolen, ticks = (now - before for now, before in zip(self._read(), self._before, strict=True))
        return stolen / ticks if ticks else 0.0
