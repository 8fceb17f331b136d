"""Connections that a proxy passes on, and says for whom by the PROXY protocol."""

from __future__ import annotations

import dataclasses
import os
import socket
import struct
from typing import Any, Final, Literal, Self, TypeAlias

from .errors import ConfigError

__all__ = ["Address", "Proxied", "ProxiedSocket", "ProxyProtocol", "proxy_mode"]

# As getsockname returns it: (host, port), (host, port, flow, scope), or the path of a UNIX socket.
Address: TypeAlias = Any

ProxyProtocol: TypeAlias = bool | Literal["optional"]

_MODES: Final[dict[object, int]] = {False: 0, "optional": 1, True: 2}


def proxy_mode(proxy_protocol: object) -> int:
    """What the acceptor calls it.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(proxy_protocol, bool | str) or proxy_protocol not in _MODES:
        raise ConfigError(f"proxy_protocol is {proxy_protocol!r}: it is True, False or 'optional'")
    return _MODES[proxy_protocol]


@dataclasses.dataclass(frozen=True, slots=True)
class Proxied:
    """For whom a proxy speaks.

    Attributes:
        family: Of both addresses: ``socket.AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
        client: Who connected to the proxy.
        server: To what.
    """

    family: int
    client: Address
    server: Address

    @classmethod
    def read(cls, addresses: tuple[bytes, bytes]) -> Self:
        """From addresses as the system has them."""
        client, server = addresses
        return cls(struct.unpack_from("=H", client)[0], _address(client), _address(server))


def _address(data: bytes) -> Address:
    family, port = struct.unpack_from("=H", data)[0], data[2:4]
    if family == socket.AF_INET:
        return socket.inet_ntop(family, data[4:8]), int.from_bytes(port, "big")
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, data[8:24]), int.from_bytes(port, "big"), 0, 0
    return os.fsdecode(data[2:].partition(b"\0")[0])


class ProxiedSocket:
    """A socket whose addresses are those that the proxy tells of; all else is the socket's own."""

    def __init__(self, sock: Any, proxied: Proxied) -> None:  # noqa: ANN401 - asyncio's, uvloop's, trio's
        self._socket = sock
        self._proxied = proxied

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """The socket's own."""
        return getattr(self._socket, name)

    @property
    def family(self) -> int:
        """Of the addresses that it tells of."""
        return self._proxied.family

    def getpeername(self) -> Address:
        """Who connected to the proxy."""
        return self._proxied.client

    def getsockname(self) -> Address:
        """To what."""
        return self._proxied.server
