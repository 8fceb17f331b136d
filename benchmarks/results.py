"""What the programs of this folder report: figures with their spread, and the bars that they are held to."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["LeftOut", "Result", "alternate", "program", "ratio"]


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
        bar: What it should reach; None for a figure that is only reported.
        better: Which side of the bar is the good one.
        ours: Our own figure of the ratio, by its median, in words.
        theirs: The peer's.
    """

    row: str
    what: str
    value: float
    least: float
    most: float
    unit: str = "x"
    bar: float | None
    better: Literal["less", "more"]
    ours: str = ""
    theirs: str = ""

    @property
    def met(self) -> bool:
        """Whether the median reaches the bar."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.better == "less" else self.value >= self.bar


class LeftOut(Exception):  # noqa: N818 - no error
    """Something cannot be measured here; the text says why, and what to do."""


def ratio(
    row: str,
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    bar: float | None,
    better: Literal["less", "more"],
    unit: str = "",
) -> Result:
    """The ratio of figures in `unit` that were taken in turn, round by round."""
    ratios = [mine / other if other else math.inf for mine, other in zip(ours, theirs, strict=True)]
    return Result(
        row=row,
        what=what,
        value=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        bar=bar,
        better=better,
        ours=f"{statistics.median(ours):.4g} {unit}".strip(),
        theirs=f"{statistics.median(theirs):.4g} {unit}".strip(),
    )


def alternate(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Both in turn, the first one of a round being the other one's turn to be second in the next."""
    figures: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            figures[which].append((ours, theirs)[which]())
    return figures


def show(result: Result) -> None:
    """A line in the terminal."""
    sign = "<=" if result.better == "less" else ">="
    spread = f"[{result.least:.4g} - {result.most:.4g}]" if result.least != result.most else ""
    verdict = "" if result.bar is None else f"{sign} {result.bar:g}" + ("" if result.met else "  SHORT")
    beside = f"{result.ours} : {result.theirs}" if result.ours else ""
    figure = f"{result.value:.4g} {result.unit}"
    line = f"{result.row:>4}  {result.what:<76} {figure:>11} {spread:<18} {verdict:<15} {beside}"
    print(line.rstrip(), flush=True)


def write(results: Iterable[Result], left_out: Iterable[tuple[str, str]], file: Path) -> None:
    """As pydlb-bench report reads it."""
    from pydlb.cli import machine

    told: dict[str, Any] = {
        "format": 1,
        "complete": True,
        "environment": machine.environment("software"),
        "tables": [],
        "bars": [{**dataclasses.asdict(result), "met": result.met} for result in results],
        "left_out": [{"what": what, "why": why} for what, why in left_out],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=1) + "\n")


def collect(
    name: str, measure: Iterator[Result | LeftOut], results: list[Result], left_out: list[tuple[str, str]]
) -> None:
    """Show each result as it comes, and keep it; what cannot be measured is told, and the rest goes on."""
    try:
        for result in measure:
            if isinstance(result, LeftOut):
                raise result
            results.append(result)
            show(result)
    except LeftOut as why:
        left_out.append((name, str(why)))
        print(f"      {name}: left out: {why}", flush=True)


def program(description: str, measure: Callable[[int], Iterator[Result]], *, rounds: int = 7) -> int:
    """A program's `main`: its options, the measurement, the table, the file.

    Returns:
        0, also where a figure is short of its bar: such figures are for people to judge, unless asked with --check.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"of ours and the peer's in turn ({rounds})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--check", action="store_true", help="fail where a figure is short of its bar")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    results: list[Result] = []
    left_out: list[tuple[str, str]] = []
    collect(parser.prog, measure(options.rounds), results, left_out)
    if options.json:
        write(results, left_out, options.json)
    return int(options.check and not all(result.met for result in results))
