"""Worker processes that die: what others lose by that, and who comes after them."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

from . import handlers

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = random.SystemRandom().randrange(1 << 32)


def pids(balancer: pydlb.Balancer) -> list[int | None]:
    return [worker.pid for worker in balancer.workers]  # type: ignore[attr-defined]


def test_another_takes_its_place(clients: Any, account: Callable[..., None], wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(2, handler=handlers.name_process, worker_class="process") as balancer:
        balancer.listen()
        clients.hold(balancer.address(), 2)
        before = pids(balancer)
        os.kill(before[0] or 0, signal.SIGKILL)
        wait_until(lambda: None not in pids(balancer) and pids(balancer)[0] != before[0])
        record = balancer.stats().workers[0]
        assert (record.name, record.accepted, record.open, record.aborted) == ("worker_0", 1, 0, 1)
        assert {clients.ask(client) for client in clients.open} == {b"", b"%d\n" % (before[1] or 0)}
        wait_until(lambda: b"%d\n" % pids(balancer)[0] in clients.hold(balancer.address(), 1))  # type: ignore[str-bytes-safe]
        clients.close()
    account(balancer.stats())


class Load:
    """The program `load.py`, running."""

    def __init__(self, address: tuple[str, int]) -> None:
        program = str(Path(__file__).with_name("load.py"))
        self._process = subprocess.Popen(
            [sys.executable, program, str(address[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def go_on(self, lines: int) -> None:
        """Until so many more lines of answers have come."""
        assert self._process.stdout is not None
        for _ in range(lines):
            assert self._process.stdout.readline().startswith("answered"), "it ended"

    def stop(self) -> dict[str, Any]:
        said, _ = self._process.communicate("stop\n", timeout=60)
        result: dict[str, Any] = json.loads(said.splitlines()[-1])
        return result


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_kill_at_random_under_load(method: Any, account: Callable[..., None], wait_until: Callable[..., None]) -> None:
    """Nobody is refused, nobody hangs, and no more are lost than the dead had."""
    print("seed", SEED)
    draw = random.Random(SEED)
    kills = 6
    with pydlb.Balancer(3, handler=handlers.name_process, worker_class="process", start_method=method) as balancer:
        balancer.listen()
        load = Load(balancer.address())
        try:
            for _ in range(kills):
                load.go_on(3)
                wait_until(lambda: set(pids(balancer)) != {None})  # all may wait to be started again
                victim = draw.choice([pid for pid in pids(balancer) if pid is not None])
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda victim=victim: victim not in pids(balancer))
            load.go_on(3)
            wait_until(lambda: None not in pids(balancer))
        finally:
            met = load.stop()
        assert not met["wrong"], met
        # A function serves one connection at a time, and takes no other one meanwhile; one may be on its way.
        assert met["lost"] <= 2 * kills
        wait_until(lambda: balancer.stats().open == 0)
        stats = balancer.stats()
        account(stats)
        assert stats.accepted >= met["answered"]
        assert stats.aborted <= 2 * kills


def test_one_that_was_stopped_holds_nothing_up(clients: Any, wait_until: Callable[..., None]) -> None:
    """It may have been about to accept: others do, and its counts can be read all the same."""
    with pydlb.Balancer(2, handler=handlers.name_process, worker_class="process") as balancer:
        balancer.listen()
        first, second = pids(balancer)
        os.kill(first or 0, signal.SIGSTOP)
        try:
            assert clients.hold(balancer.address(), 1) == [b"%d\n" % (second or 0)]
            clients.close()
            assert [record.accepted for record in balancer.stats().workers] == [0, 1]
        finally:
            os.kill(first or 0, signal.SIGKILL)
        wait_until(lambda: pids(balancer)[0] not in {None, first})


def test_waits_longer_for_one_that_keeps_dying(clients: Any, caplog: Any, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(1, handler=handlers.end_process, worker_class="process") as balancer:
        balancer.listen()
        for _ in range(4):
            assert clients.hold(balancer.address(), 1) == [b""]
        wait_until(lambda: "another in 0.2 s" in caplog.text)
        assert "ended with status 3" in caplog.text
        assert "another at once" in caplog.text or "another in 0.1 s" in caplog.text


def test_connections_of_the_dead_wait_for_the_next(clients: Any) -> None:
    """While there is nobody, they wait in the backlog: and are served then."""
    with pydlb.Balancer(1, handler=handlers.name_process, worker_class="process") as balancer:
        balancer.listen()
        (before,) = pids(balancer)
        os.kill(before or 0, signal.SIGKILL)
        (answer,) = clients.hold(balancer.address(), 1)
        assert answer not in {b"", b"%d\n" % (before or 0)}
        clients.close()


def test_one_that_asks_is_replaced_and_loses_nothing(clients: Any, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(1, handler=handlers.name_process, worker_class="process") as balancer:
        balancer.listen()
        client = clients.connect(balancer.address())
        name = clients.ask(client)
        os.kill(int(name), signal.SIGTERM)
        wait_until(lambda: [worker.name for worker in balancer.workers] == ["worker_1"])
        assert clients.ask(client) == name, "it goes on with what it has"
        client.close()
        wait_until(lambda: not any(thread.name == "pydlb-replace" for thread in threading.enumerate()))
        assert balancer.stats().workers[0].served == 1


def test_signal_reaches_a_worker_whose_handler_waits(clients: Any, wait_until: Callable[..., None]) -> None:
    """Whichever thread has it, and although Python runs nothing for it until the client has sent something."""
    with pydlb.Balancer(1, handler=handlers.name_process, worker_class="process") as balancer:
        balancer.listen()
        client = clients.connect(balancer.address())
        name = clients.ask(client)
        process = int(name)
        (other,) = {int(task.name) for task in Path(f"/proc/{process}/task").iterdir()} - {process}
        libc = ctypes.CDLL(None, use_errno=True)
        for _ in range(2):  # nor are there two for one that is asked twice
            assert libc.tgkill(process, other, signal.SIGTERM) == 0
        wait_until(lambda: [worker.name for worker in balancer.workers] == ["worker_1"])
        assert clients.ask(client) == name, "it goes on with what it has"
        client.close()
        wait_until(lambda: not any(thread.name == "pydlb-replace" for thread in threading.enumerate()))
        assert [worker.name for worker in balancer.workers] == ["worker_1"]


def test_parent_that_dies_leaves_no_workers(tmp_path: Any, running: Callable[[int], bool]) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, pydlb\n"
        "from processes import handlers\n"
        "if __name__ == '__main__':\n"
        "    balancer = pydlb.Balancer(2, handler=handlers.name_process, worker_class='process')\n"
        "    balancer.listen()\n"
        "    print(*(worker.pid for worker in balancer.workers), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    left = [int(word) for word in run(program).split()]
    assert len(left) == 2
    deadline = time.monotonic() + 30
    while any(map(running, left)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_program_that_ends_without_closing(tmp_path: Any, running: Callable[[int], bool]) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import pydlb\n"
        "from processes import handlers\n"
        "if __name__ == '__main__':\n"
        "    balancer = pydlb.Balancer(2, handler=handlers.name_process, worker_class='process')\n"
        "    balancer.listen()\n"
        "    print(*(worker.pid for worker in balancer.workers), flush=True)\n"
    )
    left = [int(word) for word in run(program).split()]
    assert len(left) == 2
    assert not any(map(running, left))


def run(program: Any) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    return done.stdout
