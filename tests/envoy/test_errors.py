"""What is wrong is refused, with the field, its line, and Envoy's own words where it has some."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

import pytest

from pydlb import envoy
from pydlb.envoy import EnvoyConfigError

from .inputs import BOOTSTRAP, DESCRIBED, DLB, ENVOY_FILTER, bootstrap, dlb

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "envoy.extensions.network.connection_balance.dlb.v3alpha"
BALANCE = "connection_balance_config"
IN_FILTER = f"spec.configPatches[0].patch.value.{BALANCE}"
IN_BOOTSTRAP = f"static_resources.listeners[0].{BALANCE}"
TYPED = f"{IN_FILTER}.extend_balance.typed_config"

# A part of the user's EnvoyFilter, what it is replaced by, the line, the path, and the words.
BROKEN_FILTER = {
    "misspelt field": ("v3alpha.Dlb", "v3alpha.Dlb\n              max_retrys: 3", 22, f"{TYPED}.max_retrys", "no such"),
    "other type": (
        "v3alpha.Dlb",
        "v3alpha.Dlc",
        21,
        f"{TYPED}.@type",
        f"Didn't find a registered implementation for type: '{PACKAGE}.Dlc'; pydlb knows {PACKAGE}.Dlb",
    ),
    "other package": (
        PACKAGE,
        "envoy.extensions.other.v3",
        21,
        f"{TYPED}.@type",
        "Didn't find a registered implementation for type: 'envoy.extensions.other.v3.Dlb'",
    ),
    "no type": (f'"@type": {DLB}', "id: 1", 21, TYPED, "it needs an '@type'"),
    "empty any": (
        f'typed_config:\n              "@type": {DLB}',
        "typed_config: {}",
        20,
        TYPED,
        "Didn't find a registered implementation for type: ''",
    ),
    "type is no address": (f'"@type": {DLB}', '"@type": Dlb', 21, f"{TYPED}.@type", "is a type's address"),
    "no extension": (
        f'\n            typed_config:\n              "@type": {DLB}',
        "",
        19,
        f"{IN_FILTER}.extend_balance",
        "needs a typed_config",
    ),
    "no name": (
        "name: envoy.network.connection_balance.dlb",
        "name: ''",
        19,
        f"{IN_FILTER}.extend_balance.name",
        "at least 1 character",
    ),
    "misspelt choice": ("extend_balance", "extended_balance", 18, f"{IN_FILTER}.extended_balance", "no such field"),
    "negative": ("v3alpha.Dlb", "v3alpha.Dlb\n              id: -1", 22, f"{TYPED}.id", "out of range"),
    "too large": ("v3alpha.Dlb", "v3alpha.Dlb\n              id: 4294967296", 22, f"{TYPED}.id", "out of range"),
    "fraction": ("v3alpha.Dlb", "v3alpha.Dlb\n              id: 1.5", 22, f"{TYPED}.id", "1.5 is no whole number"),
    "boolean": (
        "v3alpha.Dlb",
        "v3alpha.Dlb\n              id: yes",
        22,
        f"{TYPED}.id",
        "a boolean, and should be a whole",
    ),
    "no number": ("v3alpha.Dlb", "v3alpha.Dlb\n              id: ' 1'", 22, f"{TYPED}.id", "' 1' is no number"),
    "policy": (
        "v3alpha.Dlb",
        "v3alpha.Dlb\n              fallback_policy: Exact",
        22,
        f"{TYPED}.fallback_policy",
        "there is no 'Exact': it is one of None, NopConnectionBalance, ExactConnectionBalance",
    ),
    "policy's number": (
        "v3alpha.Dlb",
        "v3alpha.Dlb\n              fallback_policy: 3",
        22,
        f"{TYPED}.fallback_policy",
        "no value has the number 3: 0 is None, 1 is NopConnectionBalance, 2 is ExactConnectionBalance",
    ),
    "twice": (
        "v3alpha.Dlb",
        "v3alpha.Dlb\n              id: 1\n              id: 1",
        23,
        f"{TYPED}.id",
        "stands here twice",
    ),
    "twice by two names": (
        "v3alpha.Dlb",
        "v3alpha.Dlb\n              max_retries: 1\n              maxRetries: 1",
        23,
        f"{TYPED}.maxRetries",
        "'max_retries' has already been set",
    ),
    "both choices": (
        "          extend_balance",
        "          exact_balance: {}\n          extend_balance",
        20,
        f"{IN_FILTER}.extend_balance",
        "'extend_balance' has already been set (either directly or as part of a oneof)",
    ),
    "operation": (
        "MERGE",
        "INSERT_FIRST",
        15,
        "spec.configPatches[0].patch.operation",
        "Istio does not INSERT_FIRST listeners",
    ),
    "apiVersion": ("networking.istio.io", "networking.k8s.io", 1, "apiVersion", "networking.istio.io/v1alpha3"),
    "field of the filter": ("configPatches", "patches", 10, "spec.patches", "no such field: 'patches'"),
    "tab": ("  name: ingress", "\tname: ingress", 4, "", "bad YAML"),
}


@pytest.mark.parametrize("case", BROKEN_FILTER)
def test_broken_envoy_filter(case: str, tmp_path: Path) -> None:
    old, new, line, path, words = BROKEN_FILTER[case]
    assert old in ENVOY_FILTER
    file = tmp_path / "filter.yaml"
    file.write_text(ENVOY_FILTER.replace(old, new, 1))
    with pytest.raises(EnvoyConfigError, match=re.escape(words)) as caught:
        envoy.load(file)
    error = caught.value
    assert (error.line, error.path) == (line, path), str(error)
    assert str(error).startswith(f"{file}:{line}: {path}")
    assert error.source == str(file)


# Fields of a listener, and what Envoy says of them.
BROKEN_BOOTSTRAP = {
    "empty": (f"{BALANCE}: {{}}", 9, IN_BOOTSTRAP, "No valid balance type for connection balance"),
    "null choice": (
        f"{BALANCE}: {{exact_balance: null}}",
        9,
        IN_BOOTSTRAP,
        "No valid balance type for connection balance",
    ),
    "list": (f"{BALANCE}: [1]", 9, IN_BOOTSTRAP, "it is a list, and should be an object"),
    "exact with more": (
        f"{BALANCE}: {{exact_balance: {{x: 1}}}}",
        9,
        f"{IN_BOOTSTRAP}.exact_balance.x",
        "no such field: 'x'",
    ),
    "unknown field": ("foo: 1", 9, "static_resources.listeners[0].foo", "no such field: 'foo' in Listener"),
    "string from a number": (
        "stat_prefix: x\nname: 12",
        10,
        "static_resources.listeners[0].name",
        "it stands here twice",
    ),
    "batch": (
        "max_connections_to_accept_per_socket_event: 0",
        9,
        "static_resources.listeners[0].max_connections_to_accept_per_socket_event",
        "value must be greater than 0",
    ),
}


@pytest.mark.parametrize("case", BROKEN_BOOTSTRAP)
def test_broken_listeners(case: str) -> None:
    fields, line, path, words = BROKEN_BOOTSTRAP[case]
    with pytest.raises(EnvoyConfigError, match=re.escape(words)) as caught:
        envoy.load(bootstrap(fields))
    assert (caught.value.line, caught.value.path) == (line, path)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("{socket_address: {address: localhost, port_value: 1}}", "malformed IP address: localhost"),
        ("{socket_address: {address: 127.0.0.1, port_value: 65536}}", "65536 is out of range: it goes from 0 to 65535"),
        ("{socket_address: {address: 127.0.0.1}}", 'field: "port_specifier", reason: is required'),
        ("{socket_address: {address: 127.0.0.1, named_port: http}}", "a listener's port is a number"),
        ("{socket_address: {port_value: 1}}", "needs an address"),
        ("{pipe: {}}", "needs a path"),
        ("{}", 'field: "address", reason: is required'),
        ("null", "error adding listener named 'echo': address is necessary"),
    ],
)
def test_broken_addresses(address: str, words: str) -> None:
    with pytest.raises(EnvoyConfigError, match=re.escape(words)):
        envoy.load(bootstrap(address=address))


def test_balance_is_for_tcp() -> None:
    exact = f"{BALANCE}: {{exact_balance: {{}}}}"
    with pytest.raises(EnvoyConfigError, match="'echo': has unsupported tcp listener feature"):
        envoy.load(bootstrap(f"{exact}\ninternal_listener: {{}}", "null"))
    udp = "{socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}"
    with pytest.raises(EnvoyConfigError, match=re.escape("is configured for QUIC listener which doesn't work")):
        envoy.load(bootstrap(f"{exact}\nudp_listener_config: {{quic_options: {{}}}}", udp))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (DESCRIBED, 1, "this is what kubectl describe prints, for people: take what kubectl get -o yaml gives"),
        ("a: 1\n", 1, "this is no listener, no bootstrap, no EnvoyFilter and no typed extension config: it has 'a'"),
        ("- a\n- b\n", 1, "it is a list, and should be a listener, a bootstrap or an EnvoyFilter"),
        ("{}", 1, "it has nothing in it"),
        ("\n\n", None, "there is no listener in it"),
        ("kind: Service\n", None, "there is no listener in it, and no EnvoyFilter that patches one"),
        ("apiVersion: v1\nmetadata: {}\n", 1, "a manifest needs a kind"),
        ("dynamic_resources: {lds_config: {}}\n", None, "they come from dynamic_resources"),
        ("static_resources: {}\nfoo: 1\n", 2, "no such field: 'foo' in Bootstrap"),
        ('{"@type": "a/envoy.config.cluster.v3.Cluster"}', 1, "a envoy.config.cluster.v3.Cluster has no listener"),
        ("a: [1\nb: 2\n", 2, "bad YAML"),
        ("a: *b\n", 1, "bad YAML: found undefined alias 'b'"),
        ("name: &a {x: *a}\n", 1, "contains itself"),
        ("? [1]\n: 2\n", 1, "a name is a list or a mapping"),
        ("name: \x01\n", 1, "bad YAML"),
        ('{"name": "a",\n "stat_prefix": }', 2, "bad JSON: expecting value"),
        ('{"name": "a"\n "b": 1}', 2, "bad JSON: a comma or '}' should stand here"),
        ('{"name": NaN}', 1, "bad JSON: NaN is no JSON"),
        ('{"name": "a"} x', 1, "bad JSON: there is something after its end"),
        ('{"name": 01}', 1, "bad JSON: a comma"),
        ('{"exact_balance": {},\n "exact_balance": {}}', 2, "it stands here twice"),
    ],
)
def test_what_is_none(text: str, line: int | None, words: str) -> None:
    with pytest.raises(EnvoyConfigError, match=re.escape(words)) as caught:
        envoy.load(text)
    assert caught.value.line == line


def test_nothing_is_too_deep_or_too_much() -> None:
    for text in ('{"name": ' * 5000, "[" * 5000, '{"a":' * 200 + "1" + "}" * 200, "a: " + "[" * 3000 + "]" * 3000):
        with pytest.raises(EnvoyConfigError):
            envoy.load(text)
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    with pytest.raises(EnvoyConfigError, match="its aliases repeat more than"):
        envoy.load(laughs)
    for number in ("9" * 5000, "1e999999999999999999999", "0x" + "f" * 5000, "1." + "0" * 5000):
        with pytest.raises(EnvoyConfigError):
            envoy.load(dlb(f"id: {number}"))
        with pytest.raises(EnvoyConfigError):
            envoy.load(json.dumps({"extend_balance": {"name": "a", "typed_config": {"@type": DLB, "id": number}}}))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: a\nfoo: \xff\n")
    with pytest.raises(EnvoyConfigError, match=re.escape(f"{path}:2: it is no text in UTF-8")):
        envoy.load(path)
    with pytest.raises(IsADirectoryError):
        envoy.load(tmp_path)


@pytest.mark.parametrize("text", [ENVOY_FILTER, BOOTSTRAP])
def test_cut_off_anywhere(text: str) -> None:
    """A file of which the end is missing is read, or refused; nothing else comes out."""
    read = 0
    for end in range(1, len(text), 7):
        with contextlib.suppress(EnvoyConfigError):
            envoy.load(text[:end] + "\n")
            read += 1
    assert read < len(text) / 14
