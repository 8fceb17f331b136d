"""The examples run as programs, by somebody who has just cloned the project."""

from __future__ import annotations

import contextlib
import http.client
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from .programs import EXAMPLES, running


def get(address: tuple[str, int], path: str = "/worker", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


# ---- the process acceptor ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_echo_and_one_may_be_killed(method: str) -> None:
    with running("process_acceptor.py", "--port", "0", "--workers", "2", "--start-method", method) as program:
        address = program.address()

        def connect(stack: contextlib.ExitStack) -> tuple[socket.socket, int]:
            client = stack.enter_context(socket.create_connection(address, timeout=60))
            found = re.fullmatch(rb"process (\d+) echoes\n", client.recv(100))
            assert found is not None
            return client, int(found[1])

        with contextlib.ExitStack() as stack:
            (one, first), (other, second) = connect(stack), connect(stack)
            assert first != second
            os.kill(first, signal.SIGKILL)
            assert one.recv(100) == b"", "what it had is gone"
            other.sendall(b"?")
            assert other.recv(100) == b"?"
            while connect(stack)[1] in {first, second}:  # until another one has taken its place
                pass
        program.process.send_signal(signal.SIGINT)
        accepted, served, refused, aborted = program.account(complaints=r"worker_\d .* was killed by SIGKILL .*\n")
        assert (accepted, refused) == (served + aborted, 0)
        assert aborted >= 1


# ---- the asyncio acceptor ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_http_and_stops(number: int) -> None:
    with running("asyncio_acceptor.py", "--port", "0") as program:
        address = program.address()
        assert "backend: software" in program.said
        assert "4 worker threads" in program.said
        held = [http.client.HTTPConnection(*address, timeout=60) for _ in range(8)]
        answers = []
        for connection in held:
            connection.request("GET", "/worker")
            answers.append(connection.getresponse().read().decode())
        assert sorted(answers) == sorted(f"worker_{worker}\n" for worker in range(4) for _ in range(2))
        for connection in held:
            connection.close()
        status, page = get(address, "/")
        assert status == 200
        assert "Served by worker_" in page
        accepted, served, refused, aborted = program.stop(number)
        assert (accepted, served, refused, aborted) == (9, 9, 0, 0)


def test_keeps_connections_and_refuses_nonsense() -> None:
    with running("asyncio_acceptor.py", "--port", "0", "--workers", "2") as program:
        address = program.address()
        connection = http.client.HTTPConnection(*address, timeout=60)
        workers = set()
        for _ in range(5):
            connection.request("GET", "/x")
            workers.add(connection.getresponse().read())
        assert len(workers) == 1
        connection.close()
        with socket.create_connection(address, timeout=60) as client:
            client.sendall(b"HELLO\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
        with socket.create_connection(address, timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000)
        assert get(address, Connection="close")[0] == 200
        assert program.stop()[0] == 4


def test_answers_probes_while_it_serves() -> None:
    with running("asyncio_acceptor.py", "--port", "0", "--metrics-port", "0") as program:
        found = program.read_until(r"metrics and probes on http://([\d.]+):(\d+)/metrics")
        metrics = (found[1], int(found[2]))
        assert get(metrics, "/ready") == (200, "yes\n")
        assert "pydlb_connections_open 0.0" in get(metrics, "/metrics")[1]
        program.stop()


def test_stops_under_load_without_losing_anybody() -> None:
    """Whoever was connected has its answer; whoever came too late was never connected."""
    with running("asyncio_acceptor.py", "--port", "0", "--backlog", "1024") as program:
        address = program.address()
        outcomes: list[str] = []

        def visit() -> None:
            while True:
                try:
                    client = socket.create_connection(address, timeout=60)
                except OSError:
                    return
                with client:
                    try:
                        client.sendall(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")
                        outcomes.append("served" if client.recv(1000).startswith(b"HTTP/1.1 200 ") else "cut off")
                    except OSError as error:
                        outcomes.append(repr(error))

        visitors = [threading.Thread(target=visit) for _ in range(16)]
        for visitor in visitors:
            visitor.start()
        while len(outcomes) < 300:
            visitors[0].join(0.001)
        accepted, served, refused, aborted = program.stop()
        for visitor in visitors:
            visitor.join(60)
        assert set(outcomes) == {"served"}
        assert (accepted, refused, aborted) == (len(outcomes), 0, 0)
        assert served == accepted


def test_a_second_interrupt_does_not_wait() -> None:
    with running("asyncio_acceptor.py", "--port", "0", "--grace", "3600") as program:
        address = program.address()
        with socket.create_connection(address, timeout=60) as client:
            client.sendall(b"GET /x HTTP/1.1\r\n\r\n")
            assert client.recv(1000)
            program.process.send_signal(signal.SIGINT)
            program.read_until("stopping")
            assert program.stop() == (1, 0, 0, 1)


def test_silent_clients_do_not_hold_up_the_end() -> None:
    with running("asyncio_acceptor.py", "--port", "0", "--grace", "0.1") as program:
        address = program.address()
        with socket.create_connection(address), socket.create_connection(address) as client:
            client.sendall(b"GET /x HTTP/1.1\r\n")
            accepted, served, refused, aborted = program.stop()
            assert (accepted, refused) == (2, 0)
            assert served + aborted == 2


def test_with_few_descriptors_clients_wait_their_turn() -> None:
    """64 descriptors and 150 clients at a time that say nothing at first: every one is served in the end."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with running("asyncio_acceptor.py", "--port", "0", "--interval", "0.01", before=few) as program:
        address = program.address()
        waiting = [socket.create_connection(address, timeout=60) for _ in range(150)]
        program.read_until("open")
        for client in waiting:
            client.sendall(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            client.close()
        assert get(address, Connection="close")[0] == 200
        program.process.send_signal(signal.SIGTERM)
        rest, errors = program.process.communicate(timeout=60)
        assert program.process.returncode == 0
        assert "151 accepted = 151 served" in rest
        assert "Too many open files" in rest
        assert "Traceback" not in errors


def test_thousands_in_a_burst() -> None:
    with running("asyncio_acceptor.py", "--port", "0") as program:
        address = program.address()
        answered = []

        def visit(count: int) -> None:
            for start in range(0, count, 50):
                clients = [socket.create_connection(address, timeout=60) for _ in range(min(50, count - start))]
                for client in clients:
                    client.sendall(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")
                for client in clients:
                    answered.append(client.recv(1000).startswith(b"HTTP/1.1 200 "))
                    client.close()

        visitors = [threading.Thread(target=visit, args=(500,)) for _ in range(4)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        assert len(answered) == 2000
        assert all(answered)
        assert program.stop() == (2000, 2000, 0, 0)


def test_on_a_terminal_the_table_stays_in_place() -> None:
    ours, theirs = pty.openpty()
    with running("asyncio_acceptor.py", "--port", "0", "--interval", "0.01", stdout=theirs) as program:
        os.close(theirs)
        shown = b""
        while b"\x1b[6F" not in shown:
            shown += os.read(ours, 4096)
        found = re.search(rb"curl http://([\d.]+):(\d+)", shown)
        assert found is not None
        assert get((found[1].decode(), int(found[2])), Connection="close")[0] == 200
        program.process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal's other end is closed with the program
            while data := os.read(ours, 4096):
                shown += data
        assert program.process.wait(60) == 0
        assert re.search(rb"worker_3 +\d+ +\d+ +\d+ +\d+", shown)
        assert b"1 accepted = 1 served + 0 refused + 0 aborted" in shown
    os.close(ours)


def test_serves_on_uvloop() -> None:
    pytest.importorskip("uvloop", reason="uvloop has no wheel for this interpreter")
    with running("asyncio_acceptor.py", "--port", "0", "--loop", "uvloop", "--workers", "2") as program:
        address = program.address()
        assert {get(address)[1] for _ in range(4)} <= {"worker_0\n", "worker_1\n"}
        assert program.stop() == (4, 4, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "workers is 0"),
        (["--workers", "many"], "invalid int value"),
        (["--port", "99999"], "port is 99999"),
        (["--backend", "fastest"], "fastest"),
        (["--backend", "/dev/dlb7"], "/dev/dlb7"),
        (["--host", "192.0.2.1"], "cannot listen on ('192.0.2.1', 0)"),
        (["--loop", "trio"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], words: str) -> None:
    given = arguments if "--port" in arguments else ["--port", "0", *arguments]
    command = [sys.executable, "-W", "error", EXAMPLES / "asyncio_acceptor.py", *given]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        command = [sys.executable, EXAMPLES / "asyncio_acceptor.py", "--port", str(other.getsockname()[1])]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "Address already in use" in result.stderr
    assert "Traceback" not in result.stderr


# ---- the others ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_threads_echo(number: int) -> None:
    with running("thread_acceptor.py", "--port", "0", "--workers", "2") as program:
        address = program.address()
        with socket.create_connection(address, timeout=60) as first, socket.create_connection(address) as second:
            names = set()
            for client in (first, second):
                lines = client.makefile("rb")
                names.add(lines.readline())
                client.sendall(b"hello\n")
                assert lines.readline() == b"hello\n"
                lines.close()
            assert names == {b"worker_0 echoes\n", b"worker_1 echoes\n"}
            started = time.monotonic()
            assert program.stop(number) == (2, 0, 0, 2)
            assert time.monotonic() - started < 30


def test_raw_events() -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / "raw_events.py", "--events", "20000"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"19968 of 19968 events in 64 flows, in order", result.stdout)
