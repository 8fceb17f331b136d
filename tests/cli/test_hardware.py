"""pydlb info and pydlb doctor, on machines made of files and under the emulated device."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pydlb import diagnosis, hardware

AMOUNTS = {
    "num_sched_domains": 32,
    "num_ldb_queues": 32,
    "num_ldb_ports": 64,
    "num_dir_ports": 96,
    "num_ldb_credits": 16384,
    "num_dir_credits": 0,
    "num_hist_list_entries": 2048,
    "num_atomic_inflights": 2048,
    "num_sn0_slots": 16,
    "num_sn1_slots": 16,
}


class Machine:
    """A machine made of files. Its device nodes are links to /dev/null, a character device that everybody may open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu movdir64b waitpkg enqcmd\n")
        self.write("proc/sys/kernel/osrelease", "6.1.0-test\n")
        (root / "dev").mkdir()
        (root / "sys/bus/pci/devices").mkdir(parents=True)

    def write(self, name: str, text: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def link(self, name: str, target: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target if target == "/dev/null" else os.path.relpath(self.root / target, path.parent))

    def add_function(
        self, address: str = "0000:6d:00.0", *, device: str = "0x2714", driver: str | None = None, numa: int = 0
    ) -> str:
        folder = f"sys/devices/pci0000:6d/{address}"
        for name, text in {"vendor": "0x8086", "device": device, "numa_node": numa}.items():
            self.write(f"{folder}/{name}", text)
        if device in ("0x2710", "0x2714"):
            self.write(f"{folder}/sriov_numvfs", 0)
        self.link(f"sys/bus/pci/devices/{address}", folder)
        if driver:
            (self.root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
            self.link(f"{folder}/driver", f"sys/bus/pci/drivers/{driver}")
        return folder

    def load_module(self, version: str = "8.8.0") -> None:
        self.write("sys/module/dlb2/version", version)

    def add_device(self, number: int = 0, *, node: bool = True, **function: Any) -> str:
        """A function that the driver has, with its node."""
        address = f"0000:6d:{number:02x}.0"
        folder = self.add_function(address, driver="dlb2", **function)
        self.load_module()
        self.write(f"{folder}/driver_ver", "8.8.0")
        for name, amount in AMOUNTS.items():
            self.write(f"{folder}/total_resources/{name}", amount)
            self.write(f"{folder}/avail_resources/{name}", amount // 2)
        null = Path("/dev/null").stat().st_rdev
        self.write(f"{folder}/dlb2/dlb{number}/dev", f"{os.major(null)}:{os.minor(null)}")
        self.link(f"{folder}/dlb2/dlb{number}/device", folder)
        self.link(f"sys/class/dlb2/dlb{number}", f"{folder}/dlb2/dlb{number}")
        if node:
            self.link(f"dev/dlb{number}", "/dev/null")
        return folder

    def survey(self, *, allowed: bool = True) -> hardware.Hardware:
        return hardware.survey(self.root, access=lambda path, mode: allowed)

    def bad(self, *, allowed: bool = True) -> dict[str, diagnosis.Finding]:
        findings = diagnosis.diagnose(self.survey(allowed=allowed))
        return {finding.subject: finding for finding in findings if finding.level == "bad"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pydlb.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def commands(finding: diagnosis.Finding) -> str:
    return "\n".join(finding.commands)


def test_a_machine_without_a_dlb_is_said_to_be_one(machine: Machine) -> None:
    told = run("info", "--root", str(machine.root))
    assert told.returncode == 1
    assert "no DLB" in told.stdout
    told = run("doctor", "--root", str(machine.root))
    assert told.returncode == 1
    assert "no DLB" in told.stdout
    assert "No hardware can be used" in told.stdout


def test_info_tells_what_each_node_has(machine: Machine) -> None:
    machine.add_device(0, numa=1)
    machine.add_device(1, device="0x2711")
    machine.add_device(10, device="0x2710")
    told = run("info", "--json", "--root", str(machine.root))
    assert told.returncode == 0, told.stderr
    nodes = json.loads(told.stdout)["nodes"]
    assert [node["path"] for node in nodes] == ["/dev/dlb0", "/dev/dlb1", "/dev/dlb10"]
    assert [node["function"]["version"] for node in nodes] == ["2.5", "2.0", "2.0"]
    assert [node["function"]["kind"] for node in nodes] == ["PF", "VF", "PF"]
    assert nodes[0]["function"]["numa_node"] == 1
    assert nodes[0]["driver_version"] == "8.8.0"
    assert nodes[0]["total"]["ldb_credits"] == 16384
    assert nodes[0]["free"]["ldb_ports"] == 32
    assert nodes[0]["free"]["sequence_slots"] == [8, 8]
    assert nodes[0]["opened_by"] == ["everybody"]
    text = run("info", "--root", str(machine.root)).stdout
    assert "DLB 2.5 PF at 0000:6d:00.0, driver 8.8.0, memory node 1" in text
    assert "everybody" in text


def test_a_node_that_may_be_opened_is_usable(machine: Machine) -> None:
    machine.add_device()
    found = machine.survey()
    assert [node.path for node in diagnosis.usable(found)] == ["/dev/dlb0"]
    assert machine.bad() == {}
    told = run("doctor", "--root", str(machine.root), "--json")
    assert told.returncode == 0, told.stdout
    assert json.loads(told.stdout)["nodes"] == ["/dev/dlb0"]


def test_a_function_without_a_driver(machine: Machine) -> None:
    machine.add_function()
    assert "insmod" in commands(machine.bad()["module"])
    machine.write("lib/modules/6.1.0-test/modules.dep", "kernel/net/foo.ko:\nextra/dlb2.ko: kernel/bar.ko")
    assert "modprobe dlb2" in commands(machine.bad()["module"])
    machine.load_module()
    finding = machine.bad()["0000:6d:00.0"]
    assert "not bound" in finding.text
    assert "echo 0000:6d:00.0 | sudo tee /sys/bus/pci/drivers/dlb2/bind" in finding.commands


def test_a_function_that_vfio_has(machine: Machine) -> None:
    machine.add_function(driver="vfio-pci")
    finding = machine.bad()["0000:6d:00.0"]
    assert "vfio-pci" in finding.text
    assert "unbind" in finding.commands[0]


def test_a_function_divided_into_virtual_ones_is_noted(machine: Machine) -> None:
    folder = machine.add_device()
    machine.write(f"{folder}/sriov_numvfs", 4)
    notes = [finding for finding in diagnosis.diagnose(machine.survey()) if finding.level == "note"]
    assert any("4 virtual functions" in finding.text for finding in notes)


def test_another_release_of_the_driver_is_noted(machine: Machine) -> None:
    machine.add_device()
    machine.load_module("7.0.0")
    assert any("8.8.0" in f.text for f in diagnosis.diagnose(machine.survey()) if f.level == "note")


def test_a_device_without_a_node(machine: Machine) -> None:
    machine.add_device(node=False)
    assert "udevadm" in commands(machine.bad()["/dev/dlb0"])
    assert diagnosis.usable(machine.survey()) == []


def test_a_node_of_another_device(machine: Machine) -> None:
    folder = machine.add_device()
    machine.write(f"{folder}/dlb2/dlb0/dev", "511:0")
    assert "left behind" in machine.bad()["/dev/dlb0"].text


def test_a_file_where_the_node_should_be(machine: Machine) -> None:
    machine.add_device(node=False)
    machine.write("dev/dlb0", "")
    assert "not the character device" in machine.bad()["/dev/dlb0"].text


def test_a_mode_that_does_not_let_this_user(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.add_device()
    monkeypatch.setattr(hardware, "_mode_allows", lambda status: False)
    finding = machine.bad(allowed=False)["/dev/dlb0"]
    assert "udev/rules.d" in commands(finding)
    assert "usermod" in commands(finding)


@pytest.mark.parametrize(
    ("marker", "remedy"),
    [("etc/hosts", "kubectl"), (".dockerenv", "docker run --device /dev/dlb0"), ("run/.containerenv", "--device")],
)
def test_a_container_that_was_not_granted_the_device(machine: Machine, marker: str, remedy: str) -> None:
    machine.add_device()
    machine.write(marker, "# Kubernetes-managed hosts file." if marker == "etc/hosts" else "")
    for allowed in (False, True):
        if allowed:
            (machine.root / "dev/dlb0").unlink()  # neither granted nor shown
        finding = machine.bad(allowed=allowed)["/dev/dlb0"]
        assert "not granted" in finding.text
        assert remedy in commands(finding)


def test_a_device_that_others_use_up(machine: Machine) -> None:
    folder = machine.add_device()
    machine.write(f"{folder}/avail_resources/num_ldb_ports", 0)
    finding = machine.bad()["/dev/dlb0"]
    assert "ldb ports" in finding.text
    assert "fuser" in commands(finding)
    assert diagnosis.usable(machine.survey()) == []


def test_processor_features_are_told(machine: Machine) -> None:
    assert machine.survey().cpu_features == {"movdir64b", "waitpkg", "enqcmd"}
    machine.write("proc/cpuinfo", "flags : fpu sse2")
    assert machine.survey().cpu_features == frozenset()
    assert any("no movdir64b" in finding.text for finding in diagnosis.diagnose(machine.survey()))


def test_attributes_that_cannot_be_read_are_not_there(machine: Machine) -> None:
    folder = machine.add_device()
    (machine.root / folder / "avail_resources/num_ldb_ports").unlink()
    machine.write(f"{folder}/numa_node", "-1")
    (node,) = machine.survey().nodes
    assert node.free is None
    assert node.function is not None
    assert node.function.numa_node is None
    assert "does not tell what it has" in run("info", "--root", str(machine.root)).stdout
    assert machine.bad() == {}


def test_this_machine_without_asking_for_a_root() -> None:
    """Whatever the machine has, the two agree, and doctor says what a program would get."""
    info, doctor = run("info", "--json"), run("doctor", "--json")
    assert info.stderr == doctor.stderr == ""
    assert info.returncode == (0 if json.loads(info.stdout)["nodes"] else 1)
    told = json.loads(doctor.stdout)
    assert doctor.returncode == (0 if told["usable"] else 1)
    assert told["auto"]["backend"]


@pytest.mark.parametrize("version", ["2.0", "2.5"])
def test_emulated_devices_are_listed(version: str) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 processor")
    emulate = ["emulate", "--version", version, "--devices", "2", "--", sys.executable, "-m", "pydlb.cli.main"]
    told = run(*emulate, "info", "--json")
    assert told.returncode == 0, told.stderr
    nodes = json.loads(told.stdout)["nodes"]
    assert [(node["path"], node["function"]["version"], node["access"]) for node in nodes] == [
        ("/dev/dlb0", version, "granted"),
        ("/dev/dlb1", version, "granted"),
    ]
    assert nodes[0]["free"] == nodes[0]["total"]
    told = run(*emulate, "doctor")
    assert told.returncode == 0, told.stdout
    assert 'pydlb.open("auto") opens: /dev/dlb0' in told.stdout
