"""pydlb envoy, as it is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from pydlb.cli.main import main

from .inputs import BOOTSTRAP, ENVOY_FILTER, OLDER_DLB, bootstrap, dlb

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pydlb.cli.main", "envoy", *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, env=os.environ | environment, check=False
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "envoy-filter-dlb.yaml"
    path.write_text(ENVOY_FILTER)
    return path


def test_explain(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envoy", "explain", str(file)]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{file}: 1 listener.\n")
    assert told.err == ""
    assert main(["envoy", "explain", "--python", str(file)]) == 0
    compile(capsys.readouterr().out, "program", "exec")


def test_migrate_prints_both(file: Path) -> None:
    result = run("migrate", file)
    assert (result.returncode, result.stderr) == (0, "pydlb envoy: 1 x exact_balance for the DLB balancer\n")
    manifest = yaml.safe_load(result.stdout)
    patch = manifest["spec"]["configPatches"][0]["patch"]["value"]
    assert patch == {"connection_balance_config": {"exact_balance": {}}}
    _, _, program = result.stdout.partition("# The same by pydlb, in Python:\n#\n")
    compile("\n".join(line.removeprefix("#").removeprefix("   ") for line in program.splitlines()), "program", "exec")


def test_migrate_writes_both(file: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    result = run("migrate", file, "-o", new)
    beside = tmp_path / "new.pydlb.py"
    assert result.returncode == 0
    assert result.stderr == f"pydlb envoy: 1 x exact_balance for the DLB balancer; wrote {new} and {beside}\n"
    assert result.stdout == ""
    assert "exact_balance: {}" in new.read_text()
    compile(beside.read_text(), "program", "exec")
    again = run("migrate", file, "-o", new)
    assert (again.returncode, again.stderr) == (1, f"pydlb envoy: {new} is there already: --force replaces it\n")
    assert run("migrate", file, "-o", new, "--force").returncode == 0
    elsewhere = tmp_path / "elsewhere.py"
    printed = run("migrate", file, "--python", elsewhere)
    assert "# The same by pydlb" not in printed.stdout
    assert elsewhere.read_text() == beside.read_text()
    in_place = run("migrate", file, "-o", file, "--force")
    assert in_place.returncode == 0
    assert file.read_text() == new.read_text()


def test_standard_input_and_json() -> None:
    assert run("explain", "-", stdin=BOOTSTRAP).stdout.startswith("The configuration: 1 listener.")
    result = run("migrate", "-", stdin=yaml.safe_dump(yaml.safe_load(BOOTSTRAP), default_flow_style=True))
    assert result.returncode == 0
    as_json = run("migrate", "-", stdin='{"exact_balance": {}}')
    assert as_json.stdout == '{"exact_balance": {}}'
    assert as_json.stderr == (
        "pydlb envoy: nothing to replace\npydlb envoy: --python FILE writes the program that does the same by pydlb\n"
    )


@pytest.mark.parametrize("command", ["explain", "migrate"])
def test_what_is_wrong_is_told_in_one_line(command: str, file: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    result = run(command, missing)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"pydlb envoy: {missing}: No such file or directory\n"
    file.write_text(ENVOY_FILTER.replace("typed_config", "typed_konfig"))
    result = run(command, file)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"pydlb envoy: {file}:20: spec.configPatches[0].patch.value.")
    assert result.stderr.count("\n") == 1
    file.write_text("a: [1\n")
    result = run(command, file)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "bad YAML" in result.stderr
    assert run(command, tmp_path).stderr == f"pydlb envoy: {tmp_path}: Is a directory\n"


def test_what_cannot_be_written(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "none" / "new.yaml"
    result = run("migrate", file, "-o", target)
    assert (result.returncode, result.stderr) == (1, f"pydlb envoy: {target}: No such file or directory\n")


def test_without_pyyaml(file: Path, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError")
    result = run("explain", file, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == f"pydlb envoy: {file}: YAML needs PyYAML: pip install 'pydlb[envoy]'; JSON does not\n"


def test_warnings_are_told(file: Path) -> None:
    file.write_text(bootstrap(dlb("", OLDER_DLB)))
    result = run("migrate", file)
    assert result.returncode == 0
    assert result.stderr.startswith(f"pydlb envoy: warning: {file}:9: static_resources.listeners[0].")


@pytest.mark.parametrize("arguments", [[], ["x"], ["explain"], ["migrate", "a", "b"]])
def test_wrong_commands(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: pydlb envoy")


def test_a_reader_that_has_seen_enough(file: Path) -> None:
    command = f"{sys.executable} -m pydlb.cli.main envoy explain {file} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=True)
    assert (result.stdout, result.stderr) == (f"{file}: 1 listener.\n", "")
