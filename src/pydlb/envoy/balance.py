"""What `connection_balance_config` may say, as immutable objects."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Final, TypeAlias

from pydlb.errors import ConfigError

from . import schema

if TYPE_CHECKING:
    from .fields import Field, Message

__all__ = ["Balance", "Dlb", "ExactBalance", "FallbackPolicy", "NopBalance", "read_balance", "read_extension"]

DLB_TYPE: Final = "envoy.extensions.network.connection_balance.dlb.v3alpha.Dlb"
OLDER_TYPE: Final = "envoy.extensions.dlb.v3alpha.Dlb"
TYPED_STRUCTS: Final = {"xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"}

# Envoy's own words.
NO_CHOICE: Final = "No valid balance type for connection balance"
NOT_REGISTERED: Final = "Didn't find a registered implementation for type: '{}'"

_UINT32: Final = 2**32 - 1


class FallbackPolicy(enum.StrEnum):
    """What to build where the device cannot be set up. Its values are Envoy's names; Envoy's numbers do as well."""

    NONE = "None"
    NOP = "NopConnectionBalance"
    EXACT = "ExactConnectionBalance"

    @property
    def number(self) -> int:
        """Its number in the message."""
        return list(FallbackPolicy).index(self)

    @classmethod
    def _missing_(cls, value: object) -> FallbackPolicy | None:
        if value is None:
            return cls.NONE
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(cls):
            return list(cls)[value]
        return None


_POLICY_NUMBERS: Final = {str(policy): policy.number for policy in FallbackPolicy}


@dataclasses.dataclass(frozen=True, slots=True)
class Dlb:
    """Envoy's DLB balancer.

    Attributes:
        id: The device number N of ``/dev/dlbN`` that is preferred.
        max_retries: How often a refused hand-off is repeated at once.
        fallback_policy: What to build where no device can be set up.

    Raises:
        ConfigError: A number is out of range, or there is no such policy.
    """

    id: int = 0
    max_retries: int = 0
    fallback_policy: FallbackPolicy = FallbackPolicy.NONE

    def __post_init__(self) -> None:
        """Check what was given."""
        for name in ("id", "max_retries"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _UINT32:
                raise ConfigError(f"{name} is {value!r}: it is a whole number from 0 to {_UINT32}")
        try:
            policy = FallbackPolicy(self.fallback_policy)
        except ValueError:
            names = ", ".join(map(repr, _POLICY_NUMBERS))
            raise ConfigError(f"fallback_policy is {self.fallback_policy!r}: it is one of {names}") from None
        object.__setattr__(self, "fallback_policy", policy)


@dataclasses.dataclass(frozen=True, slots=True)
class ExactBalance:
    """Envoy's `exact_balance`: to the worker with the fewest open connections of this listener."""


@dataclasses.dataclass(frozen=True, slots=True)
class NopBalance:
    """No `connection_balance_config`: a connection stays with the worker that the kernel gave it to.

    Attributes:
        instead_of: The field of Envoy's that pydlb has nothing for; None where none was set.
    """

    instead_of: str | None = None


Balance: TypeAlias = Dlb | ExactBalance | NopBalance


def read_balance(field: Field) -> Balance:
    """A `Listener.ConnectionBalanceConfig`."""
    message = field.message("Listener.ConnectionBalanceConfig", schema.CONNECTION_BALANCE)
    chosen = message.one_of(*schema.CONNECTION_BALANCE)
    if chosen is None:
        raise field.error(f"{NO_CHOICE} (exact_balance and extend_balance are the choices)")
    name, value = chosen
    if name == "exact_balance":
        value.message("ExactBalance", ())
        return ExactBalance()
    if name == "cpu_locality_balance":
        value.warn("pydlb does not place connections by the processor that they arrived on: they are not balanced")
        return NopBalance(instead_of=name)
    return read_extension(value)


def read_extension(field: Field) -> Dlb:
    """A `core.v3.TypedExtensionConfig` with the DLB balancer in it."""
    message = field.message("TypedExtensionConfig", schema.TYPED_EXTENSION)
    if not message.string("name"):
        raise (message.get("name") or field).error("TypedExtensionConfig needs a name of at least 1 character")
    config = message.get("typed_config")
    if config is None:
        raise field.error("TypedExtensionConfig needs a typed_config")
    return read_typed_config(config)


def read_typed_config(field: Field) -> Dlb:
    """A `google.protobuf.Any` with the DLB balancer in it; chosen by its type alone, as Envoy does."""
    if not isinstance(field.node.value, dict):
        field.expected("an object")
    if not field.node.value:
        raise field.error(NOT_REGISTERED.format(""))
    if "@type" not in field.node.value:
        raise field.error("it needs an '@type', which says what it is")
    name = type_of(field)
    if name in TYPED_STRUCTS:
        return _read_struct(field, name)
    _check_type(field, name)
    return _read_dlb(field.message(name, schema.DLB, also=["@type"]))


def type_of(field: Field) -> str:
    """The name of the message in an Any."""
    message = field.message("google.protobuf.Any", _keys(field), also=["@type"])
    url = message.get("@type")
    if url is None or "/" not in url.string():
        raise (url or field).error("'@type' is a type's address, such as type.googleapis.com/" + DLB_TYPE)
    return url.string().rpartition("/")[2]


def _keys(field: Field) -> list[str]:
    return [key for key in field.node.value if key != "@type"] if isinstance(field.node.value, dict) else []


def _check_type(field: Field, name: str) -> None:
    if name == OLDER_TYPE:
        field.warn(f"{OLDER_TYPE} is its name from before it was merged into Envoy; it is {DLB_TYPE}")
    elif name != DLB_TYPE:
        assert isinstance(field.node.value, dict)
        url = field.at("@type", field.node.value["@type"].value)
        raise url.error(NOT_REGISTERED.format(name) + f"; pydlb knows {DLB_TYPE}")


def _read_struct(field: Field, name: str) -> Dlb:
    """The same without its type: control planes that do not know it send this; Envoy never took it here."""
    field.warn(f"Envoy does not take a {name} here; what is in it is read all the same")
    message = field.message(name, schema.TYPED_STRUCT, also=["@type"])
    url = message.get("type_url")
    if url is None:
        raise field.error("it needs a type_url, which says what it is")
    inner = url.string().rpartition("/")[2]
    if inner not in {DLB_TYPE, OLDER_TYPE}:
        raise url.error(NOT_REGISTERED.format(inner) + f"; pydlb knows {DLB_TYPE}")
    value = message.get("value")
    return _read_dlb(value.message(inner, schema.DLB)) if value else Dlb()


def _read_dlb(message: Message) -> Dlb:
    policy = message.get("fallback_policy")
    return Dlb(
        id=message.uint32("id"),
        max_retries=message.uint32("max_retries"),
        fallback_policy=list(FallbackPolicy)[policy.enum(_POLICY_NUMBERS) if policy else 0],
    )
