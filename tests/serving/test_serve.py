"""`pydlb serve`: what its users see."""

from __future__ import annotations

import collections
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CERTIFICATE = Path(__file__).parents[1] / "server" / "localhost.pem"


# ---- serving -------------------------------------------------------------------------------------------------------


def test_spreads_held_connections_and_ends(serve: Callable[..., Any]) -> None:
    served = serve("site_app:app", "--workers", "4")
    held = [served.connect() for _ in range(16)]
    names = collections.Counter(served.ask(connection)[-1] for connection in held)
    assert sorted(names.values()) == [4, 4, 4, 4]
    for connection in held:
        connection.close()
    said = served.stop(signal.SIGINT)
    assert said.count("Application startup complete.") == 4
    assert said.count("application stopped") == 4
    assert re.search(r'127.0.0.1:\d+ - "GET / HTTP/1.1" 200', said)


def test_a_request_in_progress_is_answered_at_the_end(serve: Callable[..., Any]) -> None:
    served = serve("site_app:app", "--workers", "2")
    answers: list[list[str]] = []
    client = threading.Thread(target=lambda: answers.append(served.get("/slow")))
    client.start()
    served.wait_for("slow request")
    served.stop()
    client.join()
    assert len(answers) == 1


def test_whoever_is_connected_when_it_ends_is_served(serve: Callable[..., Any], visiting: Any) -> None:
    """Under load, the end refuses who comes too late, and nobody else."""
    served = serve("site_app:app", "--workers", "2", "--no-access-log")
    with visiting(served) as visitors:
        visitors.wait_until(bool)
        served.stop()
    assert {failure.split("(")[0] for failure in visitors.failures} <= {"ConnectionRefusedError"}


def test_a_second_interrupt_does_not_wait(serve: Callable[..., Any]) -> None:
    served = serve("site_app:app", "--graceful-timeout", "3600")
    with socket.create_connection(served.address, timeout=60) as client:
        client.sendall(b"GET /for-ever HTTP/1.1\r\nHost: x\r\n\r\n")
        served.wait_for("endless request")
        served.send(signal.SIGINT)
        served.wait_for("Shutting down")
        said = served.stop(signal.SIGINT, errors=True)
        assert "1 connections did not end in order" in said


def test_the_graceful_timeout_is_kept(serve: Callable[..., Any]) -> None:
    served = serve("site_app:app", "--graceful-timeout", "0.2")
    with socket.create_connection(served.address, timeout=60) as client:
        client.sendall(b"GET /for-ever HTTP/1.1\r\nHost: x\r\n\r\n")
        served.wait_for("endless request")
        assert "1 connections did not end in order" in served.stop(errors=True)


def test_what_a_request_does_afterwards_is_done(serve: Callable[..., Any]) -> None:
    served = serve("site_app:app")
    assert served.get("/afterwards")
    served.wait_for("begun")
    assert "done afterwards" in served.stop()


def test_tls(serve: Callable[..., Any]) -> None:
    served = serve("site_app:app", "--ssl-certfile", str(CERTIFICATE))
    served.wait_for("https://")
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    url = f"https://localhost:{served.address[1]}/"
    with urllib.request.urlopen(url, context=context, timeout=60) as answer:
        assert answer.read()
    served.stop()


