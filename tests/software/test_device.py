"""Devices and domains: amounts, names, limits, closing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

import pydlb
from pydlb import _backend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_device_says_what_it_is(device: pydlb.Device) -> None:
    assert device.version in ("2.0", "2.5")
    assert device.backend in repr(device)
    assert device.fallback_reason is None


def test_two_devices_share_nothing(open_device: Callable[[], pydlb.Device]) -> None:
    with open_device() as one, open_device() as other, one.create_domain(ldb_queues=3):
        assert other.resources() == other.resources(available=False)


def test_domain_takes_its_amounts_and_gives_them_back(device: pydlb.Device) -> None:
    whole = device.resources()
    assert whole == device.resources(available=False)
    amounts = {
        "ldb_queues": 3,
        "ldb_ports": 5,
        "dir_ports": 7,
        "credits": 64,
        "history_entries": 128,
        "atomic_inflights": 32,
        "sequence_slots": (1, 2),
    }
    with device.create_domain(**amounts):
        left = device.resources()
        assert left.domains == whole.domains - 1
        for name in ("ldb_queues", "ldb_ports", "dir_ports", "history_entries", "atomic_inflights"):
            assert getattr(left, name) == getattr(whole, name) - amounts[name], name
        assert left.ldb_credits == whole.ldb_credits - 64
        assert left.sequence_slots == (whole.sequence_slots[0] - 1, whole.sequence_slots[1] - 2)
    assert device.resources() == whole


@pytest.mark.parametrize("name", ["ldb_queues", "ldb_ports", "dir_ports", "history_entries", "atomic_inflights"])
def test_domain_gets_all_there_is_but_no_more(device: pydlb.Device, name: str) -> None:
    nothing = dict.fromkeys(
        ("ldb_queues", "ldb_ports", "dir_ports", "credits", "history_entries", "atomic_inflights"), 0
    )
    if name == "ldb_queues":
        nothing["ldb_ports"] = 1
    amount = getattr(device.resources(), name)
    with pytest.raises(pydlb.ResourceExhausted, match=name) as caught:
        device.create_domain(**nothing | {name: amount + 1}, sequence_slots=(0, 0))
    assert caught.value.op == "create domain"
    assert isinstance(caught.value, OSError)
    device.create_domain(**nothing | {name: amount}, sequence_slots=(0, 0)).close()


def test_a_failed_creation_takes_nothing(device: pydlb.Device) -> None:
    before = device.resources()
    with pytest.raises(pydlb.ResourceExhausted):
        device.create_domain(sequence_slots=(0, 10**6))
    assert device.resources() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ldb_queues": -1}, "ldb_queues is -1"),
        ({"ldb_ports": 1.5}, "ldb_ports is 1.5"),
        ({"credits": "many"}, "credits is 'many'"),
        ({"dir_ports": 2**32}, "dir_ports is 4294967296"),
        ({"ldb_queues": 1, "ldb_ports": 0}, "ldb_ports is 0"),
        ({"sequence_slots": (1, 2, 3)}, "sequence_slots"),
        ({"sequence_slots": (0, -1)}, "sequence_slots"),
    ],
)
def test_wrong_amounts_are_named(device: pydlb.Device, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(pydlb.ConfigError, match=words):
        device.create_domain(**arguments)


def test_domains_have_numbers_of_their_own(device: pydlb.Device) -> None:
    with device.create_domain() as one, device.create_domain() as other:
        assert one.id != other.id
        assert str(one.id) in repr(one)


def test_stats_begin_with_nothing(domain: pydlb.Domain) -> None:
    stats = dataclasses.asdict(domain.stats())
    assert stats.pop("credits_free") == 2048
    assert not any(stats.values()), stats


def test_start_and_stop(make_line: Callable[..., object], domain: pydlb.Domain) -> None:
    line = make_line()
    with pytest.raises(pydlb.ConfigError, match="started already"):
        domain.start()
    line.send(1)
    domain.stop()
    with pytest.raises(pydlb.ConfigError, match="not started"):
        domain.stop()
    with pytest.raises(pydlb.ConfigError, match=r"not started.*Domain\.start"):
        line.send(2)
    assert line.port.recv_one(timeout=0) == 1, "what was queued can be received"
    domain.start()
    line.send(3)
    assert line.port.recv_one(timeout=0) == 3


@pytest.mark.parametrize("closed", ["device", "domain"])
def test_all_is_closed_with_its_owner(open_device: Callable[[], pydlb.Device], closed: str) -> None:
    device = open_device()
    domain = device.create_domain()
    queue = domain.create_ldb_queue()
    port, sender = domain.create_ldb_port(), domain.create_dir_port()
    port.link(queue)
    {"device": device, "domain": domain}[closed].close()
    for thing in (domain, port, sender):
        assert thing.closed
        assert not thing
        assert "closed" in repr(thing)
        thing.close()
    for use in (
        domain.start,
        domain.stats,
        domain.create_ldb_queue,
        domain.create_ldb_port,
        domain.__enter__,
        port.__enter__,
        port.fileno,
        port.recv,
        port.recv_one,
        port.release,
        port.release_later,
        port.stats,
        port.enable,
        lambda: port.id,
        lambda: port.in_flight,
        lambda: port.link(queue),
        lambda: port.send_one(1, queue),
        lambda: port.send(pydlb.make_events([1], queue)),
        lambda: port.forward(pydlb.make_events([1], queue)),
        lambda: queue.depth,
    ):
        with pytest.raises(pydlb.ClosedError, match="closed"):
            use()
    device.close()
    for use in (device.create_domain, device.resources, device.__enter__):
        with pytest.raises(pydlb.ClosedError, match="this device is closed"):
            use()


def test_what_a_closed_domain_held_can_be_had_again(device: pydlb.Device) -> None:
    for _ in range(3):
        with device.create_domain(credits=8) as domain:
            queue, port = domain.create_ldb_queue(), domain.create_ldb_port()
            port.link(queue)
            domain.start()
            assert port.send(pydlb.make_events(range(10), queue)) == 8, "another life's events are gone"
            assert len(port.recv(4, timeout=0)) == 4


def test_several_backends_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_backend, "DEV", tmp_path)
    with pydlb.open("3, device,software") as device:
        assert device.backend == "software"
        assert device.fallback_reason is not None
        assert "there is no" in device.fallback_reason
        assert "no DLB device can be used" in device.fallback_reason
    monkeypatch.setenv("PYDLB_BACKEND", "device,software")
    with pydlb.open() as device:
        assert device.is_software
    with pytest.raises(pydlb.BackendUnavailable, match="none of 3, device can be used") as caught:
        pydlb.open("3,device")
    assert set(caught.value.reasons) == {"3", "device"}
    for wrong in ("software,auto", "device,", "device,gpu"):
        with pytest.raises(pydlb.ConfigError):
            pydlb.open(wrong)
