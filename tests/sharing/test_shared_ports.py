"""Ports of one domain, used by several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    import numpy as np
    from numpy.typing import NDArray

METHODS = ("fork", "spawn", "forkserver")
EVENTS = 200


class Other:
    """Another process that works on a port, and a pipe from it."""

    def __init__(self, method: str, work: Callable[..., None], port: pydlb.Port, *arguments: object) -> None:
        context = multiprocessing.get_context(method)
        self.pipe, there = context.Pipe(duplex=False)
        self.process: multiprocessing.Process = context.Process(  # type: ignore[attr-defined]
            target=work, args=(pydlb.SharedPort(port), there, *arguments)
        )
        self.process.start()
        there.close()

    def says(self) -> Any:
        assert self.pipe.poll(30), "the other process says nothing"
        return self.pipe.recv()

    def ends(self) -> int | None:
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        self.pipe.close()
        return code


@pytest.fixture(scope="module", autouse=True)
def helpers_run() -> None:
    """The processes that multiprocessing keeps, with their pipes: not for a test to be blamed."""
    forkserver.ensure_running()
    resource_tracker.ensure_running()


@contextlib.contextmanager
def shared_domain() -> Iterator[pydlb.Domain]:
    with (
        pydlb.open("software") as device,
        device.create_domain(shared=True) as domain,
        pydlb.Sharing(domain),
    ):
        yield domain


def receive(shared: pydlb.SharedPort, results: Connection, count: int) -> None:
    """In the other process: receive and report, by blocking."""
    with shared.open() as port:
        got = []
        while len(got) < count and (data := port.recv_one(timeout=20)) is not None:
            port.release()
            got.append(data)
        results.send(got)
        port.domain.device.close()


def receive_by_descriptor(shared: pydlb.SharedPort, results: Connection, count: int) -> None:
    """The same, waiting as event loops do."""
    with shared.open() as port:
        poll = select.poll()
        poll.register(port.fileno(), select.POLLIN)
        got: list[int] = []
        while len(got) < count:
            while (data := port.recv_one(timeout=0)) is not None:
                port.release()
                got.append(data)
            if len(got) < count and not poll.poll(20_000):
                break
        results.send(got)
        port.domain.device.close()


def send(shared: pydlb.SharedPort, results: Connection, events: NDArray[np.void]) -> None:
    """In the other process: send."""
    with shared.open() as port:
        results.send(port.send(events, timeout=20))
        port.domain.device.close()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("work", [receive, receive_by_descriptor], ids=["blocking", "descriptor"])
def test_another_process_receives(method: str, work: Callable[..., None]) -> None:
    with shared_domain() as domain:
        queue, sender, port = domain.create_ldb_queue(), domain.create_dir_port(), domain.create_ldb_port()
        port.link(queue)
        domain.start()
        other = Other(method, work, port, EVENTS)
        for data in range(EVENTS):
            assert sender.send_one(data, queue)
        assert other.says() == list(range(EVENTS))
        assert other.ends() == 0
        assert (port.in_flight, queue.depth) == (0, 0), "what the other process did is seen here"


def test_one_process_sends_and_another_receives() -> None:
    """The sender cannot signal the receiver's descriptor by itself."""
    with shared_domain() as domain:
        queue, sender, port = domain.create_ldb_queue(), domain.create_dir_port(), domain.create_ldb_port()
        port.link(queue)
        domain.start()
        receiver = Other("spawn", receive_by_descriptor, port, EVENTS)
        source = Other("spawn", send, sender, pydlb.make_events(range(EVENTS), queue))
        assert source.says() == EVENTS
        assert receiver.says() == list(range(EVENTS))
        assert (source.ends(), receiver.ends()) == (0, 0)


def configure(shared: pydlb.SharedPort, results: Connection) -> None:
    with shared.open() as port:
        domain = port.domain
        said = []
        for call in (
            domain.create_ldb_queue,
            domain.create_dir_queue,
            domain.create_ldb_port,
            domain.start,
            domain.stop,
        ):
            try:
                call()
            except pydlb.DLBError as error:
                said.append(str(error))
        results.send(said)
        domain.device.close()


def test_who_joined_configures_nothing() -> None:
    with shared_domain() as domain:
        port = domain.create_ldb_port()
        other = Other("fork", configure, port)
        said = other.says()
        assert other.ends() == 0
        assert len(said) == 5
        assert all("joined" in text for text in said)


def wait_for_ever(shared: pydlb.SharedPort, results: Connection) -> None:
    with shared.open() as port:
        results.send("waiting")
        port.recv_one()


def test_what_a_killed_process_waited_for_goes_to_others() -> None:
    with shared_domain() as domain:
        queue, sender = domain.create_ldb_queue(), domain.create_dir_port()
        victim, survivor = domain.create_ldb_port(), domain.create_ldb_port()
        victim.link(queue)
        domain.start()
        other = Other("fork", wait_for_ever, victim)
        assert other.says() == "waiting"
        assert other.process.pid is not None
        os.kill(other.process.pid, signal.SIGKILL)
        assert other.ends() == -signal.SIGKILL
        for data in range(3):
            assert sender.send_one(data, queue)
        victim.close()
        survivor.link(queue)
        assert [survivor.recv_one(timeout=20) for _ in range(3)] == [0, 1, 2]


def test_a_domain_that_is_not_shared_says_so() -> None:
    with pydlb.open("software") as device, device.create_domain() as domain:
        port = domain.create_ldb_port()
        with pytest.raises(pydlb.ConfigError, match="shared"):
            pydlb.SharedPort(port)
        with pytest.raises(pydlb.ConfigError, match="shared"):
            pydlb.Sharing(domain)


def test_descriptors_that_are_something_else_are_refused() -> None:
    with shared_domain() as domain:
        port = domain.create_ldb_port()
        shared = pydlb.SharedPort(port)
        with Path("/dev/null").open("rb") as other:
            shared._descriptors = (other.fileno(),) * 4
            with pytest.raises(pydlb.ConfigError, match="not the memory of a shared domain"):
                shared.open()
