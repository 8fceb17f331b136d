"""Configurations brought up to date: what is replaced, what stays, and what a real Envoy says of them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pydlb import envoy
from pydlb.envoy import Dlb, EnvoyConfigError
from pydlb.envoy.migrate import NOTE, migrate

from . import real
from .inputs import BOOTSTRAP, DLB, ENVOY_FILTER, OLDER_DLB, bootstrap, dlb

if TYPE_CHECKING:
    from pathlib import Path

EXACT = {"exact_balance": {}}


def said(text: str) -> str:
    """The text's comments, without their line breaks."""
    return " ".join(re.sub(r"^\s*# ?", "", line).strip() for line in text.splitlines() if line.lstrip().startswith("#"))


# Ways to write a balancer in a listener. What is in braces on one line, over several, by indentation, behind an alias.
TYPED = f'typed_config: {{"@type": {DLB}}}'
WAYS = {
    "one line": dlb(),
    "camel case": dlb().replace("extend_b", "extendB").replace("connection_balance_config", "connectionBalanceConfig"),
    "a whole line": f"connection_balance_config:\n  extend_balance: {{name: x, {TYPED}}}",
    "blocks": f"""\
connection_balance_config:
  extend_balance:
    name: x
    typed_config:
      "@type": {DLB}
      id: 3""",
    "comments": f"""\
connection_balance_config:  # here
  # before
  extend_balance:  # there
    # inner
    name: x

    typed_config:
      "@type": {DLB}  # last
  # after""",
    "braces over lines": f"""\
connection_balance_config: {{
  extend_balance: {{
    name: "x
      y", {TYPED}
  }}
}}""",
    "quoted": f"""\
"connection_balance_config":
  "extend_balance":
    "name": x
    {TYPED}""",
    "an alias": f"""\
stat_prefix: &p x
connection_balance_config:
  extend_balance:
    {TYPED}
    name: *p""",
    "an anchor": f"""\
connection_balance_config: &c
  extend_balance: &e
    name: x
    typed_config: &t
      "@type": {DLB}""",
    "a name of lines": f"""\
connection_balance_config:
  extend_balance:
    {TYPED}
    name: |
      x
      y""",
}
BEHIND = "stat_prefix: behind  # stays\ntcp_backlog_size: 7"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_only_the_balancer_is_replaced(way: str, newline: str, tmp_path: Path) -> None:
    behind = BEHIND.replace("stat_prefix: behind", "transparent: false") if way == "an alias" else BEHIND
    text = bootstrap(f"{WAYS[way]}\n{behind}").replace("\n", newline)
    done = migrate(text, None)
    before, after = yaml.safe_load(text), yaml.safe_load(done.text)
    (listener,) = before["static_resources"]["listeners"]
    name = "connectionBalanceConfig" if "connectionBalanceConfig" in listener else "connection_balance_config"
    listener[name] = {"exactBalance": {}} if way == "camel case" else EXACT
    assert after == before
    assert done.count == 1
    assert NOTE in said(done.text)
    assert f"  {BEHIND.splitlines()[1]}{newline}" in done.text
    assert newline == "\n" or "\n" not in done.text.replace("\r\n", "")
    if way == "comments":
        for comment in ("here", "before", "there", "inner", "last", "after"):
            assert f"# {comment}" in done.text
    path = tmp_path / "new.yaml"
    path.write_bytes(done.text.encode())
    assert real.validate(path) == ""


def test_what_was_replaced_is_still_to_be_read() -> None:
    done = migrate(BOOTSTRAP, None)
    assert done.text.count("\n") == BOOTSTRAP.count("\n") + 3  # two lines of words, one more of YAML
    assert "      #   extend_balance:\n" in done.text
    assert f'      #       "@type": {DLB}\n      exact_balance: {{}}\n' in done.text
    assert "  - name: listener_0  # the only one\n" in done.text
    assert "      # even load\n" in done.text


@pytest.mark.parametrize("text", [BOOTSTRAP, bootstrap(dlb("id: 3, fallback_policy: 1"))])
def test_envoy_takes_the_new_and_not_the_old(text: str, tmp_path: Path) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text(text)
    assert "could not find @type" in real.validate(path)
    path.write_text(migrate(text, None).text)
    assert real.validate(path) == ""
    path.write_text(json.dumps(yaml.safe_load(text)))
    as_json = migrate(path.read_text(), str(path))
    assert not as_json.commented
    path.write_text(as_json.text)
    assert real.validate(path) == ""


def test_the_filter_of_a_gateway(tmp_path: Path) -> None:
    """Istio merges it into a gateway's listeners, which the real Envoy then has to take."""
    done = migrate(f"# ours\n{ENVOY_FILTER}---\nkind: Service\n", None)
    manifest, service = yaml.safe_load_all(done.text)
    patch = manifest["spec"]["configPatches"][0]["patch"]
    assert patch == {"operation": "MERGE", "value": {"connection_balance_config": EXACT}}
    assert manifest["metadata"] == {"name": "ingressgateway-dlb", "namespace": "istio-system"}
    assert service == {"kind": "Service"}
    merged = yaml.safe_load(bootstrap())
    merged["static_resources"]["listeners"][0] |= patch["value"]
    path = tmp_path / "merged.yaml"
    path.write_text(yaml.safe_dump(merged))
    assert real.validate(path) == ""


