"""The examples with frameworks run as programs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from websockets.sync.client import connect

from .programs import EXAMPLES, running


def demonstrate(name: str) -> str:
    """All that an example says which brings its own clients."""
    command = [sys.executable, "-W", "error", EXAMPLES / name, "--demo", "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fastapi(number: int) -> None:
    pytest.importorskip("fastapi", reason="fastapi has no wheel for this interpreter")
    with running("asgi_fastapi.py", "--port", "0", "--workers", "2") as program:
        host, port = program.address()
        names = set()
        for _ in range(4):
            with urllib.request.urlopen(f"http://{host}:{port}/", timeout=60) as answer:
                names.add(json.load(answer)["worker"].split()[0])
        assert names <= {"worker_0", "worker_1"}
        assert program.stop(number) == (4, 4, 0, 0)


def test_a_websocket_chat_stays_even() -> None:
    said = demonstrate("websocket_chat.py")
    even = "40 open: worker_0=10 worker_1=10 worker_2=10 worker_3=10\n"
    assert said.count(even) == 2
    assert re.search(r"40 heard 'worker_\d: hello'", said)


def test_the_chat_has_a_page() -> None:
    """And a WebSocket, which tells where one is and how many are with each worker."""
    with running("websocket_chat.py", "--port", "0", "--workers", "2") as program:
        host, port = program.address()
        with urllib.request.urlopen(f"http://{host}:{port}/", timeout=60) as answer:
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "new WebSocket(" in answer.read().decode()
        with connect(f"ws://{host}:{port}/") as chat:
            here = json.loads(chat.recv())["you"]
            while json.loads(chat.recv()).get("balance", {}).get(here) != 1:
                pass
            chat.send("<hello>")
            while (heard := json.loads(chat.recv())).get("text") is None:
                pass
            assert heard == {"worker": here, "text": "<hello>"}
        program.process.send_signal(signal.SIGINT)
        _, errors = program.process.communicate(timeout=60)
        assert (program.process.returncode, errors) == (0, "")


def test_grpc_behind_a_front_port() -> None:
    pytest.importorskip("grpc", reason="grpcio has no wheel for this interpreter")
    said = demonstrate("grpc_front_port.py")
    assert "12 open: worker_0=3 worker_1=3 worker_2=3 worker_3=3\n" in said
    assert "36 calls answered by 4 workers" in said
