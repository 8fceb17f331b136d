"""Plots of what was measured, by matplotlib; extra ``pydlb[report]``."""

from __future__ import annotations

import dataclasses
import io
import math
import statistics
import textwrap
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from matplotlib.axes import Axes

    from .results import Bar, Contender, Measured, Results

__all__ = ["Chart", "charts"]

_INK: Final = "#1b2733"
_FAINT: Final = "#5b6b7b"
_GRID: Final = "#e3e8ee"
# Pydlb's contenders in colours that differ in lightness too; peers in greys.
_OURS: Final = ("#0b5cad", "#d1690e", "#0f8a6c", "#8a3fa0", "#b02a37")
_PEERS: Final = ("#8a97a5", "#5b6b7b", "#b3bdc7", "#3d4a57")
_MARKS: Final = ("o", "s", "^", "D", "v", "P")
_STYLE: Final[Any] = {  # matplotlib's type for this is a list of all its names
    "svg.fonttype": "path",
    "svg.hashsalt": "pydlb",
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_PANEL: Final = (5.2, 3.6)  # inches
_COLUMNS: Final = 2
_PAPER: Final[Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # under text that a line runs through
_NAME: Final = 18  # characters a line, below bars
_LONG_NAME: Final = 84  # characters, beside bars
_DECADES: Final = 30  # from here on, numbers at powers of ten are enough


@dataclasses.dataclass(frozen=True, slots=True)
class Chart:
    """A picture.

    Attributes:
        name: For a file.
        title: Above it.
        text: What it shows, for those who cannot see it, and how to read it for those who can.
        draw: Draws it into a format: ``"svg"`` or ``"png"``.
    """

    name: str
    title: str
    text: str
    draw: Callable[[str], bytes]


def charts(results: Sequence[Results]) -> Iterator[Chart]:
    """The plots that there are figures for."""
    held = [(one, [bar for bar in one.bars if bar.bar is not None]) for one in results]
    held = [(one, bars) for one, bars in held if bars]
    if held:
        yield _chart(
            "bars",
            "Held to bars",
            "How many times as good as its bar each figure is: right of 1 reaches it. Dots are medians, lines go from "
            "the worst round to the best. In brackets the row of the table in benchmarks/README.md.",
            [_bars(_label(results, one), bars) for one, bars in held],
            wide=True,
        )
    named = [(one, table) for one in results for table in one.tables]
    batches = [(one, [table for table in one.tables if table.parameters.keys() == {"batch"}]) for one in results]
    batches = [(one, tables) for one, tables in batches if len({table.parameters["batch"] for table in tables}) > 1]
    if batches:
        yield _chart(
            "throughput-batch",
            "Throughput over batch size",
            "One thread sends and receives batches. Median of the rounds; the band is from the slowest to the fastest.",
            [_lines(_label(results, one), tables, "batch", "events a batch") for one, tables in batches],
        )
    ports = [(one, [table for table in one.tables if "receivers" in table.parameters]) for one in results]
    ports = [(one, tables) for one, tables in ports if len({table.parameters["receivers"] for table in tables}) > 1]
    if ports:
        yield _chart(
            "throughput-ports",
            "Throughput over receiving ports",
            "One thread sends; so many threads receive, each through a port of its own. Median of the rounds.",
            [_lines(_label(results, one), tables, "receivers", "receiving ports") for one, tables in ports],
        )
    compared = [(one, [table for table in one.tables if len(table.contenders) > 1]) for one in results]
    compared = [(one, tables) for one, tables in compared if tables]
    if compared:
        yield _chart(
            "peers",
            "pydlb beside its peers",
            "How many times the rate of the peer (named in brackets). Dots are medians of ratios taken round by round, "
            "lines go from the least to the greatest. Right of 1 is faster than the peer.",
            [_ratios(_label(results, one), tables) for one, tables in compared],
            wide=True,
        )
    timed = [(one, table) for one, table in named if any(row.latencies for row in table.contenders)]
    if timed:
        yield _chart(
            "latency",
            "Latency percentiles",
            "Median over the rounds of each percentile; lower is better.",
            [_latencies(_caption(results, one, table), table) for one, table in timed],
        )
    spread = [(one, table) for one, table in named if any(len(row.spread) > 1 for row in table.contenders)]
    if spread:
        yield _chart(
            "distribution",
            "Distribution over workers",
            "What each worker was given, over what it would be given were the distribution even (the line at 1). Below "
            "the names: the fullest worker over the mean.",
            [_shares(_caption(results, one, table), table) for one, table in spread],
        )


def _label(results: Sequence[Results], one: Results) -> str:
    return (one.name if len(results) > 1 else "") + (" (EMULATED)" if one.emulated else "")


def _caption(results: Sequence[Results], one: Results, table: Measured) -> str:
    label = _label(results, one)
    return f"{label.strip()}\n{table.title}" if label.strip() else table.title


# ---- a figure of panels --------------------------------------------------------------------------------------------


class _Panel:
    """What is drawn into one pair of axes, and how high that is in inches."""

    def __init__(self, draw: Callable[[Axes], None], height: float = _PANEL[1]) -> None:
        self.draw = draw
        self.height = height


def _chart(name: str, title: str, text: str, panels: Sequence[_Panel], *, wide: bool = False) -> Chart:
    def draw(kind: str) -> bytes:
        columns = 1 if wide or len(panels) == 1 else _COLUMNS
        rows = math.ceil(len(panels) / columns)
        width = _PANEL[0] * (_COLUMNS if wide else columns)
        heights = [max(panel.height for panel in panels[at * columns : (at + 1) * columns]) for at in range(rows)]
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(width, sum(heights)), layout="constrained")
            grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
            for axes, panel in zip(grid.flat, panels, strict=False):
                panel.draw(axes)
            for axes in grid.flat[len(panels) :]:
                axes.set_axis_off()
            output = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(output, format=kind, dpi=150, metadata=metadata, facecolor="white")
            return output.getvalue()

    return Chart(name, title, text, draw)


def _styles(contenders: Sequence[str], ours: Callable[[str], bool]) -> dict[str, dict[str, Any]]:
    """For each contender its colour, mark and line."""
    styles: dict[str, dict[str, Any]] = {}
    counts = {True: 0, False: 0}
    for name in contenders:
        mine = ours(name)
        colours = _OURS if mine else _PEERS
        number = counts[mine]
        counts[mine] += 1
        styles[name] = {
            "color": colours[number % len(colours)],
            "marker": _MARKS[number % len(_MARKS)],
            "linestyle": "-" if mine else "--",
        }
    return styles


def _styles_of(contenders: Sequence[Contender]) -> dict[str, dict[str, Any]]:
    ours = {contender.name: contender.ours for contender in contenders}
    return _styles(list(ours), ours.__getitem__)


def _rate(value: float, _: int | None = None) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _logarithmic(axes: Axes, formatter: Callable[[float, int | None], str]) -> None:
    """A logarithmic scale with more than one number on it."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > _DECADES else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(formatter))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=_GRID)


def _legend(axes: Axes) -> None:
    """Below the axes, where no line runs through it."""
    below = -0.24 if axes.get_xlabel() else -0.14
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, below), ncols=2, borderaxespad=0.2)


# ---- what is in them -----------------------------------------------------------------------------------------------


def _lines(title: str, tables: Sequence[Measured], parameter: str, label: str) -> _Panel:
    tables = sorted(tables, key=lambda table: table.parameters[parameter])

    def draw(axes: Axes) -> None:
        styles = _styles_of([row for table in tables for row in table.contenders])
        for name, style in styles.items():
            points = [
                (table.parameters[parameter], row) for table in tables for row in table.contenders if row.name == name
            ]
            at = [x for x, _ in points]
            axes.plot(at, [row.rate for _, row in points], label=name, markersize=5, linewidth=1.6, **style)
            low, high = [min(row.rates) for _, row in points], [max(row.rates) for _, row in points]
            axes.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        values = sorted({table.parameters[parameter] for table in tables})
        axes.set_xticks(values, [str(value) for value in values])
        _logarithmic(axes, _rate)
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel(tables[0].unit)
        axes.set_title(title)
        _legend(axes)

    return _Panel(draw)


def _ratios(title: str, tables: Sequence[Measured]) -> _Panel:
    """One line for each contender that is pydlb's, grouped by table."""
    lines: list[tuple[str, Contender | None]] = []
    for table in tables:
        lines.append((f"{table.title} [{table.base.name}]", None))
        lines += [(row.name, row) for row in table.contenders if row.ratios and row.ours]

    def draw(axes: Axes) -> None:
        for at, (name, row) in enumerate(lines):
            if row is None:
                axes.annotate(
                    name,
                    (0, at),
                    (4, 0),
                    xycoords=axes.get_yaxis_transform(),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                    fontweight="bold",
                    bbox=_PAPER,
                )
                continue
            middle = statistics.median(row.ratios)
            colour = _OURS[0] if middle >= 1 else _OURS[1]
            axes.plot([min(row.ratios), max(row.ratios)], [at, at], color=colour, linewidth=2, alpha=0.5)
            axes.plot(middle, at, "o", color=colour, markersize=6)
            axes.annotate(
                f"{middle:.3g}",
                (max(row.ratios), at),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox=_PAPER,
            )
        axes.axvline(1, color=_INK, linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(lines)), [name if row is not None else "" for name, row in lines], color=_INK)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(lines) - 0.4, -0.9)
        axes.grid(axis="x", color=_GRID)
        axes.set_xlabel("times the peer's rate")
        axes.set_title(title)

    return _Panel(draw, 0.9 + 0.3 * len(lines))