def test_on_a_path(serve: Callable[..., Any], folder: Path) -> None:
    served = serve("site_app:app", "--uds", "here.sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "here.sock"))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
    served.stop()
    assert not (folder / "here.sock").exists()


def test_a_path_that_a_killed_server_left_behind(serve: Callable[..., Any], folder: Path) -> None:
    path = folder / "here.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    first = serve("site_app:app", "--uds", "here.sock")
    second = serve("site_app:app", "--uds", "here.sock", ready=False)
    assert "Address already in use" in second.end(3), "it is not taken from one that lives"
    first.stop()


def test_options_from_the_environment(serve: Callable[..., Any]) -> None:
    """Ours, and uvicorn's own."""
    served = serve("site_app:app", environment={"UVICORN_WORKERS": "3", "PYDLB_SERVE_ROOT_PATH": "/below"})
    served.wait_for("Serving with 3 worker")
    served.get()
    served.wait_for("GET /below/")
    served.stop()


@pytest.mark.parametrize("arguments", [["--loop", "asyncio"], []])
def test_asyncio_is_in_the_form_that_knows_its_worker(
    serve: Callable[..., Any], folder: Path, arguments: list[str]
) -> None:
    """Also where it was not asked for, but is what there is without uvloop."""
    (folder / "uvloop.py").write_text("raise ImportError('not installed')")
    text = (folder / "site_app.py").read_text()
    (folder / "site_app.py").write_text(
        text.replace("VERSION = 1", "VERSION = 0").replace("{VERSION}", "{type(asyncio.get_running_loop()).__module__}")
    )
    served = serve("site_app:app", *arguments, environment={"PYTHONPATH": str(folder)})
    assert served.get()[0] == "pydlb.eventloop"
    served.stop()


def test_on_a_descriptor(serve: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = serve("site_app:app", "--fd", str(listener.fileno()), pass_fds=[listener.fileno()])
        assert served.address == listener.getsockname()
        assert served.get()
        served.stop()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_behind_a_proxy(serve: Callable[..., Any], folder: Path, kind: str) -> None:
    (folder / "who.py").write_text(
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': repr(scope['client']).encode()})\n"
    )
    served = serve("who:app", "--workers", "2", "--worker-class", kind, "--proxy-protocol", "optional")
    header = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
    for before, said in ((header, "('192.0.2.1', 56324)"), (b"", "('127.0.0.1', ")):
        with socket.create_connection(served.address, timeout=60) as client:
            client.sendall(before + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = client.makefile("rb").read().decode()
            assert answer.startswith("HTTP/1.1 200 OK")
            assert said in answer
    served.wait_for(r'192.0.2.1:56324 - "GET / HTTP/1.1" 200')
    served.stop()


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["nowhere:app"], "Could not import module", 3),
        (["site_app:nothing"], "not found in module", 3),
        (["site_app:app", "--host", "192.0.2.1"], "Cannot assign requested address", 3),
        (["site_app:app", "--policy", "fastest"], "policy is 'fastest'", 2),
        (["site_app:app", "--backend", "/dev/dlb7"], "/dev/dlb7", 3),
        (["site_app:app", "--workers", "0"], "--workers", 2),
        (["broken:app"], "no database", 3),
        (["killed:app"], "was killed by SIGKILL before it was ready", 3),
        (["site_app:app", "--factory"], "Error loading ASGI app factory", 3),
        (["site_app:app", "--uds", "/nowhere/x.sock"], "cannot listen on '/nowhere/x.sock'", 3),
        (["site_app:app", "--fd", "77"], "cannot listen on descriptor 77", 3),
        (["site_app:app", "--ssl-certfile", "/nowhere.pem"], "No such file or directory: '/nowhere.pem'", 3),
        (["site_app:app", "--header", "nothing"], "'nothing' is not of the form NAME:VALUE", 2),
        (["site_app:app", "--port", "99999"], "99999 is not in the range", 2),
    ],
)
def test_mistakes_are_told(
    serve: Callable[..., Any], folder: Path, arguments: list[str], words: str, status: int
) -> None:
    (folder / "broken.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    (folder / "killed.py").write_text("import os; os.kill(os.getpid(), 9)\n")
    served = serve(*arguments, ready=False)
    assert words in served.end(status)


# ---- supervision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_replacing_under_load_fails_no_request(
    serve: Callable[..., Any], folder: Path, visiting: Any, number: int
) -> None:
    """A reload of the application, and of the supervisor with it."""
    served = serve("site_app:app", "--workers", "2", "--no-access-log")
    pid = served.process.pid
    with visiting(served) as visitors:
        visitors.wait_until(lambda answer: answer[0] == "1")
        text = (folder / "site_app.py").read_text()
        (folder / "site_app.py").write_text(text.replace("VERSION = 1", "VERSION = 200"))
        served.send(number)
        visitors.wait_until(lambda answer: answer[0] == "200")
        served.wait_for("Finished server process")
    assert visitors.failures == []
    assert [answer[0] for answer in visitors.answers[-4:]] == ["200"] * 4
    assert served.process.pid == pid
    served.stop()


