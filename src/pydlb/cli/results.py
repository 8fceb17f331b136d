"""What pydlb-bench and the programs in benchmarks/ wrote down, read again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .report import heading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Bar", "Contender", "Measured", "Results", "ResultsError", "read"]

_FORMAT: Final = 1
# What pydlb's contenders are called where they do not begin with its name.
_OURS: Final = {"unordered", "atomic", "ordered", "directed"}


class ResultsError(Exception):
    """A file is no output of pydlb-bench."""


@dataclasses.dataclass(frozen=True, slots=True)
class Contender:
    """A row of a table.

    Attributes:
        name: Its name.
        rate: The median of things per second.
        rates: Things per second, round by round.
        ratios: The rate over that of the table's base, round by round; empty for the base itself.
        latencies: Percentiles in microseconds, by name.
        spread: Things per worker, summed over the rounds; empty where there were no workers.
    """

    name: str
    rate: float
    rates: Sequence[float]
    ratios: Sequence[float]
    latencies: Mapping[str, float]
    spread: Sequence[int]

    @property
    def ours(self) -> bool:
        """Whether it is pydlb, or a peer."""
        return self.name in _OURS or self.name.startswith("pydlb")


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A table.

    Attributes:
        title: What was measured.
        unit: What the rates count.
        parameters: What was varied.
        contenders: Its rows; the last one is the base of the others' ratios.
    """

    title: str
    unit: str
    parameters: Mapping[str, int]
    contenders: Sequence[Contender]

    @property
    def base(self) -> Contender:
        """What the others are compared with."""
        return self.contenders[-1]


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """A figure that is held to a bar: what the programs in benchmarks/ write.

    Attributes:
        row: The row of the table that it belongs to.
        what: What was measured, and beside what.
        value: The median of the rounds.
        least: The least of a round.
        most: The most of a round.
        unit: What it is counted in; ``"x"`` for a ratio.
        bar: What it should reach; None for a figure that is only reported.
        better: ``"more"`` or ``"less"``.
        met: Whether it reaches the bar.
        ours: In words, what the ratio is of.
        theirs: And to what.
    """

    row: str
    what: str
    value: float
    least: float
    most: float
    unit: str
    bar: float | None
    better: str
    met: bool
    ours: str
    theirs: str

    def margin(self, value: float) -> float:
        """How many times as good as the bar a value is."""
        if self.bar is None or value <= 0 or self.bar <= 0:
            return 1.0
        return value / self.bar if self.better == "more" else self.bar / value


@dataclasses.dataclass(frozen=True, slots=True)
class Results:
    """A file.

    Attributes:
        name: The file's name, without its folder and ending.
        environment: On what it was measured.
        complete: Whether all that was asked for was measured.
        tables: What was measured.
        bars: Figures that are held to bars.
    """

    name: str
    environment: Mapping[str, Any]
    complete: bool
    tables: Sequence[Measured]
    bars: Sequence[Bar] = ()

    @property
    def heading(self) -> str:
        """On what it was measured, in one line."""
        return heading(dict(self.environment))

    @property
    def emulated(self) -> bool:
        """Whether the device was emulated: such figures say nothing about the hardware."""
        return bool(self.environment.get("emulated"))


def read(paths: Iterable[str | Path]) -> list[Results]:
    """Read files that pydlb-bench wrote.

    Raises:
        ResultsError: One is no such file; the message says which and why.
        OSError: One cannot be read.
    """
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> Results:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.get("format") != _FORMAT:
            raise ResultsError(
                f"{path}: its format is {told.get('format')!r}, and {_FORMAT} is what this version reads"
            )
        tables = [_table(table) for table in told["tables"]]
        bars = [Bar(**bar) for bar in told.get("bars", [])]
        results = Results(path.stem, told["environment"], told["complete"], tables, bars)
        results.heading  # noqa: B018 - for what it needs of the environment
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} is no output of pydlb-bench --json: {type(error).__name__}: {error}") from error
    return results


def _table(told: dict[str, Any]) -> Measured:
    rows = [
        Contender(
            name=row["name"],
            rate=row["rate"],
            rates=row["rates"],
            ratios=row["ratios"],
            latencies=row["latencies_us"],
            spread=[sum(counts) for counts in zip(*row["spread"], strict=True)],
        )
        for row in told["rows"]
    ]
    if not rows:
        raise ValueError(f"the table {told['title']!r} has no rows")
    return Measured(told["title"], told["unit"], told.get("parameters", {}), rows)
