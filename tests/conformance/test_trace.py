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


BALANCER_JOB = """
import pydlb
with pydlb.open("/dev/dlb0") as device:
    free = device.resources()
    credits = free.ldb_credits
    with device.create_domain(ldb_queues=1, ldb_ports=2, dir_ports=1, credits=credits, history_entries=32,
                              atomic_inflights=64, sequence_slots=free.sequence_slots) as domain:
        queue = domain.create_ldb_queue(inflights=512, atomic_inflights=64)
        sender = domain.create_ldb_port(cq_depth=8, history_entries=16)
        receiver = domain.create_ldb_port(cq_depth=8, history_entries=16)
        receiver.link(queue)
        directed = domain.create_dir_queue()
        receiver.fileno()
        domain.start()
        sender.send_one(7, queue)
        assert receiver.recv_one(timeout=10) == 7
        receiver.release()
"""


@pytest.mark.parametrize("version", ["2.0", "2.5"])
def test_the_backend_asks_as_the_vendors_library_does(emulate: Path, tmp_path: Path, version: str) -> None:
    """For the same job, the same requests with the same values.

    Knowingly different: the poll mode is asked for once, not for each port; the eventfd is registered when somebody
    first waits; the second descriptor of the domain, which the library gets through a socket, is not needed.
    """
    trace = tmp_path / "trace"
    command = [emulate, "--version", version, "--trace", trace, "--", sys.executable, "-c", BALANCER_JOB]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    asked: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "request" in line:
            set_ones = {name: value for name, value in line["arguments"].items() if value not in (0, [0, 0], [0] * 4)}
            asked.setdefault(line["request"], []).append(set_ones)
    credits, directed = (8192, 4096) if version == "2.0" else (16384, 0)
    domain = {"num_ldb_queues": 1, "num_ldb_ports": 2, "num_dir_ports": 1, "num_atomic_inflights": 64}
    domain |= {"num_hist_list_entries": 32, "num_ldb_credits": credits, "num_sn_slots": [16, 16], "cos_strict": 1}
    if directed:
        domain["num_dir_credits"] = directed
    assert asked["CREATE_SCHED_DOMAIN"] == [domain]
    threshold = 5461 if version == "2.0" else 10922
    queue = {"num_qid_inflights": 512, "num_atomic_inflights": 64, "depth_threshold": threshold}
    assert asked["CREATE_LDB_QUEUE"] == [queue]
    assert asked["CREATE_DIR_QUEUE"] == [{"port_id": -1, "depth_threshold": 2730 if version == "2.0" else 10922}]
    assert asked["CREATE_LDB_PORT"] == [{"cq_depth": 8, "cq_depth_threshold": 1, "cq_history_list_size": 16}] * 2
    assert asked["MAP_QID"] == [{"port_id": 9, "qid": 31}]
    assert asked["START_DOMAIN"] == [{}]
    memory = [line["request"] for line in lines if line.get("request", "").startswith("GET_LDB_PORT")]
    assert memory == ["GET_LDB_PORT_CQ_FD", "GET_LDB_PORT_PP_FD"] * 2
    stored = [(line["port"], line["stored"]["command"]) for line in lines if "stored" in line]
    assert stored.count(("ldb 2", "NEW")) == stored.count(("ldb 9", "REL")) == stored.count(("ldb 9", "BAT_T")) == 1
    assert set(stored) == {("ldb 2", "NEW"), ("ldb 9", "REL"), ("ldb 9", "BAT_T"), ("ldb 9", "ARM")}
    assert len(asked["DISABLE_LDB_PORT"]) == 2
    assert asked["ENQUEUE_DOMAIN_ALERT"]