def test_a_reload_that_fails_changes_nothing(serve: Callable[..., Any], folder: Path) -> None:
    served = serve("site_app:app")
    before = served.get()
    (folder / "site_app.py").write_text("def")
    served.send(signal.SIGHUP)
    served.wait_for("before it was ready; the one before goes on")
    assert served.get() == before
    served.stop(errors=True)


def test_a_reload_is_not_forgotten_while_another_is_under_way(serve: Callable[..., Any], folder: Path) -> None:
    served = serve("site_app:app")
    started = "Started server process"
    served.send(signal.SIGHUP)
    served.wait_for(started, 2)  # it may have read the file already
    file = folder / "site_app.py"
    file.write_text(file.read_text().replace("VERSION = 1", "VERSION = 22"))
    served.send(signal.SIGHUP)
    served.wait_for(started, 3)
    served.wait_for("Serving with", 3)
    while served.get()[0] != "22":
        pass
    served.stop()


def test_what_is_killed_is_replaced(serve: Callable[..., Any]) -> None:
    """Clients that connect in the meantime wait, and are served."""
    served = serve("site_app:app")
    for _ in range(3):
        pid = int(served.get()[1])
        os.kill(pid, signal.SIGKILL)
        # Until it is dead it may accept, and what it accepts is lost with it.
        served.wait_for(rf"(Process \[{pid}\]|worker_0 \(process {pid}\)) was killed by SIGKILL")
        assert int(served.get()[1]) != pid
    served.stop()


@pytest.mark.parametrize("worker_class", ["thread"], indirect=True)  # where the application is in that process
def test_what_is_killed_when_it_says_that_it_serves_is_replaced(serve: Callable[..., Any], folder: Path) -> None:
    (folder / "dying.py").write_text(
        "import logging, os, pathlib\n"
        "from site_app import app\n"
        "def die_once(record):\n"
        "    died = pathlib.Path('died')\n"
        "    if record.msg.startswith('Serving with') and not died.exists():\n"
        "        died.touch()\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return True\n"
        "logging.getLogger('uvicorn.error').addFilter(die_once)\n"
    )
    served = serve("dying:app", ready=False)
    served.wait_for("was killed by SIGKILL; starting another")
    served.wait_for("Serving with")
    assert served.get()[0] == "1"
    served.stop()


@pytest.mark.parametrize("worker_class", ["process"], indirect=True)
def test_workers_that_are_killed_under_load(serve: Callable[..., Any], visiting: Any) -> None:
    """Clients lose only what a dead worker had: nobody is refused, and nobody waits for ever."""
    served = serve("site_app:app", "--workers", "3", "--no-access-log")
    kills = 5
    with visiting(served) as visitors:
        for turn in range(kills):
            visitors.wait_until(bool)
            victim = visitors.answers[-1][1]
            os.kill(int(victim), signal.SIGKILL)
            served.wait_for("was killed by SIGKILL", turn + 1)
            visitors.wait_until(lambda answer, victim=victim: answer[1] != victim)
    cut = {"RemoteDisconnected", "ConnectionResetError", "IncompleteRead"}
    assert {failure.split("(")[0] for failure in visitors.failures} <= cut
    assert len(visitors.failures) <= kills * 8
    served.stop()


