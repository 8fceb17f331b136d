"""How often a server calls the kernel for each connection, and how often its threads are switched: counted by perf."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from results import LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["counted", "family"]

# Told as one: which of them it is depends on the library.
GROUPS: Final = {
    "wait": ("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"),
    "watch": ("epoll_ctl",),
    "accept": ("accept", "accept4"),
    "transfer": ("read", "write", "recvfrom", "sendto", "recvmsg", "sendmsg"),
    "ask, set": ("getsockname", "getpeername", "getsockopt", "setsockopt", "ioctl", "fcntl"),
    "close": ("close", "shutdown"),
    "futex": ("futex",),
}


def family(pid: int) -> list[int]:
    """A process and those that it has started."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(member for file in children for child in file.read_text().split() for member in family(int(child)))]


@contextlib.contextmanager
def counted(pid: int) -> Iterator[dict[str, int]]:
    """Count meanwhile what a process and those that it has started do.

    Yields:
        A dictionary that is filled at the end: of groups of system calls, of "all calls", and of "switches" of threads.

    Raises:
        LeftOut: There is no perf, or it may not count.
    """
    if shutil.which("perf") is None:
        raise LeftOut("there is no perf: install linux-perf")
    events = {"context-switches": "switches", "raw_syscalls:sys_enter": "all calls"}
    events |= {f"syscalls:sys_enter_{name}": group for group, names in GROUPS.items() for name in names}
    # A pipe by which perf says that it has begun: it acknowledges the order to count.
    order, ordered = os.pipe(), os.pipe()
    command = ["perf", "stat", "-x;", "-D", "-1", "--control", f"fd:{order[0]},{ordered[1]}", "-e", ",".join(events)]
    members = ",".join(map(str, family(pid)))
    perf = subprocess.Popen(
        [*command, "-p", members], pass_fds=(order[0], ordered[1]), stderr=subprocess.PIPE, text=True
    )
    os.close(order[0])
    os.close(ordered[1])
    counts = dict.fromkeys(events.values(), 0)
    try:
        with contextlib.suppress(BrokenPipeError):
            os.write(order[1], b"enable\n")
        if not os.read(ordered[0], 16):
            raise LeftOut(f"perf does not count: {perf.communicate()[1].strip().splitlines()[-1]}")
        yield counts
        perf.send_signal(signal.SIGINT)
        for line in perf.communicate()[1].splitlines():
            fields = line.split(";")
            if len(fields) > 2 and fields[0].isdigit():
                counts[events[fields[2]]] += int(fields[0])
    finally:
        os.close(order[1])
        os.close(ordered[0])
        if perf.poll() is None:
            perf.kill()
            perf.wait()
