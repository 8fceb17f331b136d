"""A listener: where it listens, and how its connections are balanced."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import TYPE_CHECKING, Any, Final, Literal

from . import schema
from .balance import Dlb, ExactBalance, NopBalance, read_balance

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydlb.adapters.streams import ClientConnected
    from pydlb.balancer import Balancer
    from pydlb.server import Server
    from pydlb.workers import Connection

    from .balance import Balance, FallbackPolicy
    from .fields import Field, Message

__all__ = ["Address", "Listener", "Origin", "read_listener"]

Transport = Literal["tcp", "udp", "internal"]

# What pydlb takes over beside the balance; all other fields are for Envoy's own work on a connection.
CARRIED: Final = {
    "name",
    "address",
    "additional_addresses",
    "connection_balance_config",
    "tcp_backlog_size",
    "max_connections_to_accept_per_socket_event",
    "enable_reuse_port",
    "reuse_port",
    "bind_to_port",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where a listener listens.

    Attributes:
        host: An IP address; empty for the path of a UNIX socket.
        port: The port; 0 for any that is free.
        path: A UNIX socket's path; one that begins with ``@`` is in the abstract namespace. None for IP addresses.
        mode: The mode of a path; None for what the process's umask makes of it.
        both_families: An IPv6 address that takes IPv4 as well: Envoy's `ipv4_compat`.
        transport: ``"tcp"``, ``"udp"``, or ``"internal"`` for Envoy's listeners without sockets.
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    mode: int | None = None
    both_families: bool = False
    transport: Transport = "tcp"

    def __str__(self) -> str:
        """As Envoy's statistics have it."""
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """What a listener was read from.

    Attributes:
        kind: ``"listener"``, ``"bootstrap"``, ``"discovery response"``, ``"EnvoyFilter"``, or a part of a listener.
        source: The file's name; None for text.
        line: The line that it begins on.
        path: The way to it in the document.
        match: Which listeners a patch is for, in words; None where it is no patch.
    """

    kind: str
    source: str | None
    line: int
    path: str
    match: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One of Envoy's listeners, or the part of one that a patch changes.

    Attributes:
        name: Its name; may be empty.
        balance: A :class:`Dlb`, :class:`ExactBalance` or :class:`NopBalance`.
        addresses: Where it listens; none in a patch.
        backlog: `tcp_backlog_size`; None where it is not set.
        batch: `max_connections_to_accept_per_socket_event`; None where it is not set.
        reuse_port: `enable_reuse_port`; None where it is not set.
        bind_to_port: Whether it listens at all.
        not_carried: Fields that are set and that pydlb does nothing with.
        origin: Where it was read.
    """

    name: str
    balance: Balance
    addresses: tuple[Address, ...]
    backlog: int | None = None
    batch: int | None = None
    reuse_port: bool | None = None
    bind_to_port: bool = True
    not_carried: tuple[str, ...] = ()
    origin: Origin

    @property
    def id(self) -> int | None:
        """The DLB balancer's preferred device; None if it has another balance."""
        return self.balance.id if isinstance(self.balance, Dlb) else None

    @property
    def max_retries(self) -> int | None:
        """The DLB balancer's retries; None if it has another balance."""
        return self.balance.max_retries if isinstance(self.balance, Dlb) else None

    @property
    def fallback_policy(self) -> FallbackPolicy | None:
        """The DLB balancer's fallback policy; None if it has another balance."""
        return self.balance.fallback_policy if isinstance(self.balance, Dlb) else None

    @property
    def exact_balance(self) -> bool:
        """Whether it has `exact_balance`."""
        return isinstance(self.balance, ExactBalance)

    def balancer_options(self, *, parity: bool = False) -> dict[str, Any]:
        """What the balance comes to, as arguments of :class:`pydlb.Balancer`.

        Args:
            parity: Choose as Envoy did where pydlb knows better: see `docs/migrating-from-envoy.md`.

        Returns:
            `policy`, `backend`, and what else is said: `fallback`, `batch`.
        """
        from . import running

        return running.balancer_options(self, parity=parity)

    def make_balancer(
        self,
        workers: int | None = None,
        *,
        handler: Callable[[Connection], object] | None = None,
        parity: bool = False,
        **options: Any,  # noqa: ANN401 - those of another function
    ) -> Balancer:
        """A balancer that listens where the listener does, and balances as it does.

        Args:
            workers: Threads to start, for `handler`; None for one on each processor, as in Envoy, if there is one.
            handler: As for :class:`pydlb.Balancer`.
            parity: As for :meth:`balancer_options`.
            options: Others of :class:`pydlb.Balancer`'s, which go before what the listener says:
                ``backend="software"`` needs no device, and so no fallback.

        Returns:
            The balancer. It listens on each of the addresses; without any, its own `listen` adds some.

        Raises:
            BackendUnavailable: No device can be set up, and the fallback policy is None.
            OSError: An address cannot be listened on.
            ConfigError: The listener is not one of TCP connections; or as :class:`pydlb.Balancer`.

        **Resource handling**: as :class:`pydlb.Balancer`: close it.

        **Error handling**: as in Envoy, another device than the preferred one is taken, and the fallback policy
        followed, with a warning (logger ``pydlb``).
        """
        from . import running

        return running.make_balancer([self], workers, handler=handler, parity=parity, options=options)

    async def start_server(
        self,
        client_connected_cb: ClientConnected,
        *,
        workers: int | None = None,
        parity: bool = False,
        **options: Any,  # noqa: ANN401 - those of another function
    ) -> Server:
        """:func:`pydlb.start_server` where the listener listens, balanced as it is.

        Args:
            client_connected_cb: As for :func:`pydlb.start_server`.
            workers: Event loops; None for one on each processor, as in Envoy.
            parity: As for :meth:`balancer_options`.
            options: Others of :func:`pydlb.start_server`'s, which go before what the listener says; with `host` and
                `port`, or `sock`, it listens there.

        Returns:
            The server.

        Raises:
            BackendUnavailable: No device can be set up, and the fallback policy is None.
            OSError: An address cannot be listened on.
            ConfigError: The listener says nothing of where to listen, and `options` do not either.

        **Resource handling**, **Error handling**: as :meth:`make_balancer` and :func:`pydlb.start_server`.
        """
        from . import running

        return await running.start_server([self], client_connected_cb, workers=workers, parity=parity, options=options)

    @property
    def for_tcp(self) -> bool:
        """Whether what comes to it are TCP connections."""
        return all(address.transport == "tcp" for address in self.addresses)

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return f"listener {self.name!r}" if self.name else f"the listener in line {self.origin.line}"


