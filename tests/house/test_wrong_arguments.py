"""Arguments of any kind, in any number: what is wrong with them is said in an exception, and nothing breaks."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pydlb
from pydlb import policies

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 20


class Odd:
    def __index__(self) -> int:
        raise ValueError("odd")


VALUES = [
    *[None, True, 0, 1, -1, 7, 2**31, 2**64, -(2**70), 10**400, 1.5, -0.0, float("nan"), float("inf"), 3 + 4j],
    *["", "x", "a\0b", "\ud800", b"", b"abc", memoryview(b"abc"), [], {}, (), set(), range(3), object(), Odd(), type],
    *[np.int64(3), np.uint8(200), np.float32(1), np.zeros(3), np.zeros(3, pydlb.EVENT_DTYPE)],
    *[np.zeros((2, 2), pydlb.EVENT_DTYPE), np.zeros(6, pydlb.EVENT_DTYPE)[::2], lambda: None],
]

# What Python itself says of arguments, and the system of addresses and paths.
FAIR = (pydlb.DLBError, TypeError, ValueError, OverflowError, OSError)


def attack(chance: random.Random, function: Callable[..., Any], fixed: dict[str, Any] | None = None) -> None:
    """Call it with this and that. `fixed` arguments are not varied."""
    try:
        names = [
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in (fixed or {})
        ]
    except ValueError:
        names = []
    for _ in range(ROUNDS):
        named = {name: chance.choice(VALUES) for name in names if chance.random() < 0.3}
        placed = [] if fixed else [chance.choice(VALUES) for _ in range(chance.randrange(4))]
        try:
            made = function(*placed, **named, **(fixed or {}))
        except FAIR:
            continue
        except Exception as error:
            raise AssertionError(f"{function!r} of {placed!r}, {named!r} raised {error!r}") from error
        if isinstance(made, pydlb.Device | pydlb.Domain | pydlb.Port | pydlb.Balancer):
            made.close()


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.parametrize("name", ["open", "make_events", "sched_of", "priority_of", "HardwareSettings"])
def test_of_functions(name: str, chance: random.Random) -> None:
    attack(chance, getattr(pydlb, name))


@pytest.mark.parametrize("name", ["Exact", "Nop", "Random", "RoundRobin", "Least", "Hash"])
def test_of_policies(name: str, chance: random.Random) -> None:
    attack(chance, getattr(policies, name))


def test_of_queues_and_ports(chance: random.Random) -> None:
    with pydlb.open("software") as device, device.create_domain() as domain:
        queue, port, sender = domain.create_ldb_queue(), domain.create_ldb_port(), domain.create_dir_port()
        for method in ("resources", "create_domain"):
            attack(chance, getattr(device, method))
        for method in ("create_ldb_queue", "create_dir_queue", "create_ldb_port", "create_dir_port"):
            attack(chance, getattr(domain, method))
        port.link(queue)
        domain.start()
        for target in (port, sender):
            for method in ("link", "unlink", "send", "forward", "send_one", "release", "enable", "disable"):
                if hasattr(target, method):
                    attack(chance, getattr(target, method))
            for method in ("recv", "recv_one"):
                attack(chance, getattr(target, method), {"timeout": 0})


def test_an_array_is_none_of_the_names() -> None:
    """It is not compared with each of them, element by element, of which older numpy warns."""
    with pytest.raises(pydlb.ConfigError, match="fallback is array"):
        pydlb.Balancer(0, fallback=np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(pydlb.ConfigError, match="limits is array"):
        pydlb.open(limits=np.zeros(3))  # type: ignore[arg-type]


def test_of_the_balancer(chance: random.Random) -> None:
    with pydlb.Balancer(0) as balancer:
        worker = balancer.worker()
        attack(chance, pydlb.Balancer, {"workers": 0, "metrics_port": None})
        for method in ("listen", "unlisten", "address", "pause_worker", "resume_worker", "set_weight", "remove_worker"):
            if hasattr(balancer, method):
                attack(chance, getattr(balancer, method))
        for value in VALUES:
            try:
                balancer.policy = value
            except FAIR:
                continue
        balancer.policy = "dlb"
        for method in ("receive", "when_closed"):
            attack(chance, getattr(worker, method))
        worker.when_closed(None)


def test_what_the_extension_makes_for_others_needs_them() -> None:
    """The classes of links and transports are Python's, and unknown before their modules are imported."""
    program = "from pydlb import _native; _native.Beginnings(None, None, None, None)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "RuntimeError: Beginnings() needs pydlb.adapters.prompt" in done.stderr
