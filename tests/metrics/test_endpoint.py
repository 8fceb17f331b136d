"""The endpoint: probes, statistics, clients that misbehave, its end; and pydlb top, which asks it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import pydlb
from pydlb.metrics.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Served

    Get = Callable[[str], tuple[int, str]]


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pydlb.cli.main", "top", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# ---- probes --------------------------------------------------------------------------------------------------------


def test_ready_follows_what_the_balancer_does(served: Served, get: Get) -> None:
    assert get(f"{served.url}/ready") == (200, "yes\n")
    served.balancer.pause()
    assert get(f"{served.url}/ready") == (503, "no: the balancer is paused\n")
    served.balancer.resume()
    assert get(f"{served.url}/ready")[0] == 200
    served.balancer.unlisten(served.number)
    assert get(f"{served.url}/ready") == (503, "no: the balancer is idle\n")


def test_a_draining_balancer_is_alive_and_not_ready(served: Served, get: Get) -> None:
    with served.clients(1):
        served.balancer.begin_stop()
        assert get(f"{served.url}/ready") == (503, "no: the balancer is draining\n")
        assert get(f"{served.url}/alive") == (200, "yes\n")


class Standing:
    """A balancer that does what the test says."""

    def __init__(self) -> None:
        self.accepted = 0
        self.waiting = 0

    def stats(self) -> object:
        worker = type("WorkerStats", (), {"accepted": self.accepted})
        return type("BalancerStats", (), {"waiting": self.waiting, "workers": [worker]})


def test_alive_until_nothing_moves_for_long() -> None:
    now = 0.0
    balancer = Standing()
    health = Health(balancer, patience=60, clock=lambda: now)  # type: ignore[arg-type]
    balancer.waiting = 3
    assert health.alive() is None
    now = 59.0
    assert health.alive() is None
    now = 61.0
    assert health.alive() == "3 connections wait, and no worker has taken one for 61 s"
    balancer.accepted = 1
    assert health.alive() is None, "one was taken"
    now = 200.0
    balancer.waiting = 0
    assert health.alive() is None, "there is nothing to do"
    balancer.waiting = 1
    assert health.alive() is None, "for a moment only"


# ---- the endpoint --------------------------------------------------------------------------------------------------


def test_stats_are_told_as_json(served: Served, get: Get) -> None:
    with served.clients(2):
        told = json.loads(get(f"{served.url}/stats")[1])
    assert told["pid"] == os.getpid()
    assert told["state"] == "accepting"
    assert told["stats"]["open"] == 2
    assert [worker["open"] for worker in told["stats"]["workers"]] == [1, 1]


def test_other_paths_are_not_there(served: Served, get: Get) -> None:
    status, text = get(f"{served.url}/secret")
    assert status == 404
    assert "/metrics, /ready, /alive, /stats" in text


def test_what_fails_is_told(
    served: Served, get: Get, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(pydlb.Balancer, "stats", lambda _: 1 / 0)
        assert get(f"{served.url}/stats")[0] == 500
    assert "cannot answer /stats" in caplog.text
    assert get(f"{served.url}/stats")[0] == 200


def test_a_client_that_asks_nothing_holds_nobody_up(served: Served, get: Get) -> None:
    address = served.balancer.metrics_address
    assert address is not None
    with socket.create_connection(address) as silent, socket.create_connection(address) as rude:
        rude.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert get(f"{served.url}/ready")[0] == 200
        served.balancer.close()
        assert silent.recv(1) == b"", "it is not waited for"


def test_head_has_no_text(served: Served) -> None:
    address = served.balancer.metrics_address
    assert address is not None
    with socket.create_connection(address) as client:
        client.sendall(b"HEAD /ready HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert b" 200 " in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("port", [-1, 65536, "http", True])
def test_wrong_ports_are_named(port: object) -> None:
    with pytest.raises(pydlb.ConfigError, match="metrics_port is"):
        pydlb.Balancer(0, backend="software", metrics_port=port)  # type: ignore[arg-type]


def test_a_port_that_is_taken(served: Served) -> None:
    assert served.balancer.metrics_address is not None
    with pytest.raises(OSError, match="in use"):
        pydlb.Balancer(0, backend="software", metrics_port=served.balancer.metrics_address[1])


def test_it_ends_with_the_balancer(served: Served) -> None:
    address = served.balancer.metrics_address
    served.balancer.close()
    assert served.balancer.metrics_address is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_server_has_one_too(get: Get) -> None:
    async def main() -> tuple[int, str]:
        async with await pydlb.start_server(
            lambda reader, writer: writer.close(), "127.0.0.1", 0, metrics_port=0
        ) as server:
            host, port = server.balancer.metrics_address or ("", 0)
            return await asyncio.to_thread(get, f"http://{host}:{port}/ready")

    assert asyncio.run(main()) == (200, "yes\n")


# ---- pydlb top -----------------------------------------------------------------------------------------------------


def test_top_shows_a_balancer_by_its_port(served: Served) -> None:
    with served.clients(2):
        told = top(served.url, "--times", "2", "--interval", "0.05")
    assert told.returncode == 0, told.stderr
    assert "accepted 2 (-)" in told.stdout
    assert "accepted 2 (0/s)" in told.stdout, "the second look knows the rate"
    assert "worker_1" in told.stdout


def test_top_shows_a_balancer_by_its_process(served: Served) -> None:
    told = top("--pid", str(os.getpid()), "--once")
    assert told.returncode == 0, told.stderr
    assert f"process {os.getpid()}" in told.stdout


def test_top_shows_all_balancers_of_a_process(served: Served) -> None:
    with pydlb.Balancer(0, backend="software", metrics_port=0) as other:
        other.worker("of another")
        told = top("--pid", str(os.getpid()), "--once")
    assert "worker_0" in told.stdout
    assert "of another" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1:1"], "nobody listens at 127.0.0.1:1"),
        (["ftp://somewhere"], "no address of a metrics port"),
        (["--pid", "4194304"], "there is no process 4194304"),
    ],
)
def test_top_says_whom_it_cannot_ask(arguments: list[str], words: str) -> None:
    told = top(*arguments)
    assert told.returncode == 1
    assert words in told.stderr
    assert told.stdout == ""


def test_top_says_that_others_are_no_balancers(served: Served) -> None:
    import http.server
    import threading

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        told = top(f"127.0.0.1:{other.server_port}")
        other.shutdown()
        thread.join()
    assert told.returncode == 1
    assert "no metrics port of pydlb" in told.stderr
