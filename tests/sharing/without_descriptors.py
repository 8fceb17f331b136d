"""Joins a device's domain with ever so many descriptors left: run under `pydlb emulate` by test_device.py.

Ends with status 0 if each join either works or says what it had no descriptor for, and then has left none open.
"""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import resource
import sys
from pathlib import Path

import pydlb

ENOUGH = 16
MOST = 1024
TOO_FEW = 3


def is_open(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()


def all_open() -> set[int]:
    return {number for number in range(MOST) if is_open(number)}


def leave(count: int) -> None:
    """From now on so many descriptors can be had."""
    free = (number for number in itertools.count() if not is_open(number))
    limit = next(itertools.islice(free, count, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def join(shared: pydlb.SharedPort, count: int) -> None:
    """In the other process. Ends with status `TOO_FEW` if there were too few."""
    driver = shared._descriptors[2]  # which it lets go of, also when it fails
    before = all_open()
    leave(count)
    try:
        shared.open()
    except pydlb.DLBError as error:
        failure = error
    else:
        return
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    assert isinstance(failure, OSError), failure
    assert failure.errno == errno.EMFILE, failure
    assert all_open() == before - {driver}
    sys.exit(TOO_FEW)


def main() -> None:
    with pydlb.open("/dev/dlb0") as device, device.create_domain(shared=True) as domain:
        port = domain.create_ldb_port()
        domain.start()
        ends = []
        for count in range(ENOUGH):
            shared = pydlb.SharedPort(port)
            process = multiprocessing.get_context("fork").Process(target=join, args=(shared, count))
            process.start()
            process.join()
            ends.append(process.exitcode)
            shared.bury()
    tried = ends.index(0)
    assert tried > 0, "nothing was without a descriptor"
    assert ends == [TOO_FEW] * tried + [0] * (ENOUGH - tried), ends


if __name__ == "__main__":
    main()
