"""The contract that every backend keeps: the same tests for each.

A test gets its device by the fixture `open_device`, and asks for nothing that only one backend has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.libdlb import open_standin

import pydlb

from .line import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKENDS = {
    "software": lambda: pydlb.open("software"),
    "software-large": lambda: pydlb.open("software", limits="large"),
    "libdlb-2.0": lambda: open_standin("2.0"),
    "libdlb-2.5": lambda: open_standin("2.5"),
}

# What only some backends have, by the words of @pytest.mark.needs. Tests that need it are not run over the others.
VENDOR_LACKS = {
    "inflights": "the vendor's library has no limit for a queue's events in flight",
    "even sharing": "a device chooses by itself",
    "history given back": "a device's port keeps its history entries until its domain ends",
    "exact depth": "the vendor's library does not tell what waits in an ordered line, and what in a queue",
}
LACKS = {"libdlb-2.0": VENDOR_LACKS, "libdlb-2.5": VENDOR_LACKS}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def can_run(item: pytest.Item) -> bool:
        backend = getattr(item, "callspec", None) and item.callspec.params.get("open_device")
        return not any(mark.args[0] in LACKS.get(backend, {}) for mark in item.iter_markers("needs"))

    config.hook.pytest_deselected(items=[item for item in items if not can_run(item)])
    items[:] = [item for item in items if can_run(item)]


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
