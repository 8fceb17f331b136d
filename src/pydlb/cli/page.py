"""pydlb-bench report: measurements as one page that needs nothing but itself."""

from __future__ import annotations

import base64
import html
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .report import rate
from .results import Bar, Contender, Measured, Results, ResultsError, read

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from .charts import Chart

__all__ = ["add_options", "main", "page"]

_STYLE: Final = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2733; background: #fff; max-width: 76rem; margin: 2rem auto;
  padding: 0 1.2rem; }
h1 { font-weight: 600; margin-bottom: .2rem; }
h2 { font-weight: 600; margin-top: 2.5rem; border-bottom: 1px solid #dde3ea; padding-bottom: .3rem; }
p.how, li, figcaption { color: #5b6b7b; }
img { max-width: 100%; height: auto; }
figure { margin: 0; }
.emulated { background: #fff3d6; color: #7a4b00; border-radius: .3rem; padding: .1rem .5rem; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1.5rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #e3e8ee; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.ours td:first-child { font-weight: 600; color: #0b5cad; }
table.bars td:first-child { white-space: normal; }
tr.short td:nth-child(7) { font-weight: 600; color: #a84f00; }
"""


_BAR_COLUMNS: Final = ("what", "row", "median", "least", "greatest", "bar", "", "ours", "peer's")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="what pydlb-bench wrote with --json, or make perf")
    parser.add_argument("--output", "-o", default="report.html", metavar="FILE", help="the page (report.html)")
    parser.add_argument("--title", default="pydlb, measured", help="the page's title")
    parser.add_argument("--png", metavar="DIRECTORY", help="also write the plots as PNG there")
    parser.add_argument("--svg", metavar="DIRECTORY", help="also write the plots as SVG there")


def main(options: argparse.Namespace) -> int:
    """Write the page.

    Returns:
        0; 1 if a file cannot be read or written, or matplotlib is not installed.
    """
    try:
        results = read(options.files)
        from .charts import charts

        pictures = list(charts(results))
        Path(options.output).write_text(page(results, pictures, options.title), encoding="utf-8")
        for folder, kind in ((options.png, "png"), (options.svg, "svg")):
            if folder is not None:
                _write(pictures, Path(folder), kind)
    except ImportError:
        print("pydlb-bench: a report needs matplotlib: pip install 'pydlb[report]'", file=sys.stderr)
        return 1
    except (ResultsError, OSError) as error:
        print(f"pydlb-bench: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {len(results)} measurements, {len(pictures)} plots")
    return 0


def _write(pictures: Iterable[Chart], folder: Path, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / f"{picture.name}.{kind}").write_bytes(picture.draw(kind))


def page(results: Sequence[Results], pictures: Sequence[Chart], title: str) -> str:
    """The page.

    Args:
        results: What was measured.
        pictures: Plots of it.
        title: Above all.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        *_measurements(results),
        *(part for picture in pictures for part in _picture(picture)),
        "<h2>Figures</h2>",
        *(part for one in results for part in _tables(one, named=len(results) > 1)),
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _measurements(results: Sequence[Results]) -> list[str]:
    lines = ["<ul>"]
    for one in results:
        words = [f"<b>{html.escape(one.name)}</b>"]
        if one.emulated:
            words.append('<span class="emulated">EMULATED device: says nothing about hardware</span>')
        if not one.complete:
            words.append('<span class="emulated">interrupted: not all was measured</span>')
        parameters = one.environment.get("parameters", {})
        rounds = f"; {parameters['rounds']} rounds" if "rounds" in parameters else ""
        steal = one.environment.get("steal")
        stolen = f"; {steal:.1%} of the machine's time was stolen by its host" if steal is not None else ""
        lines.append(f"<li>{' '.join(words)} {html.escape(one.heading + rounds + stolen)}</li>")
    return [*lines, "</ul>"]


def _picture(picture: Chart) -> list[str]:
    drawing = base64.b64encode(picture.draw("svg")).decode("ascii")
    title = html.escape(picture.title)
    alternative = f"{title}. The figures are in the tables below."
    return [
        f"<h2>{title}</h2>",
        f'<p class="how">{html.escape(picture.text)}</p>',
        f'<figure class="scroll"><img alt="{alternative}" src="data:image/svg+xml;base64,{drawing}"></figure>',
    ]


def _tables(one: Results, *, named: bool) -> list[str]:
    lines = [f"<h3>{html.escape(one.name)}</h3>"] if named else []
    if one.bars:
        lines += _bars(one.bars)
    for table in one.tables:
        lines += _table(table)
    return lines


def _bars(bars: Sequence[Bar]) -> list[str]:
    lines = [
        '<div class="scroll"><table class="bars">',
        "<caption>Figures that are held to bars</caption>",
        f"<tr>{''.join(f'<th>{name}</th>' for name in _BAR_COLUMNS)}</tr>",
    ]
    for bar in bars:
        limit = "" if bar.bar is None else f"{'≥' if bar.better == 'more' else '≤'} {bar.bar:g}"
        verdict = "" if bar.bar is None else "met" if bar.met else "short"
        figures = (f"{bar.value:.3g} {bar.unit}".strip(), f"{bar.least:.3g}", f"{bar.most:.3g}")
        cells = (bar.what, bar.row, *figures, limit, verdict, bar.ours, bar.theirs)
        row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr{' class=short' if verdict == 'short' else ''}>{row}</tr>")
    return [*lines, "</table></div>"]


def _table(table: Measured) -> list[str]:
    names = list(dict.fromkeys(name for row in table.contenders for name in row.latencies))
    columns = ["", "median", "least", "greatest", "x peer", *(f"{name} µs" for name in names), "max/mean"]
    lines = [
        '<div class="scroll"><table>',
        f"<caption>{html.escape(table.title)} ({html.escape(table.unit)})</caption>",
        f"<tr>{''.join(f'<th>{html.escape(column)}</th>' for column in columns)}</tr>",
    ]
    for row in table.contenders:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row, names))
        lines.append(f"<tr{' class=ours' if row.ours else ''}>{cells}</tr>")
    return [*lines, "</table></div>"]


def _cells(row: Contender, names: Sequence[str]) -> list[str]:
    even = sum(row.spread) / len(row.spread) if sum(row.spread) else 0
    return [
        row.name,
        rate(row.rate),
        rate(min(row.rates)),
        rate(max(row.rates)),
        f"{statistics.median(row.ratios):.3g}" if row.ratios else "1",
        *(f"{row.latencies[name]:.0f}" if name in row.latencies else "" for name in names),
        f"{max(row.spread) / even:.3f}" if even else "",
    ]
