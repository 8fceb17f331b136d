"""What a document is, and the listeners in it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from . import schema
from .balance import DLB_TYPE, OLDER_TYPE, TYPED_STRUCTS, read_balance, read_extension, read_typed_config, type_of
from .fields import Field
from .listener import Listener, Origin, read_listener

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .balance import Balance
    from .fields import Message
    from .nodes import Document

__all__ = ["listeners_in"]

_LISTENER_TYPE: Final = "envoy.config.listener.v3.Listener"
_LISTS: Final = {"List", "EnvoyFilterList"}
_KUBERNETES: Final = ("api_version", "kind", "metadata", "spec", "status")
_OPERATIONS: Final = {
    name: number
    for number, name in enumerate(
        "INVALID MERGE ADD REMOVE INSERT_BEFORE INSERT_AFTER INSERT_FIRST REPLACE".split()  # noqa: SIM905
    )
}
# Fields by which a bootstrap is known: nothing else has them.
_BOOTSTRAP_ONLY: Final = {"static_resources", "dynamic_resources", "admin", "cluster_manager", "layered_runtime"}


def listeners_in(document: Document) -> Iterator[Listener]:
    """The listeners of a document.

    Raises:
        EnvoyConfigError: It is nothing that has listeners, or something in it is wrong.
    """
    root = Field(document.root, "", document)
    if not isinstance(document.root.value, dict):
        root.expected("a listener, a bootstrap or an EnvoyFilter")
    keys = {_snake(key) for key in document.root.value}
    if "kind" in keys or "api_version" in keys:
        yield from _in_manifest(root)
    elif {"API Version", "Kind"} & set(document.root.value):
        raise root.error("this is what kubectl describe prints, for people: take what kubectl get -o yaml gives")
    elif "@type" in keys:
        yield _in_any(root)
    elif keys & _BOOTSTRAP_ONLY:
        yield from _in_bootstrap(root)
    elif "resources" in keys:
        yield from _in_response(root)
    elif "typed_config" in keys:
        yield _only(root, "typed extension config", read_extension(root))
    elif keys & set(schema.CONNECTION_BALANCE):
        yield _only(root, "connection_balance_config", read_balance(root))
    elif keys & set(schema.LISTENER):
        yield read_listener(root, "listener", whole=False)
    else:
        raise root.error(
            "this is no listener, no bootstrap, no EnvoyFilter and no typed extension config: "
            f"it has {', '.join(map(repr, document.root.value)) or 'nothing in it'}"
        )


def _snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key) if key.isalnum() else key


def _only(field: Field, kind: str, balance: Balance) -> Listener:
    """What stands for a listener, where only its balance is given."""
    origin = Origin(kind, field.document.source, field.node.line, field.path)
    return Listener(name="", balance=balance, addresses=(), origin=origin)


def _in_any(field: Field) -> Listener:
    name = type_of(field)
    if name == _LISTENER_TYPE:
        return read_listener(field, "listener", whole=False, also=("@type",))
    if name in {DLB_TYPE, OLDER_TYPE} | TYPED_STRUCTS:
        return _only(field, "typed config", read_typed_config(field))
    raise field.error(f"a {name} has no listener in it")


# ---- Envoy's own files -----------------------------------------------------------------------------------------------


def _in_bootstrap(field: Field) -> Iterator[Listener]:
    static = field.message("Bootstrap", schema.BOOTSTRAP).get("static_resources")
    if static is None:
        return
    listeners = static.message("Bootstrap.StaticResources", schema.STATIC_RESOURCES).get("listeners")
    for item in listeners.items() if listeners else []:
        yield read_listener(item, "bootstrap", whole=True)


def _in_response(field: Field) -> Iterator[Listener]:
    """A file that Envoy watches for listeners."""
    resources = field.message("DiscoveryResponse", schema.DISCOVERY_RESPONSE).get("resources")
    for item in resources.items() if resources else []:
        if type_of(item) == _LISTENER_TYPE:
            yield read_listener(item, "discovery response", whole=True, also=("@type",))


# ---- Kubernetes' -----------------------------------------------------------------------------------------------------


def _in_manifest(field: Field) -> Iterator[Listener]:
    assert isinstance(field.node.value, dict)
    fields = {_snake(key): field.at(key, entry.value) for key, entry in field.node.value.items()}
    kind = fields["kind"].string() if "kind" in fields else ""
    if kind in _LISTS:
        for item in fields["items"].items() if "items" in fields else []:
            if isinstance(item.node.value, dict):
                yield from _in_manifest(item)
    elif kind == "EnvoyFilter":
        yield from _in_envoy_filter(field)
    elif not kind:
        raise field.error("a manifest needs a kind, such as EnvoyFilter")


def _in_envoy_filter(field: Field) -> Iterator[Listener]:
    message = field.message("EnvoyFilter", _KUBERNETES)
    version = message.get("api_version")
    if version is not None and not version.string().startswith("networking.istio.io/"):
        raise version.error("an EnvoyFilter's apiVersion is networking.istio.io/v1alpha3")
    spec = message.get("spec")
    patches = spec.message("EnvoyFilter.spec", schema.ENVOY_FILTER).get("config_patches") if spec else None
    for item in patches.items() if patches else []:
        yield from _in_patch(item, _name_of(message))


def _name_of(message: Message) -> str:
    metadata = message.get("metadata")
    if metadata is None or not isinstance(metadata.node.value, dict):
        return ""
    names = {key: entry.value.value for key, entry in metadata.node.value.items()}
    return "/".join(str(names[key]) for key in ("namespace", "name") if isinstance(names.get(key), str))


def _in_patch(field: Field, name: str) -> Iterator[Listener]:
    message = field.message("EnvoyFilter.spec.configPatches", schema.CONFIG_PATCH)
    if message.string("apply_to") != "LISTENER":
        return
    patch = message.get("patch")
    if patch is None:
        raise field.error("a patch of a LISTENER needs a patch")
    change = patch.message("EnvoyFilter.spec.configPatches.patch", schema.PATCH)
    operation, value = change.get("operation"), change.get("value")
    verb = list(_OPERATIONS)[operation.enum(_OPERATIONS)] if operation else "INVALID"
    if verb == "REMOVE":
        return
    if verb not in {"MERGE", "ADD"}:
        raise (operation or patch).error(f"Istio does not {verb} listeners: the operation is MERGE, ADD or REMOVE")
    if value is None:
        raise patch.error(f"{verb} needs a value, which is a listener or a part of one")
    listener = read_listener(value, "EnvoyFilter", whole=False)
    match = message.get("match")
    words = "new" if verb == "ADD" else _match_in_words(match)
    origin = dataclasses.replace(listener.origin, match=words)
    yield dataclasses.replace(listener, name=listener.name or name, origin=origin)


def _match_in_words(match: Field | None) -> str:
    """Which listeners a patch is merged into."""
    facts = {} if match is None else _plain(match)
    context = {
        "GATEWAY": "of gateways",
        "SIDECAR_INBOUND": "for what comes to sidecars",
        "SIDECAR_OUTBOUND": "for what leaves sidecars",
    }.get(str(facts.get("context", "ANY")), "of all proxies")
    listener = facts.get("listener")
    which = [f"{_words(key)} {value}" for key, value in listener.items()] if isinstance(listener, dict) else []
    return f"the listeners {context} with {' and '.join(which)}" if which else f"every listener {context}"


def _plain(field: Field) -> dict[str, object]:
    if not isinstance(field.node.value, dict):
        field.expected("an object")
    found: dict[str, object] = {}
    for key, entry in field.node.value.items():
        value = entry.value.value
        found[_snake(key)] = _plain(field.at(key, entry.value)) if isinstance(value, dict) else value
    return found


def _words(key: str) -> str:
    return key.replace("_", " ")
