"""What the programs of this folder report: one figure each, with its spread and the bar that it is held to."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["Result", "ratio", "show", "write"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure.

    Attributes:
        row: The row of the table in README.md.
        what: What was measured, and beside what.
        value: The median over the rounds.
        least: The least of a round.
        most: The most of a round.
        unit: What it is counted in; ``"x"`` for a ratio.
        bar: What it should reach.
        better: Which side of the bar is the good one.
    """

    row: str
    what: str
    value: float
    least: float
    most: float
    unit: str = "x"
    bar: float
    better: Literal["less", "more"]

    @property
    def met(self) -> bool:
        """Whether the median reaches the bar."""
        return self.value <= self.bar if self.better == "less" else self.value >= self.bar


def ratio(
    row: str,
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    bar: float,
    better: Literal["less", "more"],
) -> Result:
    """The ratio of figures that were taken in turn, round by round."""
    ratios = [mine / other if other else math.inf for mine, other in zip(ours, theirs, strict=True)]
    return Result(
        row=row,
        what=what,
        value=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        bar=bar,
        better=better,
    )


def show(results: Iterable[Result]) -> None:
    """A table in the terminal."""
    for result in results:
        sign = "<=" if result.better == "less" else ">="
        spread = f"[{result.least:.4g} - {result.most:.4g}]"
        figure = f"{result.value:.4g} {result.unit}"
        verdict = "" if result.met else "  SHORT"
        print(
            f"{result.row:>4}  {result.what:<66} {figure:>12} {spread:<18} {sign} {result.bar:g}{verdict}", flush=True
        )


def write(results: Iterable[Result], file: Path) -> None:
    """For later comparison."""
    file.parent.mkdir(parents=True, exist_ok=True)
    records = [{**dataclasses.asdict(result), "met": result.met} for result in results]
    file.write_text(json.dumps(records, indent=1) + "\n")
