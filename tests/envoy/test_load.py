"""What load understands, and what it gives."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import pydlb
from pydlb import envoy
from pydlb.envoy import Address, Dlb, EnvoyWarning, ExactBalance, FallbackPolicy, NopBalance

from .inputs import BOOTSTRAP, DLB, ENVOY_FILTER, OLDER_DLB, bootstrap, dlb

FULL = Dlb(10, 12, FallbackPolicy.EXACT)


def as_json(text: str) -> str:
    return json.dumps(yaml.safe_load(text), indent=2)


def extension(**fields: Any) -> dict[str, Any]:
    return {"name": "envoy.network.connection_balance.dlb", "typed_config": {"@type": DLB, **fields}}


# ---- Envoy's own unit tests ------------------------------------------------------------------------------------------


def test_defaults() -> None:
    config = envoy.load(ENVOY_FILTER)
    assert config.balance == Dlb() == Dlb(0, 0, FallbackPolicy.NONE)
    assert (config.id, config.max_retries, config.fallback_policy) == (0, 0, "None")
    assert not config.exact_balance


@pytest.mark.parametrize("policy", ["ExactConnectionBalance", 2, "2"], ids=repr)
def test_all_fields(policy: str | int) -> None:
    config = envoy.load(json.dumps(extension(id=10, max_retries=12, fallback_policy=policy)))
    assert config.balance == FULL
    assert (config.id, config.max_retries, config.fallback_policy) == (10, 12, "ExactConnectionBalance")


@pytest.mark.parametrize(
    ("written", "policy"),
    [("None", FallbackPolicy.NONE), ("NopConnectionBalance", FallbackPolicy.NOP), ("1", FallbackPolicy.NOP)],
)
def test_policies_by_name_and_number(written: str, policy: FallbackPolicy) -> None:
    assert envoy.load(dlb(f"fallback_policy: {written}")).fallback_policy is policy


# ---- forms -----------------------------------------------------------------------------------------------------------

LISTENER = dlb("id: 10, max_retries: 12, fallback_policy: ExactConnectionBalance")
VALUE = yaml.safe_load(LISTENER)
MANIFEST = yaml.safe_load(ENVOY_FILTER)
MANIFEST["spec"]["configPatches"][0]["patch"]["value"] = VALUE
WHOLE = {"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}, **VALUE}
RESOURCE = {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **WHOLE}

FORMS: dict[str, Any] = {
    "listener": VALUE,
    "whole listener": WHOLE,
    "listener with its type": RESOURCE,
    "bootstrap": {"admin": None, "static_resources": {"listeners": [WHOLE]}},
    "discovery response": {"version_info": "1", "resources": [RESOURCE]},
    "EnvoyFilter": MANIFEST,
    "List": {"apiVersion": "v1", "kind": "List", "items": [{"kind": "Secret", "data": {}}, MANIFEST]},
    "EnvoyFilterList": {"kind": "EnvoyFilterList", "items": [MANIFEST]},
    "connection_balance_config": VALUE["connection_balance_config"],
    "typed extension config": VALUE["connection_balance_config"]["extend_balance"],
    "typed config": VALUE["connection_balance_config"]["extend_balance"]["typed_config"],
}


def camel(value: Any) -> Any:
    """The same with the other names of all fields."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    words = {key: key.split("_") for key in value}
    return {first + "".join(map(str.capitalize, more)): camel(value[key]) for key, (first, *more) in words.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("names", ["snake", "camel"])
@pytest.mark.parametrize("syntax", ["yaml", "flow", "json"])
def test_forms(form: str, names: str, syntax: str) -> None:
    value = FORMS[form] if names == "snake" else camel(FORMS[form])
    text = json.dumps(value) if syntax == "json" else yaml.safe_dump(value, default_flow_style=syntax == "flow")
    assert envoy.load(text).balance == FULL


def test_paths_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text("\ufeff" + BOOTSTRAP, encoding="utf-8")
    for source in (path, str(path)):
        config = envoy.load(source)
        assert config.source == str(path)
        assert config["listener_0"].origin == envoy.Origin("bootstrap", str(path), 3, "static_resources.listeners[0]")
    assert envoy.load("exact_balance: {}").balance == ExactBalance()
    with pytest.raises(FileNotFoundError):
        envoy.load(tmp_path / "none.yaml")


def test_the_module_needs_no_import_of_its_own() -> None:
    program = "import pydlb; print(pydlb.envoy.load('exact_balance: {}').exact_balance, 'envoy' in dir(pydlb))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "True True\n"


def test_several_documents() -> None:
    """Manifests of other kinds, empty documents and other patches stand beside."""
    other = "apiVersion: v1\nkind: Service\nspec: {ports: [{port: 80}]}\n"
    exact = ENVOY_FILTER.replace("ingressgateway-dlb", "second").partition("          extend_balance")[0]
    exact = exact.replace("  - applyTo: LISTENER", "  - applyTo: HTTP_FILTER\n    patch: {x: 1}\n  - applyTo: LISTENER")
    config = envoy.load("---\n".join([other, ENVOY_FILTER, "", "# nothing\n", exact + "          exact_balance: {}\n"]))
    assert [listener.balance for listener in config] == [Dlb(), ExactBalance()]
    assert [listener.name for listener in config] == ["istio-system/ingressgateway-dlb", "istio-system/second"]
    assert config[0].origin.match == "every listener of gateways"
    assert config[:1] == config.listeners[:1]
    with pytest.raises(pydlb.ConfigError, match="2 listeners are configured: say which one, of listener 'istio-system"):
        _ = config.id
    with pytest.raises(KeyError, match="no listener is named 'third'"):
        config["third"]


def test_patches_say_what_they_match() -> None:
    text = ENVOY_FILTER.replace("context: GATEWAY", "context: SIDECAR_INBOUND\n      listener: {portNumber: 8080}")
    assert envoy.load(text)[0].origin.match == "the listeners for what comes to sidecars with port number 8080"
    added = ENVOY_FILTER.replace("MERGE", "ADD")
    assert envoy.load(added)[0].origin.match == "new"
    removed = ENVOY_FILTER.replace("MERGE", "REMOVE")
    assert len(envoy.load(f"{removed}---\n{ENVOY_FILTER}")) == 1


def test_what_is_carried() -> None:
    fields = """\
additional_addresses:
- address: {pipe: {path: "@name", mode: 0600}}
- address: {socket_address: {address: "::", port_value: "8443", ipv4_compat: true}}
tcp_backlog_size: 0x40
maxConnectionsToAcceptPerSocketEvent: 1e0
enable_reuse_port: on
bind_to_port: null
access_log: []
"""
    (listener,) = envoy.load(bootstrap(fields))
    assert listener.addresses == (
        Address("127.0.0.1", 0),
        Address(path="@name", mode=0o600),
        Address("::", 8443, both_families=True),
    )
    assert [str(address) for address in listener.addresses] == ["127.0.0.1:0", "@name", "[::]:8443"]
    assert (listener.backlog, listener.batch, listener.reuse_port, listener.bind_to_port) == (64, 1, True, True)
    assert listener.not_carried == ("filter_chains", "access_log")
    assert listener.balance == NopBalance()


def test_null_is_unset() -> None:
    assert envoy.load(dlb("id: null, max_retries: ~, fallback_policy: ")).balance == Dlb()
    assert envoy.load(bootstrap("connection_balance_config: null")).balance == NopBalance()
    assert envoy.load(bootstrap("connection_balance_config: {exact_balance: {}, extend_balance: ~}")).exact_balance


def test_the_name_is_only_decoration() -> None:
    assert envoy.load(dlb().replace("envoy.network.connection_balance.dlb,", "anything,")).balance == Dlb()


def test_anchors_aliases_and_merges() -> None:
    text = f"""\
!ignore shared: &shared
  extend_balance: &dlb
    name: dlb
    typed_config: {{"@type": {DLB}, id: 7}}
static_resources:
  listeners:
  - {{name: a, address: &here {{pipe: {{path: /a}}}}, connection_balance_config: *shared}}
  - {{name: b, address: *here, connection_balance_config: {{extend_balance: *dlb}}}}
  - {{name: c, address: *here, connection_balance_config: {{<<: *shared}}}}
"""
    assert [listener.id for listener in envoy.load(text)] == [7, 7, 7]


def test_configurations_do_not_change() -> None:
    config = envoy.load(ENVOY_FILTER)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.listeners = ()  # type: ignore[misc]
    for thing, name in [(config[0], "name"), (config.balance, "id"), (config[0].origin, "line")]:
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(thing, name, 1)
    assert config == envoy.load(ENVOY_FILTER)
    assert hash(config[0]) == hash(envoy.load(ENVOY_FILTER)[0])


@pytest.mark.parametrize("arguments", [{"id": -1}, {"id": 2**32}, {"max_retries": True}, {"fallback_policy": "Exact"}])
def test_balances_are_checked_where_they_are_made(arguments: dict[str, Any]) -> None:
    with pytest.raises(pydlb.ConfigError, match=next(iter(arguments))):
        Dlb(**arguments)
    assert Dlb(fallback_policy=2).fallback_policy is FallbackPolicy.EXACT  # type: ignore[arg-type]


# ---- what is understood with a warning -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (dlb("id: 3", OLDER_DLB), r"typed_config: envoy.extensions.dlb.v3alpha.Dlb is its name from before"),
        (dlb(f"type_url: {DLB}, value: {{id: 3}}", "a/xds.type.v3.TypedStruct"), "does not take a xds.type.v3.Typed"),
        (dlb("id: 3, fallback_policy: NONE"), "fallback_policy: 'NONE' is written 'None'"),
    ],
)
def test_warnings_of_the_extension(text: str, warning: str) -> None:
    with pytest.warns(EnvoyWarning, match=warning):
        config = envoy.load(f"name: here\n{text}")
    assert config.balance == Dlb(3)
    assert config.warnings[0].startswith("line 2: connection_balance_config.extend_balance.typed_config")


