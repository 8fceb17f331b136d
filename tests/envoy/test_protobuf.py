"""The reader beside protobuf's own, on generated inputs; and the names of fields beside the messages' descriptors."""

from __future__ import annotations

import json
import warnings
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pydlb import envoy
from pydlb.envoy import Dlb, EnvoyConfigError, EnvoyWarning, ExactBalance, FallbackPolicy, schema

from .inputs import DLB

pytest.importorskip("envoy.config.listener.v3", reason="xds-protos has no wheel for this interpreter")

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

PACKAGE, _, NAME = DLB.rpartition("/")[2].rpartition(".")


def dlb_message() -> Any:
    """The contrib extension's message, which no package ships."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tests/dlb.proto", package=PACKAGE, syntax="proto3")
    message = file.message_type.add(name=NAME)
    policies = message.enum_type.add(name="FallbackPolicy")
    for policy in FallbackPolicy:
        policies.value.add(name=policy, number=policy.number)
    for number, name in ((1, "id"), (2, "max_retries")):
        message.field.add(name=name, number=number, type=kinds.TYPE_UINT32, label=kinds.LABEL_OPTIONAL)
    message.field.add(
        name="fallback_policy",
        number=3,
        type=kinds.TYPE_ENUM,
        label=kinds.LABEL_OPTIONAL,
        type_name=f".{PACKAGE}.{NAME}.FallbackPolicy",
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{NAME}"))


MESSAGE = dlb_message()


class Refused(NamedTuple):
    why: str


def by_protobuf(listener: dict[str, Any]) -> object:
    """What protobuf makes of a listener's balance."""
    message = listener_pb2.Listener()
    try:
        json_format.Parse(json.dumps(listener), message)
    except json_format.ParseError as error:
        return Refused(str(error))
    if not message.HasField("connection_balance_config"):
        return envoy.NopBalance()
    config = message.connection_balance_config
    match config.WhichOneof("balance_type"):
        case None:
            return Refused("Envoy's own rule: one has to be chosen")
        case "exact_balance":
            return ExactBalance()
    extension = config.extend_balance
    found = MESSAGE()
    if not extension.name or not extension.typed_config.Unpack(found):
        return Refused("Envoy's own rule: both have to be there")
    if found.fallback_policy > 2:
        return Refused("our own rule: an open enum's unknown number is no policy")
    return Dlb(found.id, found.max_retries, FallbackPolicy(found.fallback_policy))


def by_us(text: str) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EnvoyWarning)
            return envoy.load(text).balance
    except EnvoyConfigError as error:
        return Refused(str(error))


def agree(listener: dict[str, Any]) -> None:
    theirs, ours = by_protobuf(listener), by_us(json.dumps(listener))
    if isinstance(theirs, Refused) or isinstance(ours, Refused):
        assert isinstance(theirs, Refused) == isinstance(ours, Refused), (theirs, ours)
    else:
        assert theirs == ours


# Numbers as JSON has them, within and around what fits.
EDGES = [0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, -(2**31)]
whole = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**33))
numbers = st.one_of(
    whole,
    whole.map(str),
    whole.map(float),
    st.sampled_from(
        [1.5, "1.5", "1e3", 1e3, "2.0", "", "x", " 1", "1 ", "0x10", "-0", -0.0, "00", "1_0x", True, False, None]
    ),
    st.sampled_from([[], {}, [1], {"a": 1}]),
)
policies = st.one_of(st.sampled_from([*FallbackPolicy, *map(str, range(4)), "exact", "", None]), st.integers(0, 3))
dlb_fields = st.one_of(
    st.tuples(st.sampled_from(["id", "max_retries", "maxRetries"]), numbers),
    st.tuples(st.sampled_from(["fallback_policy", "fallbackPolicy"]), policies),
    st.tuples(st.sampled_from(["ID", "maxretries", "x", "policy"]), st.just(1)),
)
DISTINCT = {"maxRetries": "max_retries", "fallbackPolicy": "fallback_policy"}


