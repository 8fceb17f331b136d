"""What all tests share: a header that says what was tested, and a watch over descriptors, threads and handles."""

from __future__ import annotations

import gc
import os
import platform
import signal
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

hypothesis.settings.register_profile("ci", max_examples=60, stateful_step_count=40, deadline=None, print_blob=True)
hypothesis.settings.register_profile("long", max_examples=2000, stateful_step_count=80, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("PDLB_HYPOTHESIS_PROFILE", "ci"))


# Who runs tests in the background of a shell has SIGINT ignored, and programs that they start would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def gil_state() -> str:
    """Whether this interpreter has its lock."""
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    return "with the interpreter lock" if is_enabled is None or is_enabled() else "free-threaded"


def pytest_report_header() -> list[str]:
    """What a report of a failure has to say about the machine."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("pydlb", "numpy", "hypothesis"))
    return [f"pydlb: {versions}; {platform.python_implementation()} {gil_state()}; {os.cpu_count()} CPUs"]


def open_descriptors() -> set[str]:
    """Every open descriptor with what it refers to; those that pytest itself moves about are left out."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


def leftovers(descriptors: set[str], threads: set[threading.Thread]) -> list[str]:
    """What is there now and was not before."""
    more = [f"descriptor {entry}" for entry in sorted(open_descriptors() - descriptors)]
    more += [f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads]
    return more


@pytest.fixture(scope="session", autouse=True)
def uvloop_has_its_pipe() -> None:
    """The first loop of uvloop's makes libuv open a pipe for the life of the process: not for a test to be blamed."""
    try:
        import uvloop
    except ImportError:
        return
    uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves a descriptor or a thread open.

    Threads that were told to end are given a moment to do so.
    """
    gc.collect()
    descriptors = open_descriptors()
    threads = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while (more := leftovers(descriptors, threads)) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert not more, f"left behind: {', '.join(more)}"
