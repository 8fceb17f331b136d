"""What explain says."""

from __future__ import annotations

import pytest

from pydlb import envoy
from pydlb.envoy.explain import explain

from .inputs import BOOTSTRAP, ENVOY_FILTER, OLDER_DLB, bootstrap, dlb


def words(text: str) -> str:
    """The explanation without its line breaks."""
    return " ".join(explain(envoy.load(text)).split())


def test_the_filter_of_a_gateway() -> None:
    told = words(ENVOY_FILTER)
    for part in (
        "A patch of 'istio-system/ingressgateway-dlb' (line 17, spec.configPatches[0].patch.value)",
        "patch.value), for every listener of gateways asks",
        "asks for Envoy's DLB balancer: id 0, max_retries 0, fallback_policy None.",
        "took /dev/dlb0 if there was one, else the first of /dev/dlb0 to /dev/dlb63",
        "had at most 32 workers",
        "did so for every listener of gateways: where there was more than one, the second could not be set up.",
        'refused the listener if any of this failed, as with "no available dlb hardware".',
        "lost a connection that the device did not take at once: its client hung.",
        "Envoy today",
        "rejects the configuration: could not find @type",
        "refuses too where no device can be used",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        (dlb("max_retries: 1"), ["tried again once at once"]),
        (dlb("max_retries: 5"), ["tried again 5 times at once"]),
        (dlb("fallback_policy: 1"), ["went on without any balance", 'goes on with policy="nop" in software']),
        (dlb("fallback_policy: 2"), ["went on with exact_balance", 'goes on with policy="exact" in software']),
        (dlb("id: 3"), ["took /dev/dlb3 if there was one", 'backend="3,device"']),
        ("connection_balance_config: {exact_balance: {}}", ["asks for Envoy's exact_balance", 'has policy="exact"']),
        ("", ["has no connection_balance_config", "leaves it to the kernel", 'has policy="nop"']),
        ("tcp_backlog_size: 9", ["takes over tcp_backlog_size 9.", "backlog=9"]),
        ("bind_to_port: false", ["does not listen either"]),
        ("access_log: []", ["does nothing with filter_chains, access_log"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_field_is_told(fields: str, parts: list[str]) -> None:
    told = words(bootstrap(fields))
    for part in parts:
        assert part in told


def test_warnings_are_told() -> None:
    with pytest.warns(envoy.EnvoyWarning):
        told = words(bootstrap(dlb("", OLDER_DLB)))
    assert "Note: line 9: static_resources.listeners[0].connection_balance_config" in told


def test_the_device_that_this_machine_has(machine: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "This machine has none." in words(BOOTSTRAP)
    machine.add(6)  # type: ignore[attr-defined]
    assert "On this machine that is /dev/dlb6." in words(BOOTSTRAP)
