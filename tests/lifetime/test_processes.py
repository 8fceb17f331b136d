"""Forked children, and the end of the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable


def in_child(work: Callable[[], None]) -> None:
    """Run it in a forked child, and fail if it fails there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            work()
        except BaseException as error:
            os.write(writer, repr(error).encode()[:4000])
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"the child ended with {status}: {said}"


class Busy:
    """A port that another thread waits on, and one that is free."""

    def __init__(self, domain: pydlb.Domain) -> None:
        self.domain = domain
        self.queue = domain.create_ldb_queue()
        self.port = domain.create_ldb_port()
        self.waited_on = domain.create_ldb_port()
        self.port.link(self.queue)
        domain.start()
        self.thread = threading.Thread(target=self.wait)
        self.thread.start()
        while not self.waited_on.stats().armed:  # a fork would keep what its thread had locked on the way
            pass

    def wait(self) -> None:
        with pytest.raises(pydlb.ClosedError):
            self.waited_on.recv()


def test_a_child_may_not_use_what_its_parent_opened() -> None:
    with pydlb.open("software") as device, device.create_domain() as domain:
        busy = Busy(domain)

        def child() -> None:
            for use in (
                device.create_domain,
                device.resources,
                domain.create_ldb_queue,
                domain.stats,
                domain.start,
                busy.port.stats,
                busy.port.fileno,
                busy.port.release_later,
                lambda: busy.queue.depth,
                lambda: busy.port.recv(timeout=0),
                lambda: busy.waited_on.recv(timeout=0),
                lambda: busy.port.send_one(1, busy.queue),
                lambda: busy.port.release(),
            ):
                with pytest.raises(pydlb.ClosedError, match="fork"):
                    use()
            for thing in (busy.port, busy.waited_on, domain, device):
                assert thing.closed
                assert "closed" in repr(thing)
                thing.close()

        in_child(child)
        assert busy.port.send_one(1, busy.queue), "the parent's are untouched"
        assert busy.port.recv_one(timeout=0) == 1
        assert busy.port.in_flight == 1
        busy.waited_on.close()
        busy.thread.join()


def test_a_child_can_open_its_own() -> None:
    def child() -> None:
        with pydlb.open("software") as device, device.create_domain() as domain:
            queue, port = domain.create_ldb_queue(), domain.create_ldb_port()
            port.link(queue)
            domain.start()
            assert port.send_one(5, queue)
            assert port.recv_one(timeout=0) == 5

            def grandchild() -> None:
                with pytest.raises(pydlb.ClosedError, match="fork"):
                    port.recv_one(0)

            in_child(grandchild)

    with pydlb.open("software"):
        in_child(child)


SET_UP = """
import os, signal, sys, threading
import pydlb
device = pydlb.open("software")
domain = device.create_domain()
queue = domain.create_ldb_queue()
ports = [domain.create_ldb_port() for _ in range(4)]
for port in ports:
    port.link(queue)
    port.fileno()
domain.start()
ports[0].send_one(1, queue)
def until_armed(port):
    while not port.stats().armed:
        pass
"""


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    program = SET_UP + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "code",
    [
        "",
        "assert ports[1].recv_one() == 1",
        "sys.exit(0)",
        """
        thread = threading.Thread(target=ports[1].recv, daemon=True)
        assert ports[2].recv_one() == 1
        thread.start()
        until_armed(ports[1])
        """,
        """
        def poll(port):
            while True:
                port.recv(timeout=0.0001)
                port.release(32)
        for port in ports[1:]:
            threading.Thread(target=poll, args=(port,), daemon=True).start()
        """,
        """
        if os.fork() == 0:
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        """,
    ],
    ids=["open", "holding", "exit", "waiting thread", "polling threads", "forked"],
)
def test_programs_end_quietly_with_everything_open(code: str) -> None:
    result = run(code)
    assert (result.returncode, result.stderr) == (0, "")


def test_at_exit_warnings_name_what_was_left_open() -> None:
    result = run("del device, domain, queue, ports, port", "-W", "always")
    assert result.returncode == 0
    assert result.stderr.count("ResourceWarning: unclosed <pydlb.") == 6, result.stderr


def test_threads_that_were_forked_away_hold_nothing_up() -> None:
    """A child that lacks its parent's waiting threads still ends, and closes nothing of its parent's."""
    result = run(
        """
        thread = threading.Thread(target=ports[1].recv, daemon=True)
        assert ports[2].recv_one() == 1
        thread.start()
        until_armed(ports[1])
        if os.fork() == 0:
            ports[1].close()
            device.close()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        assert not device.closed
        ports[0].send_one(2, queue)
        thread.join()
        assert ports[1].in_flight == 1
        """,
        "-W",
        "ignore:This process:DeprecationWarning",  # CPython 3.12 and later advise against such forks in general
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_ctrl_c_ends_a_wait_of_the_main_thread() -> None:
    result = run("""
        ports[1].recv(max=1)  # loads numpy: the interrupt is to find the wait, not an import
        def interrupt():
            until_armed(ports[1])
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Thread(target=interrupt).start()
        try:
            ports[1].recv()
        except KeyboardInterrupt:
            print("interrupted")
        assert ports[1].in_flight == 1
        """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")
