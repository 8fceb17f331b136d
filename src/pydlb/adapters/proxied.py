"""Transports that tell of the proxy's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydlb.proxied import ProxiedSocket

if TYPE_CHECKING:
    from pydlb.proxied import Proxied

__all__ = ["ProxiedTransport"]


class ProxiedTransport:
    """An event loop's transport whose addresses are those that the proxy told of; all else is the transport's own.

    So protocols find the client where they look for it: ``get_extra_info`` of ``"peername"``, ``"sockname"`` and
    ``"socket"``. asyncio would let them be set, uvloop does not.
    """

    def __init__(self, transport: Any, proxied: Proxied) -> None:
        self._transport = transport
        self._proxied = proxied

    def __getattr__(self, name: str) -> Any:
        """The transport's own."""
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As :meth:`asyncio.BaseTransport.get_extra_info`."""
        if name == "peername":
            return self._proxied.client
        if name == "sockname":
            return self._proxied.server
        found = self._transport.get_extra_info(name, default)
        return ProxiedSocket(found, self._proxied) if name == "socket" and found is not None else found
