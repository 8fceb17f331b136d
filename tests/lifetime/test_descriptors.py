"""A balancer that finds too few descriptors: it says so, and leaves none open."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# How many can be had is a matter of the process.
SWEEP = """
    import itertools, os, resource, sys, threading
    import pydlb

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    def leave(count):
        taken = set(os.listdir("/proc/self/fd"))
        free = (number for number in itertools.count() if str(number) not in taken)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))

    def make():
        pydlb.Balancer(workers=0, worker_class=sys.argv[1]).close()

    make()  # what is loaded by the first one stays
    before = descriptors(), threading.active_count()
    for count in itertools.count():
        leave(count)
        try:
            make()
        except pydlb.DLBError as error:
            said = str(error)
        else:
            said = None
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (descriptors(), threading.active_count()) == before, (count, said)
        if said is None:
            break
        assert "Too many open files" in said, said
    assert count > 0
"""


@pytest.mark.parametrize("worker_class", ["thread", "process"])
def test_too_few_are_told_and_none_is_left(worker_class: str) -> None:
    program = [sys.executable, "-W", "error", "-c", textwrap.dedent(SWEEP), worker_class]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