def test_warnings_of_listeners() -> None:
    lone = BOOTSTRAP.replace("  - name: listener_0", "    name: listener_0")
    with pytest.warns(EnvoyWarning, match=r"line 3: static_resources.listeners: it is an object, and should be a list"):
        assert envoy.load(lone).balance == Dlb()
    with pytest.warns(EnvoyWarning, match="does not place connections by the processor"):
        config = envoy.load("connection_balance_config: {cpu_locality_balance: {}}")
    assert config.balance == NopBalance(instead_of="cpu_locality_balance")
    udp = "{socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}"
    with pytest.warns(EnvoyWarning, match="a UDP listener has no connections"):
        envoy.load(bootstrap("connection_balance_config: {exact_balance: {}}", udp))


def test_warnings_point_at_the_caller() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        envoy.load(dlb("", OLDER_DLB))
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]


# ---- without PyYAML --------------------------------------------------------------------------------------------------


def test_json_needs_no_pyyaml(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError('no PyYAML here')")
    path = tmp_path / "envoy.json"
    path.write_text(as_json(BOOTSTRAP))
    program = f"""
import pydlb.envoy
print(pydlb.envoy.load({str(path)!r}).balance)
try:
    pydlb.envoy.load("a: 1")
except pydlb.envoy.EnvoyConfigError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    balance, error = result.stdout.splitlines()
    assert balance == repr(Dlb())
    assert error == "YAML needs PyYAML: pip install 'pydlb[envoy]'; JSON does not"
