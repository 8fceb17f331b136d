"""What the adapter to the vendor's library does beyond the contract."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from tests.software.line import Line, received

import pydlb

from . import open_standin, standin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def line() -> Iterator[Line]:
    with open_standin() as device, device.create_domain() as domain:
        yield Line(domain)


def reset_device() -> None:
    ctypes.CDLL(standin()).standin_reset_device()


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Start a thread; the list gets what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def waiting(port: pydlb.Port) -> None:
    """Until another thread waits on the port."""
    while not port._native._waiting:
        pass


# ---- loading -------------------------------------------------------------------------------------------------------


def test_a_library_that_is_not_there() -> None:
    with pytest.raises(pydlb.BackendUnavailable, match=r"/nowhere/libdlb\.so cannot be loaded") as caught:
        pydlb.open("libdlb:/nowhere/libdlb.so")
    assert "libdlb" in caught.value.reasons
    with pytest.raises(pydlb.ConfigError, match="a path follows"):
        pydlb.open("libdlb:")


def test_every_missing_function_is_named(tmp_path: Path) -> None:
    source = tmp_path / "half.c"
    source.write_text("int dlb_open(void) { return -1; }\nint dlb_close(void) { return -1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "half.so", source], check=True)
    with pytest.raises(pydlb.BackendUnavailable) as caught:
        pydlb.open(f"libdlb:{tmp_path}/half.so")
    message = str(caught.value)
    for name in ("dlb_send", "dlb_recv", "dlb_create_sched_domain", "dlb_enable_cq_epoll", "dlb_release"):
        assert name in message
    assert "dlb_open," not in message


def test_without_cffi_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cffi", None)
    with pytest.raises(pydlb.BackendUnavailable, match=r"pip install 'pydlb\[libdlb\]'"):
        pydlb.open(f"libdlb:{tmp_path}/other.so")


def test_the_environment_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDLB_BACKEND", f"libdlb:{standin()}")
    with pydlb.open() as device:
        assert device.backend == "libdlb"
        assert device.fallback_reason is None


def test_a_device_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydlb._libdlb import open_device

    with pytest.raises(pydlb.DeviceNotFound, match="/dev/dlb5"):
        open_device(standin(), [5, 6])
    device = open_device(standin(), [5, 0])
    device.close()


def test_the_balancer_says_that_it_needs_none() -> None:
    with pytest.raises(pydlb.BackendUnavailable, match="use 'device'"):
        pydlb.Balancer(workers=0, backend=f"libdlb:{standin()}")


# ---- waiting -------------------------------------------------------------------------------------------------------


def test_libdlb_is_never_asked_in_vain(line: Line, capfd: pytest.CaptureFixture[str]) -> None:
    """It would complain on standard output, and not arm its interrupt."""
    line.port.fileno()
    for number in range(100):
        assert received(line.port) == []
        line.send(number)
        assert line.port.recv_one(timeout=10) == number
        line.port.release()
    assert capfd.readouterr().out == ""


def test_more_than_one_receive_takes(line: Line) -> None:
    """The descriptor stays readable until the last of them."""
    line.port.fileno()
    line.send(*range(40))
    got: list[int] = []
    while len(got) < 40:
        got += line.port.recv(16, timeout=10)["data"].tolist()
        line.port.release(16)
    assert got == list(range(40))


def test_closing_ends_a_wait(line: Line) -> None:
    thread, raised = in_thread(line.port.recv)
    waiting(line.port)
    line.port.close()
    thread.join(10)
    assert isinstance(raised[0], pydlb.ClosedError)


def test_a_port_has_one_user(line: Line) -> None:
    thread, _ = in_thread(line.port.recv)
    waiting(line.port)
    with pytest.raises(pydlb.BusyError):
        line.port.recv(timeout=0)
    line.send(1)
    thread.join(10)
    assert received(line.port) == []


def test_signal_handlers_run_while_it_waits(line: Line) -> None:
    import signal

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            line.port.recv()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    line.send(1)
    assert line.port.recv_one(timeout=10) == 1


# ---- life ----------------------------------------------------------------------------------------------------------


def test_a_reset_ends_everything(line: Line) -> None:
    thread, raised = in_thread(line.port.recv)
    waiting(line.port)
    reset_device()
    thread.join(10)
    assert isinstance(raised[0], pydlb.DeviceGone)
    for use in (lambda: line.sender.send_one(1, line.queue), lambda: line.sender.recv(timeout=0)):
        with pytest.raises(pydlb.DeviceGone, match="reset"):
            use()


def test_closed_ports_are_used_again(line: Line) -> None:
    domain = line.domain
    for _ in range(200):
        with domain.create_ldb_port() as port, domain.create_dir_port() as sender:
            port.link(line.queue)
            assert sender.send_one(3, line.queue)
            assert port.recv_one(timeout=0) == 3
            assert port.in_flight == 1


def test_directed_events_are_of_the_ports_own_queue(line: Line) -> None:
    queue = line.domain.create_dir_queue(line.sender)
    assert line.port.send_one(1, queue, priority=2)
    (event,) = line.sender.recv(timeout=0)
    assert event["queue"] == queue.id
    assert pydlb.sched_of(event) == pydlb.Sched.DIRECTED
    assert (event["flags"], event["command"]) == (0, 0), "and carry nothing of the device's"
    assert queue.depth == 0


def test_what_was_sent_is_as_it_was(line: Line) -> None:
    """The vendor's library writes into what it is given."""
    events = pydlb.make_events([1, 2], line.queue)
    before = events.copy()
    line.sender.send(events)
    assert events.tolist() == before.tolist()


def test_atomic_inflights_are_counted_here() -> None:
    with open_standin() as device:
        whole = device.resources().atomic_inflights
        with device.create_domain(atomic_inflights=300) as domain:
            assert device.resources().atomic_inflights == whole - 300
            with pytest.raises(pydlb.ResourceExhausted, match="atomic_inflights is 301"):
                domain.create_ldb_queue(atomic_inflights=301)
        assert device.resources().atomic_inflights == whole


def test_limits_that_libdlb_has_not(line: Line) -> None:
    with pytest.raises(pydlb.ConfigError, match="inflights is 3"):
        line.domain.create_ldb_queue(inflights=3)


def test_forked_children_cannot_use_it(line: Line) -> None:
    line.send(1)
    child = os.fork()
    if child == 0:
        try:
            line.port.recv(timeout=0)
        except pydlb.ClosedError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert received(line.port) == [1]


def test_a_program_may_end_with_everything_open() -> None:
    code = f"""
import pydlb, threading
device = pydlb.open("libdlb:{standin()}")
domain = device.create_domain()
queue = domain.create_ldb_queue()
port = domain.create_ldb_port()
port.link(queue)
domain.start()
threading.Thread(target=port.recv, daemon=True).start()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