def _bars(title: str, bars: Sequence[Bar]) -> _Panel:
    """A line for each figure."""
    names = [textwrap.shorten(f"[{bar.row}] {bar.what}", _LONG_NAME, placeholder=" ...") for bar in bars]

    def draw(axes: Axes) -> None:
        for at, bar in enumerate(bars):
            colour = _OURS[0] if bar.met else _OURS[1]
            ends = sorted((bar.margin(bar.least), bar.margin(bar.most)))
            axes.plot(ends, [at, at], color=colour, linewidth=2, alpha=0.5)
            axes.plot(bar.margin(bar.value), at, "o", color=colour, markersize=5)
            axes.annotate(
                f"{bar.value:.3g} {bar.unit}".strip() + f" of {bar.bar:g}",
                (max(ends[1], 1), at),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                bbox=_PAPER,
            )
        axes.axvline(1, color=_INK, linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(bars)), names, color=_INK, fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.margins(x=0.15)
        axes.grid(axis="x", color=_GRID)
        axes.set_xlabel("times as good as the bar")
        axes.set_title(title)

    return _Panel(draw, 0.9 + 0.2 * len(bars))


def _latencies(title: str, table: Measured) -> _Panel:
    def draw(axes: Axes) -> None:
        rows = [row for row in table.contenders if row.latencies]
        styles = _styles_of(table.contenders)
        names = list(rows[0].latencies)
        for row in rows:
            values = [row.latencies.get(name, math.nan) for name in names]
            axes.plot(range(len(names)), values, label=row.name, markersize=5, linewidth=1.6, **styles[row.name])
        _logarithmic(axes, _duration)
        axes.minorticks_off()
        axes.set_xticks(range(len(names)), names)
        axes.set_title(title)
        _legend(axes)

    return _Panel(draw)


def _duration(microseconds: float, _: int | None = None) -> str:
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= size:
            return f"{microseconds / size:g} {unit}"
    return f"{microseconds:g} µs"


def _shares(title: str, table: Measured) -> _Panel:
    def draw(axes: Axes) -> None:
        rows = [row for row in table.contenders if len(row.spread) > 1 and sum(row.spread) > 0]
        styles = _styles_of(table.contenders)
        names = []
        for at, row in enumerate(rows):
            mean = sum(row.spread) / len(row.spread)
            shares = [count / mean for count in row.spread]
            width = 0.8 / len(shares)
            left = [at - 0.4 + width * (number + 0.5) for number in range(len(shares))]
            axes.bar(left, shares, width * 0.9, color=styles[row.name]["color"])
            names.append(f"{textwrap.fill(row.name, _NAME)}\n{max(shares):.2f}")
        axes.axhline(1, color=_INK, linewidth=1)
        axes.set_xticks(range(len(rows)), names, fontsize=8, color=_INK)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=_GRID)
        axes.set_axisbelow(True)
        axes.set_ylabel("share of the even share")
        axes.set_title(title)

    return _Panel(draw)
