"""pydlb-bench report: files in, one page out."""

from __future__ import annotations

import base64
import html.parser
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from pydlb.cli.measure import Figures, Row, Table
from pydlb.cli.report import as_json

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT: dict[str, Any] = {
    "pydlb": "0.1.0",
    "backend": "software",
    "fallback_reason": None,
    "emulated": False,
    "python": "3.11.2",
    "gil": True,
    "numpy": "2.0",
    "kernel": "6.1",
    "cpu": "A <processor>",
    "cpus": 2,
    "parameters": {"rounds": 2},
    "steal": 0.01,
}
LATENCIES = {"p50": 10.0, "p90": 15.0, "p99": 120.0, "p99.9": 900.0, "max": 2000.0}


def row(name: str, rate: float, *, latencies: dict[str, float] | None = None, spread: list[int] | None = None) -> Row:
    return Row(name, [Figures(rate * factor, None, latencies or {}, spread or []) for factor in (1.0, 1.1)])


def tables() -> list[Table]:
    engine = [
        Table(
            f"engine, batches of {batch}",
            "events/s",
            [row("atomic", 1e6 * batch), row("queue.SimpleQueue, one list", 9e6 * batch)],
            {"batch": batch},
        )
        for batch in (1, 32)
    ]
    ports = [
        Table(
            f"engine, {receivers} receiving threads",
            "events/s",
            [row("atomic", 2e7), row("queue.SimpleQueue, one list", 3e8)],
            {"batch": 32, "receivers": receivers},
        )
        for receivers in (1, 4)
    ]
    connections = Table(
        "short connections & <more>",
        "connections/s",
        [
            row("pydlb.start_server", 8000, latencies=LATENCIES, spread=[10, 10, 10, 10]),
            row("asyncio, shared listener", 7000, latencies=LATENCIES, spread=[31, 9, 0, 0]),
        ],
    )
    return [*engine, *ports, connections]


def write(path: Path, *, complete: bool = True, only: int | None = None, **environment: Any) -> str:
    told = as_json(ENVIRONMENT | environment, tables()[:only], complete=complete)
    path.write_text(json.dumps(told))
    return str(path)


def report(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pydlb.cli.bench", "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd)


class Page(html.parser.HTMLParser):
    """What a page refers to, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.elsewhere: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "href"):
                (self.images if (value or "").startswith("data:") else self.elsewhere).append(value or "")

    def handle_data(self, data: str) -> None:
        self.words += data


def test_files_become_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.json"), write(tmp_path / "other.json", python="3.13.1")
    told = report(one, other, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.elsewhere == []
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert len(page.images) == 5
    for title in ("batch size", "receiving ports", "beside its peers", "Latency", "Distribution over workers"):
        assert title in page.words
    for word in (
        "one",
        "other",
        "3.11.2",
        "3.13.1",
        "A <processor>",
        "short connections & <more>",
        "pydlb.start_server",
    ):
        assert word in page.words
    assert "EMULATED" not in page.words
    for image in page.images:
        drawing = ET.fromstring(base64.b64decode(image.partition("base64,")[2]))
        assert drawing.tag.endswith("svg")


def test_the_figures_are_in_the_page(tmp_path: Path) -> None:
    assert report(write(tmp_path / "one.json"), cwd=tmp_path).returncode == 0
    words = Page((tmp_path / "report.html").read_text()).words
    assert "8.4 k" in words, "the median rate"
    assert "3.100" in words, "31 of 40 over four workers"
    assert "1.14" in words, "the ratio"
    assert "1.0% of the machine's time was stolen" in words


def test_emulated_and_interrupted_measurements_are_marked(tmp_path: Path) -> None:
    emulated = write(tmp_path / "device.json", emulated=True, backend="/dev/dlb0")
    broken_off = write(tmp_path / "half.json", complete=False, only=1)
    assert report(emulated, broken_off, cwd=tmp_path).returncode == 0
    words = Page((tmp_path / "report.html").read_text()).words
    assert "EMULATED device: says nothing about hardware" in words
    assert "on the /dev/dlb0 EMULATED backend" in words
    assert "interrupted: not all was measured" in words


BARS: list[dict[str, Any]] = [
    {"row": "8", "what": "items beside <SimpleQueue>", "value": 1.2, "least": 0.9, "most": 1.4, "unit": "x", "bar": 1.0}
    | {"better": "more", "met": True, "ours": "6 M/s", "theirs": "5 M/s"},
    {"row": "7", "what": "wake", "value": 1.3, "least": 1.3, "most": 1.3, "unit": "x", "bar": 1.1}
    | {"better": "less", "met": False, "ours": "", "theirs": ""},
    {"row": "3", "what": "only told", "value": 400.0, "least": 400.0, "most": 400.0, "unit": "", "bar": None}
    | {"better": "less", "met": True, "ours": "", "theirs": ""},
]


def test_figures_held_to_bars_are_shown_with_them(tmp_path: Path) -> None:
    told = as_json(ENVIRONMENT, [], complete=True) | {"bars": BARS, "left_out": []}
    (tmp_path / "perf.json").write_text(json.dumps(told))
    assert report("perf.json", "--png", "png", cwd=tmp_path).returncode == 0
    assert [path.stem for path in (tmp_path / "png").iterdir()] == ["bars"]
    text = (tmp_path / "report.html").read_text()
    rows = [
        re.sub(r"</td>|</tr>", "", line).split("<td>")
        for line in text.splitlines()
        if line.startswith("<tr") and "<td>" in line
    ]
    assert [cells[1:] for cells in rows] == [
        ["items beside &lt;SimpleQueue&gt;", "8", "1.2 x", "0.9", "1.4", "≥ 1", "met", "6 M/s", "5 M/s"],
        ["wake", "7", "1.3 x", "1.3", "1.3", "≤ 1.1", "short", "", ""],
        ["only told", "3", "400", "400", "400", "", "", "", ""],
    ]


def test_pictures_on_request(tmp_path: Path) -> None:
    told = report(write(tmp_path / "one.json"), "-o", "x.html", "--png", "png", "--svg", "svg", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    names = {"throughput-batch", "throughput-ports", "peers", "latency", "distribution"}
    assert {path.stem for path in (tmp_path / "png").iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "png").iterdir())
    assert all(b"<svg" in path.read_bytes() for path in (tmp_path / "svg").iterdir())


def test_pictures_are_the_same_each_time(tmp_path: Path) -> None:
    name = write(tmp_path / "one.json")
    for folder in ("a", "b"):
        assert report(name, "-o", f"{folder}.html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not JSON", "no output of pydlb-bench"),
        ("[]", "no output of pydlb-bench"),
        ('{"format": 7}', "its format is 7"),
        ('{"format": 1, "tables": [{}], "environment": {}, "complete": true}', "no output of pydlb-bench"),
        (None, "No such file"),
    ],
)
def test_other_files_are_named(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "odd.json").write_text(text)
    told = report("odd.json", cwd=tmp_path)
    assert told.returncode == 1
    assert words in told.stderr
    assert "odd.json" in told.stderr
    assert not (tmp_path / "report.html").exists()


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pydlb.cli import bench

    monkeypatch.delitem(sys.modules, "pydlb.cli.charts", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench.main(["report", write(tmp_path / "one.json"), "-o", str(tmp_path / "x.html")]) == 1
    assert "pip install 'pydlb[report]'" in capsys.readouterr().err