def same_name(field: tuple[str, Any]) -> str:
    """Two names of one field are refused by us; protobuf takes either value."""
    return DISTINCT.get(field[0], field[0])


typed_configs = st.lists(dlb_fields, max_size=3, unique_by=same_name).map(lambda fields: {"@type": DLB, **dict(fields)})
extensions = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["envoy.network.connection_balance.dlb", "x", None, ""]),
        "typed_config": st.one_of(typed_configs, st.none()),
    },
)
balances = st.one_of(
    st.fixed_dictionaries({"extend_balance": extensions}),
    st.fixed_dictionaries({"extendBalance": extensions}),
    st.fixed_dictionaries(
        {},
        optional={
            "exact_balance": st.sampled_from([{}, None]),
            "extend_balance": st.one_of(extensions, st.none()),
            "other": st.just({}),
        },
    ),
    st.none(),
)
listeners = st.one_of(
    st.fixed_dictionaries({"connection_balance_config": balances}),
    st.fixed_dictionaries({"connectionBalanceConfig": balances, "name": st.just("l")}),
)


@settings(max_examples=400, deadline=None, derandomize=False, print_blob=True)
@given(listeners)
@example(
    {"connection_balance_config": {"extend_balance": {"name": "x", "typed_config": {"@type": DLB, "id": 4294967295.0}}}}
)
def test_as_protobuf(listener: dict[str, Any]) -> None:
    agree(listener)


@settings(max_examples=300, deadline=None, print_blob=True)
@given(typed_configs)
def test_the_extension_as_protobuf(config: dict[str, Any]) -> None:
    agree({"connection_balance_config": {"extend_balance": {"name": "x", "typed_config": config}}})


@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from(FallbackPolicy), st.booleans(), st.booleans()
)
def test_what_protobuf_writes_is_read(
    device: int, retries: int, policy: FallbackPolicy, snake: bool, defaults: bool
) -> None:
    """Also in YAML, as tools write it."""
    message = listener_pb2.Listener(name="l")
    message.connection_balance_config.extend_balance.name = "x"
    written = MESSAGE(id=device, max_retries=retries, fallback_policy=policy.number)
    message.connection_balance_config.extend_balance.typed_config.Pack(written)
    value = json_format.MessageToDict(
        message, preserving_proto_field_name=snake, always_print_fields_with_no_presence=defaults
    )
    expected = Dlb(device, retries, policy)
    assert by_us(json.dumps(value)) == expected
    value = json.loads(json.dumps(value))  # of plain dictionaries
    assert by_us(yaml.safe_dump(value)) == expected
    assert by_us(yaml.safe_dump(value, default_flow_style=True)) == expected


def test_the_wire_form_is_that_of_the_unit_tests() -> None:
    assert MESSAGE(id=10, max_retries=12, fallback_policy=2).SerializeToString().hex() == "080a100c1802"


@pytest.mark.parametrize(
    ("message", "known"),
    [
        (listener_pb2.Listener, schema.LISTENER),
        (listener_pb2.AdditionalAddress, schema.ADDITIONAL_ADDRESS),
        (listener_pb2.Listener.ConnectionBalanceConfig, schema.CONNECTION_BALANCE),
        (address_pb2.Address, schema.ADDRESS),
        (address_pb2.SocketAddress, schema.SOCKET_ADDRESS),
        (address_pb2.Pipe, schema.PIPE),
        (address_pb2.EnvoyInternalAddress, schema.INTERNAL_ADDRESS),
        (bootstrap_pb2.Bootstrap, schema.BOOTSTRAP),
        (bootstrap_pb2.Bootstrap.StaticResources, schema.STATIC_RESOURCES),
        (discovery_pb2.DiscoveryResponse, schema.DISCOVERY_RESPONSE),
    ],
    ids=lambda value: getattr(getattr(value, "DESCRIPTOR", None), "name", ""),
)
def test_all_fields_are_known(message: Any, known: tuple[str, ...]) -> None:
    fields = [field.name for field in message.DESCRIPTOR.fields]
    assert set(fields) <= set(known)
    assert len(set(known)) == len(known)
