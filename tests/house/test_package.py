"""The package as a stranger finds it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import pydlb

ROOT = Path(__file__).parents[2]


def test_versions_agree() -> None:
    written = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert metadata.version("pydlb") == written
    assert pydlb.__version__ == written
    assert f"## [{written}]" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_are_documented() -> None:
    for name in pydlb.__all__:
        thing = getattr(pydlb, name)
        if callable(thing):
            assert thing.__doc__, f"pydlb.{name} has no docstring"


def test_import_is_light() -> None:
    """Numpy and asyncio come with their first use, not with the package."""
    code = "import sys, pydlb; print([m for m in ('numpy', 'asyncio', 'ssl') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def readme_examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", readme_examples())
def test_readme_examples_run(example: str) -> None:
    """Servers among them are stopped as a user would: by an interrupt."""
    process = subprocess.Popen([sys.executable, "-W", "error", "-c", f"{STOP_WHEN_SERVING}\n{example}"])
    try:
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()


# A server that says it is serving is sent one request by a thread of its own process, then interrupted; and again if it
# sleeps on, for a loop of asyncio's does not see a signal that comes just before it falls asleep.
STOP_WHEN_SERVING = """
import builtins, os, re, signal, socket, threading, time
def _visit(address):
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"ping\\r\\n\\r\\n")
        assert client.recv(100)
    while True:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
def _print(*words, _print=builtins.print, **options):
    _print(*words, **options)
    found = re.search(r"127\\.0\\.0\\.1\\D+(\\d+)", " ".join(map(str, words)))
    if found:
        threading.Thread(target=_visit, args=(("127.0.0.1", int(found[1])),), daemon=True).start()
builtins.print = _print
"""
