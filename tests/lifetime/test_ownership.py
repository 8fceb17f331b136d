"""Who keeps what alive, and what is said about things that nobody closed."""

from __future__ import annotations

import contextlib
import gc
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import _native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def all_handles_are_closed() -> Iterator[None]:
    gc.collect()
    before = _native.live_handles()
    yield
    gc.collect()
    assert _native.live_handles() == before


def test_handles_are_counted() -> None:
    before = _native.live_handles()
    with pydlb.open("software") as device, device.create_domain() as domain:
        ports = [domain.create_ldb_port(), domain.create_dir_port()]
        now = _native.live_handles()
        assert {kind: now[kind] - before[kind] for kind in ("devices", "domains", "ports")} == {
            "devices": 1,
            "domains": 1,
            "ports": len(ports),
        }


@pytest.mark.parametrize("policy", ["dlb", "exact", lambda workers, _: workers[0]], ids=["dlb", "exact", "function"])
def test_a_closed_balancer_leaves_nothing(policy: Any) -> None:
    """Not even while somebody holds it for its statistics: others may want the device."""
    before = _native.live_handles()
    balancer = pydlb.Balancer(workers=2, handler=print, policy=policy, backend="software")
    balancer.close()
    now = _native.live_handles()
    assert {kind: now[kind] - before[kind] for kind in ("devices", "domains", "ports")} == dict.fromkeys(
        ("devices", "domains", "ports"), 0
    )
    assert balancer.stats().accepted == 0


def test_a_child_keeps_its_owner() -> None:
    """Whoever holds a port can use it, though all else was let go of."""
    domain = pydlb.open("software").create_domain()
    queue = domain.create_ldb_queue()
    port = domain.create_ldb_port()
    port.link(queue)
    domain.start()
    device = weakref.ref(domain.device)
    del domain
    gc.collect()
    assert port.send_one(1, queue)
    assert port.recv_one(timeout=0) == 1
    port.domain.device.close()
    assert port.closed
    del port, queue
    gc.collect()
    assert device() is None


def test_bound_calls_outlive_the_port() -> None:
    """A function taken from a port keeps what it needs, and no more than that."""
    with pydlb.open("software") as device, device.create_domain() as domain:
        port = domain.create_ldb_port()
        send_one, recv_one = port.send_one, port.recv_one
        port.close()
        del port
        gc.collect()
        with pytest.raises(pydlb.ClosedError):
            recv_one(timeout=0)
        with pytest.raises(pydlb.ClosedError):
            send_one(1, domain.create_ldb_queue())


def open_device() -> pydlb.Device:
    return pydlb.open("software")


def open_domain() -> pydlb.Domain:
    return open_device().create_domain()


def open_port() -> pydlb.Port:
    return open_domain().create_ldb_port()


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (open_device, ["Device software"]),
        (open_domain, ["Domain 0", "Device software"]),
        (open_port, ["LDBPort 0", "Domain 0", "Device software"]),
    ],
)
def test_what_nobody_closed_is_named_and_closed(
    make: Callable[[], object], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child first: it keeps its owner."""
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings, "showwarning", lambda message, category, *_: said.append(f"{category.__name__} {message}")
        )
        make()
        gc.collect()
    assert said == [f"ResourceWarning unclosed <pydlb.{name}>" for name in names]


def test_the_warning_says_which_object() -> None:
    """So that tracemalloc can tell where it was made."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_device()
        gc.collect()
    assert [type(warning.source) for warning in caught] == [pydlb.Device]


def test_closing_twice_and_in_any_order() -> None:
    device = open_device()
    domain = device.create_domain()
    ports = [domain.create_ldb_port(), domain.create_dir_port()]
    for thing in (ports[0], device, ports[1], domain, device, domain, *ports):
        thing.close()
        assert thing.closed


def test_closed_with_the_block_though_it_raised() -> None:
    with contextlib.suppress(KeyError), pydlb.open("software") as device, device.create_domain() as domain:
        port = domain.create_ldb_port()
        raise KeyError
    assert (device.closed, domain.closed, port.closed) == (True, True, True)


def test_threads_close_and_create_at_once() -> None:
    """What was created too late is closed by its creator, who is told."""
    for _ in range(50):
        domain = open_domain()
        created: list[pydlb.Port] = []

        def create(domain: pydlb.Domain = domain, created: list[pydlb.Port] = created) -> None:
            with contextlib.suppress(pydlb.ClosedError):
                while True:
                    created.append(domain.create_dir_port())
                    if len(created) > 8:
                        created.pop(0).close()

        threads = [threading.Thread(target=create), threading.Thread(target=domain.device.close)]
        threads += [threading.Thread(target=domain.close) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(port.closed for port in created)
        assert domain.device.closed


def test_a_port_in_use_is_freed_by_its_user() -> None:
    """close() while another thread is inside a call: the memory lives until it has come out."""
    for _ in range(100):
        with pydlb.open("software") as device, device.create_domain() as domain:
            queue, port = domain.create_ldb_queue(), domain.create_ldb_port()
            port.link(queue)
            domain.start()
            begun = threading.Event()

            def use(port: pydlb.LDBPort = port, queue: pydlb.LDBQueue = queue, begun: threading.Event = begun) -> None:
                begun.set()
                with contextlib.suppress(pydlb.ClosedError):
                    while True:
                        port.send_one(1, queue)
                        port.recv_one(timeout=0)
                        port.release()

            thread = threading.Thread(target=use)
            thread.start()
            begun.wait()
            port.close()
            thread.join()


def test_failed_creations_leave_nothing() -> None:
    with pydlb.open("software") as device, device.create_domain(ldb_ports=1) as domain:
        before = _native.live_handles()
        for create in (
            lambda: device.create_domain(credits=10**9),
            lambda: domain.create_ldb_port(cq_depth=3),
            lambda: domain.create_ldb_port(history_entries=10**6),
            lambda: domain.create_ldb_queue(sequence_numbers=10**6),
        ):
            with pytest.raises(pydlb.DLBError):
                create()
        assert _native.live_handles() == before
