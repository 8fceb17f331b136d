"""The trace says what was asked and what the device did; faults happen when and as they were asked for."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def traced(emulate: Path, trace: Path, scenario: str, *options: str, version: str = "2.0") -> list[dict[str, Any]]:
    """Replay one scenario of the recordings with a trace; its lines."""
    recordings = sorted(str(path) for path in HERE.glob("*.jsonl"))
    command = [emulate, "--version", version, "--trace", trace, *options, "--"]
    replay = [sys.executable, HERE / "replay.py", "--version", version, "--scenario", scenario]
    done = subprocess.run([*command, *replay, *recordings], capture_output=True, text=True, timeout=60)
    assert done.stdout, done.stderr
    return [json.loads(line) for line in trace.read_text().splitlines()]


def test_requests_with_their_arguments(emulate: Path, tmp_path: Path) -> None:
    lines = traced(emulate, tmp_path / "trace", "valid-domain")
    requests = [line for line in lines if "request" in line]
    create = requests[0]
    assert create["request"] == "CREATE_SCHED_DOMAIN"
    assert create["arguments"]["num_ldb_queues"] == 8
    assert (create["errno"], create["status"], create["id"]) == (0, "SUCCESS", 31)
    made = Counter(line["request"] for line in requests)
    assert made["CREATE_LDB_QUEUE"] == 2
    assert made["START_DOMAIN"] == 1
    assert all(line["domain"] == 31 for line in requests if "domain" in line)
    assert any(line.get("event") == "reset" and line["domain"] == 31 for line in lines)


def test_refusals_have_their_status(emulate: Path, tmp_path: Path) -> None:
    lines = traced(emulate, tmp_path / "trace", "args-MAP_QID-started")
    refused = {line["status"] for line in lines if line.get("request") == "MAP_QID" and line["errno"] == 22}
    assert {"INVALID_PORT_ID", "INVALID_QID", "INVALID_PRIORITY"} <= refused


def test_elements_in_and_out(emulate: Path, tmp_path: Path) -> None:
    lines = traced(emulate, tmp_path / "trace", "data-ldb-forward")
    stored = Counter(line["stored"]["command"] for line in lines if "stored" in line)
    scheduled = [line["scheduled"] for line in lines if "scheduled" in line]
    assert stored["NEW"] + stored["FWD"] + stored["NEW_T"] + stored["FWD_T"] == len(scheduled)
    assert all(element["generation"] == 1 for element in scheduled)


def test_misuse_is_named(emulate: Path, tmp_path: Path) -> None:
    lines = traced(emulate, tmp_path / "trace", "data-alerts-ldb")
    misuse = [line["misuse"] for line in lines if "misuse" in line]
    assert "more tokens returned than owed" in misuse
    assert "completion while nothing is held" in misuse
    assert all(line["port"] == "ldb 4" for line in lines if "misuse" in line)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_request_fails(emulate: Path, tmp_path: Path, nth: int) -> None:
    fault = f"request:CREATE_LDB_QUEUE:{nth}:ENOMEM:NO_MEMORY"
    lines = traced(emulate, tmp_path / "trace", "valid-domain", "--fault", fault)
    made = [line for line in lines if line.get("request") == "CREATE_LDB_QUEUE"]
    assert [line["errno"] == 12 and line["status"] == "NO_MEMORY" for line in made[:2]] == [nth == 1, nth == 2]


def test_an_element_is_dropped(emulate: Path, tmp_path: Path) -> None:
    before = traced(emulate, tmp_path / "before", "data-line")
    after = traced(emulate, tmp_path / "after", "data-line", "--fault", "store:1:drop")
    assert sum("scheduled" in line for line in after) == sum("scheduled" in line for line in before) - 1
    assert any("dropped" in line.get("misuse", "") for line in after)


def test_the_function_is_reset(emulate: Path, tmp_path: Path) -> None:
    lines = traced(emulate, tmp_path / "trace", "data-line", "--fault", "store:2:reset")
    assert [line.get("event") for line in lines].count("reset") == 1
    assert sum("scheduled" in line for line in lines) == 1


@pytest.mark.parametrize(("what", "scheduled_with"), [("lose", 0), ("repeat", 2)])
def test_interrupts_go_wrong(emulate: Path, tmp_path: Path, what: str, scheduled_with: int) -> None:
    """The first interrupt of the scenario is lost, or comes twice."""
    recording = HERE / "data.jsonl"
    command = [emulate, "--version", "2.0", "--fault", f"interrupt:1:{what}", "--"]
    report = tmp_path / "report"
    replay = [
        HERE / "replay.py",
        "--version",
        "2.0",
        "--settle",
        "0.05",
        "--scenario",
        "data-eventfd",
        "--json",
        report,
    ]
    subprocess.run([*command, sys.executable, *replay, recording], capture_output=True, timeout=60)
    differences = [json.loads(line) for line in report.read_text().splitlines()]
    assert differences[0]["step"]["op"] == "read_eventfd"
    assert differences[0]["got"].get("value", 0) == scheduled_with


@pytest.mark.parametrize(
    "fault", ["", "request", "request:NOTHING:1:EINVAL", "request:MAP_QID:1:EWHAT", "store:1:sing"]
)
def test_unknown_faults_are_refused(emulate: Path, fault: str) -> None:
    done = subprocess.run([emulate, "--fault", fault, "--", "true"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no such fault" in done.stderr
