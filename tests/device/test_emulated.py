"""The device backend on the emulated device, as a program finds it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import pydlb._native

LAUNCHER = Path(pydlb._native.__file__).parent / "pdlb-emulate"

pytestmark = pytest.mark.skipif(not LAUNCHER.exists(), reason="needs an x86-64 processor")


def run(source: str, *options: str) -> str:
    """Run Python source under the emulation; what it prints. Nothing may be reported as misuse."""
    program = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", textwrap.dedent(source)]
    done = subprocess.run([LAUNCHER, *options, "--", *program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(params=["2.0", "2.5"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


def test_events_go_through(version: str) -> None:
    run(
        f"""
        import threading, pydlb
        with pydlb.open("auto") as device, device.create_domain(credits=64) as domain:
            assert (device.backend, device.version, device.fallback_reason) == ("/dev/dlb0", "{version}", None)
            queue, port, sender = domain.create_ldb_queue(), domain.create_ldb_port(), domain.create_dir_port()
            port.link(queue)
            domain.start()
            assert sender.send(pydlb.make_events(range(10), queue)) == 10
            assert port.recv(timeout=10)["data"].tolist() == list(range(10))
            assert port.in_flight == 10 and port.release(20) == 10
            timer = threading.Timer(0.1, sender.send_one, (7, queue))
            timer.start()
            assert port.recv_one(timeout=10) == 7
            timer.join()
            stats = domain.stats()
            assert (stats.enqueued, stats.scheduled, stats.queued, stats.credits_free) == (11, 11, 0, 64)
        """,
        "--version",
        version,
    )


def test_a_child_keeps_no_domain(version: str) -> None:
    """Whenever it is forked: a copy of a domain's or a port's descriptor would keep the domain alive."""
    run(
        """
        import os, threading, pydlb
        small = dict(ldb_queues=0, ldb_ports=0, dir_ports=1, credits=8, history_entries=0, atomic_inflights=0)
        with pydlb.open("auto") as device:
            def work():
                for _ in range(5):
                    with device.create_domain(**small, sequence_slots=(0, 0)) as domain:
                        domain.create_dir_port().close()
            for _ in range(20):
                readable, writable = os.pipe()
                thread = threading.Thread(target=work)
                thread.start()
                children = []
                while thread.is_alive():
                    child = os.fork()
                    if child == 0:
                        os.close(writable)
                        os.read(readable, 1)
                        os._exit(0)
                    children.append(child)
                thread.join()
                while device.resources() != device.resources(available=False):
                    pass  # a child closes its copies as soon as it runs
                os.close(readable)
                os.close(writable)
                for child in children:
                    os.waitpid(child, 0)
        """,
        "--version",
        version,
    )


def test_a_balancer_uses_it(version: str) -> None:
    """By the queue that all share the device spreads what comes as it goes; to the workers' own it is steered."""
    run(
        """
        import pydlb, socket
        for policy in ("dlb", "round_robin"):
            with pydlb.Balancer(workers=3, policy=policy, handler=lambda c: c.socket.sendall(b"hello")) as balancer:
                assert balancer.backend == "/dev/dlb0"
                address = balancer.address(balancer.listen())
                visits, shares = 0, [0]
                # Where whoever comes first takes it, how soon all have had some is up to the machine.
                while visits < 30 or min(shares) < 5:
                    for _ in range(30):
                        with socket.create_connection(address, timeout=10) as client:
                            assert client.recv(100) == b"hello"
                    visits += 30
                    shares = [worker.accepted for worker in balancer.stats().workers]
                stats = balancer.close()
            assert stats.accepted == stats.served == visits
            assert policy == "dlb" or shares == [10, 10, 10], shares
        """,
        "--version",
        version,
    )


def test_a_busy_device_makes_room_for_the_next() -> None:
    run(
        """
        import pydlb
        with pydlb.open("/dev/dlb0") as first:
            left = first.resources()
            with first.create_domain(ldb_queues=0, ldb_ports=0, dir_ports=0, credits=left.ldb_credits):
                with pydlb.open("auto") as device:
                    assert device.backend == "/dev/dlb1"
        """,
        "--devices",
        "2",
    )


def test_probed_ports_come_in_another_order(version: str) -> None:
    """Nobody may count on the numbers of ports: with the driver's probing they follow the processors."""
    source = """
        import pathlib, pydlb
        print(pathlib.Path("/sys/module/dlb2/parameters/port_probe").read_text().strip())
        with pydlb.open("/dev/dlb0") as device, device.create_domain(dir_ports=6) as domain:
            ports = [domain.create_dir_port() for _ in range(6)]
            print(*[port.id for port in ports])
            queue = domain.create_dir_queue(ports[-1])
            domain.start()
            assert ports[0].send(pydlb.make_events(range(5), queue)) == 5
            assert ports[-1].recv(timeout=10)["data"].tolist() == list(range(5))
            assert device.resources().dir_ports == device.resources(available=False).dir_ports - 6
        """
    level, plain = run(source, "--version", version).splitlines()
    assert level == "0"
    level, probed = run(source, "--version", version, "--port-probe", "2").splitlines()
    assert level == "2"
    assert sorted(plain.split(), reverse=True) != probed.split()
    assert len(set(probed.split())) == 6


@pytest.mark.parametrize("policy", ["dlb", "exact"])
def test_nothing_is_left_of_a_balancer_that_was_closed(policy: str) -> None:
    """The driver keeps an eventfd as long as its port, and so does the emulation: no longer."""
    counts = run(
        f"""
        import gc, os, socket
        import pydlb

        def echo(connection):
            connection.socket.sendall(connection.socket.recv(10))

        for _ in range(4):
            with pydlb.Balancer(2, handler=echo, policy={policy!r}, backend="device", max_workers=2) as balancer:
                for _ in range(3):
                    with socket.create_connection(balancer.address(balancer.listen())) as client:
                        client.sendall(b"x")
                        assert client.recv(1) == b"x"
            gc.collect()
            print(len(os.listdir("/proc/self/fd")))
        """
    ).split()
    assert len(set(counts)) == 1, counts