def test_aliases_are_changed_where_they_lead_to(tmp_path: Path) -> None:
    listener = "{name: %s, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: *f, %s}"
    echo = '"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo'
    text = f"""\
!ignore shared:
- &f [{{filters: [{{name: echo, typed_config: {{{echo}}}}}]}}]
- &c
  extend_balance: &e {{name: x, typed_config: {{"@type": {DLB}}}}}
static_resources:
  listeners:
  - {listener % ("a", "connection_balance_config: *c")}
  - {listener % ("b", "connection_balance_config: {extend_balance: *e}")}
  - {listener % ("c", "connection_balance_config: *c")}
"""
    done = migrate(text, None)
    assert done.count == 3
    assert [one.exact_balance for one in envoy.load(done.text)] == [True] * 3
    path = tmp_path / "new.yaml"
    path.write_text(done.text)
    assert real.validate(path) == ""


@pytest.mark.parametrize("syntax", ["yaml", "json"])
def test_an_extension_by_itself(syntax: str) -> None:
    value = {"name": "x", "typed_config": {"@type": DLB}}
    text = json.dumps(value) if syntax == "json" else "# mine\n" + yaml.safe_dump(value)
    done = migrate(text, None)
    assert yaml.safe_load(done.text) == {"connection_balance_config": EXACT}
    if syntax == "yaml":
        assert done.text.startswith("# mine\n")
        assert "In the listener that had this extension, write" in said(done.text)
        assert f"#     '@type': {DLB}" in done.text


@pytest.mark.parametrize("url", [OLDER_DLB, "a/xds.type.v3.TypedStruct"])
def test_odd_types(url: str) -> None:
    fields = f"type_url: {DLB}, value: {{id: 3}}" if "Struct" in url else ""
    with pytest.warns(envoy.EnvoyWarning):
        assert isinstance(envoy.load(dlb(fields, url)).balance, Dlb)
    assert yaml.safe_load(migrate(dlb(fields, url), None).text) == {"connection_balance_config": EXACT}


@pytest.mark.parametrize("fields", ["", "connection_balance_config: {exact_balance: {}}  # as it is"])
def test_nothing_to_replace(fields: str) -> None:
    done = migrate(bootstrap(fields), None)
    assert (done.text, done.count) == (bootstrap(fields), 0)


def test_twice_is_as_good_as_once() -> None:
    once = migrate(BOOTSTRAP, None).text
    assert migrate(once, None).text == once


def test_what_is_merged_from_elsewhere() -> None:
    """Envoy itself knows no merges; Kubernetes does."""
    text = f"name: l\nmetadata: &m {{extend_balance: {{name: x, {TYPED}}}}}\nconnection_balance_config: {{<<: *m}}\n"
    assert envoy.load(migrate(text, None).text).exact_balance


def test_what_cannot_be_rewritten_is_refused() -> None:
    """An anchor in what is taken out, and somebody else who refers to it."""
    balance = f"connection_balance_config:\n  extend_balance:\n    name: &n x\n    {TYPED}"
    with pytest.raises(EnvoyConfigError, match=r"it cannot be rewritten; change it by hand .*undefined alias 'n'"):
        migrate(bootstrap(f"{balance}\nstat_prefix: *n"), None)


@pytest.mark.parametrize("broken", [ENVOY_FILTER.replace("v3alpha.Dlb", "v3alpha.Dlc"), "a: 1\n", "a: [\n"])
def test_broken_files_are_refused(broken: str) -> None:
    with pytest.raises(EnvoyConfigError):
        migrate(broken, None)


# ---- what the reader takes, Envoy takes ------------------------------------------------------------------------------

ODD: dict[str, tuple[str, bool]] = {
    "number in a string": ("tcp_backlog_size: '10'", True),
    "float": ("tcp_backlog_size: 10.0", True),
    "exponent": ("tcp_backlog_size: 1e1", True),
    "hexadecimal": ("tcp_backlog_size: 0x10", True),
    "octal": ("tcp_backlog_size: 012", True),
    "too large": ("tcp_backlog_size: 5000000000", False),
    "negative": ("tcp_backlog_size: -1", False),
    "fraction": ("tcp_backlog_size: 1.5", False),
    "space": ("tcp_backlog_size: ' 1'", False),
    "boolean": ("tcp_backlog_size: true", False),
    "off": ("bind_to_port: off", True),
    "null": ("tcp_backlog_size: ~", True),
    "no choice": ("connection_balance_config: {}", False),
    "null choice": ("connection_balance_config: {exact_balance: null}", False),
    "two names": ("connection_balance_config: {exact_balance: {}, exactBalance: {}}", False),
    "unknown field": ("foo: 1", False),
    "string": ("stat_prefix: 12", True),  # not looked at: pydlb does nothing with it, and Envoy refuses it
    "batch": ("max_connections_to_accept_per_socket_event: 0", False),
    "locality": ("connection_balance_config: {cpu_locality_balance: {}}", True),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.filterwarnings("ignore::pydlb.envoy.EnvoyWarning")
def test_we_take_what_envoy_takes(case: str, tmp_path: Path) -> None:
    fields, taken = ODD[case]
    path = tmp_path / "envoy.yaml"
    path.write_text(bootstrap(fields))
    complaint = real.validate(path)
    ours: Any = None
    try:
        envoy.load(path)
    except EnvoyConfigError as error:
        ours = error
    assert (ours is None) == taken, ours
    assert (complaint == "") == (taken and case != "string"), complaint
