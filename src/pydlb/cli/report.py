"""What was measured, as tables for people and as JSON for programs."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .measure import Row, Table

__all__ = ["as_json", "heading", "print_table", "rate"]

# Columns that are left out of tables in which nothing stands in them.
COLUMNS = (
    "",
    "median",
    "least - most",
    "x peer",
    "least - most",
    "per CPU s",
    "x peer",
    "p50 us",
    "p99 us",
    "p99.9 us",
    "max/mean",
)
_WIDTH_WITHOUT_TERMINAL = 160


def heading(environment: dict[str, Any]) -> str:
    """What it was measured on, in one line that names the backend first."""
    lock = "with" if environment["gil"] else "without"
    reason = f" ({environment['fallback_reason']})" if environment["fallback_reason"] else ""
    backend = f"{environment['backend']} EMULATED" if environment.get("emulated") else environment["backend"].upper()
    return (
        f"pydlb {environment['pydlb']} on the {backend} backend{reason}; Python "
        f"{environment['python']} {lock} the interpreter lock; {environment['cpus']} CPUs, {environment['cpu']}; "
        f"Linux {environment['kernel']}"
    )


def rate(value: float) -> str:
    """Things per second, in three digits."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _cells(table: Table, row: Row) -> list[str]:
    rates, per_cpu, ratios = row.rates(), row.per_cpu(), table.ratios(row)
    latencies = row.latencies()
    imbalance = row.imbalance()
    return [
        row.name,
        rate(statistics.median(rates)),
        f"{rate(min(rates))} - {rate(max(rates))}",
        f"{statistics.median(ratios):.3g}" if ratios else "1",
        f"{min(ratios):.3g} - {max(ratios):.3g}" if ratios else "",
        rate(statistics.median(per_cpu)) if per_cpu else "",
        f"{statistics.median(table.cpu_ratios(row)):.3g}" if ratios and per_cpu else "1" if per_cpu else "",
        *(f"{latencies[name]:.0f}" if name in latencies else "" for name in ("p50", "p99", "p99.9")),
        f"{imbalance:.3f}" if imbalance else "",
    ]


def print_table(table: Table) -> None:
    """Print what was measured, by rich where it is installed."""
    lines = [_cells(table, row) for row in table.rows]
    shown = [column for column in range(len(COLUMNS)) if any(line[column] for line in lines)]
    names = [COLUMNS[column] for column in shown]
    lines = [[line[column] for column in shown] for line in lines]
    title = f"{table.title} ({table.unit})"
    try:
        from rich.console import Console
    except ImportError:
        print(_plain(title, [names, *lines]))
    else:
        terminal = Console(highlight=False)
        _print_rich(terminal if terminal.is_terminal else Console(width=_WIDTH_WITHOUT_TERMINAL), title, names, lines)


def _print_rich(console: Any, title: str, names: list[str], lines: list[list[str]]) -> None:  # noqa: ANN401 - a rich.console.Console
    from rich.table import Table as Grid

    grid = Grid(title=title, title_justify="left", box=None, pad_edge=False)
    for name in names:
        grid.add_column(name, justify="right" if name else "left", no_wrap=True)
    for line in lines:
        grid.add_row(*line)
    console.print(grid, "")


def _plain(title: str, lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [title]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text) + "\n"


def _row_as_json(table: Table, row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "rate": _median(row.rates()),
        "rates": row.rates(),
        "ratio": _median(table.ratios(row)),
        "ratios": table.ratios(row),
        "per_cpu_second": _median(row.per_cpu()),
        "per_cpu_seconds": row.per_cpu(),
        "cpu_ratio": _median(table.cpu_ratios(row)),
        "cpu_ratios": table.cpu_ratios(row),
        "latencies_us": row.latencies(),
        "spread": [run.spread for run in row.runs if run.spread],
        "imbalance": row.imbalance(),
    }


def as_json(environment: dict[str, Any], tables: Sequence[Table], *, complete: bool) -> dict[str, Any]:
    """All of it.

    Args:
        environment: What it was measured on, and with which parameters.
        tables: What was measured. In each the last row is the base of the others' ratios.
        complete: Whether all that was asked for was measured.
    """
    return {
        "format": 1,
        "complete": complete,
        "environment": environment,
        "tables": [
            {
                "title": table.title,
                "unit": table.unit,
                "parameters": dict(table.parameters),
                "rows": [_row_as_json(table, row) for row in table.rows],
            }
            for table in tables
        ],
    }
