"""pydlb-bench, run as a program in small sizes."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pydlb.cli import bench, connections, engine, handoff, servers
from pydlb.cli.measure import CountError, Figures, Plan, Progress, Row, Table, alternate, percentiles
from pydlb.cli.report import as_json, heading

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = [
    *("--rounds", "2", "--events", "3000", "--items", "300", "--connections", "40"),
    *("--clients", "8", "--workers", "2", "--held", "10", "--rate", "200"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pydlb.cli.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_all_scenarios_give_tables_and_json(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    result = run("all", *SMALL, "--batch", "1", "8", "--receivers", "2", "--json", str(figures))
    assert result.returncode == 0, result.stderr
    for name in ("unordered", "queue.SimpleQueue", "loop.call_soon_threadsafe", "pydlb.start_server", "SO_REUSEPORT"):
        assert name in result.stdout
    assert "on the SOFTWARE backend" in result.stdout
    told = json.loads(figures.read_text())
    assert told["complete"]
    machine = told["environment"]
    assert {"python", "gil", "cpu", "cpus", "kernel", "numpy", "backend", "fallback_reason", "steal"} <= machine.keys()
    assert machine["parameters"]["seed"] == 1
    assert machine["parameters"]["events"] == 3000
    for table in told["tables"]:
        *others, base = table["rows"]
        assert base["ratio"] is None
        for row in others:
            assert len(row["rates"]) == len(row["ratios"]) == 2
            assert row["rate"] > 0
    short = [row for table in told["tables"] if "short" in table["title"] for row in table["rows"]]
    assert len(short) == 5
    for row in short:
        assert all(sum(spread) == 40 and len(spread) == 2 for spread in row["spread"])
        assert row["latencies_us"]["p50"] <= row["latencies_us"]["p99.9"] <= row["latencies_us"]["max"]


def test_held_connections_are_even() -> None:
    result = run("connections", *SMALL[:2], *SMALL[6:], "--connections", "8", "--json", "-")
    assert result.returncode == 0, result.stderr
    *_, held = json.loads(result.stdout)["tables"]
    ours = held["rows"][0]
    assert ours["name"] == "pydlb.start_server"
    assert ours["spread"] == [[5, 5], [5, 5]]
    assert ours["imbalance"] == 1


def test_json_alone_on_standard_output() -> None:
    result = run("handoff", "--rounds", "1", "--items", "200", "--json", "-")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["tables"]) == 4


def test_progress_is_told_in_lines_where_there_is_no_terminal() -> None:
    arguments = ["handoff", "--rounds", "1", "--items", "100"]
    lines = run(*arguments).stderr.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("measuring: hand-off") for line in lines)
    assert run(*arguments, "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "scenario"),
        (["engine", "--events", "0"], "'0' is not a whole number of at least 1"),
        (["engine", "--batch", "2000"], "from 1 to 1024"),
        (["connections", "--workers", "many"], "from 1 to 64"),
        (["handoff", "--duration", "-1"], "not a number above 0"),
        (["nonsense"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["handoff", "--backend", "device"], "pydlb-bench: "),
        (["handoff", "--json", "/nowhere/at/all.json"], "/nowhere/at/all.json"),
    ],
)
def test_what_cannot_be_had_is_named(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_too_many_connections_for_this_process_are_refused() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 40
    with pytest.raises(OSError, match=r"descriptors; this process may have \d+"):
        connections._make_room(hard)


# ---- every count is checked ------------------------------------------------------------------------------------------


def test_a_lost_item_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lossy(put: Callable[[int], object], count: int, receivers: int) -> None:
        handoff_put_all(put, count - 1, receivers)

    handoff_put_all = handoff._put_all
    monkeypatch.setattr(handoff, "_put_all", lossy)
    assert bench.main(["handoff", "--rounds", "1", "--items", "100", "--quiet"]) == 1
    assert "lost or came twice" in capsys.readouterr().err


@pytest.mark.parametrize("numbers", [[0, 1, 2], [0, 1, 2, 3, 3], [0, 1, 1, 3], [0, 0, 3, 3], [0, 1, 2, 4]])
def test_a_lost_or_doubled_or_changed_event_is_noticed(numbers: list[int]) -> None:
    tally = engine.Tally()
    tally.add(np.array(numbers, np.uint64))
    with pytest.raises(CountError, match="of 4 events came"):
        tally.check(4)


def test_events_that_all_came_once_are_right_in_any_order() -> None:
    tally = engine.Tally()
    for numbers in np.array_split(np.random.default_rng(1).permutation(10**6).astype(np.uint64), 7):
        tally.add(numbers)
    tally.check(10**6)


def test_an_event_that_does_not_come_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_CREDITS", 64)  # what is sent beyond that is not taken
    assert bench.main(["engine", "--rounds", "1", "--events", "1000", "--batch", "128", "--quiet"]) == 1


def test_an_unanswered_connection_fails_the_run() -> None:
    with servers._listener() as deaf:
        port = deaf.getsockname()[1]
    with pytest.raises(CountError, match="0 of 5 connections were answered, 5 failed"):
        connections._load(port, 1, 5, 2)


# ---- interrupts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["handoff", "engine", "connections"])
def test_interrupt_reports_what_there_is(scenario: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    sizes = {"handoff": ["--items", "2000"], "engine": ["--events", "20000"], "connections": ["--connections", "20"]}
    command = [sys.executable, "-m", "pydlb.cli.bench", scenario, "--rounds", "1000", "--json", str(figures)]
    process = subprocess.Popen(
        [*command, *sizes[scenario]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("measuring: ")
        wait_for_threads(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the client as well
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "SOFTWARE backend" in out
    assert not json.loads(figures.read_text())["complete"]


def wait_for_threads(pid: int) -> None:
    """Wait until the program measures: until it has threads."""
    deadline = time.monotonic() + 30
    tasks = Path(f"/proc/{pid}/task")
    while len(list(tasks.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)


# ---- figures ---------------------------------------------------------------------------------------------------------


def plan(rounds: int = 2, duration: float = 1.0) -> Plan:
    return Plan(
        rounds=rounds,
        duration=duration,
        seed=1,
        backend="software",
        progress=Progress(quiet=True),
        report=lambda _: None,
    )


def test_ratios_are_taken_round_by_round() -> None:
    rates = {"ours": iter([0, 10, 30]), "peer": iter([0, 5, 10])}
    how = plan()
    alternate(
        how, "test", "things/s", {name: lambda _, name=name: Figures(next(rates[name])) for name in rates}, count=1
    )
    (table,) = how.tables
    assert table.ratios(table.rows[0]) == [2.0, 3.0]
    assert table.ratios(table.rows[1]) == []


def test_runs_take_as_long_as_planned() -> None:
    counts: list[int] = []

    def contender(count: int) -> Figures:
        counts.append(count)
        return Figures(8000.0)

    alternate(plan(rounds=3, duration=2.0), "test", "things/s", {"ours": contender})
    assert counts[2:] == [16000] * 3


def test_an_interrupted_table_keeps_its_rounds() -> None:
    left = iter(range(5))

    def contender(_: int) -> Figures:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return Figures(1.0)

    how = plan(rounds=9)
    with pytest.raises(KeyboardInterrupt):
        alternate(how, "test", "things/s", {"ours": contender, "peer": contender}, count=1)
    (table,) = how.tables
    assert table.started
    assert sorted(len(row.runs) for row in table.rows) == [1, 2]
    assert table.ratios(table.rows[0]) == [1.0]


def test_percentiles_and_imbalance() -> None:
    assert percentiles([*range(1000)]) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 999}
    assert percentiles([7])["p99.9"] == 7
    assert Figures(1, spread=[1, 3]).imbalance == 1.5
    assert Row("x", runs=[Figures(1)]).imbalance() is None


def test_a_backend_that_is_no_hardware_is_named_first() -> None:
    told = {
        "pydlb": "1", "backend": "emulated", "fallback_reason": None, "python": "3", "gil": False, "cpus": 2,
        "cpu": "a processor", "kernel": "6",
    }  # fmt: skip
    assert heading(told).startswith("pydlb 1 on the EMULATED backend; Python 3 without the interpreter lock")
    assert as_json(told, [Table("t", "u", [Row("ours", [Figures(1)])])], complete=True)["format"] == 1


def test_emulated_figures_are_marked(tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 processor")
    command = [sys.executable, "-m", "pydlb.cli.main", "emulate", "--", sys.executable, "-m", "pydlb.cli.bench"]
    figures = tmp_path / "figures.json"
    scenario = ["all", *SMALL, "--batch", "1", "64", "--receivers", "2", "--json", str(figures)]
    result = subprocess.run([*command, *scenario], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert "on the /dev/dlb0 EMULATED backend" in result.stdout
    told = json.loads(figures.read_text())
    assert told["complete"]
    assert told["environment"]["emulated"] is True


def test_long_runs_say_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal in a line now and then; quiet, not at all."""
    for progress in (Progress(quiet=False, interval=0), Progress(quiet=False), Progress(quiet=True, interval=0)):
        progress.table("a table")
        progress.run("its first run")
        progress.done()
    assert capsys.readouterr().err == "measuring: a table\n[0:00] its first run\nmeasuring: a table\n"
