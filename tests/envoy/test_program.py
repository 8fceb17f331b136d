"""What explain and migrate print in Python runs, and does the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pydlb import envoy
from pydlb.envoy.explain import explain
from pydlb.envoy.migrate import migrate
from pydlb.envoy.program import program

from .inputs import BOOTSTRAP, ENVOY_FILTER, bootstrap, dlb

if TYPE_CHECKING:
    from pathlib import Path

EXACT = "connection_balance_config: {exact_balance: {}}"


def shown(text: str) -> str:
    """The program in what is explained."""
    _, _, python = explain(envoy.load(text)).partition("The same in Python:\n\n")
    return "\n".join(line.removeprefix("      ") for line in python.splitlines()) + "\n"


def run(source: str, path: Path, connect: Any, *, listeners: int = 1, device: bool = False) -> tuple[list[str], str]:
    """Run a program until each of its listeners has served; what it printed, and its errors."""
    path.write_text(source)
    emulate = ["-m", "pydlb.cli.main", "emulate", "--", sys.executable] if device else []
    command = [sys.executable, *emulate, "-W", "error", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = []
        for _ in range(listeners):
            line = process.stdout.readline()
            lines.append(line.strip())
            place = re.search(r"\('(.*?)', (\d+)", line)
            path_of = re.search(r" on (/\S+)", line)
            assert place or path_of, process.communicate(timeout=60)
            host = place and {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place[1], place[1])
            client = connect((host, int(place[2])) if place else path_of and path_of[1])
            assert client.recv(100) == b"hello from pydlb\n"
        os.kill(process.pid, signal.SIGTERM if listeners > 1 else signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    return lines, errors


@pytest.mark.parametrize(
    ("text", "by"),
    [
        (bootstrap(EXACT), "software"),
        (bootstrap(), "software"),
        (bootstrap(dlb("fallback_policy: ExactConnectionBalance")), "software"),
        (bootstrap(dlb("id: 5, fallback_policy: 1, max_retries: 2")), "software"),
    ],
    ids=["exact", "nop", "dlb or exact", "dlb or nop"],
)
def test_on_a_machine_without_devices(text: str, by: str, tmp_path: Path, connect: Any) -> None:
    (line,), errors = run(shown(text), tmp_path / "program.py", connect)
    assert line.endswith(f" by {by}")
    assert errors == ""


@pytest.mark.parametrize("text", [ENVOY_FILTER, BOOTSTRAP, bootstrap(dlb("id: 4"))], ids=["filter", "example", "id 4"])
def test_on_a_device(text: str, tmp_path: Path, connect: Any) -> None:
    (line,), errors = run(shown(text), tmp_path / "program.py", connect, device=True)
    assert line.endswith(" by /dev/dlb0")
    assert errors == ""


def test_none_means_none(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(shown(ENVOY_FILTER))
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "pydlb.errors.BackendUnavailable: " in result.stderr


def test_everything_that_is_carried(tmp_path: Path, connect: Any) -> None:
    """Odd names, paths, modes and addresses come out as valid Python that listens there."""
    path = tmp_path / 'it"s.sock'
    fields = f"""\
additional_addresses:
- address: {{pipe: {{path: '{path}', mode: 0600}}}}
- address: {{pipe: {{path: "@{tmp_path}"}}}}
- address: {{socket_address: {{address: "::", port_value: 0, ipv4_compat: true}}}}
- address: {{socket_address: {{protocol: UDP, address: 127.0.0.1, port_value: 0}}}}
tcp_backlog_size: 7
max_connections_to_accept_per_socket_event: 500
enable_reuse_port: true
"""
    text = bootstrap(fields).replace("name: echo", 'name: "a \\"quoted\\" \\\\ name\\n\'\'\'"')
    source = program(envoy.load(text).listeners, 'Of "it\\"')
    (line,), errors = run(source, tmp_path / "program.py", connect)
    assert (line.endswith(" by software"), errors) == (True, "")
    assert "backlog=7, reuse_port=True" in source
    assert "batch=64" in source
    assert "other addresses are left out" in source


def test_several_listeners_in_one_program(tmp_path: Path, connect: Any) -> None:
    """Those that are balanced in the same way have a balancer in common."""
    path = tmp_path / "third.sock"
    more = [bootstrap(), bootstrap(EXACT, f"{{pipe: {{path: {path}}}}}").replace("echo", "third", 1)]
    text = bootstrap(EXACT) + "".join(other.partition("  listeners:\n")[2] for other in more)
    source = migrate(text, None).python
    assert [listener.name for listener in envoy.load(text)] == ["echo", "echo", "third"]
    assert re.search(r"echo: line 3; third: line \d+ of the configuration", source)
    lines, errors = run(source, tmp_path / "program.py", connect, listeners=2)
    assert [line.split(" on ")[0] for line in lines] == ["serve_echo", "serve_echo_2"]
    assert errors == ""
