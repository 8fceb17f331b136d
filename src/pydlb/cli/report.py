"""Tables of what was measured."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measure import Row

__all__ = ["as_json", "heading", "print_tables"]

COLUMNS = ["", "rate", "least", "most", "x peer", "spread of ratios", "p50 us", "p99 us", "p99.9 us", "max/mean"]


def heading(environment: dict[str, Any]) -> str:
    """One line on the machine; numbers from anything but the hardware say so."""
    lock = "with" if environment["gil"] else "without"
    reason = f" ({environment['fallback_reason']})" if environment["fallback_reason"] else ""
    return (
        f"pydlb {environment['pydlb']} on the {environment['backend'].upper()} backend{reason}; Python "
        f"{environment['python']} {lock} the interpreter lock; {environment['cpus']} CPUs, {environment['cpu']}; "
        f"Linux {environment['kernel']}; {environment['steal']:.1%} stolen"
    )


def _rate(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _cells(row: Row) -> list[str]:
    rates = [run.rate for run in row.runs]
    latencies = row.latencies()
    imbalance = row.imbalance()
    return [
        row.name,
        _rate(statistics.median(rates)),
        _rate(min(rates)),
        _rate(max(rates)),
        f"{statistics.median(row.ratios):.2f}" if row.ratios else "1",
        f"{min(row.ratios):.2f} - {max(row.ratios):.2f}" if row.ratios else "",
        *(f"{latencies[name]:.0f}" if name in latencies else "" for name in ("p50", "p99", "p99.9")),
        f"{imbalance:.3f}" if imbalance else "",
    ]


def print_tables(tables: dict[str, list[Row]]) -> None:
    """Print one table for each thing that was measured, by rich where it is installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for title, rows in tables.items():
            print(_plain(title, rows))
        return
    console = Console(width=None if Console().is_terminal else 140, highlight=False)
    for title, rows in tables.items():
        table = Table(title=f"{title} ({rows[0].unit})", title_justify="left", box=None, pad_edge=False)
        filled = _filled(rows)
        for index in filled:
            table.add_column(COLUMNS[index], justify="right" if index else "left", no_wrap=True)
        for row in rows:
            cells = _cells(row)
            table.add_row(*(cells[index] for index in filled))
        console.print(table, "")


def _filled(rows: list[Row]) -> list[int]:
    """Columns in which something stands."""
    cells = [_cells(row) for row in rows]
    return [index for index in range(len(COLUMNS)) if any(line[index] for line in cells)]


def _plain(title: str, rows: list[Row]) -> str:
    filled = _filled(rows)
    lines = [[COLUMNS[index] for index in filled], *([_cells(row)[index] for index in filled] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(filled))]
    text = [f"{title} ({rows[0].unit})"]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        text.append("  ".join([line[0].ljust(len(first)), *others]).rstrip())
    return "\n".join(text) + "\n"


def as_json(environment: dict[str, Any], tables: dict[str, list[Row]]) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "environment": environment,
        "tables": [{"title": title, "rows": [row.as_dict() for row in rows]} for title, rows in tables.items()],
    }
