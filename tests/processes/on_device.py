"""A balancer whose workers are processes, on a device: run under `pydlb emulate` by test_device.py.

Arguments: what is looked at, the policy, how processes are started, the seed. Ends with status 0 if all is well.
"""

from __future__ import annotations

import contextlib
import gc
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

sys.path.insert(0, str(Path(__file__).parents[1]))

import pydlb
from processes import handlers
from processes.conftest import Clients, check, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE = "/dev/dlb0"


def pids(balancer: pydlb.Balancer) -> list[Any]:
    return [worker.pid for worker in balancer.workers]  # type: ignore[attr-defined]


@contextlib.contextmanager
def balancer(workers: int, policy: str, method: Any, **options: Any) -> Iterator[pydlb.Balancer]:
    with pydlb.Balancer(
        workers,
        handler=handlers.name_process,
        worker_class="process",
        backend=DEVICE,
        policy=policy,
        start_method=method,
        **options,
    ) as made:
        assert made.backend == DEVICE
        assert made.fallback_reason is None
        made.listen()
        yield made
    check(made.stats())


def kill(policy: str, method: str, draw: random.Random) -> None:
    """Under load: nobody is refused, nobody hangs, and no more are lost than the dead had."""
    kills = 5
    with balancer(3, policy, method) as made:
        program = str(Path(__file__).with_name("load.py"))
        with subprocess.Popen(
            [sys.executable, program, str(made.address()[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as load:
            assert load.stdout is not None
            for _ in range(kills):
                for _ in range(2):
                    assert load.stdout.readline().startswith("answered"), "the load has ended"
                wait(lambda: set(pids(made)) != {None})
                victim = draw.choice([pid for pid in pids(made) if pid is not None])
                os.kill(victim, signal.SIGKILL)
                wait(lambda victim=victim: victim not in pids(made))
            for _ in range(2):
                assert load.stdout.readline().startswith("answered"), "the load has ended"
            wait(lambda: None not in pids(made))
            said, _ = load.communicate("stop\n", timeout=60)
        met = json.loads(said.splitlines()[-1])
        assert not met["wrong"], met
        # It serves one connection at a time; one may be on its way.
        assert met["lost"] <= 2 * kills, met
        wait(lambda: made.stats().open == 0)
        assert made.stats().accepted >= met["answered"]
        everybody(made)


def everybody(made: pydlb.Balancer) -> None:
    """All workers there are serve, also those that came in the place of others."""
    clients, names = Clients(), set()
    wait(lambda: names.update(clients.hold(made.address(), 1)) or len(names) == len(made.workers))
    clients.close()
    assert names == {b"%d\n" % pid for pid in pids(made)}


def stop(policy: str, method: str, _draw: random.Random) -> None:
    """One that stands still with what it was given keeps nobody waiting; nor does one that is killed then."""
    with balancer(2, policy, method, grace=0.005) as made:
        everybody(made)
        first, second = pids(made)
        os.kill(first, signal.SIGSTOP)
        clients = Clients()
        for _ in range(6):
            assert clients.hold(made.address(), 1) == [b"%d\n" % second]
            clients.close()
            wait(lambda: made.stats().workers[1].open == 0)
        os.kill(first, signal.SIGKILL)
        wait(lambda: pids(made)[0] not in {None, first})
        everybody(made)


def replace(policy: str, method: str, _draw: random.Random) -> None:
    """One after the other, more often than there are ports; what they have is served to its end."""
    with balancer(1, policy, method, max_workers=3) as made:
        for _ in range(5):
            clients = Clients()
            (name,) = clients.hold(made.address(), 1)
            client, *_ = clients.open
            os.kill(int(name), signal.SIGTERM)
            wait(lambda name=name: b"%d\n" % (pids(made)[0] or 0) != name and None not in pids(made))
            assert clients.ask(client) == name, "it goes on with what it has"
            clients.close()
            wait(lambda: not any(thread.name == "pydlb-replace" for thread in threading.enumerate()))
            assert len(made.workers) == 1
        everybody(made)


def hold(policy: str, method: str, _draw: random.Random) -> None:
    """Connections that are held stand in nobody's way when one dies, and another comes."""
    with balancer(3, policy, method) as made:
        clients = Clients()
        names = clients.hold(made.address(), 3)
        assert len(set(names)) == 3, "three workers serve one connection each"
        victim, *others = clients.open
        os.kill(int(names[0]), signal.SIGKILL)
        assert clients.ask(victim) == b""
        wait(lambda: not {None, int(names[0])} & set(pids(made)))
        new = Clients()
        (name,) = new.hold(made.address(), 1)
        assert name not in names, "who is new has nothing else to do"
        assert [clients.ask(client) for client in others] == names[1:]
        new.close()
        clients.close()


def reset(policy: str, method: str, _draw: random.Random) -> None:
    """The device goes: the balancer has failed and says so; what is open is served to its end."""
    with balancer(2, policy, method) as made:
        clients = Clients()
        names = clients.hold(made.address(), 2)
        assert len(set(names)) == 2
        assert made.state == "accepting"
        Path("/sys/class/dlb2/dlb0/device/reset").write_text("1")
        wait(lambda: made.state == "failed")
        assert [clients.ask(client) for client in clients.open] == names
        assert made.stats().open == 2
        clients.close()
        wait(lambda: made.stats().open == 0)


def descriptors() -> list[str]:
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            names.append(str(entry.readlink()))
    return names


def main() -> None:
    look, policy, method, seed = sys.argv[1:]
    with pydlb.open(DEVICE) as device:
        total = device.resources()
    before = 0
    for _ in range(2):  # what the first start of a process opens stays open
        globals()[look](policy, method, random.Random(int(seed)))
        gc.collect()
        left = descriptors()
        after = len(left)
        assert before in {0, after}, f"{before} descriptors before, {after} after: {left}"
        before = after
        if look == "kill":
            break
    deadline = time.monotonic() + 10
    with pydlb.open(DEVICE) as device:
        while device.resources() != total:
            assert time.monotonic() < deadline, device.resources()
            time.sleep(0.01)


if __name__ == "__main__":
    main()
