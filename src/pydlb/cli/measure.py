"""Running things beside each other and comparing them: rounds, figures, ratios, percentiles."""

from __future__ import annotations

import dataclasses
import random
import statistics
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["CountError", "Figures", "Plan", "Progress", "Row", "Table", "alternate", "percentiles"]

# The warm-up of a run that is measured by time: of this many things first, then for this part of the time.
_FIRST = 500
_SECOND = 0.2


class CountError(Exception):
    """Something was lost, or came twice: a run with such a result proves nothing."""


@dataclasses.dataclass(slots=True)
class Figures:
    """What one run of one contender measured.

    Attributes:
        rate: Things per second.
        per_cpu: Things per second of processor time, where it is the time of what is measured alone. On a machine that
            others use too it is the steadier figure.
        latencies: Percentiles in microseconds, by name, where they were measured.
        spread: Things per worker, where there were workers.
    """

    rate: float
    per_cpu: float | None = None
    latencies: dict[str, float] = dataclasses.field(default_factory=dict)
    spread: list[int] = dataclasses.field(default_factory=list)

    @property
    def imbalance(self) -> float | None:
        """Most of a worker over the mean; 1 is even."""
        return max(self.spread) * len(self.spread) / sum(self.spread) if sum(self.spread) else None


@dataclasses.dataclass(slots=True)
class Row:
    """All runs of one contender, one for each round."""

    name: str
    runs: list[Figures] = dataclasses.field(default_factory=list)

    def rates(self) -> list[float]:
        """Things per second, round by round."""
        return [run.rate for run in self.runs]

    def per_cpu(self) -> list[float]:
        """Things per second of processor time, round by round."""
        return [run.per_cpu for run in self.runs if run.per_cpu is not None]

    def latencies(self) -> dict[str, float]:
        """The median of each percentile over the rounds."""
        names = self.runs[0].latencies if self.runs else {}
        return {name: statistics.median(run.latencies[name] for run in self.runs) for name in names}

    def imbalance(self) -> float | None:
        """The median imbalance over the rounds."""
        values = [run.imbalance for run in self.runs if run.imbalance is not None]
        return statistics.median(values) if values else None


@dataclasses.dataclass(slots=True)
class Table:
    """Contenders that were measured beside each other.

    Attributes:
        title: What was measured.
        unit: What the rates count.
        rows: One for each contender; the last is the one that the others are compared with.
        parameters: What was varied, by name: such as ``{"batch": 32, "receivers": 1}``.
    """

    title: str
    unit: str
    rows: list[Row]
    parameters: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def base(self) -> Row:
        """What the others are compared with."""
        return self.rows[-1]

    def ratios(self, row: Row) -> list[float]:
        """The rate of a row over that of the base, round by round; empty for the base itself."""
        return [] if row is self.base else _ratios(row.rates(), self.base.rates())

    def cpu_ratios(self, row: Row) -> list[float]:
        """The same for things per second of processor time."""
        return [] if row is self.base else _ratios(row.per_cpu(), self.base.per_cpu())

    @property
    def started(self) -> bool:
        """Whether every contender has been measured at least once."""
        return all(row.runs for row in self.rows)


def _ratios(ours: Iterable[float], base: Iterable[float]) -> list[float]:
    # An interrupted round has measured some contenders and not others.
    return [mine / other for mine, other in zip(ours, base, strict=False)]


class Progress:
    """Says on stderr what is being measured, and since when.

    On a terminal that is one line that changes; else a line for each table, and one now and then within a long one.

    Args:
        quiet: Say nothing.
        interval: Seconds between two lines where there is no terminal.
    """

    def __init__(self, *, quiet: bool, interval: float = 30.0) -> None:
        self._quiet = quiet
        self._interval = interval
        self._terminal = sys.stderr.isatty()
        self._began = self._said = time.monotonic()

    def table(self, title: str) -> None:
        """A new table is begun."""
        if not self._quiet and not self._terminal:
            self._say(f"measuring: {title}")

    def run(self, text: str) -> None:
        """What is being done now."""
        if self._quiet:
            return
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{self._elapsed()} {text}")
            sys.stderr.flush()
        elif time.monotonic() - self._said >= self._interval:
            self._say(f"{self._elapsed()} {text}")

    def done(self) -> None:
        """Take the line away."""
        if self._terminal and not self._quiet:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"[{minutes:d}:{seconds:02d}]"


@dataclasses.dataclass(slots=True, kw_only=True)
class Plan:
    """How to measure.

    Attributes:
        rounds: How often each contender runs.
        duration: Seconds that each run takes, where the number of things is not given.
        seed: Of the random order in which contenders run; a new order in each round.
        backend: As `device` of :func:`pydlb.open`.
        progress: Where to say what is going on.
        report: Called with each table that is complete.
        tables: What has been measured until now.
        interrupted: Set to end the measurement after the run that is going on, by KeyboardInterrupt.
    """

    rounds: int
    duration: float
    seed: int
    backend: str
    progress: Progress
    report: Callable[[Table], None]
    tables: list[Table] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    def run(self, contender: Callable[[int], Figures], count: int) -> Figures:
        """Run a contender once."""
        figures = contender(count)
        if self.interrupted:
            raise KeyboardInterrupt
        return figures


def alternate(
    plan: Plan,
    title: str,
    unit: str,
    contenders: Mapping[str, Callable[[int], Figures]],
    *,
    count: int | None = None,
    parameters: Mapping[str, int] | None = None,
) -> None:
    """Run all contenders in turn, so often as planned, and compare each with the last one named.

    Args:
        plan: How; the table is added to its `tables`, where it is found even if the measurement is interrupted.
        title: What is being measured.
        unit: What the rates count.
        contenders: What to run, by name: a function of the number of things to do.
        count: How many things each run does; None for as many as the contender does in the planned time.
        parameters: What is varied from table to table.
    """
    table = Table(title, unit, [Row(name) for name in contenders], parameters or {})
    plan.tables.append(table)
    plan.progress.table(title)
    counts = {}
    for name, contender in contenders.items():
        plan.progress.run(f"{title}: {name}, warming up")
        counts[name] = _warm_up(plan, contender, count)
    shuffled = random.Random(f"{plan.seed} {title}")
    for turn in range(plan.rounds):
        for row in shuffled.sample(table.rows, len(table.rows)):
            plan.progress.run(f"{title}: {row.name}, round {turn + 1} of {plan.rounds}")
            row.runs.append(plan.run(contenders[row.name], counts[row.name]))
    plan.progress.done()
    plan.report(table)


def _warm_up(plan: Plan, contender: Callable[[int], Figures], count: int | None) -> int:
    """Run a contender for the first time; how many things it shall do in each run."""
    if count is not None:
        plan.run(contender, max(1, count // 10))
        return count
    guess = plan.run(contender, _FIRST).rate * plan.duration
    return max(1, int(plan.run(contender, max(_FIRST, int(guess * _SECOND))).rate * plan.duration))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The percentiles that are shown of a series of measured values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    named = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[min(last, int(fraction * len(ordered)))] for name, fraction in named.items()}
