"""pydlb-bench, run as a program in small sizes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pydlb.cli import bench, connections, handoff
from pydlb.cli.measure import CountError, Figures, Progress, Row, alternate, percentile

SMALL = ["--events", "2000", "--items", "500", "--connections", "40", "--in-flight", "8", "--workers", "2"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pydlb.cli.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_all_scenarios_give_tables_and_json(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    result = run("all", "--rounds", "2", "--json", str(figures), "--batch", "1", "8", "--consumers", "2", *SMALL)
    assert result.returncode == 0, result.stderr
    for name in ("unordered", "queue.SimpleQueue", "loop.call_soon_threadsafe", "pydlb.start_server", "SO_REUSEPORT"):
        assert name in result.stdout
    assert "SOFTWARE backend" in result.stdout
    told = json.loads(figures.read_text())
    assert {"python", "gil", "cpu", "kernel", "backend", "steal", "parameters"} <= told["environment"].keys()
    for table in told["tables"]:
        *ours, base = table["rows"]
        assert base["ratio"] is None
        for row in ours:
            assert len(row["rates"]) == len(row["ratios"]) == 2
            assert row["rate"] > 0
    connection_rows = [row for table in told["tables"] if "connections," in table["title"] for row in table["rows"]]
    assert all(sum(spread) == 40 for row in connection_rows for spread in row["spread"])


def test_json_alone_on_standard_output() -> None:
    result = run("handoff", "--rounds", "1", "--items", "200", "--json", "-")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["tables"]) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "scenario"),
        (["engine", "--events", "0"], "at least 1"),
        (["connections", "--workers", "many"], "at least 1"),
        (["nonsense"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_a_lost_item_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lossy(count: int) -> Figures:
        items = iter(range(handoff._FIRST, handoff._FIRST + count))
        return handoff._between_threads(lambda _: None, lambda: next(items) + 1, count)

    monkeypatch.setattr(handoff, "_pydlb_threads", lossy)
    assert bench.main(["handoff", "--rounds", "1", "--items", "100", "--quiet"]) == 1
    assert "lost or came twice" in capsys.readouterr().err


def test_an_unanswered_connection_fails_the_run() -> None:
    with connections._listener() as deaf:
        port = deaf.getsockname()[1]
    with pytest.raises(CountError, match="of 5 connections"):
        connections._load(port, 5, 2, 1)


def test_interrupt_reports_what_there_is() -> None:
    command = [sys.executable, "-m", "pydlb.cli.bench", "handoff", "--rounds", "1000", "--items", "2000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_threads(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "SOFTWARE backend" in out


def wait_for_threads(pid: int) -> None:
    """Wait until the program measures: until it has a producer thread."""
    deadline = time.monotonic() + 30
    while len(list(Path(f"/proc/{pid}/task").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)


def test_ratios_are_taken_round_by_round() -> None:
    rates = {"ours": iter([0, 10, 30]), "peer": iter([0, 5, 10])}
    rows = alternate(
        {name: lambda name=name: Figures(float(next(rates[name]))) for name in rates},  # type: ignore[misc]
        rounds=2,
        unit="things/s",
        progress=Progress(quiet=True),
        title="test",
    )
    assert rows[0].ratios == [2.0, 3.0]
    assert rows[0].as_dict()["ratio"] == 2.5
    assert rows[1].ratios == []


def test_percentiles_and_imbalance() -> None:
    assert percentile(list(range(100)), 0.5) == 50
    assert percentile([7], 0.999) == 7
    assert Figures(1, spread=[1, 3]).imbalance == 1.5
    assert Row("x", "y", runs=[Figures(1)]).imbalance() is None
