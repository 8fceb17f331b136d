"""The contract that every backend keeps: the same tests for each.

A test gets its device by the fixture `open_device`, and asks for nothing that only one backend has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pydlb

from .line import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKENDS = {
    "software": lambda: pydlb.open("software"),
    "software-large": lambda: pydlb.open("software", limits="large"),
}


@pytest.fixture(params=sorted(BACKENDS))
def open_device(request: pytest.FixtureRequest) -> Callable[[], pydlb.Device]:
    return BACKENDS[request.param]


@pytest.fixture
def device(open_device: Callable[[], pydlb.Device]) -> Iterator[pydlb.Device]:
    with open_device() as device:
        yield device


@pytest.fixture
def domain(device: pydlb.Device) -> Iterator[pydlb.Domain]:
    """A domain that is not started. Its ports live until it closes them, though the test has let go of them."""
    ports: list[pydlb.Port] = []

    def keeping(create: Callable[..., pydlb.Port]) -> Callable[..., pydlb.Port]:
        def create_and_keep(*args: object, **kwargs: object) -> pydlb.Port:
            ports.append(create(*args, **kwargs))
            return ports[-1]

        return create_and_keep

    with device.create_domain() as domain:
        for name in ("create_ldb_port", "create_dir_port"):
            setattr(domain, name, keeping(getattr(domain, name)))
        yield domain


@pytest.fixture
def make_line(domain: pydlb.Domain) -> Callable[..., Line]:
    def make(ports: int = 1, **queue: int) -> Line:
        return Line(domain, ports, **queue)

    return make


@pytest.fixture
def line(make_line: Callable[..., Line]) -> Line:
    return make_line()
