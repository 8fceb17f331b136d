"""Settings of hardware: what the driver is asked, and what it may refuse."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal

import pytest

import pydlb
from pydlb.testing import EmulatedDevice

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["2.0", "2.5"])
def device(request: pytest.FixtureRequest) -> Iterator[pydlb.Device]:
    version: Literal["2.0", "2.5"] = request.param
    with EmulatedDevice(version) as emulated, emulated.open() as device:
        yield device


@pytest.fixture
def settings(device: pydlb.Device) -> pydlb.HardwareSettings:
    return pydlb.HardwareSettings(device)


def test_software_has_none() -> None:
    with pydlb.open("software") as device:
        with pytest.raises(pydlb.ConfigError, match="no settings of hardware"):
            pydlb.HardwareSettings(device)
        with pytest.raises(pydlb.DeviceError, match="classes of service") as caught:
            device.create_domain(class_ports=(1, 0, 0, 0))
        assert caught.value.errno == errno.EOPNOTSUPP
        with device.create_domain() as domain, pytest.raises(pydlb.DeviceError, match="classes of service"):
            domain.create_ldb_port(class_of_service=1)


def test_a_group_is_set_while_nobody_has_a_slot_of_it(device: pydlb.Device, settings: pydlb.HardwareSettings) -> None:
    assert settings.sequence_group(0) == (64, 16, 0)
    settings.set_sequence_numbers(0, 512)
    assert settings.sequence_group(0) == (512, 2, 0)
    assert settings.sequence_group(1) == (64, 16, 0)
    with device.create_domain(sequence_slots=(1, 0)) as domain:
        assert settings.sequence_group(0).taken == 1
        with pytest.raises(pydlb.DeviceError, match="close them first") as caught:
            settings.set_sequence_numbers(0, 64)
        assert caught.value.errno == errno.EBUSY
        domain.create_ldb_queue(sequence_numbers=512)
        with pytest.raises(pydlb.DeviceError, match="SEQUENCE_NUMBERS_UNAVAILABLE"):
            domain.create_ldb_queue(sequence_numbers=64)
    settings.set_sequence_numbers(0, 64)


def test_wrong_groups_and_numbers_do_not_reach_the_driver(settings: pydlb.HardwareSettings) -> None:
    with pytest.raises(pydlb.ConfigError, match="group is 2"):
        settings.sequence_group(2)
    for numbers in (0, 32, 65, 2048):
        with pytest.raises(pydlb.ConfigError, match=f"numbers is {numbers}"):
            settings.set_sequence_numbers(1, numbers)


def test_classes_share_the_bandwidth(settings: pydlb.HardwareSettings) -> None:
    assert [settings.bandwidth(number) for number in range(4)] == [25, 25, 25, 25]
    with pytest.raises(pydlb.ConfigError, match="over 100"):
        settings.set_bandwidth(0, 26)
    settings.set_bandwidth(3, 5)
    settings.set_bandwidth(0, 45)
    assert [settings.bandwidth(number) for number in range(4)] == [45, 25, 25, 5]
    with pytest.raises(pydlb.ConfigError, match="percent is 101"):
        settings.set_bandwidth(0, 101)
    with pytest.raises(pydlb.ConfigError, match="class of service is 4"):
        settings.bandwidth(4)


def test_ports_of_a_class(device: pydlb.Device) -> None:
    with device.create_domain(ldb_queues=1, ldb_ports=1, dir_ports=0, class_ports=(0, 2, 0, 0)) as domain:
        ports = [domain.create_ldb_port(cq_depth=8, class_of_service=1) for _ in range(2)]
        with pytest.raises(pydlb.ResourceExhausted, match="load-balanced port"):
            domain.create_ldb_port(cq_depth=8, class_of_service=1)
        ports.append(domain.create_ldb_port(cq_depth=8))
        assert len({port.id for port in ports}) == 3
    with pytest.raises(pydlb.ResourceExhausted):
        device.create_domain(class_ports=(0, 0, 0, 17))
    with pytest.raises(pydlb.ConfigError, match="four amounts"):
        device.create_domain(class_ports=(1, 2))  # type: ignore[arg-type]


def test_registers_tell_of_queues_and_ports(device: pydlb.Device, settings: pydlb.HardwareSettings) -> None:
    with device.create_domain(ldb_queues=1, ldb_ports=1, dir_ports=1) as domain:
        queue, port = domain.create_ldb_queue(inflights=100), domain.create_ldb_port(cq_depth=8)
        sender = domain.create_dir_port()
        port.link(queue)
        domain.start()
        assert settings.read(pydlb.Register.LDB_QUEUE_INFLIGHT_LIMIT, queue.id) == 100
        assert sender.send(pydlb.make_events(range(3), queue)) == 3
        assert port.recv(timeout=10).size == 3
        assert settings.read(pydlb.Register.LDB_QUEUE_INFLIGHTS, queue.id) == 3
        assert port.release(3) == 3
        assert settings.read(pydlb.Register.LDB_QUEUE_INFLIGHTS, queue.id) == 0
    with pytest.raises(pydlb.DeviceError, match="no register") as caught:
        settings.read(pydlb.Register.LDB_QUEUE_INFLIGHTS, 999)
    assert caught.value.errno == errno.ENXIO
    assert settings.poll_mode == "sparse"


def test_limits_of_a_port(device: pydlb.Device, settings: pydlb.HardwareSettings) -> None:
    with device.create_domain(ldb_queues=1, ldb_ports=1, dir_ports=1) as domain:
        queue, port, sender = domain.create_ldb_queue(), domain.create_ldb_port(cq_depth=16), domain.create_dir_port()
        port.link(queue)
        if device.version == "2.0":
            with pytest.raises(pydlb.DeviceError, match=r"DLB 2\.0"):
                settings.set_weight(port, 4)
            with pytest.raises(pydlb.DeviceError, match=r"DLB 2\.0"):
                settings.set_inflight_threshold(port, 4)
            return
        settings.set_weight(port, 4)
        with pytest.raises(pydlb.ConfigError, match="weight is 17"):
            settings.set_weight(port, 17)
        domain.start()
        with pytest.raises(pydlb.DeviceError, match="DOMAIN_STARTED"):
            settings.set_weight(port, 8)
        settings.set_inflight_threshold(port, 8)
        with pytest.raises(pydlb.ConfigError, match="threshold is 4096"):
            settings.set_inflight_threshold(port, 4096)
        settings.set_inflight_threshold(port, None)
        assert sender.send(pydlb.make_events(range(3), queue)) == 3
        assert port.recv(timeout=10).size == 3


def test_a_reset_is_told() -> None:
    with EmulatedDevice("2.5") as emulated, emulated.open() as device:
        settings = pydlb.HardwareSettings(device)
        emulated.fail("GET_SN_ALLOCATION", errno=errno.ENODEV)
        with pytest.raises(pydlb.DeviceGone):
            settings.sequence_group(0)
        emulated.reset()
        assert settings.bandwidth(0) == 25  # the device itself is there again