def test_workers_come_and_go_by_signal(serve: Callable[..., Any]) -> None:
    served = serve("site_app:app", "--workers", "1", "--graceful-timeout", "5")
    served.send(signal.SIGTTIN)
    served.wait_for("Serving with 2 workers")
    held = [served.connect() for _ in range(4)]
    names = collections.Counter(served.ask(connection)[-1] for connection in held)
    assert sorted(names.values()) == [2, 2]
    for connection in held:
        connection.close()
    served.send(signal.SIGTTOU)
    served.wait_for("Serving with 1 workers")
    assert len({served.get()[-1] for _ in range(8)}) == 1
    served.stop()


def test_workers_are_replaced_after_so_many_requests(serve: Callable[..., Any]) -> None:
    served = serve("site_app:app", "--limit-max-requests", "5", "--no-access-log")
    for _ in range(5):
        served.get()
    served.wait_for("Replacing worker_0")
    while served.get()[-1] == "worker_0":
        time.sleep(0.01)
    served.stop()


def test_a_supervisor_that_is_killed_takes_nothing_with_it(serve: Callable[..., Any]) -> None:
    """The serving process ends what is open, and itself."""
    served = serve("site_app:app")
    with socket.create_connection(served.address, timeout=60) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        served.wait_for("slow request")
        served.send(signal.SIGKILL)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
    served.wait_for("Finished server process")


def test_reloads_when_files_change(serve: Callable[..., Any], folder: Path) -> None:
    served = serve("site_app:app", "--reload", "--reload-delay", "0.1")
    served.wait_for("Watching for changes")
    text = (folder / "site_app.py").read_text()
    assert served.get()[0] == "1"
    (folder / "site_app.py").write_text("def")
    served.wait_for("Detected changes in 'site_app.py'. Reloading...")
    served.wait_for("goes on")
    (folder / "site_app.py").write_text(text.replace("VERSION = 1", "VERSION = 200"))
    served.wait_for("Serving with", 2)
    while served.get()[0] != "200":
        time.sleep(0.01)
    served.stop(errors=True)


def test_sockets_and_news_of_a_service_manager(serve: Callable[..., Any], folder: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(folder / "notify"))
        manager.settimeout(60)

        given = {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "1000000"}
        command = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"]
        served = serve("site_app:app", environment=given, through=command, before=lambda: os.dup2(listener.fileno(), 3))
        assert served.address == listener.getsockname()
        assert served.get()

        def next_news(start: bytes) -> bytes:
            while not (news := manager.recv(1000)).startswith(start):
                pass
            return news

        assert b"READY=1\n" in next_news(b"READY=1")
        assert next_news(b"WATCHDOG=1")
        served.send(signal.SIGHUP)
        assert b"MONOTONIC_USEC=" in next_news(b"RELOADING=1")
        assert next_news(b"READY=1")
        served.stop()
        assert next_news(b"STOPPING=1")


def test_health(serve: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = serve("site_app:app", "--health-port", str(port), "--stall-timeout", "0.3")

    def status(path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    while status("/ready") != 200:
        time.sleep(0.01)
    assert (status("/alive"), status("/other")) == (200, 404)
    client = threading.Thread(target=served.get, args=("/block",))
    client.start()
    served.wait_for(r"worker_0 has done one thing for \d")
    served.wait_for("time.sleep\\(1.5\\)")
    while status("/alive") != 503:
        time.sleep(0.01)
    client.join()
    while status("/alive") != 200:
        time.sleep(0.01)
    served.stop()


def test_metrics(serve: Callable[..., Any]) -> None:
    """Of the process that serves, told by the supervisor."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = serve("site_app:app", "--workers", "2", "--metrics-port", str(port))

    def told(path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    while told("/ready") != "yes\n":
        time.sleep(0.01)
    served.get()
    while "pydlb_connections_accepted_total 1.0" not in (metrics := told("/metrics")):
        time.sleep(0.01)
    assert 'pydlb_worker_connections_accepted_total{worker="worker_1"}' in metrics
    command = [sys.executable, "-m", "pydlb.cli.main", "top", "--once", "--pid", str(served.process.pid)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "worker_1" in shown
    assert "accepted 1 " in shown
    served.stop()
