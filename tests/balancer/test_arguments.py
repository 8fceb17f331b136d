"""Wrong arguments are told apart, named, and change nothing."""

from __future__ import annotations

from typing import Any

import pytest

import pydlb


def ignore(connection: pydlb.Connection) -> None:
    """A handler."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workers": -1}, "workers is -1: it is a whole number from 0"),
        ({"workers": 2.0}, "workers is 2.0"),
        ({"workers": True}, "workers is True"),
        ({"workers": "4"}, "workers is '4'"),
        ({"workers": 10**6}, "workers is 1000000"),
        ({"workers": 4}, "4 workers need a handler"),
        ({"workers": 1, "handler": 7}, "handler is 7"),
        ({"batch": 0}, "batch is 0: it is a whole number from 1 to 64"),
        ({"max_waiting": 0}, "max_waiting is 0"),
        ({"workers": 4, "max_workers": 2, "handler": ignore}, "max_workers is 2: it is a whole number from 4"),
        ({"policy": "fastest"}, "policy is 'fastest': it is one of 'dlb'"),
        ({"grace": 0}, "grace is 0"),
        ({"grace": -1.0}, "grace is -1.0"),
        ({"backend": "hardware"}, "hardware"),
    ],
)
def test_of_the_balancer(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(pydlb.ConfigError) as caught:
        pydlb.Balancer(**{"workers": 0, **arguments})
    assert words in str(caught.value)


def test_backends_that_cannot_be_had() -> None:
    with pytest.raises(pydlb.DeviceNotFound, match="/dev/dlb77"):
        pydlb.Balancer(0, backend=77)


def test_of_listen() -> None:
    with pydlb.Balancer(0) as balancer:
        with pytest.raises(pydlb.ConfigError, match="port is 70000: it is a whole number from 0 to 65535"):
            balancer.listen(port=70000)
        with pytest.raises(pydlb.ConfigError, match="backlog is -1"):
            balancer.listen(backlog=-1)
        with pytest.raises(FileNotFoundError):
            balancer.listen(path="/nowhere/socket")
        assert balancer.stats().accepted == 0


def test_of_remove_worker() -> None:
    with pydlb.Balancer(0) as balancer, pydlb.Balancer(0) as other:
        stranger = other.worker()
        with pytest.raises(pydlb.ConfigError, match="not a worker of this balancer"):
            balancer.remove_worker(stranger)


def test_the_backend_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYDLB_BACKEND", raising=False)
    with pydlb.Balancer(0, backend="software") as balancer:
        assert (balancer.backend, balancer.fallback_reason) == ("software", None)
    monkeypatch.setenv("PYDLB_BACKEND", "software")
    with pydlb.Balancer(0) as balancer:
        assert (balancer.backend, balancer.fallback_reason) == ("software", None)
