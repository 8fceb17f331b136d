"""An example on an emulated device that is reset while clients come: none of them notices."""

from __future__ import annotations

import http.client
import sys
import threading
import time

import pytest

from .programs import running

EMULATE = [sys.executable, "-m", "pydlb.cli.main", "emulate"]
SWITCHES = (
    r"/dev/dlb0: it was reset or went away; connections go through the software engine, by policy dlb\n"
    r"/dev/dlb0 can be used again: connections go through it\n"
)
PATIENCE = 60.0


def ask(address: tuple[str, int], path: str) -> bytes:
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        connection.close()


def wait_for_backend(address: tuple[str, int], name: bytes) -> None:
    deadline = time.monotonic() + PATIENCE
    while b"Backend: " + name not in ask(address, "/"):
        assert time.monotonic() < deadline, f"it never was {name!r}"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_reset_in_the_middle_drops_nobody(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop has no wheel for this interpreter")
    under = [*EMULATE, "--fault", "after:3:reset", "--"]
    with running("asyncio_acceptor.py", "--port", "0", "--loop", loop, under=under) as program:
        address = program.address()
        over, failures = threading.Event(), []

        def go_on() -> None:
            try:
                while not over.is_set():
                    assert ask(address, "/worker").startswith(b"worker_")
            except BaseException as error:  # told below
                failures.append(error)

        threads = [threading.Thread(target=go_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for backend in (b"/dev/dlb0", b"software", b"/dev/dlb0"):
                wait_for_backend(address, backend)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not failures
        program.process.send_signal(2)
        accepted, served, refused, aborted = program.account(complaints=SWITCHES)
    assert "the device failed 1 times and came back 1 times" in program.said
    assert (served, refused, aborted) == (accepted, 0, 0)