def read_listener(field: Field, kind: str, *, whole: bool, also: tuple[str, ...] = ()) -> Listener:
    """A `Listener`.

    Args:
        field: The message.
        kind: What it stands in.
        whole: Whether it has to have an address, as outside of patches.
        also: Keys that it may have beside its fields.
    """
    message = field.message("Listener", schema.LISTENER, also=also)
    name = message.string("name")
    addresses = _read_addresses(message)
    internal = message.get("internal_listener") is not None
    if internal:
        addresses = (Address(transport="internal"),)
    elif whole and not addresses:
        raise field.error(f"error adding listener named '{name}': address is necessary")
    config = message.get("connection_balance_config")
    balance = read_balance(config) if config else NopBalance()
    if config is not None:
        _check_transport(config, name, message, addresses)
    batch = message.get("max_connections_to_accept_per_socket_event")
    backlog = message.get("tcp_backlog_size")
    reuse = message.get("enable_reuse_port")
    result = Listener(
        name=name,
        balance=balance,
        addresses=addresses,
        backlog=backlog.uint32() if backlog else None,
        batch=batch.uint32() if batch else None,
        reuse_port=reuse.boolean() if reuse else message.boolean("reuse_port", False) or None,
        bind_to_port=message.boolean("bind_to_port", True),
        not_carried=tuple(key for key in message.set if key not in CARRIED and key != "@type"),
        origin=Origin(kind, field.document.source, field.node.line, field.path),
    )
    if batch is not None and result.batch == 0:
        raise batch.error("value must be greater than 0")
    return result


def _check_transport(config: Field, name: str, message: Message, addresses: tuple[Address, ...]) -> None:
    """Balance is for TCP."""
    transports = {address.transport for address in addresses}
    if "internal" in transports:
        raise config.error(f"error adding listener named '{name}': has unsupported tcp listener feature")
    if "udp" in transports:
        udp = message.get("udp_listener_config")
        if udp is not None and isinstance(udp.node.value, dict) and {"quic_options", "quicOptions"} & {*udp.node.value}:
            raise config.error(
                "connection_balance_config is configured for QUIC listener which doesn't work with connection balancer."
            )
        config.warn("a UDP listener has no connections to balance")


# ---- addresses -------------------------------------------------------------------------------------------------------


def _read_addresses(message: Message) -> tuple[Address, ...]:
    found = []
    first = message.get("address")
    if first is not None:
        found.append(_read_address(first))
    more = message.get("additional_addresses")
    for item in more.items() if more else []:
        address = item.message("AdditionalAddress", schema.ADDITIONAL_ADDRESS).get("address")
        if address is not None:
            found.append(_read_address(address))
    return tuple(found)


def _read_address(field: Field) -> Address:
    chosen = field.message("Address", schema.ADDRESS).one_of(*schema.ADDRESS)
    if chosen is None:
        raise field.error('field: "address", reason: is required: socket_address or pipe')
    name, value = chosen
    if name == "envoy_internal_address":
        value.message("EnvoyInternalAddress", schema.INTERNAL_ADDRESS)
        return Address(transport="internal")
    return _read_pipe(value) if name == "pipe" else _read_socket_address(value)


def _read_pipe(field: Field) -> Address:
    message = field.message("Pipe", schema.PIPE)
    path, mode = message.string("path"), message.get("mode")
    if not path:
        raise field.error("a pipe needs a path of at least 1 character")
    return Address(path=path, mode=mode.uint32(0o777) if mode else None)


def _read_socket_address(field: Field) -> Address:
    message = field.message("SocketAddress", schema.SOCKET_ADDRESS)
    host = message.get("address")
    if host is None or not host.string():
        raise (host or field).error("a socket_address needs an address of at least 1 character")
    try:
        ipaddress.ip_address(host.string())
    except ValueError:
        raise host.error(f"malformed IP address: {host.string()}") from None
    chosen = message.one_of("port_value", "named_port")
    if chosen is None:
        raise field.error('field: "port_specifier", reason: is required: port_value')
    if chosen[0] == "named_port":
        raise chosen[1].error("a listener's port is a number: port_value")
    protocol = message.get("protocol")
    udp = protocol is not None and protocol.enum({"TCP": 0, "UDP": 1}) == 1
    for name in ("resolver_name", "network_namespace_filepath"):
        other = message.get(name)
        if other is not None and other.string():
            other.warn("pydlb does nothing with it")
    return Address(
        host.string(),
        chosen[1].uint32(0xFFFF),
        both_families=message.boolean("ipv4_compat", False),
        transport="udp" if udp else "tcp",
    )
