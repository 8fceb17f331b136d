"""Running things beside each other and comparing them: rounds, ratios, percentiles, the machine they ran on."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CountError", "Figures", "Progress", "Row", "alternate", "environment", "percentile"]


class CountError(Exception):
    """Something was lost, or came twice: a run with such a result proves nothing."""


@dataclasses.dataclass(slots=True)
class Figures:
    """What one run of one contender measured.

    Attributes:
        rate: Things per second.
        latencies: Percentiles in microseconds, by name, where they were measured.
        spread: Things per worker, where there were workers.
    """

    rate: float
    latencies: dict[str, float] = dataclasses.field(default_factory=dict)
    spread: list[int] = dataclasses.field(default_factory=list)

    @property
    def imbalance(self) -> float | None:
        """Most of a worker over the mean; 1 is even."""
        return max(self.spread) * len(self.spread) / sum(self.spread) if sum(self.spread) else None


@dataclasses.dataclass(slots=True)
class Row:
    """All rounds of one contender.

    Attributes:
        name: What ran.
        unit: What `rate` counts.
        runs: What each round measured.
        ratios: For each round, its rate over that of the one compared with; empty for that one itself.
    """

    name: str
    unit: str
    runs: list[Figures] = dataclasses.field(default_factory=list)
    ratios: list[float] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "rate": statistics.median(run.rate for run in self.runs),
            "rates": [run.rate for run in self.runs],
            "ratio": statistics.median(self.ratios) if self.ratios else None,
            "ratios": self.ratios,
            "latencies_us": self.latencies(),
            "spread": [run.spread for run in self.runs if run.spread],
            "imbalance": self.imbalance(),
        }

    def latencies(self) -> dict[str, float]:
        """The median of each percentile over the rounds."""
        names = self.runs[0].latencies if self.runs else {}
        return {name: statistics.median(run.latencies[name] for run in self.runs) for name in names}

    def imbalance(self) -> float | None:
        """The median imbalance over the rounds."""
        values = [run.imbalance for run in self.runs if run.imbalance is not None]
        return statistics.median(values) if values else None


class Progress:
    """Says on stderr what is going on: in one line that changes on a terminal, else nothing until it matters."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()

    def show(self, text: str) -> None:
        """What is being done now."""
        if self._shown:
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()

    def done(self) -> None:
        """Take the line away."""
        self.show("")


def alternate(
    contenders: dict[str, Callable[[], Figures]], *, rounds: int, unit: str, progress: Progress, title: str
) -> list[Row]:
    """Run all contenders in turn, so often, and compare each with the last one named, round by round.

    Args:
        contenders: What to run, by name; the last is the one to compare with. Each runs once before the first round, to
            warm up.
        rounds: How often.
        unit: What their rates count.
        progress: Where to say what is going on.
        title: What is being measured.
    """
    rows = {name: Row(name, unit) for name in contenders}
    *_, base = contenders
    for turn in range(-1, rounds):
        for name, run in contenders.items():
            progress.show(f"{title}: {name}, " + ("warming up" if turn < 0 else f"round {turn + 1} of {rounds}"))
            figures = run()
            if turn >= 0:
                rows[name].runs.append(figures)
        if turn >= 0:
            for name, row in rows.items():
                if name != base:
                    row.ratios.append(row.runs[-1].rate / rows[base].runs[-1].rate)
    progress.done()
    return list(rows.values())


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The value below which this fraction of sorted values lies."""
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def environment(**parameters: object) -> dict[str, Any]:
    """What a figure means nothing without."""
    import numpy as np

    import pydlb

    is_enabled = getattr(sys, "_is_gil_enabled", None)
    with pydlb.open("auto") as device:
        backend, reason = device.backend, device.fallback_reason
    return {
        "pydlb": pydlb.__version__,
        "backend": backend,
        "fallback_reason": reason,
        "python": sys.version.split()[0],
        "gil": is_enabled is None or is_enabled(),
        "numpy": np.__version__,
        "kernel": platform.release(),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "parameters": parameters,
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def stolen_ticks() -> tuple[int, int]:
    """Clock ticks that the machine's host took from it, and all there were, since it started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)
